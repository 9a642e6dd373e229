"""Loads the model to train, in the precision and with the attention that the settings chose."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune_contract.jobspec import Quantization
from finetune_trainer.causes.foreseeing import raise_fault_of_pod
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model import generation, quantized, weights
from finetune_trainer.model.architecture import load_config
from finetune_trainer.model.gguf_parsing import parsed_once
from finetune_trainer.model.places import FIELD
from finetune_trainer.model.source import ModelFiles
from finetune_trainer.rank.device import Device, Process
from finetune_trainer.rank.reporting import Report, discard
from finetune_trainer.rank.settings import Settings


def load_tokenizer(files: ModelFiles) -> Any:
    """The tokenizer, with a token to pad with. The vocabulary is never resized: padding is masked, so any token
    serves."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(**files.from_pretrained)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def load_model(
    files: ModelFiles,
    settings: Settings,
    device: Device,
    process: Process,
    quantization: Quantization | None,
    scratch: Path,
    *,
    source: str,
    report: Report,
) -> Any:
    """The causal language model: on this process's device when it is quantised, else on the CPU.

    Args:
        quantization: None for weights as they are stored.
        scratch: where a .gguf model is written in the transformers format before it is quantised again.
        source: as the job names the model.

    Raises:
        ConfigurationError: the weights cannot be loaded, or are not those of the model.
    """
    if quantization is not None and files.gguf:
        files = _without_gguf(files, source, scratch / f"unpacked-{process.local_rank}", report)
    arguments: dict[str, Any] = {"attn_implementation": settings.attention}
    if quantization is not None:
        arguments["quantization_config"] = _bitsandbytes(quantization, settings)
        if settings.zero_stage != 3:  # there DeepSpeed places the weights
            arguments["device_map"] = {"": process.local_rank if device.is_gpu else "cpu"}
    model = load_weights(files, _dtype(settings), source=source, report=report, **arguments)
    _keep_cpu_layout(model)
    return model


def load_weights(files: ModelFiles, dtype: Any, *, source: str, report: Report = discard, **arguments: Any) -> Any:
    """The model in this precision, with every weight from its files; a .gguf is unpacked to plain weights.

    Args:
        source: as the job names the model.
        arguments: of transformers' `from_pretrained`.

    Raises:
        ConfigurationError: the files are damaged, or lack weights of the model, or hold those of another one.
    """
    from transformers import AutoModelForCausalLM

    config = None if files.gguf else load_config(files, source)
    if config is None:
        arguments["quantization_config"] = _plain_gguf()
    else:
        # transformers would read generation_config.json itself, and fail on what it does not accept
        ours = {"generation_config": generation.of_base(files).config, **quantized.load_arguments(config)}
        arguments = {**ours, **arguments}
    # A shape that differs is ours to report, with its cause.
    arguments |= {"dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True, "weights_only": True}
    with _errors_of_loading(source), parsed_once(files):
        model, info = AutoModelForCausalLM.from_pretrained(**files.from_pretrained, **arguments)
    if line := weights.check(weights.Difference.reported(info), model, source):
        report(line)
    if config is None:
        _clear_quantizer(model)
    elif quantized.is_unpacked(config):
        _matrices_to(model, dtype)
    return model


@contextmanager
def _errors_of_loading(source: str) -> Iterator[None]:
    from pickle import UnpicklingError

    from safetensors import SafetensorError

    try:
        yield
    except UnpicklingError as error:
        message = (
            f"the .bin weights of {source} are damaged, or hold more than tensors, which would run as code when they "
            "are read. Save the model as .safetensors, from a source that you trust"
        )
        raise ConfigurationError(message, field=FIELD, reason="UnsafeWeights") from error
    except (OSError, ValueError, KeyError, RuntimeError, EOFError, ImportError, SafetensorError) as error:
        raise_fault_of_pod(error)
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        message = f"the weights of {source} cannot be loaded: {first_line}"
        raise ConfigurationError(message, field=FIELD, reason="ModelNotLoadable") from error


def decoder_layers(model: Any) -> list[Any]:
    """The layers of the decoder, first to last, whatever the model calls them."""
    from torch.nn import ModuleList

    lists = [list(child) for child in model.get_decoder().children() if isinstance(child, ModuleList)]
    return max(lists, key=len, default=[])


def compile_layers(model: Any) -> None:
    """torch.compile of the decoder, layer by layer: they share their code, so only one is compiled, in half a minute;
    the decoder as a whole takes many. Shapes are dynamic, since each batch has its own width.

    Where the first layer's input needs no gradient (frozen embeddings), that layer would be compiled separately for
    little gain: it is left uncompiled.
    """
    layers = decoder_layers(model)
    trains_embeddings = any(parameter.requires_grad for parameter in model.get_input_embeddings().parameters())
    for layer in layers if trains_embeddings else layers[1:]:
        layer.compile(dynamic=True)


def _dtype(settings: Settings) -> Any:
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[settings.precision]


def _bitsandbytes(quantization: Quantization, settings: Settings) -> Any:
    """bitsandbytes as in QLoRA (arXiv:2305.14314): NF4 with double quantisation, or LLM.int8() (arXiv:2208.07339)."""
    import torch
    from transformers import BitsAndBytesConfig

    if quantization.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=quantization.double_quant,
        bnb_4bit_compute_dtype=_dtype(settings),
        # ZeRO-3 partitions weights of one dtype together: the packed ones must carry the dtype of the others.
        bnb_4bit_quant_storage=_dtype(settings) if settings.zero_stage == 3 else torch.uint8,
    )


def _without_gguf(files: ModelFiles, source: str, folder: Path, report: Report) -> ModelFiles:
    """A .gguf brings its own quantisation, which rules out another: unpack it to a folder first."""
    import torch

    load_weights(files, torch.bfloat16, source=source, report=report).save_pretrained(folder)
    return ModelFiles(folder, None, files.trust_remote_code)


def _plain_gguf() -> Any:
    """Unpacked to plain weights: packed ones (with the `kernels` package) compute in fp32 and cannot train."""
    from transformers import GgufConfig

    return GgufConfig(dequantize=True)


def _matrices_to(model: Any, dtype: Any) -> None:
    """Matrices that were unpacked from fp8 come in the precision of their scales."""
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.ndim > 1:
            parameter.data = parameter.data.to(dtype)


def _clear_quantizer(model: Any) -> None:
    """The weights are plain by now, but a model that remembers its GGUF quantiser refuses to be saved or trained."""
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model, "quantization_method"):
        del model.quantization_method
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _keep_cpu_layout(model: Any) -> None:
    """bitsandbytes repacks 4-bit weights for AVX512-BF16 at the first forward pass in eval mode, and trains wrongly on
    them afterwards: an evaluation during training would corrupt what follows."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
