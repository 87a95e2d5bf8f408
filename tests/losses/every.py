"""Every yaml of conf/loss by globbing, and log-probs with every field that a loss may ask for."""

from __future__ import annotations

import functools
from typing import Any

import torch

from dpo.config import conf_dir, load
from dpo.logps import PairLogps

NAMES = sorted(path.stem for path in (conf_dir() / "loss").glob("*.yaml"))


@functools.cache
def built(name: str, *overrides: str) -> tuple[Any, float]:
    """(loss, the beta that a run with it would start from)."""
    config = load([f"loss={name}", *overrides])
    return config.loss, config.beta.value(0)


def logps(chosen: Any, rejected: Any, n_c: Any = None, n_r: Any = None, grad: bool = False, **more: Any) -> PairLogps:
    """Sums and lengths of B pairs (one token each unless said otherwise) in float64, and optional fields."""
    sums = [torch.tensor(side, dtype=torch.float64, requires_grad=grad) for side in (chosen, rejected)]
    lengths = [torch.tensor(n or [1] * len(chosen)) for n in (n_c, n_r)]
    fields = {name: torch.tensor(value, dtype=torch.float64) for name, value in more.items()}
    return PairLogps(*sums, *lengths, **fields)


def full(c: list[float], r: list[float], dtype: torch.dtype = torch.float64) -> tuple[PairLogps, PairLogps]:
    """(policy with graph, reference) at log-ratios c and r over 4 and 6 tokens, with every optional field."""
    width, lengths = len(c), (torch.full((len(c),), 4), torch.full((len(c),), 6))
    reference = [torch.full((width,), value, dtype=dtype) for value in (-1100.0, -1300.0)]
    policy = [(base + torch.tensor(x, dtype=dtype)).requires_grad_() for base, x in zip(reference, (c, r), strict=True)]

    def more(sums: list[torch.Tensor], kl: float) -> dict[str, torch.Tensor]:
        chosen_B, rejected_B = sums
        return {
            "chosen_shared_B": chosen_B * 1.0,
            "rejected_shared_B": rejected_B * 0.75,
            "chosen_alignment_B": torch.full((width,), -0.2, dtype=dtype),
            "rejected_alignment_B": torch.full((width,), -0.4, dtype=dtype),
            "chosen_kl_B": kl * (chosen_B / chosen_B.detach()),
            "rejected_kl_B": 2 * kl * (rejected_B / rejected_B.detach()),
            "mismatched_B": torch.full((width,), -7.0 + kl, dtype=dtype),
            "mean_chosen_len": torch.tensor(4.0, dtype=dtype),
            "reward_mean": torch.tensor(0.0, dtype=dtype),
        }

    kl = 0.0 if c == r == [0.0] * width else 1.5
    return PairLogps(*policy, *lengths, **more(policy, kl)), PairLogps(*reference, *lengths, **more(reference, 0.0))
