"""Per-pair rows -> pooled means -> named scalars. Every logged scalar can be recomputed from the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpo.logps import PairLogps
from dpo.losses.base import LossOut
from dpo.pair_tables import NAMES

COLUMNS = (
    "loss",
    "chosen_reward",
    "rejected_reward",
    "chosen_logp",
    "rejected_logp",
    "chosen_ref_logp",
    "rejected_ref_logp",
    "chosen_tokens",
    "rejected_tokens",
)
EVALUATED = ("chosen_entropy", "rejected_entropy", "chosen_top", "rejected_top")
FP32_TIE = 1e-6


@dataclass(frozen=True)
class PairRows:
    """One row per pair: `pair_B` its position in its list, `values` a (B,) float64 CPU tensor per column.

    The columns are COLUMNS, and in evaluations {chosen,rejected}_{entropy,top} (see PairLogps). Rewards are in nats
    times beta, log-probs and entropies in nats summed over completion tokens (EOS included).
    With `own_score` rewards are the policy's own score, and the reference's log-probs NaN where it never ran.
    `prompts` are the hashes of the pairs' prompts, () where each pair is taken to have a prompt of its own.
    """

    pair_B: Tensor
    values: dict[str, Tensor]
    own_score: bool = False
    prompts: tuple[str, ...] = ()

    @staticmethod
    def of(pair_B: Tensor, out: LossOut, policy: PairLogps, reference: PairLogps) -> PairRows:
        """Rows of one batch, detached."""
        tensors = (
            out.loss_B,
            out.chosen_reward_B,
            out.rejected_reward_B,
            policy.chosen_B,
            policy.rejected_B,
            reference.chosen_B,
            reference.rejected_B,
            policy.chosen_len_B,
            policy.rejected_len_B,
        )
        columns = dict(zip(COLUMNS, tensors, strict=True))
        for name in EVALUATED:
            if (tensor := getattr(policy, f"{name}_B")) is not None:
                columns[name] = tensor
        values = {name: t.detach().double().cpu() for name, t in columns.items()}
        return PairRows(pair_B, values, out.own_score)

    @staticmethod
    def concat(rows: Sequence[PairRows]) -> PairRows:
        """All rows of several batches in the order of their pairs, whatever the batches were."""
        pair_B = torch.cat([r.pair_B for r in rows])
        order = pair_B.argsort()
        values = {name: torch.cat([r.values[name] for r in rows])[order] for name in rows[0].values}
        return PairRows(pair_B[order], values, rows[0].own_score)

    @staticmethod
    def read(columns: Mapping[str, Sequence[Any]]) -> PairRows:
        """Rows from the columns of a per-pair table."""
        values = {name: torch.tensor(c, dtype=torch.float64) for name, c in columns.items() if name not in NAMES}
        return PairRows(torch.arange(len(columns["id"])), values, prompts=tuple(columns.get("prompt", ())))

    @property
    def has_reference(self) -> bool:
        """Whether the reference ran on these pairs."""
        column = self.values.get("chosen_ref_logp")
        return column is not None and not bool(column.isnan().any())


def log_ratios(rows: PairRows) -> tuple[Tensor, Tensor]:
    """(c, r): policy minus reference, summed, in nats."""
    v = rows.values
    return v["chosen_logp"] - v["chosen_ref_logp"], v["rejected_logp"] - v["rejected_ref_logp"]


def difference(rows: PairRows) -> tuple[Tensor, Tensor]:
    """(d, scale): the log-ratio difference c - r, and the sum of the four log-probs' sizes, in nats.

    For a score of its own (a loss without a reference, a reward model) the rewards stand for c and r.
    """
    v = rows.values
    if rows.own_score or not rows.has_reference:
        return margins(rows), v["chosen_reward"].abs() + v["rejected_reward"].abs()
    c_B, r_B = log_ratios(rows)
    sizes = [v[name].abs() for name in ("chosen_logp", "rejected_logp", "chosen_ref_logp", "rejected_ref_logp")]
    return c_B - r_B, torch.stack(sizes).sum(0)


def wins(rows: PairRows, tie: float) -> Tensor:
    """1 where d = c - r favours the chosen answer, 0 where the rejected, one half for a tie.

    A tie is |d| <= tie x the sum of the four log-probs' sizes: the rounding of identical weights scored
    in different batches. For a loss with a score of its own, d is the difference of the rewards.
    """
    d_B, scale_B = difference(rows)
    return torch.where(d_B.abs() <= tie * scale_B, 0.5, (d_B > 0).double())


def margins(rows: PairRows) -> Tensor:
    """Chosen minus rejected reward, (B,)."""
    return rows.values["chosen_reward"] - rows.values["rejected_reward"]


def reward_means(rows: PairRows, tie: float = FP32_TIE) -> dict[str, float]:
    """Means over pairs of what a reward model has as well as a policy: loss, rewards and lengths."""
    v = rows.values
    means = {
        "loss": v["loss"],
        "rewards/chosen": v["chosen_reward"],
        "rewards/rejected": v["rejected_reward"],
        "rewards/margins": margins(rows),
        "rewards/accuracies": wins(rows, tie),
        "gradient_weight": torch.sigmoid(-margins(rows)),
        "tokens/chosen": v["chosen_tokens"],
        "tokens/rejected": v["rejected_tokens"],
    }
    return {name: float(values.mean()) for name, values in means.items()}


def scalars(rows: PairRows, beta: float, tie: float = FP32_TIE, start: PairRows | None = None) -> dict[str, float]:
    """Means over pairs under the names of docs/metrics.md, without their train/ or eval/ prefix.

    `start` are the same pairs at step 0: with them the changes of the log-probs since then are given.
    """
    v = rows.values
    means = {"logps/chosen": v["chosen_logp"], "logps/rejected": v["rejected_logp"]}
    if rows.has_reference:
        c_B, r_B = log_ratios(rows)
        fallen_B = c_B < -tie * (v["chosen_logp"].abs() + v["chosen_ref_logp"].abs())
        means |= {"logratios/chosen": c_B, "logratios/rejected": r_B, "logratios/margins": c_B - r_B}
        means["displacement"] = fallen_B.double()
    if start is not None:
        for side in ("chosen", "rejected"):
            change_B = v[f"{side}_logp"] - start.values[f"{side}_logp"]
            means[f"logps/{side}_change"] = change_B
            means[f"logps/{side}_change_per_token"] = change_B / v[f"{side}_tokens"]
    values = {name: float(column.mean()) for name, column in means.items()}
    return reward_means(rows, tie) | values | {"beta": beta}


def token_means(rows: PairRows) -> dict[str, float]:
    """Means over all completion tokens of all pairs: entropy (both sides), and the argmax's accuracy per side."""
    total = {name: float(values.sum()) for name, values in rows.values.items()}
    tokens = total["chosen_tokens"] + total["rejected_tokens"]
    return {
        "entropy": (total["chosen_entropy"] + total["rejected_entropy"]) / tokens,
        "mean_token_accuracy": total["chosen_top"] / total["chosen_tokens"],
        "mean_token_accuracy_rejected": total["rejected_top"] / total["rejected_tokens"],
    }


