"""What several tests read is made once a session, whichever of pytest's worker processes asks first."""

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest


def shared_root(factory: pytest.TempPathFactory) -> Path:
    """A folder of this session that all of its worker processes see (a worker's own lies inside it)."""
    own = factory.getbasetemp()
    return own.parent if own.name.startswith("popen-") else own


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """`folder`, filled by `make(folder)` in the first process that asks; the others wait for it."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder.with_name(f".{folder.name}.made")
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.exists():
            make(folder)
            mark.touch()
    return folder
