"""A W&B project as directories: complete, counted, and the same rows as were logged."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dpo.errors import UsageError
from dpo.records import RunDir
from dpo.results.frames import load
from dpo.saved_config import read_saved
from dpo.tracking.history import download
from tests.results.toy_runs import write_run


@dataclass
class File:
    """A stored file, as the API's."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def download(self, root: str, replace: bool) -> None:
        (Path(root) / self.name).write_bytes(self.path.read_bytes())


@dataclass
class Kept:
    """A run directory as W&B's API shows it once pushed; `lost` history lines do not arrive."""

    run: RunDir
    state: str = "finished"
    tags: list[str] = field(default_factory=list)
    lost: int = 0
    with_files: bool = True
    summary_metrics: dict[str, Any] = field(default_factory=dict)
    id = "wandb-id"

    @property
    def name(self) -> str:
        return self.run.path.name

    @property
    def config(self) -> dict[str, Any]:
        return {"config": read_saved(self.run.config), "sweep": "beta", "audit": {"pairs": 40}}

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The history: answers stand between the metric rows, NaN is text, and the client adds keys of its own."""
        rows = [{"samples": {"_type": "table-file"}, "train/global_step": 0}, *self.run.rows(self.run.metrics)]
        lines = []
        for i, row in enumerate(rows):
            kept = {k: "NaN" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
            own = {"_step": i, "_timestamp": 1.0}
            lines.append({k: v for k, v in kept.items() if k not in ("step", "kind")} | own)
        return lines

    @property
    def lastHistoryStep(self) -> int:
        return len(self.lines) - 1

    def scan_history(self, use_cache: bool) -> list[dict[str, Any]]:
        return self.lines[: len(self.lines) - self.lost]

    def files(self) -> list[File]:
        names = ("provenance.json", "summary.json", "audit.json", "samples.jsonl", "run.yaml")
        return [File(self.run.path / name) for name in names] if self.with_files else []


class Api:
    """The client's, as far as it is asked; ValueError for an unknown project, as the client raises."""

    def __init__(self, *kept: Kept) -> None:
        self.kept = kept

    def runs(self, project: str, lazy: bool) -> list[Kept]:
        if project != "me/there":
            raise ValueError(f"Could not find project {project}")
        return list(self.kept)


def test_the_rows_are_those_that_were_logged(tmp_path) -> None:
    """Every row, in order, with null for a NaN; the frames of the copy are those of the original."""
    made = [write_run(tmp_path / "original" / "beta", seed) for seed in range(2)]
    broken = made[0].metrics.read_text().replace('"train/loss": 0.6', '"train/loss": NaN')
    made[0].metrics.write_text(broken)
    folder = download("me/there", tmp_path / "copy", Api(*map(Kept, made)))
    ours, theirs = load(tmp_path / "original"), load(folder)
    before, after = (json.dumps([row for run in runs for row in run.rows]) for runs in (ours, theirs))
    assert after == before.replace("NaN", "null") and "null" in after  # no JSON file of ours holds a NaN
    apart = ["path"]
    assert theirs.runs.drop(columns=apart).equals(ours.runs.drop(columns=apart))


def test_a_run_that_was_never_pushed_has_its_settings_and_state(tmp_path) -> None:
    """From W&B's own record of it."""
    made = write_run(tmp_path / "original", 0)
    (run,) = load(download("me/there", tmp_path / "copy", Api(Kept(made, state="crashed", with_files=False))))
    assert (run.state, run.error, run.audit) == ("failed", "W&B: crashed", {"pairs": 40})
    assert run.flat["beta.value"] == 0.1 and run.last == load(tmp_path / "original").all[0].last | {
        "train/global_step": 4
    }


def test_rows_that_do_not_arrive_are_an_error_and_not_a_shorter_run(tmp_path) -> None:
    """By the history's own count, and by the number of rows that was pushed."""
    made = write_run(tmp_path, 0)
    with pytest.raises(UsageError, match="6 of 7 history rows arrived"):
        download("me/there", tmp_path / "copy", Api(Kept(made, lost=1)))
    with pytest.raises(UsageError, match="6 of 9 metric rows are there"):
        download("me/there", tmp_path / "copy", Api(Kept(made, summary_metrics={"metric_rows": 9})))


def test_replaced_attempts_are_left_out_and_twins_refused(tmp_path) -> None:
    """Or a job would count twice."""
    made = write_run(tmp_path / "o", 0)
    folder = download("me/there", tmp_path / "copy", Api(Kept(made), Kept(made, tags=["superseded"])))
    assert len(load(folder)) == 1
    with pytest.raises(UsageError, match=r"two runs are named beta0\.1-seed0"):
        download("me/there", tmp_path / "copy", Api(Kept(made), Kept(made)))


@pytest.mark.parametrize("name", ["../../away", "a/b", "..", ""])
def test_a_name_from_the_server_is_no_way_out_of_the_folder(tmp_path, name: str) -> None:
    """Anyone who may write to a project may name a run."""
    made = write_run(tmp_path, 0)
    kept = type("Named", (Kept,), {"name": name})(made)
    with pytest.raises(UsageError, match="cannot be the name of a directory"):
        download("me/there", tmp_path / "copy", Api(kept))


def test_no_project_and_no_runs_are_said_in_a_line(tmp_path) -> None:
    """With the client's words, or what would help."""
    with pytest.raises(UsageError, match="Could not find project me/gone"):
        download("me/gone", tmp_path, Api())
    with pytest.raises(UsageError, match="no runs there; `dpo push` sends some"):
        download("me/there", tmp_path, Api())