def flags(first: dict[str, float], last: dict[str, float]) -> dict[str, bool]:
    """What a reader must not miss, from the first and last evaluation (keys with their eval/ prefix).

    displacement     over half of the pairs have a chosen log-prob below the reference's, and more than at
                     the start (a reference of another size begins with such pairs)
    reward_collapse  both mean rewards lower than at the start by more than 1 (at the start they are 0, but for
                     another reference, and for a loss whose rewards are a score of its own)
    degeneration     sampled answers end themselves, or pass their format check, in a share at least 0.2
                     lower than at the start, or repeat themselves in a share at least 0.2 higher
    """
    falls = [first[k] - last[k] for k in ("eval/samples/eos_rate", "eval/json_rate") if k in first and k in last]
    repeats = last.get("eval/samples/repetition", 0.0) - first.get("eval/samples/repetition", 0.0)
    displaced, displaced_first = (row.get("eval/displacement", 0.0) for row in (last, first))
    fallen = [last[f"eval/rewards/{side}"] - first[f"eval/rewards/{side}"] for side in ("chosen", "rejected")]
    return {
        "displacement": displaced > 0.5 and displaced > displaced_first,
        "reward_collapse": max(fallen) < -1,
        "degeneration": max([repeats, *falls]) >= 0.2,
    }
