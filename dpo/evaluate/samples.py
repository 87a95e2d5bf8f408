"""Answers of a model to fixed prompts, and what can be counted on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dpo.data.pair import Text
from dpo.data.tokens import encode_prompt, render


@dataclass(frozen=True)
class Answer:
    """One answer: the prompt as the model saw it, ids (EOS included where it came), text without specials."""

    prompt: str
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    text: str
    ended: bool


@torch.no_grad()
def answer(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Text],
    max_new_tokens: int,
    temperature: float | None,
    seed: int,
    precision: str = "fp32",
    batch_size: int = 64,
) -> list[Answer]:
    """Greedy answers (temperature None) or seeded samples from the unfiltered distribution at `temperature`.

    Leaves the global random state as it was; the same arguments give the same answers on one machine.
    """
    device = next(model.parameters()).device
    texts = [render(prompt, tokenizer) for prompt in prompts]
    ids = [encode_prompt(text, tokenizer) for text in texts]
    eos = tokenizer.eos_token_id
    # every setting is given, so that a model's own generation defaults (top-k, penalties) cannot leak in
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature is not None:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    answers = []
    with torch.random.fork_rng(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        torch.manual_seed(seed)
        for start in range(0, len(ids), batch_size):
            part = ids[start : start + batch_size]
            width = max(map(len, part))
            ids_BT = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in part], device=device)
            mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in part], device=device)
            out_BT = generate(model, ids_BT, mask_BT, max_new_tokens, eos, tokenizer.pad_token_id, sampling)
            for row, generated in zip(range(start, start + len(part)), out_BT[:, width:].tolist(), strict=True):
                ended = eos in generated
                kept = generated[: generated.index(eos) + 1] if ended else generated
                text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                answers.append(Answer(texts[row], tuple(ids[row]), tuple(kept), text, ended))
    return answers


def generate(
    model: Any,
    ids_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    new_tokens: int,
    eos: int,
    pad: int,
    sampling: dict[str, Any],
) -> torch.Tensor:
    """transformers' generate with nothing taken from the model's generation_config but its cache."""
    from transformers import GenerationConfig, GenerationMixin

    settings = GenerationConfig(max_new_tokens=new_tokens, eos_token_id=eos, pad_token_id=pad, **sampling)
    # below an adapter the model that generates is an inner module
    kept = {module: module.generation_config for module in model.modules() if isinstance(module, GenerationMixin)}
    try:
        for module in kept:
            module.generation_config = GenerationConfig(eos_token_id=eos, pad_token_id=pad)
        return model.generate(input_ids=ids_BT, attention_mask=mask_BT, generation_config=settings)
    finally:
        for module, own in kept.items():
            module.generation_config = own


def describe(answers: Sequence[Answer]) -> dict[str, float]:
    """length (mean tokens, EOS included), eos_rate (share that ended), repetition (mean share of repeated 4-grams)."""
    n = max(len(answers), 1)
    return {
        "samples/length": sum(len(a.ids) for a in answers) / n,
        "samples/eos_rate": sum(a.ended for a in answers) / n,
        "samples/repetition": sum(repetition(a.ids) for a in answers) / n,
    }


def repetition(ids: Sequence[int], n: int = 4) -> float:
    """1 - distinct / all n-grams; 0 for texts too short to repeat."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
