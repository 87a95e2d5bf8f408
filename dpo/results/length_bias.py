"""Is what the runs learnt length? The verdict names the bias and its size, or says that none is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from dpo.results import stats
from dpo.results.arms import ABSENT, Arm, label, title
from dpo.results.claims import change
from dpo.results.comparable import require_comparable
from dpo.results.estimate import Estimate
from dpo.results.frames import Run, Runs
from dpo.results.over_pairs import accuracy_gap, mean_over_pairs, sampled_change, slope_over_pairs, tables

DOSES = ("perturb.dose", "perturb.p")
"""Settings that inject a length bias, by how much."""
UNITS = {
    "slope": "beta x nats of margin per token of length difference",
    "gap": "accuracy where the chosen answer is longer minus where it is shorter",
    "answers": "tokens of the sampled answers past the chosen answers of the evaluation pairs",
    "dose slope": "beta x nats of margin per token, from the lowest to the highest dose",
    "dose answers": "tokens of the sampled answers, from the lowest to the highest dose",
}


@dataclass(frozen=True)
class Verdict:
    """`shown`: whether a length bias is told apart from none. `measures` by the names of UNITS, corrected by Holm."""

    shown: bool
    text: str
    measures: dict[str, Estimate]
    runs: tuple[str, ...]


def length_bias_verdict(runs: Runs) -> list[Verdict]:
    """A verdict for each dose-response where a dose was swept, then for each arm of the finished runs.

    A preference for length is shown where one of these is, with Holm's correction over all arms: the margin grows with
    the length difference; accuracy is higher where the chosen answer is longer than where it is shorter; or, where
    the training pairs favour the longer answer, the sampled answers grew in training and are now longer than the chosen
    answers of the evaluation pairs, which nothing was added to. Raises UsageError for runs that may not share a table.
    """
    if not len(runs.done):
        return []
    require_comparable(runs.done)
    arms = runs.done.arms()
    return [*dose_responses(arms), *arm_verdicts(arms)]


def arm_verdicts(arms: Sequence[Arm]) -> list[Verdict]:
    """The verdicts on the seeds of each configuration, their measures being one family."""
    families = [arm_measures(arm) for arm in arms]
    fixed = iter(stats.holm([e for family in families for e in family.values()]))
    return [
        arm_verdict(arm, {name: next(fixed) for name in family}) for arm, family in zip(arms, families, strict=True)
    ]


def arm_measures(arm: Arm) -> dict[str, Estimate]:
    """The measures that an arm's rows allow."""
    frames = tables(arm.runs)
    found = {"slope": slope_over_pairs(frames, "margin"), "gap": accuracy_gap(frames)}
    if favours_length(arm.runs) and sampled_change(arm.runs, "tokens"):
        found["answers"] = overshoot(arm.runs, frames)
    return {name: e for name, e in found.items() if e}


def arm_verdict(arm: Arm, measures: dict[str, Estimate]) -> Verdict:
    """The verdict on one arm from its corrected measures."""
    shown = {name: e for name, e in measures.items() if e.shown and e.value > 0}
    grown = sampled_change(arm.runs, "tokens")
    if not (grown and grown[2].shown and grown[2].value > 0):
        shown.pop("answers", None)  # long from the start: no work of this training
    if not measures:
        text = "the rows cannot show a length bias: the length difference of the evaluation pairs does not vary."
    else:
        text = f"{'a' if shown else 'no'} length bias is shown: {said(shown or measures)}."
    if "answers" in shown and grown:
        text += (
            f" In training the sampled answers grew from {grown[0]:.1f} to {grown[1]:.1f} tokens, {change(grown[2])}."
        )
    of = tuple(run.id for run in arm.runs)
    return Verdict(bool(shown), f"{arm.label}: {text}{caveat(arm.runs, favours_length(arm.runs))}", measures, of)


def said(measures: dict[str, Estimate]) -> str:
    """Measures with their units and footing."""
    return "; ".join(f"{e.text(signed=True)} {UNITS[name]} ({e.footing})" for name, e in measures.items())


