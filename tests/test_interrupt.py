"""What each signal means, in one table, for a command, a run, a stack of runs and a launcher's processes."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import dpo.run as runner
from dpo import interrupt
from dpo.__main__ import main
from dpo.errors import UsageError
from dpo.interrupt import STATE, Interrupted, cause, check, deferred, handled
from dpo.lifeline import Lifeline
from dpo.records import RunDir
from dpo.stacked import drive_together

ROOT = Path(__file__).parents[1]
SIGNALS = [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143), (signal.SIGHUP, "SIGHUP", 129)]
signals = pytest.mark.parametrize(("number", "name", "code"), SIGNALS)


@signals
def test_a_signal_stops_a_command_with_its_cause_and_the_usual_exit_code(number, name, code, monkeypatch, capsys):
    """In one line on stderr; afterwards the handlers are what they were."""
    monkeypatch.setattr("dpo.listing.list_runs", lambda *_: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    assert main(["runs", "."]) == code
    assert capsys.readouterr().err.splitlines() == [f"dpo: interrupted ({name})"]
    assert signal.getsignal(number) == before and STATE.received is None


@pytest.mark.parametrize("made", [RuntimeError("x"), asyncio.CancelledError(), SystemExit(1)])
def test_a_command_ends_as_interrupted_whatever_a_library_made_of_it(made, monkeypatch, capsys):
    """An event loop, a pool, a client that exits by itself."""

    def swallowing(*_):
        with suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
        raise made

    monkeypatch.setattr("dpo.listing.list_runs", swallowing)
    assert main(["runs", "."]) == 143
    assert capsys.readouterr().err.splitlines() == ["dpo: interrupted (SIGTERM)"]


@signals
def test_a_signal_that_a_library_swallowed_is_raised_at_the_next_look(number, name, code):
    """A bare except, a callback, a destructor."""
    with handled():
        with suppress(BaseException):
            os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match=name):
            check()


@signals
def test_what_a_library_makes_of_a_signal_is_still_an_interruption(number, name, code):
    """An error of its own, raised from the interruption or instead of it."""
    with handled():
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), number)
        assert cause(RuntimeError("a worker was killed")) == name and interrupt.exit_code() == code


@pytest.mark.parametrize("error", [SystemExit(-1), RuntimeError("not requeued: timed out too many times")])
def test_what_a_cluster_s_launcher_raises_at_its_warning_is_an_interruption(error, monkeypatch):
    """submitit's handler of SIGUSR2 keeps its work; a handler of somebody else's that returns changes nothing."""
    raised = [error]

    def handler(*_):
        if raised:
            raise raised.pop()

    before = signal.signal(signal.SIGUSR2, handler)
    try:
        with handled():
            with pytest.raises(type(error)):
                os.kill(os.getpid(), signal.SIGUSR2)
            assert cause(error) == "SIGUSR2, the end of its time"
            os.kill(os.getpid(), signal.SIGUSR2)
            assert cause(RuntimeError()) is None
            check()
        assert signal.getsignal(signal.SIGUSR2) is handler
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_causes_of_what_nobody_signalled():
    """A failure has none."""
    causes = [KeyboardInterrupt(), SystemExit(1), GeneratorExit(), RuntimeError(), UsageError("x")]
    assert [cause(error) is None for error in causes] == [False, False, False, True, True]


def test_a_signal_that_was_ignored_stays_ignored():
    """nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handled():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_closes_a_finished_run_is_not_cut_short():
    """The signal is raised after it."""
    done = False
    with handled(), pytest.raises(Interrupted):
        with deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            done = True
        check()
    assert done


TWICE = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from dpo.interrupt import handled
with handled():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException:
        time.sleep(float(sys.argv[2]))
        os.kill(os.getpid(), signal.SIGTERM)
        sys.exit(7)
