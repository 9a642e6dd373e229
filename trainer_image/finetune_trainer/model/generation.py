"""How a model generates: its base's own parameters, as far as they can be saved and used, and where it stops.

The base's generation_config.json, or config.json where there is none, is a stranger's file. transformers loads values
that it refuses to save, and saves values that `generate()` refuses. So each value is taken only if transformers accepts
it, by one rule in all places: when the model is checked, when it is loaded, and so in each checkpoint and result.
"""

import copy
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model.places import FIELD
from finetune_trainer.model.source import ModelFiles

FILE = "generation_config.json"
_MODES = ("do_sample", "num_beams", "use_cache", "return_dict_in_generate")
"""Taken first: they decide which of the others may be set."""
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
_OF_THE_LIBRARY = ("transformers_version", "_from_model_config", "_commit_hash")


@dataclass(frozen=True)
class Parameters:
    config: Any
    """transformers' GenerationConfig; it can be saved."""
    changes: tuple[str, ...]
    """What differs from the base's file, and why; one sentence each."""


# --- what may stand in the file --------------------------------------------------------------------------------------
def _number(least: float, most: float = math.inf, *, open_below: bool = False) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return is_number and (least < value if open_below else least <= value) and value <= most

    return fits


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _token_or_tokens(value: Any) -> bool:
    return bool(token_ids(value)) and (not isinstance(value, list) or len(token_ids(value)) == len(set(value)))


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


_FRACTIONS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("temperature", "repetition_penalty", "encoder_repetition_penalty"), _number(0, open_below=True)),
    **dict.fromkeys(("top_p", "min_p", "top_h"), _number(0, 1)),
    "typical_p": _number(0, 1, open_below=True),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff"), lambda value: _number(0, 1)(value) and value < 1),
    **dict.fromkeys(("length_penalty", "guidance_scale"), _number(-math.inf)),
}
_FITS: Mapping[str, Callable[[Any], bool]] = {
    **_FRACTIONS,
    **dict.fromkeys(("max_length", "max_new_tokens", "num_beams", "num_return_sequences"), _whole(1)),
    **dict.fromkeys(("min_length", "min_new_tokens", "top_k", "no_repeat_ngram_size"), _whole(0)),
    **dict.fromkeys(("bos_token_id", "pad_token_id", "decoder_start_token_id"), _whole(0)),
    **dict.fromkeys(("eos_token_id", "forced_bos_token_id", "forced_eos_token_id"), _token_or_tokens),
    **dict.fromkeys(("do_sample", "use_cache", "return_dict_in_generate", "remove_invalid_values"), _flag),
    **dict.fromkeys(("output_attentions", "output_hidden_states", "output_scores", "output_logits"), _flag),
}
"""What `generate()` takes, where loading does not look; names that are not here are left to transformers."""


# --- from the base's files -------------------------------------------------------------------------------------------
def of_base(files: ModelFiles) -> Parameters:
    """The base's parameters without those that transformers would refuse. A .gguf has none.

    Raises:
        ConfigurationError: the file is damaged: what it was to say about the end of an answer cannot be guessed.
    """
    if files.gguf:
        return _accepted({}, FILE)
    if (own := _document(files.folder / FILE)) is not None:
        return _accepted(own, FILE)
    return _accepted(_generation_parameters(_document(files.folder / "config.json") or {}), "config.json")


def _document(file: Path) -> dict[str, Any] | None:
    """The JSON object in a file, None when there is no file."""
    try:
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        return document
    message = f"{file.name} of the model is not a JSON object, so it is damaged. Upload it again, or remove it"
    raise ConfigurationError(message, field=FIELD, reason="ModelDamaged")


