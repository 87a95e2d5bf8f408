"""A pushed project back to run directories with the real client: every row, counted; what is not whole is refused."""

from pathlib import Path

import pytest
import yaml

from dpo.__main__ import main
from dpo.errors import UsageError
from dpo.records import RunDir
from dpo.run_folders import find_runs
from dpo.tracking.history import download

from .server import Server
from .test_push import folder, push  # noqa: F401 (a fixture)


def test_what_was_pushed_comes_back_as_it_was(folder: Path, server: Server, tmp_path: Path) -> None:  # noqa: F811
    """Rows, configuration, states, summaries and answers of a finished and a failed run, in their sweep's folder."""
    assert push(folder) == 0
    back = {run.path.name: run for run in find_runs(download("tester/p", tmp_path / "back"))}
    assert sorted(back) == sorted(path.name for path in folder.iterdir())
    for name, run in back.items():
        original = RunDir(folder / name)
        assert run.path.parent.name == folder.name
        assert list(run.rows(run.metrics)) == list(original.rows(original.metrics))
        assert list(run.rows(run.samples)) == list(original.rows(original.samples))
        assert yaml.safe_load(run.config.read_text()) == yaml.safe_load(original.config.read_text())
        assert run.status() == original.status()
        assert run.read("provenance") == original.read("provenance")
    assert main(["runs", str(tmp_path / "back")]) == 0


def test_a_history_that_is_not_whole_is_refused(folder: Path, server: Server, tmp_path: Path) -> None:  # noqa: F811
    """A row that the server lost is missed by its count."""
    assert push(folder) == 0
    del next(iter(server.runs.values())).rows[3]
    with pytest.raises(UsageError, match=r"rows"):
        download("tester/p", tmp_path / "back")


def test_long_histories_are_whole(server: Server, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """More rows than a sampled history or a page holds."""
    (run,) = [RunDir(path) for path in folder.iterdir() if (path / "summary.json").exists()]
    rows = list(run.rows(run.metrics))
    train = [row for row in rows if row["kind"] == "train"][-1]
    more = [train | {"step": step, "train/global_step": step} for step in range(7, 1300)]
    run.append(run.metrics, [*more, rows[-1] | {"step": 1300, "train/global_step": 1300}])
    assert push(run.path) == 0
    (back,) = find_runs(download("tester/p", tmp_path / "back"))
    assert list(back.rows(back.metrics)) == list(run.rows(run.metrics))


def test_a_project_that_cannot_be_read_is_one_line(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No such project; no key."""
    with pytest.raises(UsageError) as absent:
        download("tester/nothing", tmp_path)
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(UsageError) as locked:
        download("tester/p", tmp_path)
    assert all(len(str(refused.value).splitlines()) == 1 for refused in (absent, locked))
