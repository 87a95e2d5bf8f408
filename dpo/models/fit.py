"""Plain language-model training on (prompt, completion) ids: the embedded base and the SFT stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from dpo.finite import broken
from dpo.progress import bar
from dpo.rotary import OwnLengths

Example = tuple[Sequence[int], Sequence[int]]


def fit(
    model: Any, examples: Sequence[Example], steps: int, batch_size: int, lr: float, seed: int, pad_id: int, title: str
) -> None:
    """Train `model` in place: mean cross-entropy over the completion tokens of each batch.

    Raises FloatingPointError where the last loss or a weight is not finite: nobody may start from that.

    AdamW, a short warm-up, then cosine to a tenth of `lr` (1/step). Batches are slices of seeded
    permutations. `examples` hold prompt and completion ids; an empty prompt trains on every token but the first.
    """
    device = next(model.parameters()).device
    lengths = OwnLengths.of(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    warmup = max(1, min(50, steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1.0, (i + 1) / warmup) * (0.1 + 0.45 * (1 + math.cos(math.pi * i / steps)))
    )
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for _ in bar(range(steps), title, "step"):
        while len(order) < batch_size:
            order += torch.randperm(len(examples), generator=generator).tolist()
        batch, order = order[:batch_size], order[batch_size:]
        optimizer.zero_grad(set_to_none=True)
        loss = sent_back(model, [examples[i] for i in batch], pad_id, device, lengths)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    name = broken(model.named_parameters())
    if name or not bool(loss.isfinite()):
        what = f"the weight {name} is not finite" if name else f"the loss is {float(loss)}"
        raise FloatingPointError(f"{title}: {what} after {steps} steps; lower its lr={lr:g} (sft.lr, model.lr)")


def sent_back(
    model: Any, examples: Sequence[Example], pad_id: int, device: torch.device, lengths: OwnLengths | None
) -> torch.Tensor:
    """The mean cross-entropy over the completion tokens of all examples, its gradient sent back.

    `lengths` says which texts may be read together, where not all may.
    """
    if lengths is None:
        loss, _ = loss_and_count(model, examples, pad_id, device)
        loss.backward()
        return loss.detach()
    total = sum(len(completion) - (not prompt) for prompt, completion in examples)
    mean = torch.zeros((), device=device)
    for group in lengths.groups([len(prompt) + len(completion) for prompt, completion in examples]):
        lengths.forget()
        loss, count = loss_and_count(model, [examples[i] for i in group], pad_id, device)
        (loss * (count / total)).backward()
        mean += loss.detach() * (count / total)
    return mean


def loss_and_count(
    model: Any, examples: Sequence[Example], pad_id: int, device: torch.device
) -> tuple[torch.Tensor, int]:
    """(mean cross-entropy over the completion tokens of some examples, how many those are)."""
    ids_RT, mask_RT, target_RT = padded(examples, pad_id)
    logits = model(input_ids=ids_RT.to(device), attention_mask=mask_RT.to(device), use_cache=False).logits
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), target_RT[:, 1:].flatten().to(device))
    return loss, int((target_RT[:, 1:] >= 0).sum())


def padded(examples: Sequence[Example], pad_id: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(ids, mask, targets) of right-padded rows; targets are -100 outside the completions."""
    width = max(len(prompt) + len(completion) for prompt, completion in examples)
    ids_RT = torch.full((len(examples), width), pad_id)
    mask_RT = torch.zeros((len(examples), width), dtype=torch.bool)
    target_RT = torch.full((len(examples), width), -100)
    for row, (prompt, completion) in enumerate(examples):
        end = len(prompt) + len(completion)
        ids_RT[row, :end] = torch.tensor([*prompt, *completion])
        mask_RT[row, :end] = True
        target_RT[row, len(prompt) : end] = torch.tensor(list(completion))
    return ids_RT, mask_RT, target_RT
