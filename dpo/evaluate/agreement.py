"""An explicit reward model beside a policy's implicit reward, on the same held-out pairs."""

from __future__ import annotations

from torch import Tensor

from dpo.evaluate import calibration
from dpo.metrics import PairRows, margins, wins


def compare(implicit: PairRows, explicit: PairRows, tie: tuple[float, float]) -> dict[str, float]:
    """How far two rewards agree; rows of the same pairs in the same order, `tie` as in `metrics.wins`.

    agreement  share of pairs where both prefer the same side; a tie of one of them counts one half
    spearman   rank correlation of their margins; absent where either has no two different ones
    {implicit,explicit}/  accuracy and the calibration/ metrics of each (without a beta)
    """
    win_B = [wins(rows, t) for rows, t in zip((implicit, explicit), tie, strict=True)]
    values = {"pairs": float(len(win_B[0])), "agreement": float((1 - (win_B[0] - win_B[1]).abs()).mean())}
    correlation = spearman(margins(implicit), margins(explicit))
    if correlation is not None:
        values["spearman"] = correlation
    for name, rows, t, won_B in zip(("implicit", "explicit"), (implicit, explicit), tie, win_B, strict=True):
        values[f"{name}/accuracy"] = float(won_B.mean())
        values |= {f"{name}/{key}": value for key, value in calibration.scalars(rows, None, t).items()}
    return values


def spearman(a_B: Tensor, b_B: Tensor) -> float | None:
    """The correlation of ranks, equal values sharing their mean rank; None where one side is constant."""
    a_B, b_B = (ranks(x_B) - (len(x_B) - 1) / 2 for x_B in (a_B, b_B))
    norm = float(a_B.norm() * b_B.norm())
    return float(a_B @ b_B) / norm if norm else None


def ranks(x_B: Tensor) -> Tensor:
    """Ranks from 0; equal values share the mean of theirs."""
    _, group_B, count = x_B.double().unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0) - 1
    return ((2 * last - count + 1) / 2).double()[group_B]