def _generation_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says about generation, as before transformers had a file for it."""
    from transformers import GenerationConfig

    text = config.get("text_config")
    whole = {**(text if isinstance(text, dict) else {}), **{k: v for k, v in config.items() if v is not None}}
    return {name: whole[name] for name in GenerationConfig().to_dict() if name in whole}


def _accepted(document: Mapping[str, Any], file: str) -> Parameters:
    """Takes the values one by one: what is accepted together with those before it can be saved with them."""
    from transformers import GenerationConfig

    wanted, changes = _sampling_settled({k: v for k, v in document.items() if v is not None}, file)
    config = GenerationConfig()
    for name in sorted(wanted, key=lambda name: name not in _MODES):
        if name in _OF_THE_LIBRARY:
            continue
        try:
            config = _with(config, name, wanted[name])
        except ValueError as error:
            changes.append(f"{name} of {file} is left out: {error}")
    return Parameters(config, tuple(changes))


def _sampling_settled(document: dict[str, Any], file: str) -> tuple[dict[str, Any], list[str]]:
    """A temperature (or another value for sampling) is meant to be used: a `do_sample` that is missing becomes true. A
    temperature of 0 says the opposite."""
    if document.get("temperature") == 0 and not isinstance(document["temperature"], bool):
        rest = {k: v for k, v in document.items() if k not in _SAMPLING}
        return {**rest, "do_sample": False}, [f"temperature 0 of {file} becomes do_sample false, which is the same"]
    neutral = {"temperature": 1, "top_k": 50, "top_p": 1, "typical_p": 1, "epsilon_cutoff": 0, "eta_cutoff": 0}
    used = [
        name
        for name in _SAMPLING
        if name in document and document[name] != neutral.get(name) and _FITS[name](document[name])
    ]
    if not used or "do_sample" in document:
        return document, []
    return {**document, "do_sample": True}, [f"do_sample becomes true, because {file} sets {', '.join(used)}"]


def _with(config: Any, name: str, value: Any) -> Any:
    """A copy with one value more. Raises ValueError, which says why, when it cannot join the others."""
    fits = _FITS.get(name)
    if fits is not None and not fits(value):
        raise ValueError(f"{_shown(value)} is not a value for it")
    if name in _FRACTIONS:
        value = float(value)  # `generate()` refuses 2 where it takes 2.0
    trial = copy.copy(config)
    try:
        with _quiet_library():
            trial.update(allow_custom_entries=True, **{name: value})
            trial.validate(strict=True)
            json.loads(trial.to_json_string())
    except Exception as error:  # noqa: BLE001  # what a stranger's value meets in a library can raise anything
        lines = [line for line in str(error).splitlines() if not line.startswith("GenerationConfig is invalid")]
        raise ValueError(
            lines[0].removeprefix("- ").split(" -- ")[0].rstrip(".") if lines else "it is refused"
        ) from None
    return trial


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


@contextmanager
def _quiet_library() -> Iterator[None]:
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


# --- on a model ------------------------------------------------------------------------------------------------------
def settle(model: Any, files: ModelFiles, tokenizer: Any, end_of_turn: int) -> tuple[str, ...]:
    """Gives a model the parameters that its checkpoints and its result are saved with.

    Args:
        model: loaded from `files`; on the meta device it serves to check.
        tokenizer: of the base.
        end_of_turn: the token that the chat template ends an answer with: the first of those that generation stops at.
            The base's own stay.

    Returns:
        What differs from the base's file.
    """
    found, text_config = of_base(files), model.config.get_text_config()
    own = found.config.eos_token_id if found.config.eos_token_id is not None else text_config.eos_token_id
    stops = list(dict.fromkeys([end_of_turn, *token_ids(own), *token_ids(tokenizer.eos_token_id)]))
    found.config.eos_token_id = stops if len(stops) > 1 else stops[0]
    if found.config.pad_token_id is None:
        found.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = found.config
    # Servers that do not read generation_config.json stop at what config.json says.
    text_config.eos_token_id = found.config.eos_token_id
    if getattr(model.config, "eos_token_id", None) is not None:
        model.config.eos_token_id = found.config.eos_token_id
    return found.changes


def token_ids(value: Any) -> tuple[int, ...]:
    """The ids in what a configuration may hold: an id, a list of them, or nothing."""
    values: Iterable[Any] = value if isinstance(value, list | tuple) else [value]
    return tuple(item for item in values if _whole(0)(item))


def check_savable(model: Any, source: str, folder: Path) -> None:
    """Saves what is not weights, as a checkpoint does, into an own folder.

    Raises:
        ConfigurationError: transformers refuses to, so that no checkpoint could be written.
    """
    try:
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
    except Exception as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        message = f"transformers cannot save the configuration of {source}: {first_line}; correct its config.json"
        raise ConfigurationError(message, field=FIELD, reason="ModelNotSavable") from error
