"""The model, tokenizer and pairs of a case on disk, made once and read by both sides; their first adapter weights."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.cases import Case
from dpo.cache import build_once, key
from dpo.data.batches import step_indices

SEED = 0
END = "<end>"
SPREAD = 0.5
"""Lengths are uniform within this share of their mean, as answers of real sets vary."""


def model_folder(case: Case, cache: Path) -> Path:
    """A Llama of the case's shape with random weights, and a tokenizer of as many words."""
    path = cache / "bench" / f"model-{key(2, asdict(case.shape))}"
    build_once(path, lambda new: save_model(case, new))
    return path


def save_model(case: Case, path: Path) -> None:
    """Write weights (float32) and tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    s = case.shape
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=s.vocabulary,
        hidden_size=s.width,
        intermediate_size=s.mlp,
        num_hidden_layers=s.layers,
        num_attention_heads=s.heads,
        num_key_value_heads=s.key_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    words = {word(i): i for i in range(s.vocabulary)}
    backend = Tokenizer(models.WordLevel(words, unk_token=END))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END).save_pretrained(path)


def word(i: int) -> str:
    """The text of a token id."""
    return f"w{i}" if i else END


def pairs(case: Case) -> list[dict[str, str]]:
    """Random words: prompts of about case.prompt tokens, answers of about case.answer and their end."""
    draw = random.Random(f"{SEED} {case.prompt} {case.answer} {case.shape.vocabulary}")

    def text(mean: int) -> str:
        length = max(1, round(mean * draw.uniform(1 - SPREAD, 1 + SPREAD)))
        return " ".join(word(draw.randrange(1, case.shape.vocabulary)) for _ in range(length))

    return [
        {
            "id": f"pair-{i}",
            "prompt": text(case.prompt) + " ",
            "chosen": text(case.answer),
            "rejected": text(case.answer),
        }
        for i in range(case.pairs)
    ]


def pairs_file(case: Case, folder: Path) -> Path:
    """The pairs as a file for `dataset=files`."""
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs(case)), encoding="utf-8")
    return path


def in_our_order(case: Case) -> list[dict[str, str]]:
    """The pairs in the order in which our steps read them, so that every step of both sides has the same ones."""
    rows = pairs(case)
    steps = range(1, case.steps + 1)
    return [rows[i] for step in steps for i in step_indices(len(rows), case.batch, step, SEED)]


def set_adapter(model: Any) -> None:
    """The same first adapter weights on both sides: A from one generator in the order of names, B zero."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if "lora_A" in name and p.requires_grad:
                p.copy_(torch.randn(p.shape, generator=generator) / p.shape[1] ** 0.5)


def work(case: Case, ours: bool) -> float:
    """Multiply-adds x 2 of the matrix products of one step's training, averaged over the steps.

    2 x parameters x tokens per forward; the backward of activations as much again, of trained weights as much once
    more. The head counts at completion tokens. `ours`: prompts once per pair, else once per answer; the last token of
    an answer, which predicts nothing, not at all; under LoRA the last block behind its attention at predicting tokens.
    """
    s = case.shape
    read = 2 * s.width * s.width // s.heads * s.key_heads + s.width * s.width
    rest = s.width * s.width + 3 * s.width * s.mlp
    tokens = predicting = completions = 0
    for row in pairs(case):
        prompt, answers = len(row["prompt"].split()), len(row["chosen"].split()) + len(row["rejected"].split()) + 2
        tokens += prompt + answers - 2 if ours else 2 * prompt + answers
        predicting += 1 + answers - 2
        completions += answers
    late = predicting if ours and case.adapter != "full" else tokens
    blocks = s.layers * (read + rest) * tokens - rest * (tokens - late)
    forward = 2 * (blocks + s.vocabulary * s.width * completions)
    return forward * (3 if case.adapter == "full" else 2) / case.steps
