"""Chat templates of the families that people fine-tune.

The vendors' own with their tokenizers where a package carries them; for the others a template of the same behaviour,
written anew. The page docs/templates.md is made of this table, and a test holds each entry.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from dev.kit.chat_tokenizers import chat_tokenizer
from dev.kit.sample_data import smollm2_gguf
from finetune_trainer.objectives.chat import Chat

MARKS, PREFIX, EACH, NO = "marks", "prefix", "each answer", "refused"


@dataclass(frozen=True)
class Family:
    name: str
    ways: Mapping[str, str]
    """How the answers of each kind of conversation are found: one of the four words above."""
    end: str
    """What ends a turn."""
    package: str | None = None
    """Of tokenizer and template. None: `template` with a small tokenizer."""
    template: str | None = None
    """Instead of the package's own."""
    tokens: tuple[str, ...] = ()
    bos: str | None = None
    eos: str = "<|endoftext|>"

    @property
    def is_vendors(self) -> bool:
        return self.template is None

    def chat(self) -> Chat:
        tokenizer = _load(self.package) if self.package else _small(self.tokens, self.bos, self.eos)
        return Chat(tokenizer, self.template or tokenizer.chat_template)


@cache
def _load(package: str) -> Any:
    from transformers import AutoTokenizer, logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        if package == "smollm2":
            file = smollm2_gguf()
            return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        return AutoTokenizer.from_pretrained(chat_tokenizer(package))
    finally:
        logging.set_verbosity(before)


def _small(tokens: tuple[str, ...], bos: str | None, eos: str) -> Any:
    from tests.trainer.models import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    tokenizer.bos_token, tokenizer.eos_token = bos, eos
    return tokenizer


QWEN25 = (
    "{% if tools %}<|im_start|>system\n{{ messages[0].content if messages[0].role == 'system' else 'You help.' }}\n"
    "# Tools\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n"
    "{% elif messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n"
    "</tool_response><|im_end|>\n"
    "{% elif not (tools and loop.first and m.role == 'system') %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    '{% for call in m.tool_calls or [] %}\n<tool_call>\n{"name": "{{ call.function.name }}", "arguments": '
    "{{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA32 = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nKnowledge until December 2023\n\n"
    "{{ messages[0].content | trim if messages[0].role == 'system' else '' }}<|eot_id|>"
    "{% for m in messages %}{% if m.role == 'system' and loop.first %}"
    "{% elif m.tool_calls %}{% if m.tool_calls | length != 1 %}{{ raise_exception('only one call') }}{% endif %}"
    '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "{{ m.tool_calls[0].function.name }}", '
    '"parameters": {{ m.tool_calls[0].function.arguments | tojson }}}<|eot_id|>'
    "{% elif m.role == 'tool' %}<|start_header_id|>ipython<|end_header_id|>\n\n{{ m.content | tojson }}<|eot_id|>"
    "{% else %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if tools and m.role == 'user' and (loop.first or loop.index0 == 1 and messages[0].role == 'system') %}"
    "Functions:\n{% for tool in tools %}{{ tool | tojson(indent=4) }}\n\n{% endfor %}{% endif %}"
    "{{ m.content | trim }}<|eot_id|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA2 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI35 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
PHI4 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
)
MISTRAL = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{% set ns = namespace(last=0) %}{% for m in rest %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{{ bos_token }}{% for m in rest %}{% if m.role == 'user' %}"
    "{% if tools and loop.index0 == ns.last %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "[INST]{{ system if loop.last else '' }}{{ m.content }}[/INST]"
    '{% elif m.tool_calls %}[TOOL_CALLS][{% for call in m.tool_calls %}{"name": "{{ call.function.name }}", '
    '"arguments": {{ call.function.arguments | tojson }}, "id": "{{ call.id }}"}{% endfor %}]{{ eos_token }}'
    '{% elif m.role == \'tool\' %}[TOOL_RESULTS]{"content": {{ m.content | tojson }}, "call_id": '
    '"{{ m.tool_call_id }}"}[/TOOL_RESULTS]'
    "{% elif m.role == 'assistant' %} {{ m.content | trim }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user, assistant and tool') }}{% endif %}{% endfor %}"
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% elif m.role == 'assistant' and m.content is not none %}"
    "<｜Assistant｜>{{ m.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)
