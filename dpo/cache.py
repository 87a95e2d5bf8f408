"""Things built once and found again by the hash of what they are made from, safe between processes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dpo.errors import UsageError


def key(*parts: Any) -> str:
    """Sixteen hex digits of the SHA-256 of JSON-able parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` (a file beside the thing); the system frees it when its owner dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("w")
    except OSError as error:
        raise UsageError(f"cannot write {path.parent}: {error.strerror}; change output_root or cache_root") from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def locked_now(path: Path) -> Iterator[bool]:
    """Like `locked`, without waiting: gives whether the lock was free, and holds it if so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def build_once(path: Path, build: Callable[[Path], None]) -> bool:
    """Make `path` (file or folder) by `build(temporary path)` unless it exists; True if it was built now.

    The temporary path is renamed when the build has ended, so a killed build leaves nothing that counts.
    """
    if path.exists():
        return False
    with locked(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return False
        unfinished = path.with_name(f".{path.name}.building")
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        build(unfinished)
        os.replace(unfinished, path)
    return True
