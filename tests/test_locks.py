"""Locks between processes: who holds one is said; without flock a heartbeat decides; a dead holder holds nothing."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from dpo import locks
from dpo.locks import Holder, held, holder, locked, locked_now


@pytest.fixture(params=[None, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def system(request, monkeypatch) -> int | None:
    """A file system with flock, and three without."""
    if request.param is not None:

        def none(*_: object) -> None:
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(fcntl, "flock", none)
    return request.param


def test_a_lock_is_held_by_one_at_a_time_and_says_by_whom(system, tmp_path: Path) -> None:
    """And is free again at once when it is given back."""
    path = tmp_path / "deep" / ".lock"
    assert not held(path)
    for _ in range(3):
        with locked_now(path) as first:
            assert first and held(path) and holder(path).pid == os.getpid()
            with locked_now(path) as second:
                assert not second
        assert not held(path)


def test_threads_that_count_under_a_lock_lose_nothing(system, tmp_path: Path, monkeypatch) -> None:
    """Read, change, write: 4 x 10 times."""
    monkeypatch.setattr(locks, "PAUSE", 0.01)
    count, path = tmp_path / "count", tmp_path / ".lock"
    count.write_text("0")

    def add() -> None:
        for _ in range(10):
            with locked(path):
                count.write_text(str(int(count.read_text()) + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.read_text() == "40"


def test_who_waits_says_for_whom_and_since_when(system, tmp_path: Path, monkeypatch, capsys) -> None:
    """Once, after a moment, with host, process, time and what it is at."""
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    monkeypatch.setattr(locks, "PAUSE", 0.02)
    path = tmp_path / "run" / ".lock"
    over = threading.Event()

    def hold() -> None:
        with locked(path):
            over.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    while not held(path):
        time.sleep(0.01)
    threading.Timer(0.3, over.set).start()
    with locked(path):
        pass
    thread.join()
    said = capsys.readouterr().err
    me = Holder.me()
    assert said.count("waiting for") == 1 and f"process {me.pid} on {me.host} (since {me.since[:10]}" in said
    assert str(path.parent) in said


def test_a_killed_holder_of_a_soft_lock_holds_nothing(tmp_path: Path) -> None:
    """On this machine its process is known to be gone."""
    code = (
        "import fcntl, os, sys, pathlib\n"
        "def none(*_): raise OSError(38, 'no')\n"
        "fcntl.flock = none\n"
        "from dpo.locks import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): os._exit(9)"
    )
    path = tmp_path / "x.lock"
    assert subprocess.run([sys.executable, "-c", code, str(path)], cwd=Path(__file__).parents[1]).returncode == 9
    assert locks.last(path) is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", no_locks)
        assert not held(path)
        with locked_now(path) as taken:
            assert taken


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOSYS, "no locks here")


def test_a_holder_elsewhere_is_dead_when_its_heartbeat_stops(tmp_path: Path, monkeypatch) -> None:
    """By this process's own clock: those of hosts differ."""
    monkeypatch.setattr(fcntl, "flock", no_locks)
    path = tmp_path / "x.lock"
    path.touch()
    kept = path.with_name("x.lock.7")
    kept.write_text(json.dumps(asdict(replace(Holder.me(), host="far", space="elsewhere"))))
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    os.utime(kept, (1, 1))  # an old time alone says nothing
    assert held(path)
    now[0] += locks.DEAD / 2
    os.utime(kept, (2, 2))  # it lives
    assert held(path)
    now[0] += locks.DEAD / 2 + 1
    assert held(path)
    now[0] += locks.DEAD
    assert not held(path)
    with locked_now(path) as taken:
        assert taken and locks.last(path).name == "x.lock.8" and not kept.exists()


def test_who_goes_on_from_an_earlier_soft_lock_loses(tmp_path: Path, monkeypatch) -> None:
    """It saw the lock free, slept, and two others held it meanwhile."""
    monkeypatch.setattr(fcntl, "flock", no_locks)
    path = tmp_path / "x.lock"
    path.with_name("x.lock.1").write_text(locks.FREE)
    stale = path.with_name("x.lock.1")
    path.with_name("x.lock.3").write_text(json.dumps(asdict(Holder.me())))
    seen = iter([stale])
    honest = locks.last
    monkeypatch.setattr(locks, "last", lambda lock: next(seen, None) or honest(lock))
    with locked_now(path) as taken:
        assert not taken
    assert not path.with_name("x.lock.2").exists() and path.with_name("x.lock.3").exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may open everything")
def test_a_lock_of_somebody_elses_is_one_line(tmp_path: Path) -> None:
    """Whose it is, and what to change."""
    from dpo.errors import UsageError

    path = tmp_path / ".lock"
    path.write_text("")
    path.chmod(0)
    with pytest.raises(UsageError, match=r"cannot lock .*Permission denied.*belongs to user"), locked(path):
        pass
