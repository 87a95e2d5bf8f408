"""The tables of a report, each from runs: by arm, differences, length, calibration, and what runs there were."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dpo.errors import UsageError
from dpo.results import over_pairs, stats
from dpo.results.arms import ABSENT, Arm, shown, title
from dpo.results.cells import Cell as Cell
from dpo.results.cells import Table as Table
from dpo.results.comparable import blank_columns, require_comparable
from dpo.results.estimate import Estimate
from dpo.results.frames import Run, Runs
from dpo.results.labels import DEFAULT, label
from dpo.results.over_pairs import share_over_pairs, slope_over_pairs, tables

__all__ = [
    "Cell",
    "Table",
    "by_arm",
    "calibration_table",
    "differences",
    "failed_table",
    "length_table",
    "provenance_table",
    "runs_table",
]

SAME = "the same for every seed, so the interval is over pairs"
CALIBRATION = ("ece", "ece_mass", "brier", "nll", "temperature", "beta")
LENGTH_CLASSES = {"chosen longer": "chosen longer", "equal lengths": "equal", "chosen shorter": "chosen shorter"}


def ids(runs: Sequence[Run]) -> tuple[str, ...]:
    """The runs' ids."""
    return tuple(run.id for run in runs)


def value(run: Run, metric: str) -> float | None:
    """A metric of a run's last evaluation; None where it is absent or not finite."""
    found = run.last.get(f"eval/{metric.removeprefix('eval/')}")
    return float(found) if found is not None and math.isfinite(found) else None


def over_seeds(arm: Arm, metric: str, reason: str = "") -> Cell:
    """The mean over an arm's runs with its interval; blank with its reason, or where no run has the metric."""
    if reason:
        return Cell(None, ids(arm.runs), reason)
    held = [run for run in arm.runs if value(run, metric) is not None]
    if not held:
        return Cell(None, ids(arm.runs), "no run of this arm has a value")
    without = [run.id for run in arm.runs if run not in held]
    note = f"no value in {', '.join(without)}" if without else ""
    e = stats.mean(value(run, metric) or 0.0 for run in held)
    return with_pairs(e, lambda: over_pairs.estimate(tables(held), metric), Cell(e, ids(held), note))


def with_pairs(over_seeds: Estimate, from_rows: Callable[[], Estimate | None], cell: Cell) -> Cell:
    """The cell with the estimate over seeds and pairs in place of the one over seeds: for two seeds or more, where the
    runs have tables of pairs and these hold what was logged."""
    if over_seeds.n < 2:
        return cell
    try:
        e = from_rows()
    except UsageError:  # a run without a table of pairs
        return cell
    if e is None or not math.isclose(e.value, over_seeds.value, rel_tol=1e-6, abs_tol=1e-9):
        return cell
    said = (cell.note, SAME if over_seeds.missing == stats.EQUAL else "")
    return replace(cell, content=e, note="; ".join(part for part in said if part))


def arm_cells(arm: Arm) -> tuple[Cell, ...]:
    """An arm's settings, one cell for each axis, and its seeds."""
    of = ids(arm.runs)
    settings = [Cell(None if v == ABSENT else v if is_number(v) else shown(v), of) for v in arm.values.values()]
    return (*settings, Cell(", ".join(str(run.seed) for run in arm.runs), of))


def arm_columns(arms: Sequence[Arm]) -> tuple[str, ...]:
    """Titles of `arm_cells`."""
    return (*(title(key) for key in arms[0].values), "seeds")


def is_number(item: Any) -> bool:
    """A number that is no truth value."""
    return isinstance(item, int | float) and not isinstance(item, bool)


def ready(runs: Runs, keys: Sequence[str]) -> list[Arm]:
    """The arms of the finished runs; UsageError where there are none, or where they may not share a table."""
    if not len(runs.done):
        raise UsageError(f"{runs.path}: no finished run; `dpo status {runs.path}` says how they stand")
    require_comparable(runs.done)
    return runs.done.arms(*keys)


def missing_seeds(arms: Sequence[Arm]) -> tuple[str, ...]:
    """A sentence for each arm that lacks a seed that another has."""
    seeds = dict.fromkeys(run.seed for arm in arms for run in arm.runs)
    lacking = {arm.label: [str(s) for s in seeds if s not in arm.by_seed] for arm in arms}
    return tuple(f"{name}: no finished run with seed {', '.join(gone)}." for name, gone in lacking.items() if gone)


def by_arm(runs: Runs, keys: str | Sequence[str] = (), metrics: Sequence[str] = DEFAULT) -> Table:
    """A row per arm, ordered by `keys` (dotted, such as beta.value): the mean over seeds of each metric of the last
    evaluation, with its interval and n. Whatever else varies is an axis too: no row mixes settings.
    """
    arms = ready(runs, [keys] if isinstance(keys, str) else keys)
    blank = blank_columns(runs.done)
    rows = [(*arm_cells(arm), *(over_seeds(arm, m, blank.get(m, "")) for m in metrics)) for arm in arms]
    notes = [f"{label(m)} is blank: {blank[m]}." for m in metrics if m in blank]
    caption = "Last evaluation of each run: mean over seeds, 95 % interval (over seeds and evaluation pairs at once "
    caption += "for means and shares of pairs, else Student's t over seeds)."
    columns = (*arm_columns(arms), *map(label, metrics))
    return Table("by-arm", caption, columns, tuple(rows), (*notes, *missing_seeds(arms)))


