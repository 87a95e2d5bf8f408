"""Several runs trained in one batch, their LoRA adapters side by side on one base.

Runs that differ in beta, loss, seed or learning rate read the same frozen weights, so one forward and one backward
of the base serve all of them (S-LoRA, Sheng et al. 2023, arXiv:2311.03285, does the same for inference). Each run
keeps its own adapter, optimizer, rows and directory.

Shapes: J runs, B pairs of each, R rows of the joint batch (its sides, then its runs, then their pairs), T tokens,
N tokens of the packed row of its trees (its runs, then their pairs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dpo.accumulate import Part, Step, Work, random_state, restored
from dpo.data.batches import PairBatch, collate, in_order, micro_batches, row_length
from dpo.metrics import PairRows
from dpo.progress import say
from dpo.tree import sizes

ALONE = frozenset({"token_kl", "mismatched"})
"""What a loss may need that takes other forwards than the batch's own."""

T = TypeVar("T")


class SideBySide(nn.Module):
    """J linear maps of one shape, each for its own stretch of a joint batch: `sizes_J` along its dimension `dim`."""

    def __init__(self, linears: Sequence[nn.Linear], sizes_J: list[int], dim: int) -> None:
        super().__init__()
        self.linears, self.sizes_J, self.dim = linears, sizes_J, dim

    @property
    def weight(self) -> Tensor:
        """peft asks it for the dtype to compute in."""
        return self.linears[0].weight

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(self.sizes_J, self.dim)
        return torch.cat([linear(part) for linear, part in zip(self.linears, parts, strict=True)], self.dim)


def stackable(model: Any) -> bool:
    """Whether the model's adapters are plain LoRA on linear layers, without dropout (whose draws would differ).

    None on the head: it reads the completion tokens alone, all chosen answers before all rejected ones.
    """
    from peft.tuners.lora import Linear  # `dpo.libraries` imports peft first

    layers, head = [module for _, module in adapted(model)], model.get_output_embeddings()
    plain = all(isinstance(m, Linear) and not m.use_dora["default"] and m is not head for m in layers)
    return bool(layers) and plain and all(isinstance(m.lora_dropout["default"], nn.Identity) for m in layers)


def adapted(model: nn.Module) -> list[tuple[str, Any]]:
    """The layers that carry an adapter, by name."""
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")]


@contextmanager
def side_by_side(models: Sequence[Any], sizes_J: list[int], dim: int) -> Iterator[None]:
    """Within it models[0] reads a joint batch, each run's tokens (dim 1) or rows (dim 0) through its own adapter."""
    kept = []
    try:
        for name, layer in adapted(models[0]):
            peers = [model.get_submodule(name) for model in models]
            for part in ("lora_A", "lora_B"):
                own = getattr(layer, part)
                kept.append((own, own["default"]))
                own["default"] = SideBySide([getattr(peer, part)["default"] for peer in peers], sizes_J, dim)
        yield
    finally:
        for own, linear in reversed(kept):
            own["default"] = linear


