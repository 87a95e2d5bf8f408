"""`dpo push` against the double: whole, once, continued, marked; wrong use is one line."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from dpo.__main__ import main
from dpo.json_files import write_json
from dpo.records import RunDir
from dpo.tracking import push as pushing

from .server import Server, StoredRun
from .test_online import rows_of


@pytest.fixture
def folder(finished: RunDir, tmp_path: Path) -> Path:
    """A sweep's folder with a finished run, and one that failed after some rows."""
    sweep = tmp_path / "out" / "beta"
    shutil.copytree(finished.path, sweep / finished.path.name)
    failed = RunDir(sweep / "beta0.3-seed1-0123abcd")
    shutil.copytree(finished.path, failed.path)
    failed.cut(3)
    for name in ("summary.json", "curves.svg"):
        (failed.path / name).unlink(missing_ok=True)
    write_json(failed.path / "status.json", {"state": "failed", "error": "FloatingPointError: planted"})
    return sweep


def push(folder: Path, *options: str) -> int:
    return main(["push", str(folder), "--project", "p", *options])


def content(server: Server) -> dict[str, tuple]:
    """What a person sees of the server's runs; not when they were pushed."""
    return {run.id: (run.metrics, len(run.rows), run.tags, run.state, run.values) for run in server.runs.values()}


def both(server: Server) -> tuple[StoredRun, StoredRun]:
    """The finished and the failed run there."""
    failed = server.runs["beta-0123abcd"]
    (done,) = [run for run in server.runs.values() if run is not failed]
    return done, failed


def test_a_push_sends_all_of_each_run_and_marks_what_did_not_finish(
    folder: Path, server: Server, finished: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows, configuration, answers, summary, files; the failed run's state; the last line is the address."""
    assert push(folder) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{server.url}/tester/p"
    done, failed = both(server)
    assert done.metrics == rows_of(finished) and done.state == "finished"
    assert done.values["config"] == yaml.safe_load(finished.config.read_text())
    last = finished.read("summary")["last"]
    assert {key: done.summary[key] for key in last} == last and done.summary["state"] == "done"
    assert done.files["samples.jsonl"] == finished.samples.read_bytes()
    assert done.files["run.yaml"] == finished.config.read_bytes() and "summary.json" in done.files
    tables = [json.loads(data)["data"] for name, data in done.files.items() if name.startswith("media/table/samples")]
    assert sum(map(len, tables)) == sum(1 for _ in finished.rows(finished.samples))
    assert failed.metrics == rows_of(RunDir(folder / failed.facts["displayName"]))
    assert failed.state == "failed" and "failed" in failed.tags and failed.summary["state"] == "failed"
    assert failed.summary["metric_rows"] == len(failed.metrics) < len(done.metrics)


def test_a_second_push_sends_nothing(
    folder: Path, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a row, not an upsert; also when the folder is named otherwise."""
    assert push(folder) == 0
    before, sent = content(server), [run.sent for run in server.runs.values()]
    begun = len(server.operations)
    monkeypatch.chdir(folder.parent)
    assert push(Path("beta")) == 0
    assert content(server) == before and [run.sent for run in server.runs.values()] == sent
    assert "UpsertBucket" not in server.operations[begun:]
    assert "2 there before" in capsys.readouterr().err


def test_an_interrupted_push_is_continued(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It breaks in the midst of a run; the next one sends the rows that are missing, and no other."""
    honest, calls = pushing.line, []

    def breaking(entry: dict) -> dict:
        calls.append(entry)
        if len(calls) == 5:
            raise OSError("the cable")
        return honest(entry)

    with monkeypatch.context() as patch:
        patch.setattr(pushing, "line", breaking)
        assert push(folder) == 1
    pushing.client().teardown()
    (begun,) = server.runs.values()
    assert 0 < len(begun.rows) == 4
    before = begun.sent
    assert push(folder) == 0
    assert "1 continued" in capsys.readouterr().err
    run = RunDir(next(path for path in folder.iterdir() if path.name == begun.facts["displayName"]))
    assert begun.metrics == rows_of(run)
    assert begun.sent - before == len(begun.rows) - 4


def test_a_run_that_went_on_is_continued_and_one_that_was_repeated_gets_the_next_id(
    folder: Path, server: Server, finished: RunDir
) -> None:
    """The failed run gets its other rows and ends; then its rows change and go to a second run, the first is marked."""
    assert push(folder) == 0
    _, failed = both(server)
    resumed = RunDir(folder / failed.facts["displayName"])
    for name in ("metrics.jsonl", "samples.jsonl", "summary.json", "status.json"):
        shutil.copy2(finished.path / name, resumed.path / name)
    sent, had = failed.sent, len(failed.rows)
    assert push(folder) == 0
    assert failed.metrics == rows_of(finished) and failed.sent == sent + len(failed.rows) - had
    assert failed.state == "finished" and "failed" not in failed.tags
    rows = [row | {"train/loss": 9.0} if row["kind"] == "train" else row for row in resumed.rows(resumed.metrics)]
    resumed.metrics.unlink()
    resumed.append(resumed.metrics, rows)
    assert push(folder) == 0
    anew = server.runs["beta-0123abcd-2"]
    assert anew.metrics == rows_of(resumed) and "superseded" not in anew.tags
    assert failed.metrics == rows_of(finished) and "superseded" in failed.tags
    before = {run.id: run.sent for run in server.runs.values()}
    assert push(folder) == 0
    assert {run.id: run.sent for run in server.runs.values()} == before


def test_a_run_that_was_tracked_online_is_not_sent_again(small, server: Server) -> None:
    """Its live run is whole."""
    from dpo.run import run

    directory, _ = run(small("tracker=online"))
    assert push(directory.path.parent, "--entity", "tester") == 0 and len(server.runs) == 2, "another project"
    assert main(["push", str(directory.path.parent)]) == 0
    assert [run.id for run in server.runs.values() if run.project == "dpo"] == directory.attempts()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["nowhere"], "no runs here"), ([".", "--project", "a/b"], "--project"), ([".", "--project", ""], "--project")],
)
def test_wrong_use_is_one_line(
    folder: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty folder, a project that cannot be."""
    monkeypatch.chdir(folder)
    assert main(["push", *arguments]) == 2
    message = capsys.readouterr().err.strip()
    assert said in message and len(message.splitlines()) == 1


def test_without_a_key_a_push_is_one_line(
    folder: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """No key in the environment or the home folder: exit 2."""
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert push(folder) == 2
    message = capsys.readouterr().err.strip()
    assert "WANDB_API_KEY" in message and len(message.splitlines()) == 1
