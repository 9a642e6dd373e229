"""The named chat templates, and the choice among them.

A template is jinja as in transformers' `apply_chat_template`; `{% generation %}` encloses the answer with the token
that ends the turn. The model's own template (`auto`) is nearly always the right one: Qwen scored 26 % with another
template and 57 % with its own (hiyouga/LLaMA-Factory#2509).
"""

from typing import Any

import jinja2

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.objectives.chat import Chat

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}"
    "{{ '\n' }}"
    "{% else %}{{ message.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ message.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
ALPACA = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content + '\n\n' }}"
    "{% elif message.role == 'user' %}{{ '### Instruction:\n' + message.content + '\n\n### Response:\n' }}"
    "{% else %}{% generation %}{{ message.content + eos_token }}{% endgeneration %}{{ '\n\n' }}{% endif %}{% endfor %}"
)
DEFAULT = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content + '\n' }}"
    "{% elif message.role == 'user' %}{{ 'Human: ' + message.content + '\nAssistant:' }}"
    "{% else %}{% generation %}{{ message.content + eos_token }}{% endgeneration %}{{ '\n' }}{% endif %}{% endfor %}"
)

TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "alpaca": ALPACA, "default": DEFAULT}


def choose_template(tokenizer: Any, name: str) -> str:
    """The text of the template that a job asks for.

    Raises:
        ConfigurationError: unknown name, `auto` for a model without a template or with a broken one, or the template's
            own tokens are not in the model's vocabulary (embeddings are never resized).
    """
    field = "spec.dataset.template"
    names = ", ".join(["auto", *TEMPLATES])
    if name == "auto":
        return _own_template(tokenizer, field)
    if name not in TEMPLATES:
        raise ConfigurationError(f"unknown template {name!r}; use one of {names}", field=field)
    missing = [token for token in _TOKENS.get(name, ()) if not _is_one_token(tokenizer, token)]
    if missing:
        cure = "use auto, alpaca or default, or a model that has them"
        raise ConfigurationError(
            f"{name} needs the tokens {', '.join(missing)}, which the model does not have; {cure}", field=field
        )
    return _with_beginning(TEMPLATES[name], tokenizer)


def _with_beginning(template: str, tokenizer: Any) -> str:
    """A named template, beginning as the model's own texts do: with its token for the beginning, where it has one."""
    if "bos_token" in template or not begins_texts(tokenizer):
        return template
    return "{{ bos_token }}" + template


def begins_texts(tokenizer: Any) -> bool:
    """Do the texts of a model begin with its bos_token? Some families name one that they never write.

    The model's own template knows best; without one, the tokenizer, which writes the token by itself; without either,
    a bos_token that has no other meaning.
    """
    token = tokenizer.bos_token
    if token is None:
        return False
    if own := _text_of(tokenizer.chat_template):
        return "bos_token" in own or token in own.split("{%", 1)[0]
    if tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id:
        return True
    used = [tokenizer.eos_token, tokenizer.pad_token, *(token for tokens in _TOKENS.values() for token in tokens)]
    return token not in used


_TOKENS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}


def _own_template(tokenizer: Any, field: str) -> str:
    template = _text_of(tokenizer.chat_template)
    if not template:
        problem = f"the model has no chat template of its own; use one of {', '.join(TEMPLATES)}"
        raise ConfigurationError(f"{problem}, and the same one when serving", field=field)
    try:
        Chat(tokenizer, template).compile()
    except jinja2.TemplateSyntaxError as error:
        cure = f"correct it in the model's folder, or use one of {', '.join(TEMPLATES)}"
        problem = f"the model's chat template is broken at line {error.lineno} ({error.message})"
        raise ConfigurationError(f"{problem}; {cure}", field=field) from None
    return template


def _text_of(template: Any) -> str:
    """A tokenizer may have several templates by name."""
    return str((template.get("default") if isinstance(template, dict) else template) or "")


def _is_one_token(tokenizer: Any, token: str) -> bool:
    return len(tokenizer(token, add_special_tokens=False)["input_ids"]) == 1
