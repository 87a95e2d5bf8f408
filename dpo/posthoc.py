"""What would another loss, or another beta, say here? Answered from a run's per-pair rows alone, without a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dpo.compose import compose
from dpo.config import Config, parse
from dpo.errors import UsageError
from dpo.evaluate.evaluator import describe_pairs
from dpo.logps import PairLogps
from dpo.losses.base import Loss
from dpo.metrics import PairRows
from dpo.past import at_home
from dpo.records import RunDir
from dpo.saved_config import read_saved

HELD = frozenset({"reference", "token_mean"})
"""Needs of losses that summed log-probs and lengths of all pairs meet."""


def rescore(rows: PairRows, loss: Loss, beta: float) -> PairRows:
    """The same pairs with the loss and rewards of another `loss` at `beta`; whole-batch losses act on all pairs.

    For the run's own loss and beta it gives back what was logged. Raises UsageError, naming what is missing,
    for a loss that reads more than the rows hold.
    """
    name = type(loss).__name__
    if missing := sorted(loss.needs - HELD):
        raise UsageError(
            f"loss {name} also reads {', '.join(missing)}, which per-pair rows do not hold; "
            "score a pairs file with it instead: dpo score RUN PAIRS --loss ..."
        )
    if "reference" in loss.needs and not rows.has_reference:
        raise UsageError(f"loss {name} reads a reference, and the rows of this run have none: its loss read none")
    out = loss(*logps(rows), beta)
    values = dict(rows.values)
    values |= {"loss": out.loss_B, "chosen_reward": out.chosen_reward_B, "rejected_reward": out.rejected_reward_B}
    return replace(rows, values=values, own_score=out.own_score)


def logps(rows: PairRows) -> tuple[PairLogps, PairLogps]:
    """(policy, reference) of the rows in float64; a reference that the rows do not hold is NaN."""
    v = rows.values
    lengths = v["chosen_tokens"], v["rejected_tokens"]
    nothing = torch.full_like(v["loss"], torch.nan)
    chosen_B, rejected_B = (v.get(f"{side}_ref_logp", nothing) for side in ("chosen", "rejected"))
    return PairLogps(v["chosen_logp"], v["rejected_logp"], *lengths), PairLogps(chosen_B, rejected_B, *lengths)


def choose(run: RunDir, loss: str | None, beta: float | None, settings: list[str]) -> Config:
    """The run's configuration with another loss (an option of conf/loss, `settings` as loss.key=value) and beta.

    Without `beta` another loss has its usual one. Refuses what a run with these settings would refuse.
    """
    plain = read_saved(run.config)
    for setting in settings:
        if loss is None or not setting.startswith("loss."):
            raise UsageError(f"--set {setting}: sets a key of the loss that --loss names, such as loss.label_smoothing")
    if loss is not None:
        plain["loss"] = compose([f"loss={loss}", *settings])["loss"]
        plain["beta"] = {"_target_": "dpo.beta.Fixed", "value": plain["loss"]["usual_beta"]}
    if beta is not None:
        plain["beta"] = {"_target_": "dpo.beta.Fixed", "value": beta}
    with at_home(run):
        return parse(plain)


def evaluation(run: RunDir, step: int | None) -> tuple[int, list[str], PairRows, dict[str, float]]:
    """(step, pair ids, rows, logged row) of an evaluation of a run, by default its last."""
    logged = {row["step"]: row for row in run.rows(run.metrics) if row["kind"] == "eval"}
    steps = [k for k in run.saved_steps() if k in logged]
    if not steps or (step is not None and step not in steps):
        there = ", ".join(map(str, steps)) or "none"
        raise UsageError(f"{run.path}: no evaluation{'' if step is None else f' at --step {step}'}; there are: {there}")
    step = steps[-1] if step is None else step
    columns = run.read_pairs(step)
    return step, columns["id"], PairRows.read(columns), logged[step]


def score_rows(
    path: Path, loss: str | None, beta: float | None, settings: list[str], step: int | None
) -> tuple[list[str], PairRows, dict[str, Any]]:
    """(pair ids, rows, metrics) of a run's own evaluation pairs under a loss and beta, by default the run's."""
    run = RunDir(path)
    config = choose(run, loss, beta, settings)
    at, ids, rows, logged = evaluation(run, step)
    same = loss is None and beta is None
    strength = logged["eval/beta"] if same else config.beta.over(at).value(at)
    rows = rescore(rows, config.loss, strength)
    metrics = describe_pairs(rows, strength, logged["eval/tie"])
    return ids, rows, {"step": at, "loss_name": type(config.loss).__name__} | metrics