def caveat(runs: Sequence[Run], favoured: Estimate | None) -> str:
    """How often the longer answer wins in training, and whether the evaluation pairs can part length from content."""
    words = ""
    if favoured:
        words = f" In the training pairs the longer answer wins in a share of {favoured.text()} (n={favoured.n} pairs)."
    longer = runs[0].last.get("eval/length/longer_wins")
    if longer in (0.0, 1.0):
        side = "longer" if longer else "shorter"
        words += (
            f" The chosen answer is the {side} in every evaluation pair: length and content cannot be parted there."
        )
    return words


def overshoot(runs: Sequence[Run], frames: Sequence[pd.DataFrame]) -> Estimate | None:
    """Tokens of the last sampled answers minus tokens of the evaluation pairs' chosen answers (MOVER interval)."""
    lengths = []
    for run in runs:
        rows = run.samples()
        rows = rows[(rows["decoding"] == "sampled") & (rows["step"] == rows["step"].max())]
        lengths.append(rows.assign(id=rows["draw"], length_difference=0.0))
    answers, chosen = mean_over_pairs(lengths, "tokens"), mean_over_pairs(frames, "chosen_tokens")
    return stats.difference(answers, chosen) if answers and chosen else None


def favours_length(runs: Sequence[Run]) -> Estimate | None:
    """The share of training pairs whose chosen answer is the longer, where its interval lies above one half."""
    part = runs[0].audit.get("train", {})
    if not part.get("pairs") or "longer_wins" not in part:
        return None
    share = stats.wilson(part["longer_wins"] * part["pairs"], part["pairs"], of="pairs")
    return share if share.low is not None and share.low > 0.5 else None


def dose_responses(arms: Sequence[Arm]) -> list[Verdict]:
    """The highest against the lowest dose, for each setting of everything else, paired by seed."""
    key = next((key for key in DOSES if arms and key in arms[0].values), None)
    if key is None:
        return []
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        if arm.values[key] != ABSENT:
            rest = {k: v for k, v in arm.values.items() if k != key}
            groups.setdefault(label(rest) if rest else "", []).append(arm)
    return [dose_verdict(key, rest, group) for rest, group in groups.items() if len(group) > 1]


def dose_verdict(key: str, rest: str, arms: Sequence[Arm]) -> Verdict:
    """What the highest dose of a length bias did, against the lowest.

    A margin that follows length more than at the lowest dose counts only where it grows with length at the highest.
    """
    low, high = arms[0], arms[-1]
    found = {
        "dose slope": paired_by_seed(low, high, lambda run: estimated(slope_over_pairs(tables([run]), "margin"))),
        "dose answers": paired_by_seed(low, high, lambda run: run.last.get("eval/samples/length")),
    }
    known = {name: e for name, e in found.items() if e}
    measures = dict(zip(known, stats.holm(list(known.values())), strict=True))
    shown = {name: e for name, e in measures.items() if e.shown and e.value > 0}
    at_highest = slope_over_pairs(tables(high.runs), "margin")
    if not (at_highest and at_highest.shown and at_highest.value > 0):
        shown.pop("dose slope", None)
    where = f"{rest + ', ' if rest else ''}{title(key)} {low.values[key]:g} to {high.values[key]:g}"
    claim = "the policy took up the injected length bias" if shown else "no uptake of the injected length bias is shown"
    text = f"{where}: {claim}: {said(shown or measures)}."
    if at_highest:
        text += f" At the highest dose the slope of the margin is {change(at_highest)}."
    doses = [f"{length:.1f} at {arm.values[key]:g}" for arm in arms if (length := mean_length(arm)) is not None]
    text += f" Sampled answers by dose, in tokens: {', '.join(doses)}." if doses else ""
    return Verdict(bool(shown), text, measures, tuple(run.id for arm in arms for run in arm.runs))


def estimated(e: Estimate | None) -> float | None:
    """The value alone."""
    return e.value if e else None


def mean_length(arm: Arm) -> float | None:
    """Mean length of the last sampled answers of an arm, in tokens."""
    lengths = [run.last["eval/samples/length"] for run in arm.runs if "eval/samples/length" in run.last]
    return sum(lengths) / len(lengths) if lengths else None


def paired_by_seed(low: Arm, high: Arm, measure: Callable[[Run], float | None]) -> Estimate | None:
    """high - low of a measure, over the seeds that both have."""
    ours, theirs = ({s: v for s, r in arm.by_seed.items() if (v := measure(r)) is not None} for arm in (high, low))
    return stats.paired(ours, theirs)
