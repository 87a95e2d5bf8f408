"""The embedded base models: small Llamas built on the spot from the repo's own text; no network, no account."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from dpo.cache import build_once, key
from dpo.data.json_over_prose import INSTRUCTIONS, PROMPT
from dpo.errors import UsageError
from dpo.models.corpus import documents
from dpo.models.fit import Example, fit
from dpo.models.pretrained import Attention, Dtype, load_tokenizer, with_template
from dpo.ranges import Range, Seed, StartRate

EOS, INSTRUCTION, RESPONSE = "<|end|>", "<|instruction|>", "<|response|>"
SAID = "{{ m['content'] or '' }}{% if m['tool_calls'] %}{{ m['tool_calls'] | tojson }}{% endif %}"
CLOSE = "{% if m['role'] == 'assistant' and loop.last %}{{ eos_token }}{% else %}SEPARATOR{% endif %}"
TEMPLATES = {
    "bpe": (
        "{% set names = {'user': 'Instruction', 'assistant': 'Response'} %}{% for m in messages %}"
        "### {{ names[m['role']] or m['role'] | capitalize }}:{{ '\\n' }}"
        + SAID
        + CLOSE.replace("SEPARATOR", "{{ '\\n\\n' }}")
        + "{% endfor %}{% if add_generation_prompt %}### Response:{{ '\\n' }}{% endif %}"
    ),
    "byte": (
        "{% for m in messages %}{% if m['role'] == 'user' %}<|instruction|>{% elif m['role'] == 'assistant' %}"
        "<|response|>{% endif %}"
        + SAID
        + CLOSE.replace("SEPARATOR", "{% if m['role'] not in ('user', 'assistant') %}{{ '\\n' }}{% endif %}")
        + "{% endfor %}{% if add_generation_prompt %}<|response|>{% endif %}"
    ),
}
"""Chat templates in the formats of the embedded sets; a prompt in messages reads like theirs in text."""
LARGEST = 500_000_000
"""Weights of an embedded base, which is trained on the spot."""
VERSION = 1  # raise it when the recipe below changes, so that no cache serves the old one


@dataclass(frozen=True)
class Tiny:
    """A Llama of `layers` x `width` with its own tokenizer ("bpe" or "byte"), pretrained for `steps` steps.

    The seed decides the corpus, the initial weights and the order of batches; nothing of a run does. Chat messages
    are written in the instruction format, or by the Jinja file `chat_template`.
    """

    tokenizer_kind: Literal["bpe", "byte"]
    vocabulary: Annotated[int, Range(257, 200_000)]
    width: Annotated[int, Range(32, 8192)]
    layers: Annotated[int, Range(1, 256)]
    steps: Annotated[int, Range(0, 100_000)]
    batch_size: Annotated[int, Range(1, 4096)]
    block: Annotated[int, Range(2, 2048)]
    lr: StartRate
    seed: Seed
    dtype: Dtype
    attention: Attention
    chat_template: str | None = None

    def __post_init__(self) -> None:
        if self.width % 32:
            raise UsageError(f"model.width={self.width}: must be a multiple of 32")
        size = self.width * (self.vocabulary + 12 * self.layers * self.width)
        if size > LARGEST:
            raise UsageError(
                f"model.width={self.width}, model.layers={self.layers} and model.vocabulary={self.vocabulary}: "
                f"{size:,} weights, and an embedded base has at most {LARGEST:,}; lower them, or take model=hf"
            )

    @property
    def revision(self) -> None:
        """The embedded models have no hub revision."""

    @property
    def trust_remote_code(self) -> bool:
        """Nothing remote."""
        return False

    def folder(self, cache: Path) -> str:
        """The folder of the built base (weights and tokenizer), building it if it is not in the cache."""
        recipe = {k: v for k, v in asdict(self).items() if k not in ("dtype", "attention", "chat_template")}
        path = cache / "models" / f"tiny-{key(VERSION, recipe, corpus_digest(self.seed))}"
        build_once(path, self._build)
        return str(path.absolute())

    def identity(self, cache: Path) -> list[str]:
        """The built folder's name is the hash of its recipe."""
        return [Path(self.folder(cache)).name, self.dtype]

    def tokenizer(self, cache: Path) -> Any:
        """The tokenizer alone: seconds to build, shared by every width and depth."""
        parts = (VERSION, self.tokenizer_kind, self.vocabulary, self.seed, corpus_digest(self.seed))
        path = cache / "models" / f"tokenizer-{key(*parts)}"
        build_once(path, lambda unfinished: self._make_tokenizer().save_pretrained(unfinished))
        tokenizer = load_tokenizer(str(path))
        tokenizer.chat_template = TEMPLATES[self.tokenizer_kind]
        return with_template(tokenizer, self.chat_template)

    def _make_tokenizer(self) -> Any:
        if self.tokenizer_kind == "byte":
            return byte_tokenizer()
        return bpe_tokenizer(self.vocabulary, self.seed)

    def _build(self, path: Path) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        tokenizer = self._make_tokenizer()
        heads = self.width // 32
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.width,
            intermediate_size=self.width * 8 // 3 // 16 * 16,
            num_hidden_layers=self.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = LlamaForCausalLM(config)
            if self.steps:
                blocks = packed(tokenizer, self.steps * self.batch_size, self.block, self.seed)
                title = f"pretraining the embedded base ({self.layers} x {self.width})"
                fit(model, blocks, self.steps, self.batch_size, self.lr, self.seed, tokenizer.pad_token_id, title)
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)


@functools.cache
def corpus_digest(seed: int) -> str:
    """Changes when the text the bases read changes."""
    return key(documents(300, seed), INSTRUCTIONS, PROMPT)


def packed(tokenizer: Any, count: int, block: int, seed: int) -> list[Example]:
    """Up to `count` blocks of `block` ids: documents end to end, each closed by EOS, with empty prompts."""
    ids: list[int] = []
    encoded = tokenizer(documents(min(20_000, count * block // 30 + 100), seed), add_special_tokens=False).input_ids
    for row in encoded:
        ids += [*row, tokenizer.eos_token_id]
    starts = range(0, len(ids) - block + 1, block)[:count]
    return [((), ids[start : start + block]) for start in starts]


def bpe_tokenizer(vocabulary: int, seed: int) -> Any:
    """Byte-level BPE trained on the corpus and the instruction format."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = documents(4000, seed) + [instruction.format(name="") for instruction in INSTRUCTIONS] + [PROMPT] * 50
    backend.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS, pad_token=EOS)


def byte_tokenizer() -> Any:
    """One id per byte, and the specials that end a text and open instruction and response."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in (EOS, INSTRUCTION, RESPONSE)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=EOS, pad_token=EOS, additional_special_tokens=[INSTRUCTION, RESPONSE]
    )
