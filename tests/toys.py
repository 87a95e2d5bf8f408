"""In-memory toys: tokenizers of every habit that matters, random models of every family, random pairs.

Nothing here touches the network or the disk. Tokenizers are shared (treat them as frozen); models are new.
"""

from __future__ import annotations

import functools
import json
import random
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from dpo.data.pair import Pair, Text
from dpo.data.tokens import TokenPair
from dpo.models.adapters import Lora
from dpo.models.corpus import documents
from dpo.models.tiny import byte_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHAT_WITH_BOS = (
    "<s>{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def wrap(backend: Tokenizer, **specials: str) -> Any:
    """A transformers tokenizer around a tokenizers one; it pads with its EOS, as many models do."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=specials["eos_token"], **specials)


def with_bos(backend: Tokenizer) -> Tokenizer:
    """The same, putting <s> before every text by itself, as Llama's tokenizer does."""
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return backend


def bpe_backend(specials: list[str], vocabulary: int = 420) -> Tokenizer:
    """Byte-level BPE with some merges: words keep the space before them."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(documents(200, 0), trainer)
    return backend


def metaspace_backend(scheme: str) -> Tokenizer:
    """SentencePiece-like BPE with a dummy space before the text: `scheme` is always, first or legacy (Llama 2)."""
    specials = ["<unk>", "<s>", "</s>"]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    byte_tokens = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=specials + byte_tokens, show_progress=False)
    # without newlines in its text, a newline stays one byte token that merges with nothing, as in Llama 2
    trained.train_from_iterator((text.replace("\n", " ") for text in documents(200, 0)), trainer)
    state = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in state["merges"]]
    backend = Tokenizer(
        models.BPE(vocab=state["vocab"], merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    if scheme == "legacy":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return with_bos(backend)


@functools.cache
def tokenizer(kind: str) -> Any:
    """A tokenizer by its habit.

    byte    one id per byte, no BOS, EOS <|end|>
    bpe     byte-level BPE, no BOS, EOS <|end|>
    llama   byte-level BPE that adds its BOS <s> itself, EOS </s>
    chatml  byte-level BPE, no BOS, a template that closes every turn with its EOS <|im_end|> and a newline
    always, first, legacy   a dummy space before the text, in three ways; BOS <s>, EOS </s>
    """
    if kind == "byte":
        return byte_tokenizer()
    if kind == "bpe":
        return wrap(bpe_backend(["<|end|>"]), eos_token="<|end|>")
    if kind == "llama":
        return wrap(with_bos(bpe_backend(["<s>", "</s>"])), bos_token="<s>", eos_token="</s>")
    if kind == "chatml":
        made = wrap(bpe_backend(["<|im_start|>", "<|im_end|>"]), eos_token="<|im_end|>")
        made.chat_template = CHATML
        return made
    return wrap(metaspace_backend(kind), bos_token="<s>", eos_token="</s>", unk_token="<unk>")


KINDS = ("byte", "bpe", "llama", "chatml", "always", "first", "legacy")
SPACE_PREFIXING = ("always", "first", "legacy")


def merging_tokenizer() -> Any:
    """Bytes and one merge, "ab": a prompt that ends in a and an answer that starts with b share a token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate([*letters, "ab"])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|end|>", special=True)])
    return wrap(backend, eos_token="<|end|>")


FAMILIES = ("llama", "qwen2", "mistral", "gemma2", "gpt_neox", "gpt2")


def config(family: str, vocabulary: int) -> Any:
    """Two blocks, 32 wide; large first weights, so that the log-probs of tokens differ by whole nats."""
    import transformers as t

    common = {"vocab_size": vocabulary, "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": None}
    if family == "gpt2":  # its own dropout (0.1) stays on purpose: scoring and training must not use it
        return t.GPT2Config(**common, n_embd=32, n_layer=2, n_head=2, n_positions=256)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    common |= sizes | {"max_position_embeddings": 256}
    if family == "gpt_neox":
        return t.GPTNeoXConfig(**common)
    common["num_key_value_heads"] = 1
    if family == "gemma2":  # a cap low enough to bend every logit
        return t.Gemma2Config(**common, head_dim=16, final_logit_softcapping=1.5, sliding_window=64)
    return {"llama": t.LlamaConfig, "qwen2": t.Qwen2Config, "mistral": t.MistralConfig}[family](**common)


def model(family: str = "llama", vocabulary: int = 40, seed: int = 0, **changes: Any) -> Any:
    """A random model in evaluation mode; `changes` are set on its config. The global random state stays."""
    from transformers import AutoModelForCausalLM

    settings = config(family, vocabulary)
    for name, value in changes.items():
        setattr(settings, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(settings).eval()


LORA = Lora(r=2, alpha=8, dropout=0.0, target="all_linear", layers="all", dora=False)
DORA = Lora(r=2, alpha=8, dropout=0.0, target="qv", layers="last_half", dora=True)


def moved(net: Any, seed: int = 1) -> Any:
    """The same LoRA model with an adapter that does something, as if trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "lora_B" in name:
                p.normal_(generator=generator)
    return net


def text_pair(prompt: Text, chosen: Text = "yes", rejected: Text = "no", name: str = "p1") -> Pair:
    """A pair of texts or chat messages."""
    return Pair(name, prompt, chosen, rejected, "toy")


def random_pairs(count: int, seed: int = 0, vocabulary: int = 40, longest: int = 9) -> list[TokenPair]:
    """Pairs of random ids (1 up to the vocabulary; 0 is left for padding) and random lengths, two answers each."""
    generator = random.Random(seed)

    def ids() -> tuple[int, ...]:
        return tuple(generator.randrange(1, vocabulary) for _ in range(generator.randint(1, longest)))

    return [TokenPair(f"pair-{i}", ids(), ids(), ids()) for i in range(count)]


@torch.no_grad()
def naive_logps(net: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> list[float]:
    """Log-prob of every answer token by one forward per token over its bare prefix: the definition, in nats."""
    ids = [*prompt, *answer]
    values = []
    for position in range(len(prompt), len(ids)):
        logits_V = net(input_ids=torch.tensor([ids[:position]]), use_cache=False).logits[0, -1]
        values.append(float(logits_V.double().log_softmax(-1)[ids[position]]))
    return values