def differences(runs: Runs, key: str, baseline: Any = None, metrics: Sequence[str] = DEFAULT) -> Table:
    """Each arm against the one with the value `baseline` of `key` (by default the first) and the same other settings:
    paired by seed (and pair) where they share seeds, else Welch's; Holm's correction over the whole table.
    """
    arms, key = ready(runs, [key]), key.removeprefix("config.")
    first = arms[0].values[key] if baseline is None else baseline
    if not any(arm.values[key] == first for arm in arms):
        there = ", ".join(dict.fromkeys(shown(arm.values[key]) for arm in arms))
        raise UsageError(f"{key}={baseline}: no finished run has it; there are {there}")
    pairs = [(arm, base) for arm in arms for base in arms if arm is not base and is_base(arm, base, key, first)]
    blank = blank_columns(runs.done)
    cells = [[difference(arm, base, m, blank.get(m, "")) for m in metrics] for arm, base in pairs]
    flat = [cell.content for row in cells for cell in row]
    corrected = iter(stats.holm([e for e in flat if isinstance(e, Estimate)]))
    rows = []
    for (arm, _), row in zip(pairs, cells, strict=True):
        fixed = [Cell(next(corrected), c.runs, c.note, True) if isinstance(c.content, Estimate) else c for c in row]
        rows.append((*arm_cells(arm), *fixed))
    caption = f"Difference from {title(key)} {shown(first)}, paired by seed and evaluation pair, with 95 % intervals"
    caption += "; a difference is shown where its interval leaves out 0 and its p-value, after Holm, is below 0.05."
    notes = tuple(f"{label(m)} is blank: {blank[m]}." for m in metrics if m in blank)
    columns = (*arm_columns(arms), *map(label, metrics))
    return Table("differences", caption, columns, tuple(rows), (*notes, *missing_seeds(arms)))


def is_base(arm: Arm, base: Arm, key: str, first: Any) -> bool:
    """Whether `base` is what `arm` is compared with: the baseline of the key, everything else alike."""
    others = [name for name in arm.values if name != key]
    return (
        base.values[key] == first and arm.values[key] != first and all(arm.values[n] == base.values[n] for n in others)
    )


def difference(arm: Arm, base: Arm, metric: str, reason: str = "") -> Cell:
    """arm - base of a metric of the last evaluation."""
    of = ids((*arm.runs, *base.runs))
    if reason:
        return Cell(None, of, reason)
    ours, theirs = ({s: v for s, r in a.by_seed.items() if (v := value(r, metric)) is not None} for a in (arm, base))
    if not ours or not theirs:
        return Cell(None, of, "no value on one side")
    estimate = stats.paired(ours, theirs)
    alone = sorted(str(s) for s in {*ours} ^ {*theirs})
    if estimate is None:
        return Cell(stats.unpaired(ours.values(), theirs.values()), of, "no seed in common", True)
    both = [[run for s, run in a.by_seed.items() if s in ours and s in theirs] for a in (arm, base)]
    note = f"left out, without a partner: seed {', '.join(alone)}" if alone else ""
    cell = Cell(estimate, ids([*both[0], *both[1]]), note, True)
    return with_pairs(estimate, lambda: over_pairs.difference(both[0], both[1], metric), cell)


def length_table(runs: Runs, keys: str | Sequence[str] = ()) -> Table:
    """How much of each arm's accuracy is length: accuracy beside the longer-wins rule, by length class and on the
    length-balanced subset, the truncated share of each side, and the slope of margin on length difference.

    Accuracies and slope are means over seeds of each pair; the interval is over seeds and prompts at once.
    """
    arms = ready(runs, [keys] if isinstance(keys, str) else keys)
    blank = blank_columns(runs.done)
    columns = [
        "accuracy",
        "longer wins",
        *(f"accuracy, {name}" for name in LENGTH_CLASSES),
        "accuracy, length-balanced",
    ]
    columns += ["truncated, chosen", "truncated, rejected", label("length/slope"), "slope of d (nats per token)"]
    rows = []
    for arm in arms:
        of, frames = ids(arm.runs), tables(arm.runs)
        ruled = [f.assign(rule=0.5 + 0.5 * np.sign(f["length_difference"])) for f in frames]
        subsets = [[f[f["length_class"] == name] for f in frames] for name in LENGTH_CLASSES.values()]
        subsets.append([f[f["balanced"]] for f in frames])
        accuracy = [Cell(share_over_pairs(frames), of), Cell(share_over_pairs(ruled, "rule"), of)]
        accuracy += [filled(share_over_pairs(subset), of, "no such pairs") for subset in subsets]
        cut = [truncated(arm.runs, side) for side in ("chosen", "rejected")]
        flat = "the length difference does not vary, or too few pairs"
        slopes = [filled(slope_over_pairs(frames, column), of, flat) for column in ("margin", "d")]
        if "length/slope" in blank:
            slopes[0] = Cell(None, of, blank["length/slope"])
        rows.append((*arm_cells(arm), *accuracy, *cut, *slopes))
    caption = (
        "Accuracy on the evaluation pairs beside the rule that the longer answer wins, and how the margin grows with "
        "the length difference (chosen - rejected tokens). 95 % intervals: over seeds and prompts at once."
    )
    return Table("length", caption, (*arm_columns(arms), *columns), tuple(rows), missing_seeds(arms))


