"""Is what the runs learnt length? The verdict names the bias and its size, or says that none is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from dpo.results import stats
from dpo.results.arms import ABSENT, Arm, label, title
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
    """A verdict for each arm of the finished runs, and for each dose-response where a dose was swept.

    A preference for length is shown where, after Holm's correction over an arm's measures, one of these is: the
    margin grows with the length difference; accuracy is higher where the chosen answer is longer than where it is
    shorter; or, where the training pairs favour the longer answer, the sampled answers grew in training and are now
    longer than the chosen answers of the evaluation pairs, which nothing was added to.
    """
    if not len(runs.done):
        return []
    require_comparable(runs.done)
    arms = runs.done.arms()
    return [*dose_responses(arms), *(arm_verdict(arm) for arm in arms)]


def arm_verdict(arm: Arm) -> Verdict:
    """The verdict on the seeds of one configuration."""
    of = tuple(run.id for run in arm.runs)
    frames = tables(arm.runs)
    measures = {"slope": slope_over_pairs(frames, "margin"), "gap": accuracy_gap(frames)}
    grown, favoured = sampled_change(arm.runs, "tokens"), favours_length(arm.runs)
    if grown and favoured:
        measures["answers"] = overshoot(arm.runs, frames)
    known = corrected({name: e for name, e in measures.items() if e})
    shown = {name: e for name, e in known.items() if e.shown and e.value > 0}
    if grown and not (grown[2].shown and grown[2].value > 0):
        shown.pop("answers", None)  # long from the start: no work of this training
    parts = [f"{e.text(signed=True)} {UNITS[name]} ({e.footing})" for name, e in (shown or known).items()]
    if not known:
        text = f"{arm.label}: the evaluation pairs cannot show a length bias: their length difference does not vary."
    elif shown:
        text = f"{arm.label}: a length bias is shown: {'; '.join(parts)}."
    else:
        text = f"{arm.label}: no length bias is shown: {'; '.join(parts)}."
    return Verdict(bool(shown), f"{text}{caveat(arm.runs, favoured)}", known, of)


def caveat(runs: Sequence[Run], favoured: Estimate | None) -> str:
    """What the data allow to be said: how often the longer answer wins in training, and whether length is all there is."""
    longer = runs[0].last.get("eval/length/longer_wins")
    said = (
        f" In the training pairs the longer answer wins {favoured.text()} (n={favoured.n} pairs)." if favoured else ""
    )
    if longer in (0.0, 1.0):
        side = "longer" if longer else "shorter"
        said += (
            f" The chosen answer is the {side} one in every evaluation pair: length and content cannot be parted there."
        )
    return said


def overshoot(runs: Sequence[Run], frames: Sequence[pd.DataFrame]) -> Estimate | None:
    """Tokens of the last sampled answers minus tokens of the evaluation pairs' chosen answers (MOVER interval)."""
    lengths = []
    for run in runs:
        rows = run.samples()
        rows = rows[(rows["decoding"] == "sampled") & (rows["step"] == rows["step"].max())]
        lengths.append(
            rows.assign(id=rows["draw"], length_difference=0.0)[["id", "prompt", "length_difference", "tokens"]]
        )
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
    """What the highest dose of a length bias did, against the lowest."""
    low, high = arms[0], arms[-1]
    of = tuple(run.id for arm in arms for run in arm.runs)

    def slope(run: Run) -> float | None:
        e = slope_over_pairs(tables([run]), "margin")
        return e.value if e else None

    def answers(run: Run) -> float | None:
        return run.last.get("eval/samples/length")

    measures = {"dose slope": paired_by_seed(low, high, slope), "dose answers": paired_by_seed(low, high, answers)}
    known = corrected({name: e for name, e in measures.items() if e})
    shown = {name: e for name, e in known.items() if e.shown and e.value > 0}
    where = f"{rest + ', ' if rest else ''}{title(key)} {low.values[key]:g} to {high.values[key]:g}"
    parts = [f"{e.text(signed=True)} {UNITS[name]} ({e.footing})" for name, e in (shown or known).items()]
    claim = "the policy took up the injected length bias" if shown else "no length bias is shown"
    ladder = [mean_length(arm) for arm in arms]
    doses = [
        f"{length:.1f} at {arm.values[key]:g}" for arm, length in zip(arms, ladder, strict=True) if length is not None
    ]
    growth = f" Sampled answers by dose, in tokens: {', '.join(doses)}." if doses else ""
    return Verdict(bool(shown), f"{where}: {claim}: {'; '.join(parts)}.{growth}", known, of)


def mean_length(arm: Arm) -> float | None:
    """Mean length of the last sampled answers of an arm, in tokens."""
    lengths = [run.last["eval/samples/length"] for run in arm.runs if "eval/samples/length" in run.last]
    return sum(lengths) / len(lengths) if lengths else None


def paired_by_seed(low: Arm, high: Arm, measure: Callable[[Run], float | None]) -> Estimate | None:
    """high - low of a measure, over the seeds that both have."""
    ours, theirs = ({s: v for s, r in arm.by_seed.items() if (v := measure(r)) is not None} for arm in (high, low))
    return stats.paired(ours, theirs)


def corrected(measures: dict[str, Estimate]) -> dict[str, Estimate]:
    """The measures as one family."""
    return dict(zip(measures, stats.holm(list(measures.values())), strict=True))
