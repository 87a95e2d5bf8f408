"""Answers of a model to fixed prompts, and what can be counted on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dpo.data.ends import ends
from dpo.data.pair import Text
from dpo.data.templates import render
from dpo.data.tokens import encode_prompt
from dpo.models.limits import check_answers
from dpo.rotary import OwnLengths


@dataclass(frozen=True)
class Answer:
    """One answer: the prompt as the model saw it, ids (with what ended it, if anything did), text without specials."""

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
    # every setting is given, so that a model's own generation defaults (top-k, penalties) cannot leak in
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature is not None:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    answers: list[Answer] = []
    with torch.random.fork_rng(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        torch.manual_seed(seed)
        for start in range(0, len(ids), batch_size):
            part = slice(start, start + batch_size)
            answers += answer_batch(model, tokenizer, texts[part], ids[part], max_new_tokens, sampling)
    return answers


@torch.no_grad()
def sample_each(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Text],
    seeds: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    precision: str = "fp32",
) -> list[Answer]:
    """One batch of samples from the unfiltered distribution at `temperature`, each drawn with a seed of its own.

    An answer depends on its prompt and seed alone, not on what else is in the batch, as far as padding leaves the
    model's probabilities alone: nearly always in fp32, not in bf16. The global random state is not touched.
    """
    device = next(model.parameters()).device
    texts = [render(prompt, tokenizer) for prompt in prompts]
    ids = [encode_prompt(text, tokenizer) for text in texts]
    check_answers(model, map(len, ids), max_new_tokens, "judge.max_new_tokens")
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        picks = [PickBySeed(seeds, temperature)]
        return answer_batch(model, tokenizer, texts, ids, max_new_tokens, {"do_sample": False}, picks)


class PickBySeed:
    """A logits processor that leaves one token of each row, drawn with the row's own generator.

    Gumbel-max: the token with the largest logit / temperature + noise, noise drawn anew for each token and step. Two
    models whose distributions differ by a total variation of e then pick otherwise with a chance of at most 2e, so
    rounding moves next to no pick (one number against cumulated probabilities would, at any of their many edges).
    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.temperature = temperature

    def only(self, row: int) -> PickBySeed:
        """What picks for this row of a batch, for a batch of it alone."""
        alone = PickBySeed([], self.temperature)
        alone.generators = [self.generators[row]]
        return alone

    def __call__(self, ids_BT: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        wait_BV = torch.empty(logits_BV.shape, dtype=torch.float64)
        for row, generator in enumerate(self.generators):
            wait_BV[row].exponential_(generator=generator)
        noisy_BV = logits_BV.double() / self.temperature - wait_BV.log().to(logits_BV.device)
        return torch.full_like(logits_BV, -torch.inf).scatter(1, noisy_BV.argmax(1, keepdim=True), 0.0)


def answer_batch(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    ids: Sequence[list[int]],
    max_new_tokens: int,
    sampling: dict[str, Any],
    processors: Sequence[PickBySeed] = (),
) -> list[Answer]:
    """Answers to rendered prompts, padded on the left and generated together.

    Where positions depend on the longest text (`dpo.rotary`), one after the other, so that none depends on another.
    """
    check_answers(model, map(len, ids), max_new_tokens)
    if (lengths := OwnLengths.of(model)) is not None:
        lengths.forget()
        if len(ids) > 1:
            rest = max_new_tokens, sampling
            picks = [[process.only(row) for process in processors] for row in range(len(ids))]
            rows = [slice(row, row + 1) for row in range(len(ids))]
            each = zip(rows, picks, strict=True)
            return [answer_batch(model, tokenizer, texts[r], ids[r], *rest, own)[0] for r, own in each]
    device, pad = next(model.parameters()).device, tokenizer.pad_token_id
    stop = ends(tokenizer, model)
    width = max(map(len, ids))
    ids_BT = torch.tensor([[pad] * (width - len(row)) + row for row in ids], device=device)
    mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=device)
    out_BT = generate(model, ids_BT, mask_BT, max_new_tokens, sorted(stop), pad, sampling, processors)
    answers = []
    for text, row, generated in zip(texts, ids, out_BT[:, width:].tolist(), strict=True):
        at = next((i for i, token in enumerate(generated) if token in stop), None)
        kept = generated if at is None else generated[: at + 1]
        said = tokenizer.decode(generated[:at], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        answers.append(Answer(text, tuple(row), tuple(kept), said, at is not None))
    return answers


def generate(
    model: Any,
    ids_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    new_tokens: int,
    stop: list[int],
    pad: int,
    sampling: dict[str, Any],
    processors: Sequence[Any] = (),
) -> torch.Tensor:
    """transformers' generate up to one of `stop`; of the model's generation_config only its cache is used."""
    from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList

    settings = GenerationConfig(max_new_tokens=new_tokens, eos_token_id=stop, pad_token_id=pad, **sampling)
    own_rules = {"logits_processor": LogitsProcessorList(processors)} if processors else {}
    # below an adapter the model that generates is an inner module
    kept = {module: module.generation_config for module in model.modules() if isinstance(module, GenerationMixin)}
    try:
        for module in kept:
            module.generation_config = GenerationConfig(eos_token_id=stop, pad_token_id=pad)
        return model.generate(input_ids=ids_BT, attention_mask=mask_BT, generation_config=settings, **own_rules)
    finally:
        for module, own in kept.items():
            module.generation_config = own


def describe(answers: Sequence[Answer]) -> dict[str, float]:
    """length (mean tokens, the end included), eos_rate (share that ended), repetition (share of repeated 4-grams)."""
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
