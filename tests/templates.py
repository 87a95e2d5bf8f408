"""Chat templates of well-known kinds in words of our own, each with a tokenizer of its habits."""

import functools
from dataclasses import dataclass
from typing import Any

from tests import toys

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{% set ns.system = m['content'] + '\n\n' %}"
    "{% elif m['role'] == 'user' %}[INST] {{ ns.system if loop.last else '' }}{{ m['content'] }}[/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}"
    "{% if '</think>' in m['content'] %}{{ m['content'] }}"
    "{% elif m['reasoning_content'] %}<think>\n{{ m['reasoning_content'] }}\n</think>\n\n{{ m['content'] }}"
    "{% else %}<think>\n\n</think>\n\n{{ m['content'] }}{% endif %}"
    "{% else %}{{ m['content'].split('</think>')[-1].lstrip('\n') }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PHI = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
COMMAND = (
    "{{ bos_token }}{% for m in messages %}<|START|><|{{ m['role'] }}|>{{ m['content'] }}<|RESPONSE_ENDS|><|TURN_ENDS|>"
    "{% endfor %}{% if add_generation_prompt %}<|START|><|assistant|>{% endif %}"
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<|User|>{{ m['content'] }}"
    "{% elif m['role'] == 'assistant' %}<|Assistant|>{{ m['content'].split('</think>')[-1] }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TOOLS = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for c in m['tool_calls'] or [] %}{{ c['function'] | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DATED = "{{ strftime_now('%d %b %Y') }} {{ strftime_now(format='%Y-%m-%d') }}\n" + toys.CHATML


@dataclass(frozen=True)
class Kind:
    """A template with the special tokens of its tokenizer (EOS first), and what a trained answer "yes" reads."""

    template: str
    specials: tuple[str, ...]
    answer: str
    bos: str | None = None


KINDS = {
    "chatml": Kind(toys.CHATML, ("<|im_end|>", "<|im_start|>"), "yes<|im_end|>"),
    "chatml_on_a_base": Kind(toys.CHATML, ("<|endoftext|>", "<|im_end|>", "<|im_start|>"), "yes<|im_end|>"),
    "llama3": Kind(LLAMA3, ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"), "yes<|eot_id|>", "<|begin|>"),
    "llama3_on_a_base": Kind(LLAMA3, ("<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>"), "yes<|eot_id|>", "<b>"),
    "gemma": Kind(GEMMA, ("<eos>", "<start_of_turn>", "<end_of_turn>"), "yes<end_of_turn>", "<bos>"),
    "mistral": Kind(MISTRAL, ("</s>", "[INST]", "[/INST]"), " yes</s>", "<s>"),
    "llama2": Kind(LLAMA2, ("</s>",), " yes </s>", "<s>"),
    "qwen3": Kind(QWEN3, ("<|im_end|>", "<|im_start|>", "<think>", "</think>"), "<think>\n\n</think>\n\nyes<|im_end|>"),
    "phi": Kind(PHI, ("<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>"), "yes<|end|>"),
    "command": Kind(
        COMMAND, ("<|TURN_ENDS|>", "<|START|>", "<|RESPONSE_ENDS|>"), "yes<|RESPONSE_ENDS|><|TURN_ENDS|>", "<B>"
    ),
    "r1": Kind(R1, ("</s>", "<|User|>", "<|Assistant|>", "<think>", "</think>"), "yes</s>", "<s>"),
    "plain": Kind(PLAIN, ("</s>",), "yes\n</s>"),
    "tools": Kind(TOOLS, ("<|im_end|>", "<|im_start|>"), "yes<|im_end|>"),
    "dated": Kind(DATED, ("<|im_end|>", "<|im_start|>"), "yes<|im_end|>"),
}


@functools.cache
def chat(name: str) -> Any:
    """The tokenizer of a kind, with its template. Shared: treat it as frozen."""
    kind = KINDS[name]
    specials = [*kind.specials, *([kind.bos] if kind.bos else [])]
    backend = toys.bpe_backend(specials)
    made = toys.wrap(backend, eos_token=kind.specials[0], **({"bos_token": kind.bos} if kind.bos else {}))
    made.chat_template = kind.template
    return made
