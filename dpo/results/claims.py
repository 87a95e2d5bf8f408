"""What can be measured of what DPO did to a policy: each claim an estimate, its figures, and words for its direction.

An estimate is of one run (over pairs or answers, clustered by prompt) or of the seeds of an arm; see over_pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dpo.results import stats
from dpo.results.estimate import NO_DIFFERENCE, Estimate
from dpo.results.frames import Run
from dpo.results.over_pairs import apart, mean_over_pairs, sampled_change, share_over_pairs, slope_over_pairs, tables
from dpo.results.words import WORDS

Frames = Sequence[pd.DataFrame]
ANSWERS = {"tokens": ("length", "tokens"), "is_json": ("json_rate", ""), "ended": ("eos_rate", "")}
ANSWERS |= {"repetition": ("repetition", "of its 4-grams")}
"""Column of the sampled answers -> (name of the claim, unit)."""
DRIFT = {"kl": "nats per sampled answer", "entropy": "nats per token", "mean_token_accuracy": ""}
"""Metrics logged as one number for a run -> unit."""


@dataclass(frozen=True)
class Claim:
    """A measured quantity, its figures in words, and the value (`null`) that means no effect."""

    name: str
    estimate: Estimate
    figures: str
    null: float = 0.0

    @property
    def direction(self) -> int:
        """1, -1, or 0 where the interval holds no effect or there is none."""
        if self.estimate.interval is None:
            return 0
        low, high = self.estimate.interval
        return 1 if low > self.null else -1 if high < self.null else 0

    @property
    def sentence(self) -> str:
        """The words for what was found, and the figures."""
        words = WORDS[self.name]
        if self.direction:
            return f"{words.up if self.direction > 0 else words.down}: {self.figures}."
        return f"{words.neither} ({NO_DIFFERENCE}): {self.figures}."


def change(e: Estimate, unit: str = "") -> str:
    """A change with its interval and footing."""
    return f"{e.text(signed=True)}{f' {unit}' if unit else ''} ({e.footing})"


def share(e: Estimate) -> str:
    """A share with its interval and footing."""
    return f"{e.text()} ({e.footing})"


def level(frames: Frames, column: str) -> float:
    """The mean of a column over tables."""
    return float(np.mean([frame[column].astype(float).mean() for frame in frames]))


def since(ends: Frames, starts: Frames, column: str) -> Frames:
    """The tables with `since`, the column's change since the first evaluation."""
    both = zip(ends, starts, strict=True)
    return [end.assign(since=apart(end[column], start[column])) for end, start in both if column in end]


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Every claim that these runs (one, or the seeds of an arm) have the rows for, the main ones first."""
    ends, starts = tables(runs), [run.pairs(run.first["step"]) for run in runs]
    return [*reward_claims(ends, starts), *win_claims(ends), *answer_claims(runs), *drift_claims(runs)]


def reward_claims(ends: Frames, starts: Frames) -> Iterator[Claim]:
    """Margins, log-ratio differences, and the log-probs of both sides."""
    for name, column, unit in (("margin", "margin", ""), ("d", "d", "nats")):
        if e := mean_over_pairs(since(ends, starts, column), "since"):
            what = "log-ratio difference d " if name == "d" else ""
            levels = f"{what}{level(starts, column):+.3f} to {level(ends, column):+.3f}"
            yield Claim(name, e, f"{levels}, a change of {change(e, unit)}")
    for side in ("rejected", "chosen"):
        if e := mean_over_pairs(ends, f"{side}_change"):
            yield Claim(side, e, change(e, "nats per answer"))
    if e := share_over_pairs(ends, "displaced"):
        yield Claim("displacement", e, f"share {share(e)}", 0.5)


def win_claims(frames: Frames) -> Iterator[Claim]:
    """Accuracy by itself, as a probability, against the longer-wins rule and on balanced pairs; the slope on length."""
    if e := share_over_pairs(frames):
        yield Claim("accuracy", e, f"accuracy {share(e)}", 0.5)
    timid = [f.assign(gap=f["win"] - 1 / (1 + np.exp(-f["margin"].clip(-500, 500)))) for f in frames]
    if e := mean_over_pairs(timid, "gap"):
        yield Claim("calibration", e, f"accuracy minus mean S(margin) {change(e)}")
    rule = [f.assign(rule=0.5 + 0.5 * np.sign(f["length_difference"])) for f in frames]
    if e := mean_over_pairs([f.assign(over=f["win"] - f["rule"]) for f in rule], "over", share=True):
        yield Claim(
            "longer_wins", e, f"accuracy {level(frames, 'win'):.3f} against {level(rule, 'rule'):.3f}, {change(e)}"
        )
    if e := share_over_pairs([f[f["balanced"]] for f in frames]):
        yield Claim("balanced", e, f"accuracy {share(e)}", 0.5)
    if e := slope_over_pairs(frames, "margin"):
        yield Claim("length_slope", e, f"slope {change(e, 'beta x nats per token')}")


def answer_claims(runs: Sequence[Run]) -> Iterator[Claim]:
    """What changed in the sampled answers between the first and the last evaluation."""
    for column, (name, unit) in ANSWERS.items():
        if name == "json_rate" and "eval/json_rate" not in runs[0].last:
            continue
        if found := sampled_change(runs, column):
            before, after, e = found
            digits = 1 if column == "tokens" else 3
            yield Claim(name, e, f"{before:.{digits}f} to {after:.{digits}f}, a change of {change(e, unit)}")


def drift_claims(runs: Sequence[Run]) -> Iterator[Claim]:
    """KL, entropy and token accuracy: one number for each run, so only several seeds give them an interval."""
    for metric, unit in DRIFT.items():
        key = f"eval/{metric}"
        if len(runs) < 2 or not all(key in run.first and key in run.last for run in runs):
            continue
        e = stats.mean([stats.subtract(run.last[key], run.first[key]) for run in runs])
        ends = [(run.first, run.last) for run in runs]
        before, after = (float(np.mean([row[key] for row in rows])) for rows in zip(*ends, strict=True))
        yield Claim(metric, e, f"{before:.3f} to {after:.3f}, a change of {change(e, unit)}")
