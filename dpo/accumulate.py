"""The gradient of one optimizer batch, in micro-batches that change nothing but memory."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dpo.beta import Beta
from dpo.data.batches import PairBatch, collate, micro_batches
from dpo.logps import PairLogps, Scores
from dpo.losses.base import Loss
from dpo.measure import batch_facts, measure
from dpo.metrics import PairRows
from dpo.reference import StoredLogps

GRAPHED = ("chosen_B", "rejected_B", "chosen_shared_B", "rejected_shared_B", "chosen_kl_B", "rejected_kl_B")
"""The fields of PairLogps that a loss may differentiate."""


@dataclass
class RunningMean:
    """Mean of all values seen; its state is part of a checkpoint."""

    total: float = 0.0
    count: int = 0

    @property
    def mean(self) -> float:
        """0 before the first value."""
        return self.total / self.count if self.count else 0.0

    def update(self, values: Tensor) -> None:
        """Take in every element."""
        self.total += float(values.double().sum())
        self.count += values.numel()

    def logged(self, needs: frozenset[str]) -> dict[str, float]:
        """The metric of it, where a loss reads it: what the next batch is shifted by."""
        return {"rewards/running_mean": self.mean} if "reward_mean" in needs else {}

    def state_dict(self) -> dict[str, float]:
        """What `load_state_dict` needs."""
        return {"total": self.total, "count": self.count}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a saved state."""
        self.total, self.count = state["total"], int(state["count"])


@dataclass(frozen=True)
class Part:
    """One micro-batch: its share of the mean loss (with graph), its pairs' rows, and the beta that was used."""

    loss: Tensor
    rows: PairRows
    beta: float


