"""How a sweep stands, and what it would do, read from files alone."""

import json
import shutil
import time
from pathlib import Path

import pytest

from dpo.__main__ import main
from dpo.cache import locked
from dpo.json_files import write_json
from dpo.listing import listing
from dpo.records import RunDir
from dpo.status import at_work, clock, over, row_of, standing

from .sweeps import command, kill, start
from .test_sweep import question


@pytest.fixture
def folder(finished: RunDir, tmp_path: Path) -> Path:
    """A sweep of four jobs: done, running, failed, and one that has not begun."""
    folder = tmp_path / "asked"
    jobs = [{"id": f"{n:08}", "name": f"seed{n}", "settings": {"seed": str(n)}} for n in range(4)]
    write_json(folder.parent / "sweep.json", {})
    for n, state in enumerate(("done", "running", "failed")):
        run = RunDir(folder / f"seed{n}-{n:08}")
        shutil.copytree(finished.path, run.path)
        run.set_status(state, **({"error": "ValueError: planted", "traceback": "..."} if state == "failed" else {}))
    (folder.parent / "sweep.json").unlink()
    write_json(folder / "sweep.json", {"sweep": "asked", "question": "?", "jobs": jobs})
    return folder


def test_status_shows_a_line_for_every_job_and_the_error_of_a_failed_one(folder: Path, capsys) -> None:
    """Also for the one that has no directory yet."""
    assert main(["status", str(folder)]) == 0
    said = capsys.readouterr().out
    assert all(f"seed{n}-" in said for n in range(4)) and "ValueError: planted" in said
    assert "1 done, 1 interrupted, 1 failed, 1 pending" in said and "6/6" in said


