"""The tokenizer as it is published: a server that applies its chat template and reads its special tokens asks the model
exactly as it was trained, and stops where an answer ends.
"""

import json
from pathlib import Path
from typing import Any


def settle(tokenizer: Any, template: str, *, end_of_turn: int, first_token: int) -> None:
    """Changes a tokenizer in place. How it splits text stays as it is.

    Args:
        template: the chat template that the rows were rendered with.
        end_of_turn: the token that ends an answer; it becomes the `eos_token`.
        first_token: of a rendered row. Where it is the BOS token, the template writes it, and the tokenizer no longer
            adds another: a server may tokenise what it rendered with `add_special_tokens` or without.
    """
    if first_token == tokenizer.bos_token_id:
        _add_no_more(tokenizer, tokenizer.bos_token_id)
    _add_no_more(tokenizer, tokenizer.eos_token_id)  # a prompt that has ended is no prompt
    tokenizer.chat_template = template
    if end_of_turn == tokenizer.eos_token_id:
        return
    if "eos_token" in template:  # there it means the base's
        name = json.dumps(str(tokenizer.eos_token), ensure_ascii=False)
        tokenizer.chat_template = "{%- set eos_token = " + name + " -%}" + template
    tokenizer.eos_token = _as_special(tokenizer, end_of_turn)


def _as_special(tokenizer: Any, token: int) -> Any:
    """The token with its own ways of matching, which naming it by its text alone would reset."""
    added = tokenizer.added_tokens_decoder.get(token)
    if added is None:
        return tokenizer.convert_ids_to_tokens(token)
    same = {name: getattr(added, name) for name in ("lstrip", "rstrip", "single_word", "normalized")}
    return type(added)(added.content, special=True, **same)


def _add_no_more(tokenizer: Any, token: int) -> None:
    """Takes a token out of what the tokenizer adds to a text."""
    if token not in tokenizer("")["input_ids"]:
        return
    backend = tokenizer.backend_tokenizer
    document = json.loads(backend.to_str())
    text = tokenizer.convert_ids_to_tokens(token)
    document["post_processor"] = _stripped(document["post_processor"], text)
    backend.post_processor = type(backend).from_str(json.dumps(document)).post_processor


def _stripped(processor: dict[str, Any] | None, token: str) -> dict[str, Any] | None:
    """A post-processor of tokenizer.json that no longer adds a token."""
    if processor is None:
        return None
    if processor["type"] == "Sequence":
        return {**processor, "processors": [_stripped(part, token) for part in processor["processors"]]}
    if processor["type"] == "TemplateProcessing":
        kept = {
            form: [piece for piece in processor[form] if piece.get("SpecialToken", {}).get("id") != token]
            for form in ("single", "pair")
        }
        return {**processor, **kept}
    return processor


def note_options(tokenizer: Any, folder: Path) -> None:
    """Says in the saved tokenizer_config.json what the saved tokenizer.json does: some readers look only there."""
    if tokenizer.bos_token_id is None or tokenizer.bos_token_id in tokenizer("")["input_ids"]:
        return
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["add_bos_token"] = False
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