@dataclass
class Step:
    """One optimizer batch: the pairs `indices`, the schedule's `step`, and how the policy is read."""

    scorer: nn.Module
    pairs: Any
    known: StoredLogps
    loss: Loss
    beta: Beta
    rewards: RunningMean
    indices: list[int]
    step: int
    pad_id: int
    token_budget: int
    precision: str

    def accumulate(self) -> tuple[PairRows, float]:
        """Add the gradient of the mean loss to the parameters; the pairs' rows and the beta that was used."""
        self.begin()
        groups = micro_batches(self.pairs, self.indices, self.token_budget)
        batches = (self.collate(group) for group in groups)
        if self.couples and len(groups) > 1:
            return self._together(list(batches))
        parts = []
        for batch in batches:
            parts.append(self.part(batch, self.scorer))
            parts[-1].loss.backward()
        return self.end(parts)

    @property
    def couples(self) -> bool:
        """Whether the loss or its beta reads all pairs of the batch at once."""
        return self.loss.whole_batch or self.beta.reads_margins

    @property
    def packed(self) -> bool:
        """Whether the policy reads pairs as token trees, without padding."""
        return getattr(self.scorer, "layout", "padded") == "shared_prompt"

    def groups(self, batch: PairBatch) -> list[list[int]]:
        """The rows that the policy reads together."""
        own: Any = getattr(self.scorer, "groups", PairBatch.groups)
        return own(batch)  # type: ignore[no-any-return]

    def begin(self) -> None:
        """What belongs to the whole batch; nothing of it is read yet."""
        self.device = next(self.scorer.parameters()).device
        self.tokens, self.slots = 0, 0
        self.facts = batch_facts(self.pairs, self.indices, self.loss.needs, self.rewards.mean, self.device)

    def part(self, batch: PairBatch, scorer: Scores) -> Part:
        """A micro-batch as `scorer` reads it; the parts' losses add up to the mean over the whole batch."""
        policy, reference = self._measure(batch, scorer)
        beta = self.beta.value(self.step, margins(policy, reference))
        out = self.loss(policy, reference, beta)
        return Part(out.loss_B.sum() / len(self.indices), PairRows.of(batch.pair_B, out, policy, reference), beta)

    def end(self, parts: Sequence[Part]) -> tuple[PairRows, float]:
        """The pairs' rows and the beta that was used, once every part has sent its gradient back."""
        rows = PairRows.concat([part.rows for part in parts])
        if "reward_mean" in self.loss.needs:
            for side in ("chosen_reward", "rejected_reward"):
                self.rewards.update(rows.values[side])
        return rows, parts[-1].beta

    def load(self) -> dict[str, float]:
        """Tokens that the last `accumulate` read, prompts once per row, and the share of its rows that was padding."""
        return {"tokens/step": float(self.tokens), "padding": 1 - self.tokens / self.slots}

    def collate(self, group: Sequence[int], slots: int | None = None) -> PairBatch:
        """The pairs of a micro-batch, counted; `slots` are the places its rows take where another batch holds them."""
        batch = collate(self.pairs, group, self.pad_id)
        tokens = int(batch.mask_RT.sum())
        own = tokens if self.packed else int(batch.widths(self.groups(batch)).sum())
        self.tokens, self.slots = self.tokens + tokens, self.slots + (own if slots is None else slots)
        return batch.to(self.device)

    def _measure(self, batch: PairBatch, scorer: Scores) -> tuple[PairLogps, PairLogps]:
        return measure(scorer, batch, self.known, self.loss.needs, self.facts, self.pad_id, self.precision)

    def _together(self, batches: list[PairBatch]) -> tuple[PairRows, float]:
        """A loss that couples pairs across micro-batches: score all, differentiate the loss, replay each.

        Gradient caching (Gao et al. 2021, arXiv:2101.06983): the loss's gradient with respect to the
        log-probs is taken on the gathered batch and sent back through one micro-batch at a time. The replay
        draws the same dropout as the first pass.
        """
        random_states, parts = [], []
        with torch.no_grad():
            for batch in batches:
                random_states.append(random_state())
                parts.append(self._measure(batch, self.scorer))
        policy, reference = (PairLogps.concat(side) for side in zip(*parts, strict=True))
        leaves = {name: leaf(getattr(policy, name)) for name in GRAPHED if getattr(policy, name) is not None}
        policy = replace(policy, **leaves)
        beta = self.beta.value(self.step, margins(policy, reference))
        out = self.loss(policy, reference, beta)
        (out.loss_B.sum() / len(self.indices)).backward()
        start = 0
        for batch, state in zip(batches, random_states, strict=True):
            end = start + len(batch.pair_B)
            with restored(state):
                again, _ = self._measure(batch, self.scorer)
            wanted = [(getattr(again, name), x.grad[start:end]) for name, x in leaves.items() if x.grad is not None]
            torch.autograd.backward([value for value, _ in wanted], [grad for _, grad in wanted])
            start = end
        pair_B = torch.cat([batch.pair_B for batch in batches])
        return self.end([Part(out.loss_B.sum(), PairRows.of(pair_B, out, policy, reference), beta)])


T = TypeVar("T")
Work = Generator[Step, tuple[PairRows, float], T]
"""Training as a generator: it yields each optimizer batch, and goes on once it is sent what `accumulate` returned."""


def drive(work: Work[T]) -> T:
    """Do the work with each batch's gradient taken by itself; what it returns."""
    try:
        step = next(work)
        while True:
            try:
                taken = step.accumulate()
            except BaseException as error:
                step = work.throw(error)  # the work says what a failure leaves behind
            else:
                step = work.send(taken)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def margins(policy: PairLogps, reference: PairLogps) -> Tensor:
    """d_B = c - r, detached: what a dynamic beta reads."""
    return ((policy.chosen_B - reference.chosen_B) - (policy.rejected_B - reference.rejected_B)).detach()


def leaf(tensor: Tensor) -> Tensor:
    """The same numbers as the start of a new graph."""
    return tensor.detach().requires_grad_(True)


def random_state() -> tuple[Tensor, list[Tensor]]:
    """The state of the CPU's and every GPU's generator."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


@contextmanager
def restored(state: tuple[Tensor, list[Tensor]]) -> Iterator[None]:
    """Draw from `state` within, and go on afterwards from where the generators were."""
    kept = random_state()
    torch.set_rng_state(state[0])
    torch.cuda.set_rng_state_all(state[1])
    try:
        yield
    finally:
        torch.set_rng_state(kept[0])
        torch.cuda.set_rng_state_all(kept[1])