GPT_OSS = (
    "<|start|>system<|message|>You are a model.<|end|>"
    "{% if tools or messages[0].role == 'system' %}<|start|>developer<|message|>"
    "{% if messages[0].role == 'system' %}# Instructions\n\n{{ messages[0].content }}\n\n{% endif %}"
    "{% if tools %}# Tools\n\nnamespace functions {\n{% for tool in tools %}type {{ tool.function.name }} = (_: "
    "{{ tool.function.parameters | tojson }}) => any;\n{% endfor %}}{% endif %}<|end|>{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}<|start|>user<|message|>{{ m.content }}<|end|>"
    "{% elif m.role == 'tool' %}<|start|>functions<|channel|>commentary<|message|>{{ m.content | tojson }}<|end|>"
    "{% elif m.role == 'assistant' and m.tool_calls %}{% if m.thinking %}<|start|>assistant<|channel|>analysis"
    "<|message|>{{ m.thinking }}<|end|>{% endif %}<|start|>assistant to=functions.{{ m.tool_calls[0].function.name }}"
    "<|channel|>commentary json<|message|>{{ m.tool_calls[0].function.arguments | tojson }}<|call|>"
    "{% elif m.role == 'assistant' %}{% if m.thinking and loop.last %}<|start|>assistant<|channel|>analysis<|message|>"
    "{{ m.thinking }}<|end|>{% endif %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
    "{{ '<|return|>' if loop.last else '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
SMOLLM3 = (
    "<|im_start|>system\n{{ messages[0].content if messages[0].role == 'system' else 'You help.' }}\n"
    "{% if tools %}# Tools\n{% for tool in tools %}{{ tool | string }}\n{% endfor %}{% endif %}<|im_end|>\n"
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n"
    "{% elif m.role == 'tool' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n"
    "{% elif m.role == 'assistant' %}{% generation %}<|im_start|>assistant\n{{ m.content.lstrip('\n') }}<|im_end|>\n"
    "{% endgeneration %}{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GRANITE = (
    "{% if messages[0].role != 'system' %}<|start_of_role|>system<|end_of_role|>You help.<|end_of_text|>\n{% endif %}"
    "{% if tools %}<|start_of_role|>available_tools<|end_of_role|>{{ tools | tojson(indent=4) }}<|end_of_text|>\n"
    "{% endif %}{% for m in messages %}<|start_of_role|>{{ 'tool_response' if m.role == 'tool' else m.role }}"
    "<|end_of_role|>{% if m.tool_calls %}<|tool_call|>[{% for call in m.tool_calls %}"
    "{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}{% endfor %}]{% endif %}"
    "{{ m.content }}<|end_of_text|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
OLMO2 = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% if not (loop.last and m.role == 'assistant') %}\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

KINDS = ("turns", "system", "tools", "thoughts")


def _ways(turns: str, system: str, tools: str, thoughts: str) -> dict[str, str]:
    return dict(zip(KINDS, (turns, system, tools, thoughts), strict=True))


_LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
FAMILIES = (
    Family("Qwen2.5", _ways(PREFIX, PREFIX, PREFIX, NO), "<|im_end|>", "qwen3", QWEN25),
    Family("Qwen3", _ways(EACH, EACH, EACH, EACH), "<|im_end|>", "qwen3"),
    Family("Llama 3.1 (short template)", _ways(PREFIX, PREFIX, NO, NO), "<|eot_id|>", "llama3_1"),
    Family("Llama 3.x (with tools)", _ways(PREFIX, PREFIX, PREFIX, NO), "<|eot_id|>", "llama3_1", LLAMA32),
    Family("Gemma 2", _ways(PREFIX, NO, NO, NO), "<end_of_turn>", "gemma3", GEMMA2),
    Family("Gemma 3", _ways(PREFIX, PREFIX, NO, NO), "<end_of_turn>", "gemma3"),
    Family(
        "Phi-3.5",
        _ways(PREFIX, PREFIX, NO, NO),
        "<|end|>",
        template=PHI35,
        tokens=("<|end|>", "<|user|>", "<|assistant|>", "<|system|>"),
    ),
    Family("Phi-4", _ways(PREFIX, PREFIX, NO, NO), "<|im_end|>", template=PHI4, tokens=("<|im_sep|>",)),
    Family(
        "Mistral",
        _ways(PREFIX, EACH, EACH, NO),
        "</s>",
        template=MISTRAL,
        tokens=("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"),
        bos="<s>",
        eos="</s>",
    ),
    Family("DeepSeek-V3", _ways(PREFIX, PREFIX, NO, NO), "<｜end▁of▁sentence｜>", "deepseek_v3"),
    Family("DeepSeek-R1 distills", _ways(EACH, EACH, NO, EACH), "<｜end▁of▁sentence｜>", "deepseek_v3", R1),
    Family(
        "gpt-oss",
        _ways(EACH, EACH, EACH, EACH),
        "<|return|>",
        template=GPT_OSS,
        tokens=("<|start|>", "<|end|>", "<|return|>", "<|call|>", "<|message|>", "<|channel|>"),
    ),
    Family("SmolLM2", _ways(PREFIX, PREFIX, NO, NO), "<|im_end|>", "smollm2"),
    Family("SmolLM3", _ways(MARKS, MARKS, NO, NO), "<|im_end|>", template=SMOLLM3),
    Family(
        "Granite 3",
        _ways(PREFIX, PREFIX, PREFIX, NO),
        "<|end_of_text|>",
        template=GRANITE,
        tokens=("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>", "<|tool_call|>"),
        eos="<|end_of_text|>",
    ),
    Family("OLMo-2", _ways(PREFIX, PREFIX, NO, NO), "<|endoftext|>", template=OLMO2, bos="<|endoftext|>"),
)
