"""Runs of a W&B project as run directories: whole histories, counted, in the files that everything here reads.

fetch("me/dpo", Path("outputs/from_wandb"))   # then load that folder like any other
rows(run)                                     # a row per step of one fetched run
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dpo.errors import UsageError
from dpo.records import RunDir, write_atomically

ODD = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""What W&B stores of numbers that JSON has no form for."""


def fetch(path: str, folder: Path) -> list[RunDir]:
    """Write every run of the project `path` (entity/project) to `folder`/<sweep>/<run>/; what was written.

    Histories are scanned, never sampled, and must have as many metric rows as the run's summary says were written.
    Runs that a later attempt replaced are left out; one that broke off is kept as failed. Raises UsageError where the
    project cannot be read, a history is not whole, or a run was not written by this package.
    """
    found = [run for run in project_runs(path) if "superseded" not in run.tags]
    if not found:
        raise UsageError(f"{path}: no runs in this W&B project")
    return [write(run, folder) for run in found]


def project_runs(path: str) -> list[Any]:
    """The client's runs of a project; raises UsageError in one line."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    if path.count("/") != 1:
        raise UsageError(f"{path}: must be entity/project")
    try:
        return list(wandb.Api(timeout=30).runs(path, lazy=False))
    except Exception as error:
        raise UsageError(f"{path}: {str(error).strip().splitlines()[0]}") from error


def write(run: Any, folder: Path) -> RunDir:
    """The directory of a run: configuration, rows, state, provenance and, where it ended, its summary."""
    config = run.config
    if "config" not in config:
        raise UsageError(
            f"{run.name} ({run.id}): its configuration was not written by dpo; filter it out of the project"
        )
    history = list(metric_rows(run))
    summary = dict(run.summary_metrics)
    said = summary.get("metric_rows")
    if said is not None and said != len(history):
        raise UsageError(
            f"{run.name} ({run.id}): {len(history)} metric rows of {said}; W&B has not all of it, or not yet"
        )
    directory = RunDir(folder / str(config.get("sweep") or "runs") / str(run.name))
    if directory.path.exists():
        raise UsageError(f"{directory.path} is there already; fetch into an empty folder")
    directory.create()
    write_atomically(directory.config, str(yaml.safe_dump(config["config"], sort_keys=False)))
    directory.write("provenance", {**config.get("lineage", {}), "wandb": f"{run.entity}/{run.project}/{run.id}"})
    directory.append(directory.metrics, history)
    evaluations = [row for row in history if row["kind"] == "eval"]
    if run.state == "finished" and said is not None and evaluations:
        raised = {key.removeprefix("flags/"): value for key, value in summary.items() if key.startswith("flags/")}
        ends = {"first": evaluations[0], "last": evaluations[-1]}
        directory.write("summary", {"steps": evaluations[-1]["step"], "flags": raised, **ends})
        directory.set_status("done")
    else:
        directory.set_status("failed", error=f"{run.state} on W&B; its last rows may be missing", traceback="")
    return directory


def metric_rows(run: Any) -> Iterator[dict[str, Any]]:
    """The rows of metrics.jsonl that a W&B run was made of, in their order; tables of answers are left out."""
    for line in run.scan_history(use_cache=False):
        values = {key: ODD.get(value, value) if isinstance(value, str) else value for key, value in line.items()}
        row = {key: value for key, value in values.items() if not key.startswith("_")}
        if any(isinstance(value, dict) for value in row.values()):
            continue
        kind = "eval" if any(key.startswith("eval/") for key in row) else "train"
        yield {"step": row["train/global_step"], "kind": kind} | row


def rows(run: RunDir) -> list[dict[str, Any]]:
    """A row per step and kind: `run`, `step`, `kind` and the metric keys."""
    return [{"run": run.path.name} | row for row in run.rows(run.metrics)]
