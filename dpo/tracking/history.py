"""A W&B project back as run directories: every row of the complete history, counted, so that results read plain files.

    folder = download("entity/project", "outputs/from_wandb")
    runs = dpo.results.frames.load(folder)

What W&B has of a run is written and nothing else: the configuration, the metric rows, and the files that `dpo push`
stored. Tables of pairs are not there, so estimates over pairs need the original directories.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dpo.config import dump
from dpo.errors import UsageError
from dpo.json_files import to_json
from dpo.records import RunDir, write_atomically
from dpo.tracking.wandb import client, first_line

STATES = {"finished": "done", "running": "running", "pending": "pending", "killed": "interrupted"}
"""States of W&B by ours; every other one is a failure."""
FILES = ("status.json", "summary.json", "provenance.json", "audit.json", "samples.jsonl", "compare.jsonl")
"""Files of a run directory that may be stored beside its history."""
ODD = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def download(project: str, folder: str | Path, api: Any = None) -> Path:
    """Write the runs of "entity/project" (or "project") as directories below `folder`; the folder.

    Attempts that a later one replaced are left out. Raises UsageError where there is no such project, nothing in it,
    where fewer rows arrive than W&B says a run has, or where two runs have one name.
    """
    try:
        api = api or client().Api(timeout=60)
        found = [run for run in api.runs(project, lazy=False) if "superseded" not in run.tags]
    except Exception as error:  # no key, no network, no such project
        raise UsageError(f"W&B project {project}: {first_line(error)}") from error
    if not found:
        raise UsageError(f"W&B project {project}: no runs there; `dpo push` sends some")
    names = [run.name for run in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"W&B project {project}: two runs are named {twice[0]}; tag the one to leave out superseded")
    for run in found:
        write(run, RunDir(Path(folder) / part(run.config.get("sweep", "runs")) / part(run.name)))
    return Path(folder)


def part(name: object) -> str:
    """A name from W&B as one part of a path, never a way out of the folder."""
    text = str(name)
    if text in ("", ".", "..") or any(c in text for c in "/\\\0"):
        raise UsageError(f"W&B: {text!r} cannot be the name of a directory; rename it there")
    return text


def write(run: Any, directory: RunDir) -> None:
    """One run of W&B's API as a directory; files that W&B has win over what can be told from the run itself."""
    rows = metric_rows(run)
    if not isinstance(run.config.get("config"), dict):
        raise UsageError(f"W&B run {run.name}: has no resolved configuration under config; it is not a run of dpo")
    directory.create()
    write_atomically(directory.config, dump(run.config["config"]))
    write_atomically(directory.metrics, "".join(to_json(row) + "\n" for row in rows))
    directory.set_status(
        STATES.get(run.state, "failed"), **({} if run.state in STATES else {"error": f"W&B: {run.state}"})
    )
    if isinstance(run.config.get("audit"), dict):
        directory.write("audit", run.config["audit"])
    with tempfile.TemporaryDirectory() as scratch:
        for file in run.files():
            if file.name in FILES:
                file.download(root=scratch, replace=True)
                write_atomically(directory.path / file.name, (Path(scratch) / file.name).read_text(encoding="utf-8"))


def metric_rows(run: Any) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl from the complete history, never the sampled one; raises UsageError where rows lack."""
    history = list(run.scan_history(use_cache=False))
    said = int(run.lastHistoryStep) + 1
    if len(history) != said:
        raise UsageError(f"W&B run {run.name}: {len(history)} of {said} history rows arrived; try again")
    rows = [row for line in history if (row := metric_row(line)) is not None]
    counted = run.summary_metrics.get("metric_rows")
    if counted is not None and counted != len(rows):
        raise UsageError(f"W&B run {run.name}: {len(rows)} of {counted} metric rows are there; `dpo push` completes it")
    return rows


def metric_row(line: dict[str, Any]) -> dict[str, Any] | None:
    """A history line as a row of metrics.jsonl; None for a line of answers."""
    kinds = [
        kind for kind in ("eval", "train") if any(k.startswith(f"{kind}/") for k in line if k != "train/global_step")
    ]
    if not kinds:
        return None
    values = {k: ODD.get(v, v) if isinstance(v, str) else v for k, v in without_own(line.items())}
    return {"step": int(values["train/global_step"]), "kind": kinds[0], **values}


def without_own(items: Iterable[tuple[str, Any]]) -> Iterable[tuple[str, Any]]:
    """Without the client's own keys, and what was not logged in the line."""
    return ((key, value) for key, value in items if not key.startswith("_") and value is not None)
