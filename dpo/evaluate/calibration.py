"""Are implicit rewards probabilities? sigmoid(margin) against what the labels say (Bradley-Terry model).

The label is always "chosen wins", so each pair is counted twice, as itself (p = sigmoid(margin), outcome 1)
and mirrored (1 - p, outcome 0): what is measured does not depend on which side is called first.
Shapes: B pairs, N = 2B mirrored points.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo.metrics import FP32_TIE, PairRows, margins, wins


def scalars(rows: PairRows, beta: float | None, tie: float = FP32_TIE) -> dict[str, float]:
    """The calibration/ metrics of docs/metrics.md, without their eval/ prefix.

    Margins that are ties (rounding) count as 0. temperature and beta are absent where no temperature fits,
    beta where the rewards have none (a reward model's).
    """
    margin_B = untied(rows, tie)
    p_N, outcome_N = mirrored(margin_B)
    values = {
        "ece": ece(p_N, outcome_N, equal_width(10)),
        "ece_mass": ece(p_N, outcome_N, equal_mass(p_N, 10)),
        "brier": float((p_N - outcome_N).square().mean()),
        "nll": float(F.softplus(-margin_B).mean()),
    }
    temperature = fitted_temperature(margin_B)
    if temperature is not None:
        values["temperature"] = temperature
        if beta is not None:
            values["beta"] = beta / temperature
    return {f"calibration/{name}": value for name, value in values.items()}


def untied(rows: PairRows, tie: float) -> Tensor:
    """Reward margins, (B,), with 0 where a pair is a tie."""
    return torch.where(wins(rows, tie) == 0.5, 0.0, margins(rows))


def mirrored(margin_B: Tensor) -> tuple[Tensor, Tensor]:
    """(p_N, outcome_N): every pair as itself and turned round."""
    p_N = torch.sigmoid(torch.cat([margin_B, -margin_B]))
    return p_N, torch.cat([torch.ones_like(margin_B), torch.zeros_like(margin_B)])


def equal_width(bins: int) -> Tensor:
    """Edges of `bins` bins of one width over [0, 1]."""
    return torch.linspace(0, 1, bins + 1, dtype=torch.float64)


def equal_mass(p_N: Tensor, bins: int) -> Tensor:
    """Edges of up to `bins` bins with equally many points; equal probabilities share a bin, so there may be fewer."""
    inner = p_N.quantile(torch.linspace(0, 1, bins + 1, dtype=p_N.dtype)[1:-1])
    return torch.cat([inner.new_zeros(1), inner, inner.new_ones(1)]).unique()


def reliability(p_N: Tensor, outcome_N: Tensor, edges: Tensor) -> list[dict[str, float]]:
    """A row per non-empty bin [low, high) (the last one closed): n, mean p and the share of outcomes that are 1."""
    bin_N = torch.bucketize(p_N, edges[1:-1], right=True)
    rows = []
    for index, (low, high) in enumerate(pairwise(edges.tolist())):
        in_N = bin_N == index
        if in_N.any():
            row = {"low": low, "high": high, "n": float(in_N.sum())}
            rows.append(row | {"p": float(p_N[in_N].mean()), "outcome": float(outcome_N[in_N].mean())})
    return rows


def table(rows: PairRows, tie: float = FP32_TIE) -> list[dict[str, float]]:
    """The reliability table of a run's evaluation pairs, in 10 bins of equal width."""
    return reliability(*mirrored(untied(rows, tie)), equal_width(10))


def ece(p_N: Tensor, outcome_N: Tensor, edges: Tensor) -> float:
    """Expected calibration error: the mean over points of their bin's |mean p - mean outcome| (arXiv:1706.04599)."""
    rows = reliability(p_N, outcome_N, edges)
    return sum(row["n"] * abs(row["p"] - row["outcome"]) for row in rows) / len(p_N)


def fitted_temperature(margin_B: Tensor) -> float | None:
    """T > 0 that minimises the mean of softplus(-margin / T): above 1 the margins are too sure, below 1 too timid.

    A margin is beta times a log-ratio difference, so beta / T is the beta that would have been calibrated on
    these pairs. With s = 1 / T the mean is convex and its derivative -mean(margin sigmoid(-s margin)) grows
    with s, so its root is bracketed and bisected. None where there is no root above 0: the mean margin is not
    positive (no T helps), or no pair is wrong (the smaller T the better).
    """
    if float(margin_B.mean()) <= 0 or float(margin_B.min()) >= 0:
        return None

    def falling(s: float) -> bool:
        return float((margin_B * torch.sigmoid(-s * margin_B)).mean()) > 0

    low, high = 0.0, 1.0
    while falling(high):
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) else (low, middle)
    return 1 / high
