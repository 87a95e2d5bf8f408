"""`dpo push`: runs to W&B from their files alone, whole, once, and as often as one likes.

A run's id there is made of its sweep and its own id, so a second push meets the first. A run that is there with the
same content is left alone; one of which the first rows are there is continued; one that holds other rows (of a run that
was repeated since) is tagged superseded, and the rows go to a run with the next id.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dpo.cache import key
from dpo.errors import UsageError, check_project
from dpo.progress import bar, say
from dpo.records import RunDir
from dpo.run_folders import find_runs, state
from dpo.saved_config import read_saved
from dpo.tracking.shown import Shown, entries, shown
from dpo.tracking.wandb import EXIT_CODES, QUIET, client, first_line, line, set_axis, slug, tag_superseded

JSON = ("status.json", "summary.json", "provenance.json", "audit.json")
FILES = ("run.yaml", *JSON, "samples.jsonl", "compare.jsonl", "curves.svg")
"""What of a run directory is stored beside its rows."""

MARK = "pushed"
"""Summary key that holds the hash of what was pushed; it is written last."""


@dataclass(frozen=True)
class Parcel:
    """A run directory as W&B is to have it."""

    run: RunDir

    @cached_property
    def shown(self) -> Shown:
        """Names and configuration; a run that has not ended well is tagged with its state."""
        look = shown(self.run, read_saved(self.run.config))
        extra = [] if self.state == "done" else [self.state]
        return Shown(look.names | {"tags": [*look.names["tags"], *extra]}, look.config)

    @cached_property
    def state(self) -> str:
        """done, failed, running or interrupted."""
        return state(self.run)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The metric rows."""
        return list(self.run.rows(self.run.metrics))

    @cached_property
    def lines(self) -> list[dict[str, Any] | list[dict[str, Any]]]:
        """Metric rows and answers, in the order of the history."""
        return list(entries(self.run, self.rows))

    @property
    def id(self) -> str:
        """The sweep's name and the run's id, the last part of its name."""
        name = self.run.path.resolve().name
        found = re.search(r"-([0-9a-f]{8})$", name)
        return f"{slug(self.run.path.resolve().parent.name)}-{found[1] if found else key(name)[:8]}"

    @property
    def summary(self) -> dict[str, Any]:
        """The last evaluation and the flags of a finished run; state and number of rows of any."""
        values: dict[str, Any] = {"state": self.state, "metric_rows": len(self.rows)}
        if self.state == "done":
            result = self.run.read("summary")
            values |= result["last"] | {f"flags/{name}": raised for name, raised in result["flags"].items()}
        return values

    @property
    def mark(self) -> str:
        """Hash of everything that is pushed, wherever its directory lies."""
        config = {k: v for k, v in self.shown.config.items() if k != "run_dir"}
        return key(self.lines, self.summary, self.shown.names, config)


def push(folder: Path, project: str | None, entity: str | None) -> str:
    """Send every run at or below `folder` that W&B does not have yet; the project's address.

    Raises UsageError for an empty folder, a project that cannot be, no API key, or a server that does not answer.
    """
    parcels = [Parcel(run) for run in find_runs(folder) if run.config.exists()] if folder.is_dir() else []
    if not parcels:
        raise UsageError(f"{folder}: no runs here; `dpo train` makes one")
    names = {str(read_saved(parcel.run.config)["tracker"]["project"]) for parcel in parcels}
    if project is None and len(names) > 1:
        raise UsageError(f"{folder}: its runs name {len(names)} projects ({', '.join(sorted(names))}); give --project")
    name = check_project("--project", names.pop() if project is None else project)
    api, owner = connect(entity)
    there = {run.id: run for run in known(api, f"{owner}/{name}")}
    counts = {"sent": 0, "continued": 0, "there before": 0}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["WANDB_DATA_DIR"] = str(Path(scratch) / "staged")
        for parcel in bar(parcels, "push", "run"):
            counts[deliver(parcel, there, name, owner, scratch)] += 1
    say(", ".join(f"{number} {what}" for what, number in counts.items() if number))
    return f"{client().setup().settings.app_url.rstrip('/')}/{owner}/{name}"