"""


@pytest.mark.parametrize(("pause", "code"), [("0", 7), ("0.6", -signal.SIGTERM)])
def test_a_second_signal_ends_the_process_at_once_unless_it_is_the_first_one_sent_twice(pause: str, code: int) -> None:
    """`timeout` sends its signal to the process and to its group."""
    assert subprocess.run([sys.executable, "-c", TWICE, str(ROOT), pause]).returncode == code


ENDS: list[tuple[Callable[[], BaseException], str, str]] = [
    (lambda: Interrupted("SIGTERM", 15), "interrupted", "SIGTERM"),
    (lambda: KeyboardInterrupt(), "interrupted", "Ctrl-C"),
    (lambda: SystemExit(3), "interrupted", "its process ended it"),
    (lambda: GeneratorExit(), "interrupted", "its process ended it"),
    (lambda: RuntimeError("planted"), "failed", "RuntimeError: planted"),
    (lambda: BrokenPipeError(32, "Broken pipe"), "failed", "BrokenPipeError"),
]


@pytest.mark.parametrize(("error", "state", "why"), ENDS)
def test_a_run_that_stops_says_why_in_its_files(error, state, why, tmp_path, monkeypatch):
    """And the error goes on to whoever asked for the run."""
    monkeypatch.setattr(runner, "import_libraries", lambda _: None)
    config: Any = SimpleNamespace(plain={}, adapter=SimpleNamespace(shares_start=False))
    directory, planted = RunDir(tmp_path / "run"), error()

    def stopping(*_):
        yield from ()
        raise planted

    with pytest.raises(type(planted)):
        list(runner.attempt(config, directory, stopping))
    status = directory.status()
    assert status["state"] == state and why in status.get("cause", status.get("error"))


def test_an_interruption_reaches_every_run_of_a_stack():
    """Each writes its own state; also those that wait for the one at work."""
    told = []

    def work(name):
        try:
            yield Ready()
        except BaseException as error:
            told.append((name, error))
            raise

    class Ready:
        step, indices, pairs, token_budget = 1, [0], None, 1

    def stop(_):
        raise Interrupted("SIGTERM", 15)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dpo.stacked.Step", Ready)
        patch.setattr("dpo.stacked.groups_of", stop)
        with pytest.raises(Interrupted):
            drive_together([work(n) for n in range(3)])
    assert [name for name, _ in told] == [0, 1, 2] and len({id(error) for _, error in told}) == 1


LAUNCHER = """
import os, pickle, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from dpo.interrupt import handled
from dpo.lifeline import lifeline
with handled(), lifeline() as line:
    with open(sys.argv[2] + "/line", "wb") as file:
        pickle.dump(line, file)
    worker = [sys.executable, "-c", os.environ["WORKER"], *sys.argv[1:]]
    child = subprocess.Popen(worker, start_new_session=True)  # no signal to a group reaches it
    child.wait()
"""
WORKER = """
import pickle, sys, time
sys.path.insert(0, sys.argv[1])
from dpo.interrupt import cause
with open(sys.argv[2] + "/line", "rb") as file:
    line = pickle.load(file)
with line.job() as may_begin:
    try:
        open(sys.argv[2] + "/begun", "w").close()
        time.sleep(60)
    except BaseException as error:
        open(sys.argv[2] + "/cause", "w").write(cause(error))
        raise
with line.job() as may_begin:
    open(sys.argv[2] + "/second", "w").write(str(may_begin))
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("number", "why"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C"), (9, "its launcher was killed")]
)
def test_the_processes_of_a_launcher_end_with_it_and_say_why(number: int, why: str, tmp_path: Path) -> None:
    """At once, also those in another session, and after kill -9; a job that is handed to them later never begins."""
    environment = os.environ | {"WORKER": WORKER, "TMPDIR": str(tmp_path)}
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(ROOT), str(tmp_path)], env=environment)
    wait_for(tmp_path / "begun")
    launcher.send_signal(number)
    begin = time.monotonic()
    wait_for(tmp_path / "cause")
    assert (tmp_path / "cause").read_text() == why and time.monotonic() - begin < 5
    if number != 9:
        wait_for(tmp_path / "second")
        assert (tmp_path / "second").read_text() == "False"
    launcher.kill()
    launcher.wait()


def wait_for(path: Path) -> None:
    """Until a file is there and has been written."""
    for _ in range(400):
        if path.exists() and (path.stat().st_size or path.name == "begun"):
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} never came")


def test_a_job_whose_launcher_is_gone_does_not_begin(tmp_path: Path) -> None:
    """A process that was still importing when its launcher ended."""
    import socket

    with Lifeline(socket.gethostname(), os.getpid() + 1, tmp_path / "gone").job() as may_begin:
        assert may_begin is False
