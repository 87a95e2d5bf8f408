"""The real client against the double: the server has what the files have; a server that fails never costs the run."""

import json
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dpo.errors import UsageError
from dpo.records import RunDir
from dpo.run import run

from ..conftest import SMALL
from ..sweeps import start
from .server import Server, StoredRun

REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")


def rows_of(directory: RunDir) -> list[dict]:
    """The metric rows of a run as a tracker gets them."""
    rows = directory.rows(directory.metrics)
    return [{k: v for k, v in row.items() if k not in ("step", "kind")} for row in rows]


def stored(server: Server, directory: RunDir) -> StoredRun:
    """The server's run of the last attempt."""
    return server.runs[directory.attempts()[-1]]


@pytest.fixture
def sent(small, server: Server) -> tuple[RunDir, StoredRun]:
    """A small run that was tracked online, and what the server has of it."""
    directory, _ = run(small("tracker=online", "tracker.tags=[pilot]"))
    return directory, stored(server, directory)


def test_an_online_run_is_on_the_server_as_it_is_in_its_files(sent: tuple[RunDir, StoredRun]) -> None:
    """Rows one for one; resolved configuration; name, group, tags, job type; summary; x-axis; answers; state."""
    directory, kept = sent
    assert kept.metrics == rows_of(directory)
    for key in REWARDS:
        for kind in ("train", "eval"):
            assert any(f"{kind}/{key}" in row for row in kept.metrics)
    assert kept.values["config"] == yaml.safe_load(directory.config.read_text())
    assert (kept.values["beta"], kept.values["loss"], kept.values["seed"]) == (0.1, "Sigmoid", 0)
    assert kept.facts["displayName"] == directory.path.name and kept.facts["jobType"] == "train"
    assert kept.facts["groupName"].startswith("twelve-sigmoid-beta0.1-") and "pilot" in kept.tags
    last = rows_of(directory)[-1]
    assert {key: kept.summary[key] for key in last} == last
    assert kept.summary["metric_rows"] == len(kept.metrics)
    assert {"1": "train/global_step"}.items() <= kept.config["_wandb"]["value"]["m"][0].items()
    tables = [json.loads(content) for name, content in kept.files.items() if name.startswith("media/table/samples")]
    answers = [[r["step"], r["decoding"], r["prompt"], r["completion"]] for r in directory.rows(directory.samples)]
    assert sorted(row for table in tables for row in table["data"]) == sorted(answers)
    assert kept.state == "finished"


def bounded(small, capsys: pytest.CaptureFixture[str], *overrides: str, limit: float) -> RunDir:
    """A run with tracker=online that must end done and complete, and wait no longer than `limit` seconds."""
    plain, _ = run(small("seed=7"))  # what is built once is built now
    begin = time.monotonic()
    directory, _ = run(small("tracker=online", *overrides))
    assert time.monotonic() - begin < limit
    assert directory.status()["state"] == "done"
    assert len(rows_of(directory)) == len(rows_of(plain))
    said = capsys.readouterr().err
    assert said.count("W&B is out of reach") == 1
    return directory


def offline_folders(directory: RunDir) -> list[Path]:
    """What the client wrote beside the runs."""
    return sorted((directory.path.parents[1] / "wandb").glob("*run-*"))


def test_a_server_that_never_answers_costs_its_timeout_once(
    small, serve: Callable[..., Server], capsys: pytest.CaptureFixture[str]
) -> None:
    """A black hole: the run goes offline, ends done; the next run of the process does not wait again."""
    serve(silent=True)
    directory = bounded(small, capsys, "tracker.timeout=3", limit=15)
    assert [path.name.split("-")[0] for path in offline_folders(directory)] == ["offline"]
    begin = time.monotonic()
    run(small("tracker=online", "seed=1", "tracker.timeout=3"))
    assert time.monotonic() - begin < 3


def test_a_dead_port_costs_the_timeout(
    small, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Server], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing listens there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    directory = bounded(small, capsys, "tracker.timeout=3", limit=15)
    assert [path.name.split("-")[0] for path in offline_folders(directory)] == ["offline"]


def test_a_server_that_falls_silent_in_mid_run_costs_the_timeout(
    small, serve: Callable[..., Server], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answered the start and nothing after; training does not wait, the end waits what is left."""
    import dpo.loop

    server = serve()
    honest = dpo.loop.optimizer_step

    def step(*given: object) -> dict[str, float]:
        server.silent = True
        return honest(*given)

    monkeypatch.setattr(dpo.loop, "optimizer_step", step)
    bounded(small, capsys, "tracker.timeout=6", limit=20)


def test_without_a_key_the_run_goes_offline_in_one_line(
    small, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """No key in the environment or the home folder."""
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    bounded(small, capsys, limit=15)


@pytest.mark.parametrize("setting", ["project=a/b", "project=''", "timeout=0"])
def test_a_setting_that_the_tracker_cannot_have_is_refused_before_the_run(small, setting: str) -> None:
    """In one line that names the key."""
    with pytest.raises(UsageError, match=rf"^tracker\.{setting.split('=')[0]}=") as refused:
        small("tracker=offline", f"tracker.{setting}")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.slow
def test_a_silent_server_costs_a_whole_process_thirty_seconds_at_most(
    cache: Path, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    """`dpo train` with the shipped timeout, from its start to its exit with 0, against the same command without W&B."""
    server = serve(silent=True)

    def seconds(*overrides: str) -> float:
        settings = ["train", *SMALL, f"cache_root={cache}", f"output_root={tmp_path}", *overrides]
        begin = time.monotonic()
        process = start(settings)
        process.communicate()
        assert process.returncode == 0
        return time.monotonic() - begin

    seconds("seed=1")
    alone = seconds("seed=2")
    cost = seconds("seed=3", "tracker=online") - alone
    print(f"a silent server cost {cost:.1f} s")
    assert server.listener and 10 < cost < 30


@pytest.mark.slow
def test_a_killed_run_is_sent_whole_by_its_next_attempt_and_marked(cache: Path, tmp_path: Path, server: Server) -> None:
    """kill -9 after a checkpoint: the second attempt has every row from step 0, the first is tagged superseded."""
    settings = ["train", *SMALL, "tracker=online", f"cache_root={cache}", f"output_root={tmp_path}"]
    killed = start(settings, "0=kill")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    (path,) = (tmp_path / "runs").iterdir()
    directory = RunDir(path)
    first = directory.attempts()[0]
    again = start(settings)
    _, err = again.communicate()
    assert again.returncode == 0, err
    assert directory.attempts()[0] == first and len(directory.attempts()) == 2
    assert stored(server, directory).metrics == rows_of(directory)
    assert "superseded" in server.runs[first].tags and "superseded" not in stored(server, directory).tags
    tables = [name for name in stored(server, directory).files if name.startswith("media/table/samples")]
    assert len(tables) == 2