def accumulate(steps: Sequence[Step]) -> list[tuple[PairRows, float]]:
    """What `Step.accumulate` returns for each of them, from forwards and backwards that all share."""
    first, jobs = steps[0], len(steps)
    for step in steps:
        step.begin()
    orders = [sorted(step.indices, key=lambda i: (row_length(step.pairs[i]), i)) for step in steps]
    rounds = max(len(micro_batches(s.pairs, s.indices, max(1, s.token_budget // jobs))) for s in steps)
    if any(step.loss.whole_batch for step in steps):
        rounds = 1
    size = -(-len(first.indices) // rounds)
    wanted = frozenset().union(*(step.loss.needs for step in steps)) & {"wpo"}
    parts: list[list[Part]] = [[] for _ in steps]
    for start in range(0, len(first.indices), size):
        groups = [order[start : start + size] for order in orders]
        pairs = [step.pairs[i] for step, group in zip(steps, groups, strict=True) for i in group]
        joint = collate(pairs, range(len(pairs)), first.pad_id).to(first.device)
        scored = read(steps, joint, wanted)
        slots_J = (
            [None] * jobs if first.packed else joint.widths(first.groups(joint)).view(2, jobs, -1).sum((0, 2)).tolist()
        )
        for j, (step, group) in enumerate(zip(steps, groups, strict=True)):
            parts[j].append(step.part(step.collate(group, slots_J[j]), share(scored, j, jobs, bool(wanted))))
        torch.stack([part[-1].loss for part in parts]).sum().backward()
    return [step.end(part) for step, part in zip(steps, parts, strict=True)]


def read(steps: Sequence[Step], joint: PairBatch, needs: frozenset[str]) -> Tensor:
    """What the first run's scorer returns for the joint batch, each run's part of it read through its own adapter."""
    first, jobs = steps[0], len(steps)
    scorer: Any = first.scorer
    models = [step.scorer.model for step in steps]
    with torch.autocast(first.device.type, torch.bfloat16, enabled=first.precision == "bf16"):
        if first.packed:
            with side_by_side(models, stretches(joint, jobs), 1):
                return scorer(joint, needs)
        owner_R = torch.arange(jobs).repeat_interleave(len(joint.pair_B) // jobs).repeat(2).tolist()
        groups = [sorted(rows, key=lambda r: owner_R[r]) for rows in first.groups(joint)]
        parts = []
        for rows in groups:
            owners = [owner_R[r] for r in rows]
            with side_by_side(models, [owners.count(j) for j in range(jobs)], 0):
                parts.append(scorer.read(joint.only(rows), needs))
        return in_order(parts, groups)


def stretches(joint: PairBatch, jobs: int) -> list[int]:
    """How many tokens of the joint batch's packed row belong to each run."""
    sums_J: list[int] = torch.tensor(sizes(joint)).view(jobs, -1).sum(1).tolist()
    return sums_J


def share(scored: Tensor, j: int, jobs: int, stacked: bool) -> Any:
    """A scorer that answers run j's batch with its rows of the joint one: (K, R, C) where `stacked`, else (R, C)."""

    def answer(batch: Any, needs: frozenset[str] = frozenset(), _: Any = None) -> Tensor:
        rows = scored if stacked else scored[None]
        mine = rows.reshape(len(rows), 2, jobs, -1, rows.shape[-1])[:, :, j].flatten(1, 2)
        mine = mine[..., : int(batch.length_R.max())]
        return mine if needs else mine[0]

    return answer


def drive_together(works: Sequence[Work[T]]) -> list[T | Exception]:
    """Do all the works, sharing forwards where their batches allow it; what each returned, or what ended it.

    Each work draws from random numbers of its own, as if it were alone.
    """
    ends: list[Any] = [None] * len(works)
    random = [random_state()] * len(works)
    waiting: dict[int, Step] = {}

    def by_itself(k: int, action: Callable[[], Any]) -> Any:
        with restored(random[k]):
            try:
                return action()
            except Exception as error:
                return error
            finally:
                random[k] = random_state()

    def go_on(k: int, taken: Any) -> None:
        waiting.pop(k, None)
        failed = isinstance(taken, Exception)
        result = by_itself(k, lambda: works[k].throw(taken) if failed else works[k].send(taken))
        if isinstance(result, Step):
            waiting[k] = result
        else:
            ends[k] = result.value if isinstance(result, StopIteration) else result

    try:
        for k in range(len(works)):
            go_on(k, None)
        while waiting:
            for group in groups_of(waiting):
                steps = [waiting[k] for k in group]
                joint = jointly(steps) if len(group) > 1 else None
                for n, k in enumerate(group):
                    go_on(k, joint[n] if joint else by_itself(k, steps[n].accumulate))
    except BaseException as error:
        for work in works:  # each says in its own files why it stopped
            with suppress(BaseException):
                work.throw(error)
        raise
    return ends


def groups_of(waiting: dict[int, Step]) -> list[list[int]]:
    """Works whose batches may be read together: as many pairs each, and nothing that needs a batch of its own."""
    groups: dict[Any, list[int]] = {}
    for k, step in waiting.items():
        several = len(micro_batches(step.pairs, step.indices, step.token_budget)) > 1
        alone = step.loss.needs & ALONE or step.beta.reads_margins or (step.loss.whole_batch and several)
        alone = alone or not stackable(step.scorer.model)
        groups.setdefault((len(step.indices), k if alone else None), []).append(k)
    return list(groups.values())


def jointly(steps: Sequence[Step]) -> list[tuple[PairRows, float]] | None:
    """`accumulate`, or None where it failed: then each batch is to be tried by itself."""
    try:
        return accumulate(steps)
    except Exception as error:
        say(f"a joint step failed, its runs go on one by one: {type(error).__name__}: {error}")
        for step in steps:
            step.scorer.zero_grad(set_to_none=True)
        return None
