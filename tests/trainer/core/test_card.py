"""The model card: a page that a person would publish, whatever the rows and names in it contain."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from huggingface_hub import ModelCard

from finetune_contract.termination import EvaluationResult, SampleAnswer
from finetune_trainer.artifacts import loss_curve, markdown, units, usage
from finetune_trainer.artifacts.card import Facts, write_card
from tests.trainer.builders import make_job
from tests.trainer.runs import Bench

LORA = {"type": "lora", "lora": {"rank": 4}}
QLORA = {"type": "qlora", "lora": {"rank": 4}, "quantization": {"bits": 4}}
FULL = {"type": "full"}
HOSTILE = (
    "x`` ``` </td><script>alert(1)</script>\n# Owned\n| a | [here](http://evil) ![](http://evil/p) <b> &lt; *bold* $x$"
)


def card(folder: Path, spec: dict[str, Any] | None = None, *, sample: str | None = None, **changes: Any) -> str:
    model = changes.pop("model", "hf://org/base")
    job = make_job({"method": LORA, **(spec or {})}, model=model, **changes.pop("job", {}))
    samples = (SampleAnswer(question=sample, expected=sample, before=sample, after=sample),) if sample else ()
    history = [{"step": step, "loss": 3 / step} for step in range(1, 6)]
    known: dict[str, Any] = {
        "hyperparameters": {"learning_rate": "0.0002", "lora_alpha": "32"},
        "counts": {"trainRows": 1200, "evaluationRows": 32, "tokens": 250_000, "supervisedTokens": 90_000},
        "metrics": {"lossHistory": history, "steps": 5, "trainSeconds": 4320.4, "peakMemoryBytes": 3_708_956_672},
        "provenance": {"data": {"train": ["d" * 64]}, "versions": {"torch": "2.9"}},
        "evaluation": EvaluationResult(rows=32, loss_before=3.9833, loss_after=3.2123, samples=samples),
        "end_of_turn": "<|im_end|>",
        **changes,
    }
    write_card(folder, Facts(job, **known))
    return (folder / "README.md").read_text()


def code_of(text: str, language: str) -> str:
    match = re.search(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert match, text
    return match[1]


# --- the page ---------------------------------------------------------------------------------------------------------
def test_figures_are_in_units_that_people_read(tmp_path: Path) -> None:
    text = card(tmp_path)
    assert "| Training time | 1 h 12 min |" in text
    assert "| Peak memory per process | 3.45 GiB |" in text
    assert "| training | `file:///train.jsonl` | 1,200 | 250,000 | 90,000 |" in text
    assert "| after training | 3.2123 | 24.84 |" in text
    assert "| lora_alpha | `32` |" in text
    assert not re.search(r"trainSeconds|peakMemoryBytes|maxLength|3,708,956,672", text)


@pytest.mark.parametrize(
    ("source", "model", "spec", "want"),
    [
        pytest.param("hf://org/base", None, {}, ("org/base", "peft", "adapter"), id="an adapter of a model on the hub"),
        pytest.param("hf://org/base@v2", None, {}, ("org/base", "peft", "adapter"), id="pinned in its name"),
        pytest.param("hf://org/base", None, {"method": FULL}, ("org/base", "transformers", "finetune"), id="full"),
        pytest.param("s3://bucket/base", None, {}, (None, "peft", None), id="not on the hub"),
        pytest.param("file:///x: {y}\n- z", None, {}, (None, "peft", None), id="a path that is YAML"),
    ],
)
def test_the_metadata_are_those_of_the_hub(
    source: str, model: None, spec: dict[str, Any], want: tuple[str | None, ...], tmp_path: Path
) -> None:
    card(tmp_path, spec, model=source)
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.base_model, data.library_name, data.to_dict().get("base_model_relation")) == want
    assert (data.pipeline_tag, data.license) == ("text-generation", None)
    assert {"sft", "transformers"} <= set(data.tags or [])


def test_texts_of_rows_names_and_paths_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    dataset = {"train": [{"source": f"file:///{HOSTILE}"}]}
    text = card(tmp_path, {"dataset": dataset}, model=f"s3://b/{HOSTILE}", sample=HOSTILE, job={"name": HOSTILE})
    assert ModelCard.load(tmp_path / "README.md").data.base_model is None
    unfenced = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    outside = re.sub(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", "", unfenced)
    lines = outside.splitlines()
    assert len([line for line in lines if line.startswith("# ")]) == 1
    assert not re.search(r"<\w|</", outside), "HTML"
    assert not re.search(r"(?<!\\)\]\((?!loss\.svg\))", outside), "links and pictures"
    assert re.findall(r"\w://", outside) == [], "addresses"
    rows = [line for line in unfenced.splitlines() if line.startswith("| training |")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [6]
    ElementTree.parse(tmp_path / "loss.svg")


def test_held_out_texts_are_shown_only_if_there_are_any(tmp_path: Path) -> None:
    assert "## Sample answers" not in card(tmp_path)
    assert "- *After:* Ten weeks." in card(tmp_path, sample="Ten weeks.")


def test_a_run_without_figures_has_a_card(tmp_path: Path) -> None:
    text = card(tmp_path, counts={}, metrics={}, provenance={}, evaluation=None)
    assert "loss.svg" not in text
    assert ModelCard.load(tmp_path / "README.md").data.library_name == "peft"


def test_provenance_names_files_weights_first_and_counts_the_rest(tmp_path: Path) -> None:
    shards = {f"model-{index}.safetensors": f"sha256:{index}" for index in range(5)}
    provenance = {"base": {"config.json": "git:c", **shards}, "dataFiles": {"s3://b/rows.jsonl": "sha256:d"}}
    text = card(tmp_path, provenance={**provenance, "modelRevision": "abc123"})
    assert "| Base files | `model-0.safetensors` `sha256:0`, `model-1.safetensors` `sha256:1`, " in text
    assert " and 2 more |" in text
    assert "| Data files | `s3://b/rows.jsonl` `sha256:d` |" in text
    assert "| Revision | `abc123` |" in text


# --- its parts --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("seconds", "want"),
    [
        (0.31, "0.3 s"), (45, "45 s"), (59.7, "1 min"), (185, "3 min 5 s"), (4320, "1 h 12 min"), (7200, "2 h"),
        (183_600, "2 d 3 h"),
    ],
)  # fmt: skip
def test_durations(seconds: float, want: str) -> None:
    assert units.duration(seconds) == want


@pytest.mark.parametrize(
    ("count", "want"),
    [(0, "0 bytes"), (2_048, "2.00 KiB"), (851_443_712, "812 MiB"), (3_708_956_672, "3.45 GiB"), (2**41, "2.00 TiB")],
)
def test_sizes(count: int, want: str) -> None:
    assert units.size(count) == want


@pytest.mark.parametrize(
    ("count", "want"), [(812, "812"), (31_520, "31,520"), (4_884_480, "4.88 million"), (1_235_814_400, "1.24 billion")]
)
def test_amounts(count: int, want: str) -> None:
    assert units.amount(count) == want


@pytest.mark.parametrize(
    ("text", "want"), [("a", "`a`"), ("a`b", "``a`b``"), ("`a", "`` `a ``"), ("", "`  `"), ("a\nb", "`a b`")]
)
def test_code_is_closed_by_what_it_does_not_contain(text: str, want: str) -> None:
    assert markdown.code(text) == want


def test_a_curve_leaves_out_what_is_not_finite_and_names_its_axes() -> None:
    points = [(1, 3.0), (2, float("nan")), (3, float("inf")), (4, 1.0)]
    svg = loss_curve.render(points, title="<faq> & co", held_out=[(0, 3.1), (4, 1.5)])
    root = ElementTree.fromstring(svg)
    [line] = root.iter("{http://www.w3.org/2000/svg}polyline")
    assert len(line.attrib["points"].split()) == 2
    assert {"<faq> & co", "step", "training loss (nats per token)", "held-out rows"} <= set(root.itertext())
    with pytest.raises(ValueError, match="no finite loss"):
        loss_curve.render([(1, float("nan"))], title="x")


@pytest.mark.parametrize(
    "points",
    [
        pytest.param([(1, 2.5)], id="one step"),
        pytest.param([(step, 2.0) for step in range(9)], id="always the same"),
        pytest.param([(1, 0.0), (2, 0.0)], id="zero"),
        pytest.param([(1, 1e-9), (2, 1e9)], id="far apart"),
        pytest.param([(step, 5 / (step + 1)) for step in range(20_000)], id="many steps"),
    ],
)
def test_a_curve_stays_in_its_picture(points: list[tuple[int, float]]) -> None:
    root = ElementTree.fromstring(loss_curve.render(points, title="x"))
    for line in root.iter("{http://www.w3.org/2000/svg}polyline"):
        for place in line.attrib["points"].split():
            x, y = map(float, place.split(","))
            assert (0 <= x <= 720, 0 <= y <= 320) == (True, True)


# --- the two blocks ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rank", "source", "want"),
    [
        (8, "hf://org/base", "vllm serve org/base --enable-lora --lora-modules faq=. --max-lora-rank 8 "),
        (
            17,
            "hf://org/base@v2",
            "vllm serve org/base --enable-lora --lora-modules faq=. --max-lora-rank 32 --revision v2 ",
        ),
        (64, "s3://b/models/base", "vllm serve base --enable-lora --lora-modules faq=. --max-lora-rank 64 "),
        (64, "s3://b/m/x.gguf", "vllm serve m/x.gguf --enable-lora --lora-modules faq=. --max-lora-rank 64 "),
        (8, "file:///my models/a", "vllm serve '/my models/a' --enable-lora --lora-modules faq=. --max-lora-rank 8 "),
    ],
)
def test_vllm_serves_the_adapter_with_its_own_files(rank: int, source: str, want: str) -> None:
    spec = make_job({"method": {"type": "lora", "lora": {"rank": rank}}}, model=source).spec
    block = usage.with_vllm(spec.model, spec.method, "faq")
    assert code_of(block, "shell").startswith(want)
    assert "--tokenizer . --chat-template ./chat_template.jinja --generation-config ." in block


def test_vllm_serves_all_weights_from_their_folder_and_no_rank_above_its_limit() -> None:
    full = make_job({"method": FULL}).spec
    assert code_of(usage.with_vllm(full.model, full.method, "faq"), "shell") == "vllm serve . --served-model-name faq\n"
    high = make_job({"method": {"type": "lora", "lora": {"rank": 1024}}}).spec
    assert "Merge it into the base" in usage.with_vllm(high.model, high.method, "faq")


@pytest.mark.parametrize(
    "method",
    [pytest.param(LORA, id="lora"), pytest.param(QLORA, id="qlora"), pytest.param(FULL, id="full")],
)
def test_the_block_for_transformers_works_as_printed(
    method: dict[str, Any], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = bench.train(bench.job({"method": method, "training": {"maxSteps": 1}}))
    monkeypatch.chdir(result.directory)
    program = code_of((result.directory / "README.md").read_text(), "python").replace(
        "max_new_tokens=256", "max_new_tokens=3"
    )
    scope: dict[str, Any] = {}
    with redirect_stdout(io.StringIO()) as output:
        exec(program, scope)
    assert output.getvalue().endswith("\n")
    assert scope["model"].generation_config.eos_token_id == scope["tokenizer"].eos_token_id
    assert scope["output"].shape[1] - scope["inputs"]["input_ids"].shape[1] <= 3
