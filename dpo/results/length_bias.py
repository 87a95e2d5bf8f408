"""Is what the runs learnt length? Verdicts name the bias and its size, or say that none is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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
    """`shown`: whether a length bias is told apart from none, in what `about` names: the training "data", the response
    to a "dose", or the "policy" of an arm. `measures` by name, corrected by Holm; `runs` are ids.
    """

    about: str
    shown: bool
    text: str
    measures: dict[str, Estimate]
    runs: tuple[str, ...]


def length_bias_verdict(runs: Runs) -> list[Verdict]:
    """Verdicts on the training data of the finished runs, on the response to a dose where one was swept, on each arm.

    The data favour length where the share of pairs whose chosen answer is the longer is told apart from one half. The
    policy's preference for length is shown where one of these is, with Holm's correction over all arms: the margin
    grows with the length difference; accuracy is higher where the chosen answer is longer than where it is shorter; or,
    where the training pairs favour the longer answer, the sampled answers grew in training and are now longer than the
    chosen answers of the evaluation pairs. Raises UsageError for runs that may not share a table.
    """
    if not len(runs.done):
        return []
    require_comparable(runs.done)
    arms = runs.done.arms()
    return [*data_verdicts(arms), *dose_responses(arms), *arm_verdicts(arms)]


def data_verdicts(arms: Sequence[Arm]) -> list[Verdict]:
    """A verdict for each different set of training pairs."""
    sets: dict[str, list[Arm]] = {}
    for arm in arms:
        sets.setdefault(str(arm.runs[0].provenance.get("train_data_hash")), []).append(arm)
    return [v for members in sets.values() if (v := data_verdict(members, len(sets) == 1))]


def data_verdict(arms: Sequence[Arm], alone: bool) -> Verdict | None:
    """What audit.json says of the lengths of the training pairs; None where it says nothing."""
    share, part = longer_wins(arms[0].runs), arms[0].runs[0].audit.get("train", {})
    if share is None or share.interval is None:
        return None
    low, high = share.interval
    shown = low > 0.5 or high < 0.5
    claim = "no length bias is shown in the training pairs"
    if shown:
        side = "longer" if low > 0.5 else "shorter"
        claim = f"a length bias is shown in the training pairs, which favour the {side} answer"
    figures = f"the chosen answer is the longer in a share of {share.text()} of them (n={share.n} pairs)"
    if "difference_tokens" in part:
        ends, mean = part["difference_tokens"], part["chosen_tokens_mean"] - part["rejected_tokens_mean"]
        figures += f", by {mean:+.1f} tokens on average ({ends['p5']:+.0f} to {ends['p95']:+.0f} in the middle 90 %)"
    where = "" if alone else f"{'; '.join(arm.label for arm in arms)}: "
    of = tuple(run.id for arm in arms for run in arm.runs)
    return Verdict("data", shown, f"{where}{claim}: {figures}.", {"longer wins": share}, of)


def longer_wins(runs: Sequence[Run]) -> Estimate | None:
    """The share of training pairs whose chosen answer is the longer (equal lengths one half), from audit.json."""
    part = runs[0].audit.get("train", {})
    if not part.get("pairs") or "longer_wins" not in part:
        return None
    found = stats.wilson(part["longer_wins"] * part["pairs"], part["pairs"], of="pairs")
    if "longer_wins_interval" not in part:
        return found
    low, high = part["longer_wins_interval"]  # which knows the prompts that pairs share
    return replace(found, low=low, high=high)


def favours_length(runs: Sequence[Run]) -> bool:
    """Whether that share lies above one half by its interval."""
    share = longer_wins(runs)
    return share is not None and share.low is not None and share.low > 0.5


def arm_verdicts(arms: Sequence[Arm]) -> list[Verdict]:
    """The verdicts on the seeds of each configuration, all their measures being one family."""
    families = [arm_measures(arm) for arm in arms]
    fixed = iter(stats.holm([e for family in families for e in family.values()]))
    corrected = [{name: next(fixed) for name in family} for family in families]
    return [arm_verdict(arm, measures) for arm, measures in zip(arms, corrected, strict=True)]


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
    text = f"{'a' if shown else 'no'} preference for length is shown: {said(shown or measures)}."
    if not measures:
        text = "no preference for length is shown: the length difference of the evaluation pairs does not vary."
    if "answers" in shown and grown:
        text += (
            f" In training the sampled answers grew from {grown[0]:.1f} to {grown[1]:.1f} tokens, {change(grown[2])}."
        )
    of = tuple(run.id for run in arm.runs)
    return Verdict("policy", bool(shown), f"{arm.label}: {text}{caveat(arm.runs)}", measures, of)


def said(measures: dict[str, Estimate]) -> str:
    """Measures with their units and footing."""
    return "; ".join(f"{e.text(signed=True)} {UNITS[name]} ({e.footing})" for name, e in measures.items())


def caveat(runs: Sequence[Run]) -> str:
    """Whether the evaluation pairs can part length from content."""
    longer = runs[0].last.get("eval/length/longer_wins")
    if longer not in (0.0, 1.0):
        return ""
    side = "longer" if longer else "shorter"
    return f" The chosen answer is the {side} in every evaluation pair: length and content cannot be parted there."


def overshoot(runs: Sequence[Run], frames: Sequence[pd.DataFrame]) -> Estimate | None:
    """Tokens of the last sampled answers minus tokens of the evaluation pairs' chosen answers."""
    lengths = []
    for run in runs:
        rows = run.samples()
        rows = rows[(rows["decoding"] == "sampled") & (rows["step"] == rows["step"].max())]
        lengths.append(rows.assign(id=rows["draw"], length_difference=0.0))
    answers, chosen = mean_over_pairs(lengths, "tokens"), mean_over_pairs(frames, "chosen_tokens")
    return stats.difference(answers, chosen) if answers and chosen else None


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
    arms = sorted(arms, key=lambda arm: float(arm.values[key]))
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
    text = f"{where}: {claim}: {said(shown or measures) or 'no seed in common'}."
    if at_highest:
        text += f" At the highest dose the slope of the margin is {change(at_highest)}."
    doses = [f"{length:.1f} at {arm.values[key]:g}" for arm in arms if (length := mean_length(arm)) is not None]
    text += f" Sampled answers by dose, in tokens: {', '.join(doses)}." if doses else ""
    return Verdict("dose", bool(shown), text, measures, tuple(run.id for arm in arms for run in arm.runs))


def estimated(e: Estimate | None) -> float | None:
    """The value alone."""
    return e.value if e else None


def mean_length(arm: Arm) -> float | None:
    """Mean length of the last sampled answers of an arm, in tokens."""
    lengths = [run.last["eval/samples/length"] for run in arm.runs if "eval/samples/length" in run.last]
    return sum(lengths) / len(lengths) if lengths else None


def paired_by_seed(low: Arm, high: Arm, measure: Callable[[Run], float | None]) -> Estimate | None:
    """high - low of a measure, over the seeds that both have."""
    theirs, ours = ({s: v for s, r in arm.by_seed.items() if (v := measure(r)) is not None} for arm in (low, high))
    return stats.paired(ours, theirs)