def connect(entity: str | None) -> tuple[Any, str]:
    """The client's API and whose projects are meant; raises UsageError where there is no key or no answer."""
    os.environ["WANDB_SILENT"] = "true"
    wandb = client()
    try:
        api = wandb.Api(timeout=20)
        return api, entity or str(api.default_entity)
    except Exception as error:
        raise UsageError(
            f"W&B: {first_line(error).rstrip('.')}; set WANDB_API_KEY (and WANDB_BASE_URL for a server)"
        ) from error


def known(api: Any, path: str) -> list[Any]:
    """The runs of a project, none where there is no project yet."""
    try:
        return list(api.runs(path, lazy=False))
    except ValueError:
        return []


def deliver(parcel: Parcel, there: dict[str, Any], project: str, entity: str, scratch: str) -> str:
    """Send what is missing of a run; what was done."""
    live = [there[id] for id in parcel.run.attempts() if id in there and "superseded" not in there[id].tags]
    for kept in live:
        if kept.state == "finished" and kept.summary_metrics.get("metric_rows") == len(parcel.rows) > 0:
            return "there before"
    id, kept = last_attempt(parcel.id, there)
    if kept is not None and kept.summary_metrics.get(MARK) == parcel.mark:
        return "there before"
    done = begun(kept, parcel) if kept is not None else 0
    if done is None:
        tag_superseded(f"{entity}/{project}/{id}")
        id, done = next_id(id), 0
    settings = client().Settings(init_timeout=60, **QUIET)
    run = client().init(
        mode="online",
        project=project,
        entity=entity,
        id=id,
        resume="must" if done else None,
        dir=scratch,
        config=parcel.shown.config,
        settings=settings,
        reinit="finish_previous",
        **parcel.shown.names,
    )
    set_axis(run)
    for entry in parcel.lines[done:]:
        run.log(line(entry))
    for name in FILES:
        if (parcel.run.path / name).exists():
            run.save(str(parcel.run.path.resolve() / name), base_path=str(parcel.run.path.resolve()), policy="now")
    run.summary.update(parcel.summary | {MARK: parcel.mark})
    run.finish(exit_code=EXIT_CODES.get(parcel.state, 1))
    return "continued" if done else "sent"


def last_attempt(id: str, there: dict[str, Any]) -> tuple[str, Any]:
    """The last of the ids of a run that the server has, with what it has of it; the first id where it has none."""
    while next_id(id) in there:
        id = next_id(id)
    return id, there.get(id)


def next_id(id: str) -> str:
    """beta-0123abcd, beta-0123abcd-2, beta-0123abcd-3."""
    found = re.fullmatch(r"(.*-[0-9a-f]{8})-(\d+)", id)
    return f"{found[1]}-{int(found[2]) + 1}" if found else f"{id}-2"


def begun(kept: Any, parcel: Parcel) -> int | None:
    """How many of a run's lines the server has; None where they are not its first ones.

    Every line is compared, seconds included, which no two attempts share.
    """
    done = int(kept.lastHistoryStep) + 1
    if done > len(parcel.lines):
        return None
    found = list(kept.scan_history(use_cache=False))
    return done if len(found) == done and all(map(same, found, parcel.lines)) else None


def same(found: dict[str, Any], ours: dict[str, Any] | list[dict[str, Any]]) -> bool:
    """Whether a line of the server is one of ours; of answers only the step is compared."""
    if isinstance(ours, list):
        return "samples" in found and found["train/global_step"] == ours[0]["step"]
    return plain_numbers(line(ours)) == {k: v for k, v in found.items() if not k.startswith("_")}


def plain_numbers(row: dict[str, Any]) -> dict[str, Any]:
    """A row with what JSON cannot hold as the text that W&B stores for it."""
    odd = {k: v for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)}
    return json.loads(json.dumps(row | {k: str(json.dumps(v)) for k, v in odd.items()}))