def test_a_running_job_shows_its_step_and_the_time_left(folder: Path, capsys) -> None:
    """From the rows there are, while another process writes more; a half-written row does not count."""
    run = RunDir(folder / "seed1-00000001")
    kept = [row for row in run.rows(run.metrics) if row["step"] <= 2]
    steps = [row | {"time/step": 600.0} for row in kept if row["kind"] == "train"]
    text = "".join(json.dumps(row) + "\n" for row in [*kept[:1], *steps])
    run.metrics.write_text(text + '{"step": 3, "kind": "tr')
    with locked(run.lock):
        assert main(["status", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "2/6" in said and "40 min 00 s" in said and "1 running" in said


def test_the_table_has_a_row_per_job_with_its_settings_and_last_evaluation(folder: Path, finished: RunDir) -> None:
    """Numbers only for what is done."""
    table = [row_of(run) for run in listing(folder).runs]
    assert [row["state"] for row in table] == ["done", "interrupted", "failed", "pending"]
    assert table[0]["seed"] == "0" and table[0]["eval/loss"] == finished.read("summary")["last"]["eval/loss"]
    assert "eval/loss" not in table[1] and table[2]["error"] == "ValueError: planted"


def test_watch_ends_when_every_job_has(folder: Path, capsys) -> None:
    """Done or failed is an end."""
    for n in (1, 3):
        RunDir(folder / f"seed{n}-{n:08}").create()
        RunDir(folder / f"seed{n}-{n:08}").set_status("failed", error="lost")
    assert main(["status", "--watch", str(folder)]) == 0


def test_watch_ends_when_nothing_is_at_work(folder: Path, capsys) -> None:
    """A killed run and a job that never began do not keep it waiting; a launcher between two jobs does."""
    assert main(["status", str(folder), "--watch"]) == 0
    said = capsys.readouterr().out
    assert "1 interrupted" in said and "nothing is at work: the command that started it goes on" in " ".join(
        said.split()
    )
    assert "seed1-00000001: killed" in said
    with at_work(folder), at_work(folder):  # two agents
        assert not over(folder, listing(folder)) and not over(folder.parent, listing(folder.parent))
    assert over(folder, listing(folder))
    with locked(RunDir(folder / "seed1-00000001").lock):
        assert not over(folder, listing(folder))


def test_a_folder_of_single_runs_has_a_status_too(finished: RunDir) -> None:
    """No sweep.json: every run below it."""
    found = listing(finished.path.parents[1])
    assert len(found.runs) == 1 and over(finished.path.parents[1], found)


@pytest.mark.parametrize("content", [None, []])
def test_a_folder_without_runs_is_refused(content: list | None, tmp_path: Path, capsys) -> None:
    """One line, exit 2."""
    path = tmp_path / "none" if content is None else tmp_path
    assert main(["status", str(path)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_seconds_are_written_for_people() -> None:
    """Rounded to what matters."""
    assert [clock(s) for s in (0.4, 59.6, 200, 7500)] == ["0 s", "1 min 00 s", "3 min 20 s", "2 h 05 min"]


def test_how_a_run_ended_in_a_line(finished: RunDir) -> None:
    """Loss, margin, accuracy, seconds."""
    last = finished.read("summary")["last"]
    assert f"loss {last['eval/loss']:.4f}" in standing(finished)


def test_last_rows_reads_whole_rows_from_the_end(tmp_path: Path) -> None:
    """Whatever the size of the file and of what is read of it."""
    run = RunDir(tmp_path)
    path = tmp_path / "x.jsonl"
    run.append(path, [{"n": n} for n in range(100)])
    for size in (15, 16, 17, 100, 10_000):
        numbers = [row["n"] for row in run.last_rows(path, size)]
        assert numbers == list(range(100 - len(numbers), 100)) and numbers
    assert run.last_rows(tmp_path / "none") == []


def test_plan_names_jobs_states_and_costs_and_writes_nothing(cache: Path, tmp_path: Path, capsys) -> None:
    """Costs from finished runs like them; unknown where there is none."""
    path = question(tmp_path, "seed: 0,1,2")
    settings = command(cache, tmp_path / "out")[2:]
    assert main(["plan", path, *settings]) == 0
    said = capsys.readouterr()
    assert "3 jobs: 3 pending" in said.out and "no finished run to estimate from" in said.out
    assert not (tmp_path / "out").exists()
    assert main(["sweep", path, *settings, "seed=0"]) == 0
    before = sorted(p for p in (tmp_path / "out").rglob("*"))
    capsys.readouterr()
    assert main(["plan", path, *settings]) == 0
    said = capsys.readouterr()
    assert (
        "3 jobs: 1 done, 2 pending; all composed and typed in" in said.out and "by finished runs like them" in said.out
    )
    assert said.out.splitlines()[-1] == str(tmp_path / "out" / "asked") and "What is asked?" in said.out
    assert sorted(p for p in (tmp_path / "out").rglob("*")) == before


def test_an_estimate_comes_from_runs_of_the_same_shape(finished: RunDir) -> None:
    """Another beta or seed is the same shape, another model is not."""
    from dpo.config import parse_file
    from dpo.listing import look
    from dpo.plan import estimator

    estimate = estimator(finished.path.parents[1], [])
    plain = parse_file(finished.config).plain
    like = estimate(plain | {"seed": 7, "beta": plain["beta"] | {"value": 1.0}})
    assert like.basis == "like it" and like.seconds == look(finished, "").seconds and like.size > 10_000
    assert estimate(plain | {"model": plain["model"] | {"width": 64}}).basis == "other"


@pytest.mark.slow
def test_status_is_readable_while_a_sweep_runs(cache: Path, tmp_path: Path) -> None:
    """Read over and over from another process: never an error, and a running row is seen."""
    process, seen = start(command(cache, tmp_path, "seed=0,1,2", "train.max_steps=40")), set()
    folder = tmp_path / "multirun"
    while process.poll() is None:
        if (folder / "sweep.json").exists():
            seen |= {run.state for run in listing(folder).runs}
        time.sleep(0.02)
    assert process.wait() == 0 and {"pending", "running", "done"} <= seen


@pytest.mark.slow
def test_a_killed_run_is_shown_as_interrupted(cache: Path, tmp_path: Path) -> None:
    """Its owner is gone, whatever status.json says."""
    process = start(command(cache, tmp_path, "seed=0", "train.max_steps=400"))
    while not list((tmp_path / "multirun").glob("*/metrics.jsonl")):
        assert process.poll() is None
        time.sleep(0.02)
    kill(process)
    assert [run.state for run in listing(tmp_path / "multirun").runs] == ["interrupted"]
