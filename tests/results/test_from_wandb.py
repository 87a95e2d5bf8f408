"""A W&B project back to run directories: every row, counted; what is not whole is refused."""

from pathlib import Path

import pytest
import yaml

from dpo.__main__ import main
from dpo.errors import UsageError
from dpo.records import RunDir
from dpo.results.from_wandb import fetch, rows

from ..tracking.conftest import serve, server  # noqa: F401 (fixtures)
from ..tracking.server import Server
from ..tracking.test_push import folder, push  # noqa: F401


def test_what_was_pushed_comes_back_row_for_row(folder: Path, server: Server, tmp_path: Path) -> None:  # noqa: F811
    """Rows, configuration, states, summaries of a finished and a failed run; in the folders of their sweep."""
    assert push(folder) == 0
    back = {run.path.name: run for run in fetch("tester/p", tmp_path / "back")}
    assert sorted(back) == sorted(path.name for path in folder.iterdir())
    for name, run in back.items():
        original = RunDir(folder / name)
        assert run.path.parent.name == folder.name
        assert list(run.rows(run.metrics)) == list(original.rows(original.metrics))
        assert yaml.safe_load(run.config.read_text()) == yaml.safe_load(original.config.read_text())
        assert run.status()["state"] == original.status()["state"]
        assert run.read("provenance")["eval_data_hash"] == original.read("provenance")["eval_data_hash"]
        if original.status()["state"] == "done":
            was, now = original.read("summary"), run.read("summary")
            assert {key: was[key] for key in now} == now
        assert {(row["run"], row["kind"]) for row in rows(run)} == {(name, "train"), (name, "eval")}
    assert main(["runs", str(tmp_path / "back")]) == 0


def test_a_history_that_is_not_whole_is_refused(folder: Path, server: Server, tmp_path: Path) -> None:  # noqa: F811
    """A row that the server lost is missed by its count."""
    assert push(folder) == 0
    del next(iter(server.runs.values())).rows[3]
    with pytest.raises(UsageError, match="metric rows of"):
        fetch("tester/p", tmp_path / "back")


def test_long_histories_are_whole(server: Server, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """More rows than a sampled history or a page holds."""
    (run,) = [RunDir(path) for path in folder.iterdir() if (path / "summary.json").exists()]
    last = list(run.rows(run.metrics))[-1]
    train = [row for row in run.rows(run.metrics) if row["kind"] == "train"][-1]
    more = [train | {"step": step, "train/global_step": step} for step in range(7, 1300)]
    run.append(run.metrics, [*more, last | {"step": 1300, "train/global_step": 1300}])
    assert push(run.path) == 0
    (back,) = fetch("tester/p", tmp_path / "back")
    assert list(back.rows(back.metrics)) == list(run.rows(run.metrics))


def test_wrong_paths_are_one_line(server: Server, tmp_path: Path) -> None:  # noqa: F811
    """No entity; no such project."""
    for path in ("p", "tester/nothing"):
        with pytest.raises(UsageError) as refused:
            fetch(path, tmp_path)
        assert len(str(refused.value).splitlines()) == 1
