"""The tokenizer of a model, and whether the model has an embedding for each of its tokens."""

from typing import Any

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model.places import FIELD
from finetune_trainer.model.source import FIELD_CODE, ModelFiles

_SHOWN = 3
_MODALITIES = ("image", "video", "audio", "vision", "speech")


def load_fast_tokenizer(files: ModelFiles, source: str) -> Any:
    """The model's tokenizer. Raises ConfigurationError when there is none, or none that reports character offsets."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(**files.from_pretrained)
    except Exception as error:  # whatever a stranger's tokenizer.json can make of the libraries
        line = (str(error).splitlines() or [type(error).__name__])[0]
        field = FIELD_CODE if "trust_remote_code" in str(error) else FIELD
        raise ConfigurationError(f"{source} has no tokenizer that can be loaded: {line}", field=field) from error
    if not getattr(tokenizer, "is_fast", False):
        message = f"the tokenizer of {source} has no fast version (tokenizer.json); convert it"
        raise ConfigurationError(message, field=FIELD, reason="ModelNotSupported")
    if not _knows_words(tokenizer):
        message = (
            f"the tokenizer of {source} has no vocabulary: upload tokenizer.json, or the files of the vocabulary that "
            "were saved with the model"
        )
        raise ConfigurationError(message, field=FIELD, reason="ModelNotSupported")
    if tokenizer.eos_token_id is None:
        message = f"the tokenizer of {source} names no eos_token; set it in its tokenizer_config.json"
        raise ConfigurationError(message, field=FIELD, reason="ModelNotSupported")
    return tokenizer


def _knows_words(tokenizer: Any) -> bool:
    """transformers makes an empty tokenizer where the files are missing."""
    words = tokenizer("Is this a text?", add_special_tokens=False)["input_ids"]
    return any(word != tokenizer.unk_token_id for word in words)


def check_vocabulary(tokenizer: Any, model: Any, source: str) -> None:
    """Raises ConfigurationError for tokens without an embedding.

    Placeholders of pictures and sounds are no matter in rows of text: Gemma 3 1B has one beyond its embeddings.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    beyond = [name for name, number in sorted(tokenizer.get_vocab().items(), key=_number) if number >= rows]
    if real := [name for name in beyond if not _is_placeholder(name)]:
        shown = ", ".join(map(repr, real[:_SHOWN])) + (", …" if len(real) > _SHOWN else "")
        message = (
            f"the tokenizer of {source} has {len(real):,} tokens beyond the {rows:,} rows of the model's embeddings: "
            f"{shown}. Resize the embeddings (`resize_token_embeddings`) and save the "
            "model again, or take the tokenizer that belongs to it"
        )
        raise ConfigurationError(message, field=FIELD, reason="TokensWithoutEmbedding")


def _number(item: tuple[str, int]) -> int:
    return item[1]


def _is_placeholder(token: str) -> bool:
    return token.startswith("<") and any(word in token.lower() for word in _MODALITIES)