def filled(estimate: Estimate | None, of: tuple[str, ...], reason: str) -> Cell:
    """A cell with the estimate, or blank with the reason."""
    return Cell(estimate, of, "" if estimate else reason)


def truncated(runs: Sequence[Run], side: str) -> Cell:
    """The share of evaluation pairs whose answer of this side was cut; the same in every comparable run."""
    counts = runs[0].audit.get("evaluation", {})
    if not counts.get("pairs"):
        return Cell(None, ids(runs), "no audit.json")
    share = stats.wilson(counts[f"truncated_{side}"], counts["pairs"], of="pairs")
    return Cell(share, ids(runs), "counted before training, on the evaluation pairs")


def calibration_table(runs: Runs, keys: str | Sequence[str] = ()) -> Table:
    """How far S(margin) is from a probability, by arm: ECE, Brier score, NLL, fitted temperature and beta."""
    metrics = [f"calibration/{name}" for name in CALIBRATION]
    made = by_arm(runs, keys, ["rewards/accuracies", *metrics])
    caption = (
        "Calibration of S(margin) on the evaluation pairs: mean over seeds, 95 % interval (Student's t over seeds)."
    )
    notes = (*made.notes, "A temperature fits only where some pair is wrong and the mean margin is positive.")
    return Table("calibration", caption, made.columns, made.rows, notes)


def runs_table(runs: Runs) -> Table:
    """Every run: id, name, state, arm, seed, last step, its flags, d and accuracy of its last evaluation."""
    labels = {run.id: arm.label for arm in runs.arms() for run in arm.runs}
    columns = (
        "id",
        "run",
        "state",
        "kind",
        "arm",
        "seed",
        "last step",
        "flags",
        label("logratios/margins"),
        "accuracy",
    )
    rows = []
    for run in runs:
        flags = ", ".join(name for name, raised in run.summary.get("flags", {}).items() if raised)
        of = (run.id,)
        texts = [run.id, run.name, run.state, run.kind, labels[run.id], run.seed, run.last.get("step"), flags or "none"]
        if "flags" not in run.summary:
            texts[-1] = None
        numbers = [value(run, m) for m in ("logratios/margins", "rewards/accuracies")]
        rows.append(tuple(Cell(text, of) for text in [*texts, *numbers]))
    return Table(
        "runs", f"All {len(runs)} runs; the values are those of each run's last evaluation.", columns, tuple(rows)
    )


def failed_table(runs: Runs) -> Table:
    """Runs that did not finish and jobs that have not begun, with the reason; they count in no other table."""
    rows = []
    for run in runs.unfinished:
        why = (
            run.error
            or "; ".join(run.notes)
            or run.mixed
            or ("no evaluation" if run.state == "done" else "not finished")
        )
        rows.append(tuple(Cell(text, (run.id,)) for text in (run.id, run.name, run.state, run.last.get("step"), why)))
    for sweep, name, run_id in runs.pending:
        rows.append(
            tuple(Cell(text, (run_id,)) for text in (run_id, name, "pending", None, f"a job of {sweep}, not begun"))
        )
    caption = "Runs that are not finished; no other table counts them." if rows else "Every run is finished."
    return Table("failed", caption, ("id", "run", "state", "last step", "reason"), tuple(rows), runs.notes)


def provenance_table(runs: Runs) -> Table:
    """Where each run's numbers come from: commit, versions, device, and hashes of data, start and reference."""
    software = ("commit", "uncommitted", "torch", "transformers", "python", "device")
    columns = ("id", *software, "start", "reference", "training pairs", "evaluation pairs", "batch", "steps")
    rows = []
    for run in runs:
        p: Mapping[str, Any] = run.provenance
        versions = p.get("versions", {})
        texts = [
            run.id,
            cut(p.get("commit")),
            cut(p.get("diff_hash")),
            versions.get("torch"),
            versions.get("transformers"),
        ]
        texts += [p.get("python"), p.get("device"), cut(p.get("start_hash")), cut(p.get("reference_hash"))]
        texts += [cut(p.get("train_data_hash")), cut(p.get("eval_data_hash")), p.get("global_batch"), p.get("steps")]
        rows.append(tuple(Cell(text, (run.id,)) for text in texts))
    return Table("provenance", "Where the numbers come from; hashes by their first digits.", columns, tuple(rows))


def cut(text: str | None) -> str | None:
    """The first digits of a hash."""
    return None if text is None else text[:10]
