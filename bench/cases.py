"""What is timed: shapes, pairs, steps and precisions, the same for both sides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A Llama of random weights."""

    layers: int
    width: int
    heads: int
    key_heads: int
    mlp: int
    vocabulary: int


SMOL = Shape(30, 576, 9, 3, 1536, 49_152)
"""SmolLM2-135M's shape."""
TINY = Shape(4, 128, 4, 4, 336, 1_024)
"""The shape of the embedded base."""
ONE_B = Shape(16, 2048, 32, 8, 8192, 128_256)
"""Llama 3.2 1B's shape."""


@dataclass(frozen=True)
class Case:
    """One comparison: `pairs` = steps x batch pairs whose prompts and answers have about so many tokens.

    adapter    "lora_qv" (rank 8) or "full"
    precision  "fp32" or "bf16"
    betas      how many runs, each with its own beta; above 1: a sweep, start-up included
    repeats    how often each side runs, in turn
    tolerance  largest difference of the two sides' losses, at any step
    device     "cpu" or "cuda"
    """

    name: str
    shape: Shape
    prompt: int
    answer: int
    batch: int
    steps: int
    adapter: str
    precision: str
    repeats: int
    tolerance: float
    lr: float
    betas: int = 1
    device: str = "cpu"

    @property
    def pairs(self) -> int:
        """Pairs of the data set: every step reads new ones."""
        return self.steps * self.batch


SHORT = {"prompt": 12, "answer": 23, "batch": 8}
LONG = {"prompt": 290, "answer": 23, "batch": 4}
LORA = {"adapter": "lora_qv", "lr": 5e-4}

CASES = (
    Case("train_tiny_fp32", TINY, **SHORT, steps=24, **LORA, precision="fp32", repeats=5, tolerance=1e-3),
    Case("train_135m_fp32", SMOL, **SHORT, steps=8, **LORA, precision="fp32", repeats=3, tolerance=1e-3),
    Case("train_135m_bf16", SMOL, **SHORT, steps=8, **LORA, precision="bf16", repeats=3, tolerance=3e-2),
    Case("train_135m_long_prompt_fp32", SMOL, **LONG, steps=3, **LORA, precision="fp32", repeats=2, tolerance=1e-3),
    Case("train_135m_long_prompt_bf16", SMOL, **LONG, steps=3, **LORA, precision="bf16", repeats=2, tolerance=3e-2),
    Case(
        "train_135m_full_fp32",
        SMOL,
        **SHORT,
        steps=4,
        adapter="full",
        lr=1e-5,
        precision="fp32",
        repeats=2,
        tolerance=5e-3,
    ),
    Case("sweep8_tiny", TINY, **SHORT, steps=24, **LORA, precision="fp32", repeats=2, tolerance=1e-3, betas=8),
)
GPU: dict[str, Any] = {**LORA, "precision": "bf16", "tolerance": 3e-2, "device": "cuda"}
GPU_CASES = (
    Case("train_1b_bf16", ONE_B, **SHORT, steps=8, **GPU, repeats=3),
    Case("train_1b_long_prompt_bf16", ONE_B, **LONG, steps=8, **GPU, repeats=3),
    Case("sweep8_1b_bf16", ONE_B, **SHORT, steps=24, **GPU, repeats=2, betas=8),
)
"""What a GPU is asked; its share of the peak is what others call MFU."""
BETAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


def by_name(name: str) -> Case:
    """The case of this name; growth cases are called growth/<what>/<factor>."""
    known = {case.name: case for case in (*CASES, *GPU_CASES, *growth())}
    return known[name]


def growth() -> tuple[Case, ...]:
    """A base case of the growth table and the same with one thing multiplied."""
    base = replace(
        by_case("train_tiny_fp32"), shape=replace(TINY, vocabulary=8_192), prompt=64, steps=8, batch=8, repeats=2
    )
    return (
        replace(base, name="growth/pairs/1"),
        replace(base, name="growth/pairs/10", steps=80),
        replace(base, name="growth/prompt/1"),
        replace(base, name="growth/prompt/4", prompt=256),
        replace(base, name="growth/vocabulary/1"),
        replace(base, name="growth/vocabulary/4", shape=replace(TINY, vocabulary=32_768)),
        replace(base, name="growth/grid/1", betas=2),
        replace(base, name="growth/grid/4", betas=8),
    )


def by_case(name: str) -> Case:
    """One of CASES."""
    return next(case for case in CASES if case.name == name)
