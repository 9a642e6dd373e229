"""A result, looked at by a person: is it what its manifest states, and what does it answer?"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune_contract import names
from finetune_contract.jobspec import Model
from finetune_contract.manifest import MANIFEST_NAME, Manifest, digest
from finetune_contract.termination import ArtifactResult, TerminationRecord
from finetune_trainer import libraries, manifests, outcome, source
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.storage import Storage

_FIELD = "URI"
_MAX_NEW_TOKENS = 128


@dataclass(frozen=True)
class Answer:
    question: str
    before: str
    """Of the base model."""
    after: str


def run(
    uri: str, *, questions: Sequence[str], as_json: bool, endpoint: str | None, region: str, scratch: Path
) -> TerminationRecord:
    """Downloads and checks; prints what it found.

    Raises:
        ConfigurationError: there is no result at this place.
        Damaged: there is one, and it is not what its manifest states.
    """
    keys = Path(os.environ.get(names.ENV_CREDENTIALS_DIR, names.CREDENTIALS_DIR))
    credentials_dir = keys if keys.is_dir() else None
    storage = Storage(endpoint=endpoint, region=region, credentials_dir=credentials_dir, report=_say_nothing)
    folder = scratch / "verify"
    shutil.rmtree(folder, ignore_errors=True)
    place = uri.rstrip("/")
    if manifests.load(storage, place, field=_FIELD) is None:
        message = f"{place} has no {MANIFEST_NAME}: name the folder of a published result"
        raise ConfigurationError(message, field=_FIELD, reason="NotPublished")
    manifest = manifests.fetch(storage, place, folder / "result", field=_FIELD)
    answers = _ask(manifest, folder, storage, questions) if questions else []
    name = digest((folder / "result" / MANIFEST_NAME).read_bytes())
    print(_as_json(place, name, manifest, answers) if as_json else _as_text(place, name, manifest, answers), flush=True)
    artifact = ArtifactResult(uri=place, digest=name, bytes=manifest.total_bytes, files=len(manifest.files))
    return outcome.success("train", f"{place} verifies", artifact=artifact)


# --- answers ---------------------------------------------------------------------------------------------------------
def _ask(manifest: Manifest, folder: Path, storage: Storage, questions: Sequence[str]) -> list[Answer]:
    """Greedy, so that whoever asks again is answered the same."""
    described = manifest.provenance.get("model") or {"source": manifest.provenance["modelSource"]}
    model = Model.model_validate({"trustRemoteCode": False, **described})
    libraries.set_up(model.source)
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    transformers.logging.set_verbosity_error()
    files = source.fetch(model, storage, folder / "base")
    result = folder / "result"
    tokenizer = AutoTokenizer.from_pretrained(str(result))
    base = AutoModelForCausalLM.from_pretrained(**files.from_pretrained, dtype="auto").eval()
    if manifest.kind == "adapter":
        from peft import PeftModel

        trained = PeftModel.from_pretrained(base, str(result)).eval()
        with trained.disable_adapter():
            before = [_answer(trained, tokenizer, question) for question in questions]
    else:
        before = [_answer(base, tokenizer, question) for question in questions]
        trained = AutoModelForCausalLM.from_pretrained(str(result), dtype="auto").eval()
    after = [_answer(trained, tokenizer, question) for question in questions]
    return [Answer(*three) for three in zip(questions, before, after, strict=True)]


def _answer(model: Any, tokenizer: Any, question: str) -> str:
    encoded = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with _no_gradients():
        output = model.generate(
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            max_new_tokens=_MAX_NEW_TOKENS,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    text: str = tokenizer.decode(output[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
    return text.strip()


@contextmanager
def _no_gradients() -> Iterator[None]:
    import torch

    with torch.no_grad():
        yield


# --- what is said ----------------------------------------------------------------------------------------------------
def _as_json(uri: str, name: str, manifest: Manifest, answers: Sequence[Answer]) -> str:
    document = {
        "uri": uri,
        "digest": name,
        "verified": True,
        "manifest": manifest.model_dump(by_alias=True),
        "answers": [asdict(answer) for answer in answers],
    }
    return json.dumps(document, indent=1, ensure_ascii=False)


def _as_text(uri: str, name: str, manifest: Manifest, answers: Sequence[Answer]) -> str:
    lines = [f"{uri}", f"  {name}", f"  {manifest.kind} of step {manifest.step}, {len(manifest.files)} files verified:"]
    lines += [f"  ok  {entry.sha256[:16]}…  {entry.size:>12,}  {entry.path}" for entry in manifest.files]
    if evaluation := manifest.metrics.get("evaluation"):
        lines.append(
            f"  held-out loss {evaluation['lossBefore']:.4f} before, {evaluation['lossAfter']:.4f} after training "
            f"({evaluation['rows']} rows)"
        )
    for answer in answers:
        lines += ["", f"? {answer.question}", f"  before: {answer.before}", f"  after:  {answer.after}"]
    return "\n".join(lines)


def _say_nothing(line: str) -> None:
    """Standard output is for the answer, which a program may read."""
