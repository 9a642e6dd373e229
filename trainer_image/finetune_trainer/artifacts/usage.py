"""How to load and how to serve a result: two blocks of a model card that work as they are printed, in its folder."""

import json
import shlex
from pathlib import PurePosixPath

from finetune_contract.jobspec import Method, Model, Quantization
from finetune_trainer.artifacts import markdown

_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` takes."""


class Base:
    """The base model as somebody else would name it."""

    def __init__(self, model: Model) -> None:
        self.source = model.source
        self.trust_remote_code = model.trust_remote_code
        scheme, _, rest = model.source.partition("://")
        path = PurePosixPath(rest)
        self.gguf = path.name if path.suffix == ".gguf" else None
        self.hub_id, self.revision = None, None
        if scheme == "hf":
            self.hub_id, _, pinned = rest.partition("@")
            self.revision = model.revision or pinned or None
        self.is_copied = scheme not in ("hf", "file")
        """It is in a place that no library reads: it has to be copied first."""
        folder = path.parent if self.gguf else path
        self.folder = self.hub_id or (folder.name or "base" if self.is_copied else str(folder))
        """What `from_pretrained` is called with."""

    @property
    def served(self) -> str:
        """What `vllm serve` is called with."""
        return str(PurePosixPath(self.folder) / self.gguf) if self.gguf and not self.hub_id else self.folder


def with_transformers(model: Model, method: Method) -> str:
    base = Base(model)
    dtype = 'dtype="auto"'
    trust = ["trust_remote_code=True"] if base.trust_remote_code else []
    if method.lora is None:
        return _python(
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            'folder = "."',
            f"tokenizer = AutoTokenizer.from_pretrained({_arguments('folder', *trust)})",
            f"model = AutoModelForCausalLM.from_pretrained({_arguments('folder', dtype, *trust)})",
        )
    names = ["AutoModelForCausalLM", "AutoTokenizer", "GenerationConfig"]
    options = [f"revision={_text(base.revision)}"] if base.revision else []
    if base.gguf:
        names.append("GgufConfig")
        options += [f"gguf_file={_text(base.gguf)}", "quantization_config=GgufConfig(dequantize=True)"]
    elif method.quantization:
        names.append("BitsAndBytesConfig")
        options.append(f"quantization_config={_bitsandbytes(method.quantization)}")
    return _python(
        f"from peft import PeftModel\nfrom transformers import {', '.join(sorted(names))}",
        f'base, adapter = {_text(base.folder)}, "."',
        "tokenizer = AutoTokenizer.from_pretrained(adapter)",
        "model = AutoModelForCausalLM.from_pretrained("
        + _arguments("base", dtype, *options, *trust)
        + ")\nmodel = PeftModel.from_pretrained(model, adapter)",
        "model.generation_config = GenerationConfig.from_pretrained(adapter)",
    )


def _python(imports: str, *lines: str) -> str:
    ask = """\
messages = [{"role": "user", "content": "Hello! What can you tell me?"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
output = model.generate(**inputs.to(model.device), max_new_tokens=256)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""
    return markdown.block("\n".join((imports, "", *lines, "", ask)), "python")


def _arguments(*parts: str) -> str:
    flat = ", ".join(parts)
    return flat if len(flat) < 60 else "".join(f"\n    {part}," for part in parts) + "\n"


def _bitsandbytes(quantization: Quantization) -> str:
    if quantization.bits == 8:
        return "BitsAndBytesConfig(load_in_8bit=True)"
    return (
        'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", '
        f"bnb_4bit_use_double_quant={quantization.double_quant})"
    )


def with_vllm(model: Model, method: Method, name: str) -> str:
    base = Base(model)
    trust = " --trust-remote-code" if base.trust_remote_code else ""
    if method.lora is None:
        return markdown.block(f"vllm serve . --served-model-name {shlex.quote(name)}{trust}", "shell")
    rank = next((rank for rank in _VLLM_RANKS if rank >= method.lora.rank), None)
    if rank is None:
        return (
            f"vLLM serves adapters up to rank {_VLLM_RANKS[-1]}; this one has {method.lora.rank}. Merge it into the "
            "base (`model.merge_and_unload()` of peft), save the result, and serve that.\n"
        )
    revision = f" --revision {shlex.quote(base.revision)}" if base.revision else ""
    return markdown.block(
        f"vllm serve {shlex.quote(base.served)} --enable-lora --lora-modules {shlex.quote(name)}=. "
        f"--max-lora-rank {rank}{revision}{trust} \\\n"
        "  --tokenizer . --chat-template ./chat_template.jinja --generation-config .",
        "shell",
    )


def _text(text: str | None) -> str:
    """A literal of Python."""
    return json.dumps(text, ensure_ascii=True)
