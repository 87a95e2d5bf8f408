"""The door to the disk: whole files or none, names of one's own, dead ones' leftovers, errors that say what to do."""

import errno
import os
import threading
from pathlib import Path

import pytest

from dpo import disk
from dpo.disk import FILE, described, file_error, is_wrong_place, temporary, tidy, write_atomically
from dpo.errors import UsageError


@pytest.mark.parametrize("name", ["x", "x" * 255, "ü" * 120, "a b\n[c]*"])
def test_a_temporary_name_is_ones_own_and_fits_the_file_system(tmp_path: Path, name: str) -> None:
    """Whatever the target is called; never twice, also for one process number on two hosts or in two containers."""
    names = {temporary(tmp_path / name).name for _ in range(100)}
    assert len(names) == 100 and max(len(n.encode()) for n in names) <= 255
    write_atomically(tmp_path / name, "all")
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "all"


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path: Path, monkeypatch, failing: str) -> None:
    """The message names the file, and not the temporary one."""
    path = tmp_path / "x"
    write_atomically(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Full:
        def __init__(self, file) -> None:
            self.file, self.name = file, file.name

        def __getattr__(self, name: str):
            return full if name == "write" else getattr(self.file, name)

    if failing == "write":
        monkeypatch.setattr(disk, "opened", lambda new: Full(new.open("xb")))
    else:
        monkeypatch.setattr(os, failing, full)
    with pytest.raises(disk.FileError, match=f"cannot write {path}: No space left on device; free space"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_what_a_dead_writer_left_goes_and_what_a_live_one_holds_stays(tmp_path: Path) -> None:
    """The lock on the temporary file tells them apart, not a process number."""
    (tmp_path / f".x.elsewhere-1-00{FILE}").write_text("half")
    (tmp_path / ".x.hidden").write_text("the user's own")
    held = disk.opened(tmp_path / f".y.elsewhere-1-00{FILE}")
    tidy(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.hidden", f".y.elsewhere-1-00{FILE}"]
    held.close()
    tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".x.hidden"]


def test_many_writers_and_tidiers_of_one_file_never_fail_or_mix(tmp_path: Path) -> None:
    """A tidier that comes between a file's making and its lock makes the writer try again."""
    path, wrong = tmp_path / "x", []

    def write(who: str) -> None:
        try:
            for _ in range(40):
                write_atomically(path, who * 500)
                tidy(tmp_path)
                wrong.extend([1] if len(set(path.read_text())) != 1 else [])
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=write, args=(who,)) for who in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("number", "advice", "usage"),
    [
        (errno.ENOSPC, "free space there, or give another output_root", False),
        (errno.EDQUOT, "free space there, or give another output_root", False),
        (errno.EROFS, "give another output_root", True),
        (errno.EACCES, "give another output_root", True),
        (errno.ENAMETOOLONG, "give a shorter output_root", True),
        (errno.EIO, "give another output_root", False),
        (errno.EMFILE, "ulimit -n", False),
        (errno.ESTALE, "give another output_root", False),
    ],
)
@pytest.mark.parametrize("raw", [True, False])
def test_every_error_of_the_file_system_names_path_action_and_key(tmp_path, monkeypatch, number, advice, usage, raw):
    """Those that another path mends are wrong usage; the others are failures of the machine."""
    monkeypatch.setattr(disk, "PLACES", {"output_root": tmp_path, "cache_root": tmp_path / "cache"})
    path = tmp_path / "runs" / "x"
    error = OSError(number, os.strerror(number), str(path)) if raw else file_error("write", path, number)
    said = described(error)
    assert said.startswith("cannot ") and str(path) in said and os.strerror(number) in said and advice in said
    assert is_wrong_place(error) is usage
    assert "cache_root" in described(file_error("write", tmp_path / "cache" / "x", number)) or number == errno.EMFILE


def test_what_a_library_says_of_a_full_disk_is_said_like_the_rest(tmp_path: Path) -> None:
    """Rust's writers raise errors of their own, with the system's number in the text."""
    with (
        pytest.raises(disk.FileError, match=f"cannot write {tmp_path}/x: No space left"),
        disk.failing("write", tmp_path / "x"),
    ):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    with pytest.raises(UsageError, match="os error 2"), disk.failing("write", tmp_path / "x"):
        raise UsageError("no model could be loaded: not found (os error 2)")
    assert described(ConnectionResetError(104, "reset")) == "ConnectionResetError: [Errno 104] reset"
