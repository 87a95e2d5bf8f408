"""Which runs may stand in one table, and which columns of it mean the same for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dpo.errors import UsageError
from dpo.results.arms import ABSENT, shown, title
from dpo.results.frames import Run

REWARD_SCALE = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "gradient_weight",
    "length/slope",
    "length/slope_low",
    "length/slope_high",
    "calibration/temperature",
)
"""Metrics in the unit of rewards (beta x nats, or a loss's own score), without their prefix."""
BETA_SCALE = ("beta", "calibration/beta")
"""Metrics in the unit of beta."""
LOSS_SCALE = ("loss",)


@dataclass(frozen=True)
class Scale:
    """In which unit a run's rewards and beta are: equal for two runs exactly where those may be compared.

    reduction   "sum" or "mean": what beta multiplies in the loss
    own_score   rewards are the loss's own score, without a reference
    usual_beta  the beta that the loss is usually given: sets a factor of 20 between simpo and sigmoid
    name        the loss, where the run's files do not tell more
    """

    reduction: str
    own_score: bool
    usual_beta: float | None
    name: str = ""

    def __str__(self) -> str:
        kind = "its own score" if self.own_score else "log-ratios"
        usual = "no beta" if self.usual_beta is None else f"usual beta {self.usual_beta:g}"
        return self.name or f"{kind}, {self.reduction}, {usual}"


def yardsticks(run: Run) -> dict[str, Any]:
    """What the run was measured with, in words and values: all equal for runs of one table."""
    p = run.provenance
    return {
        "evaluation pairs": p.get("eval_pairs_hash", ABSENT),
        "tokenizers": p.get("tokenizer_hash", ABSENT),
        "truncations (train.max_length)": run.flat.get("train.max_length", ABSENT),
        "tokens of the evaluation pairs": p.get("eval_data_hash", ABSENT),
    }


def comparable(runs: Iterable[Run]) -> list[str]:
    """What keeps the runs out of one table, a sentence for each; [] where nothing does.

    Compared are the evaluation pairs, the tokenizer and the truncation, by the hashes in provenance.json. Where pairs
    or tokenizer differ, the counts and tokens that follow from them are not listed again.
    """
    runs = list(runs)
    reasons: list[str] = []
    for what in ("evaluation pairs", "tokenizers", "truncations (train.max_length)"):
        values = [yardsticks(run)[what] for run in runs]
        if ABSENT in values and len({v for v in values if v != ABSENT}) <= 1:
            continue  # an older run does not say; its tokens below do
        if len(set(values)) > 1:
            reasons.append(differ(what, runs, values))
    known = all(yardsticks(run)["evaluation pairs"] != ABSENT for run in runs)
    if not (reasons and known):
        what = "tokens of the evaluation pairs"
        values = [yardsticks(run)[what] for run in runs]
        if len(set(values)) > 1:
            reasons.append(differ(f"{what} (pairs, tokenizer, chat template or truncation)", runs, values))
    return reasons


def differ(what: str, runs: Sequence[Run], values: Sequence[Any]) -> str:
    """A sentence: which runs have which value; with the settings that differ likewise."""
    groups: dict[Any, list[Run]] = {}
    for run, value in zip(runs, values, strict=True):
        if value != ABSENT:  # an older run does not say
            groups.setdefault(value, []).append(run)
    said = "; ".join(f"{brief(value)} in {listed(members)}" for value, members in groups.items())
    causes = settings_behind(groups.values())
    return f"{what} differ: {said}" + (f" (they differ in {', '.join(causes)})" if causes else "")


def settings_behind(groups: Iterable[Sequence[Run]]) -> list[str]:
    """Settings of data, model and length limit that are one value within each group and differ between them."""
    groups = list(groups)
    keys = dict.fromkeys(key for group in groups for run in group for key in run.flat)
    causes = []
    for key in keys:
        if not key.startswith(("dataset.", "perturb.", "model.", "train.max_length")):
            continue
        values = [{repr(run.flat.get(key, ABSENT)) for run in group} for group in groups]
        if all(len(v) == 1 for v in values) and len(set().union(*values)) == len(groups):
            said = " and ".join(shown(group[0].flat.get(key, ABSENT)) for group in groups)
            causes.append(f"{title(key) if key.endswith('_target_') else key}: {said}")
    return causes[:4]


def brief(value: Any) -> str:
    """A hash by its first digits."""
    text = str(value)
    return text[:8] if len(text) >= 16 else text


def listed(runs: Sequence[Run], most: int = 3) -> str:
    """Names of runs, the first few."""
    names = [run.name for run in runs]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def require_comparable(runs: Iterable[Run]) -> None:
    """Raise UsageError, in one line, where the runs may not stand in one table."""
    if reasons := comparable(runs):
        raise UsageError(f"these runs do not belong in one table: {'. '.join(reasons)}")


def comparable_groups(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs parted so that each part may stand in one table, the largest part first."""
    parts: list[list[Run]] = []
    for run in runs:
        home = next((part for part in parts if not comparable([part[0], run])), None)
        if home is None:
            parts.append([run])
        else:
            home.append(run)
    return sorted(parts, key=len, reverse=True)


def scale_of(run: Run) -> Scale:
    """The unit of a run's rewards and beta, from its provenance and configuration."""
    facts = run.provenance.get("loss")
    name = str(run.flat.get("loss._target_", "")).rsplit(".", 1)[-1]
    usual = run.flat.get("loss.usual_beta")
    if not facts:
        return Scale("", run.own_score, usual, name)
    return Scale(facts["reduction"], facts["own_score"], usual if facts["uses_beta"] else None)


def blank_columns(runs: Iterable[Run]) -> dict[str, str]:
    """Metrics (without eval/) that must stay blank for these runs together, each with the reason in words."""
    runs = list(runs)
    scales = {scale_of(run): run for run in runs}
    losses = {tuple((k, repr(v)) for k, v in run.flat.items() if k.startswith("loss.")) for run in runs}
    blank: dict[str, str] = {}
    if len(scales) > 1:
        said = "; ".join(f"{run_loss(run)}: {scale}" for scale, run in scales.items())
        blank |= dict.fromkeys((*REWARD_SCALE, *BETA_SCALE), f"losses of different scale ({said})")
    if len(losses) > 1:
        blank |= dict.fromkeys(LOSS_SCALE, "losses of different kinds have different units")
    elif not same([run.first.get("eval/loss") for run in runs]):
        blank |= dict.fromkeys(
            LOSS_SCALE, "the loss begins at different values, so its unit differs between these runs"
        )
    return blank


def run_loss(run: Run) -> str:
    """The class of a run's loss."""
    return str(run.flat.get("loss._target_", "loss")).rsplit(".", 1)[-1]


def same(values: Sequence[Any]) -> bool:
    """Whether numbers agree to a hundredth of the largest."""
    known = [float(v) for v in values if v is not None]
    return not known or max(known) - min(known) <= 0.01 * max(map(abs, known))
