"""Verifies a published result by hand: is it what its manifest states, and what does it answer?"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune_contract import names
from finetune_contract.jobspec import Model
from finetune_contract.manifest import MANIFEST_NAME, Manifest, digest
from finetune_contract.termination import ArtifactResult, TerminationRecord
from finetune_trainer.artifacts import manifests
from finetune_trainer.artifacts.storage import Storage
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model import generation, source
from finetune_trainer.objectives.answers import end_of_turn, prompt
from finetune_trainer.objectives.chat import Chat
from finetune_trainer.objectives.conversations import Conversation, Message
from finetune_trainer.pod import outcome
from finetune_trainer.rank import device, libraries, reporting
from finetune_trainer.training import answers

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
    """Downloads and checks; prints what it finds. Standard output has nothing else: a program may read it.

    Raises:
        ConfigurationError: there is no result at this URI.
        Damaged: there is one, and it is not what its manifest states.
    """
    keys = Path(os.environ.get(names.ENV_CREDENTIALS_DIR, names.CREDENTIALS_DIR))
    credentials_dir = keys if keys.is_dir() else None
    storage = Storage(endpoint=endpoint, region=region, credentials_dir=credentials_dir, report=reporting.discard)
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
    described = manifest.provenance.get("model") or {"source": manifest.provenance["modelSource"]}
    model = Model.model_validate({"trustRemoteCode": False, **described})
    libraries.set_up(model.source)
    import torch
    import transformers

    from finetune_trainer.model.loading import load_tokenizer, load_weights

    transformers.logging.set_verbosity_error()
    files = source.fetch(model, storage, folder / "base")
    saved = source.ModelFiles(folder / "result", None, trust_remote_code=False)
    tokenizer = load_tokenizer(saved)
    # On a CPU that does not compute in bf16, bf16 takes ten times as long as fp32.
    dtype = torch.bfloat16 if device.cpu().computes_bf16 else torch.float32
    base = load_weights(files, dtype, source=model.source).eval()
    ask = _asker(base, tokenizer, files, saved, questions)
    if manifest.kind == "adapter":
        from peft import PeftModel

        trained = PeftModel.from_pretrained(base, str(saved.folder)).eval()
        with trained.disable_adapter():
            before = ask(trained)
    else:
        before = ask(base)
        trained = load_weights(saved, dtype, source="the result").eval()
    return [Answer(*three) for three in zip(questions, before, ask(trained), strict=True)]


def _asker(
    base: Any, tokenizer: Any, files: source.ModelFiles, saved: source.ModelFiles, questions: Sequence[str]
) -> Callable[[Any], tuple[str, ...]]:
    """Asks a model the questions, rendered with the template that the result was trained with. Base and result
    end where the published generation_config says; one of 0.1.0 has none: there, where the template ends a turn."""
    chat = Chat(tokenizer, tokenizer.chat_template)
    turns = [Conversation(_FIELD, 1, (Message("user", text), Message("assistant", "x"))) for text in questions]
    prompts = [prompt(chat, turn) for turn in turns]
    published = generation.of_base(saved).config
    if published.eos_token_id is None:
        generation.settle(base, files, tokenizer, end_of_turn(chat, turns[0]))
    else:
        base.generation_config = published
    return lambda model: answers.greedy(model, tokenizer, prompts, max_new_tokens=_MAX_NEW_TOKENS)


# --- output ----------------------------------------------------------------------------------------------------
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
