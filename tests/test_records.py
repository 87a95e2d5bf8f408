"""The run directory survives what happens to processes."""

from pathlib import Path

import pytest

from dpo.cache import locked
from dpo.data.judge import Log
from dpo.records import RunDir, write_atomically
from dpo.results.reading import read_rows
from dpo.run_folders import find_runs, state


@pytest.fixture
def directory(tmp_path: Path) -> RunDir:
    """An empty run directory."""
    run = RunDir(tmp_path / "run")
    run.create()
    return run


def test_a_row_is_on_disk_when_append_returns(directory: RunDir) -> None:
    """Another reader sees it at once."""
    directory.append(directory.metrics, [{"step": 1}])
    assert list(RunDir(directory.path).rows(directory.metrics)) == [{"step": 1}]


def test_a_line_cut_off_by_a_kill_does_not_count(directory: RunDir) -> None:
    """Half a row is no row."""
    directory.metrics.write_text('{"step": 1}\n{"step": 2')
    assert list(directory.rows(directory.metrics)) == [{"step": 1}]


def test_cut_drops_rows_and_tables_past_a_step(directory: RunDir) -> None:
    """One row per step and kind after a resume."""
    directory.append(directory.metrics, [{"step": step} for step in range(5)])
    for step in (0, 2, 4):
        directory.write_pairs(step, {"id": ["a"]})
    directory.cut(2)
    assert [row["step"] for row in directory.rows(directory.metrics)] == [0, 1, 2]
    assert directory.saved_steps() == [0, 2]


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_checkpoint_is_there_at_every_moment_of_its_replacement(directory: RunDir, moment: str) -> None:
    """Killed before, between or after the two renames, recover() finds the old or the new one whole."""
    directory.checkpoint.mkdir()
    (directory.checkpoint / "step.json").write_text('{"step": 1}')
    if moment == "between":
        directory.checkpoint.rename(directory.path / ".checkpoint.old")
    elif moment == "after":
        with directory.new_checkpoint() as folder:
            (folder / "step.json").write_text('{"step": 2}')
    directory.recover()
    assert directory.checkpoint_step == (2 if moment == "after" else 1)


def test_an_atomic_write_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old text stays when the write dies."""
    path = tmp_path / "x"
    write_atomically(path, "old")

    def dies(*_: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr("os.fsync", dies)
    with pytest.raises(OSError, match="disk"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def test_a_running_state_without_an_owner_is_interrupted(directory: RunDir) -> None:
    """The lock tells a live run from a killed one."""
    directory.set_status("running")
    with locked(directory.lock):
        assert state(directory) == "running"
    assert state(directory) == "interrupted"


def test_find_runs_sees_only_run_directories(tmp_path: Path, directory: RunDir) -> None:
    """A directory is a run when it has a status.json."""
    directory.set_status("done")
    (tmp_path / "other").mkdir()
    assert [run.path.name for run in find_runs(tmp_path)] == ["run"]


BREAKS = [chr(code) for code in (0x0A, 0x0B, 0x0C, 0x0D, 0x1C, 0x1D, 0x1E, 0x85, 0x2028, 0x2029)]


@pytest.mark.parametrize("mark", BREAKS, ids=[f"U+{ord(mark):04X}" for mark in BREAKS])
def test_no_line_break_inside_a_text_splits_a_row(mark: str, directory: RunDir, tmp_path: Path) -> None:
    """Every reader of rows sees each row once, whatever its texts hold: a row ends at a line feed only."""
    rows = [{"step": step, "completion": f"a{mark}b{mark}"} for step in range(3)]
    directory.append(directory.samples, rows)
    assert list(directory.rows(directory.samples)) == rows
    assert directory.last_rows(directory.samples) == rows
    assert read_rows(directory.samples) == (rows, [])
    log = Log(tmp_path / "answers.jsonl")
    log.add(rows)
    assert Log(log.path).rows == rows
    directory.cut(1)
    assert list(directory.rows(directory.samples)) == rows[:2]
