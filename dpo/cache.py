"""Things built once and found again by the hash of what they are made from, safe between processes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpo.disk import BUILDING, failing, remove, remove_unfinished, sync_folder, temporary
from dpo.errors import UsageError
from dpo.locks import locked, locked_now
from dpo.progress import say
from dpo.seals import fault, seal, seal_of, set_aside

__all__ = ["build_once", "key", "locked", "locked_now"]


def key(*parts: Any) -> str:
    """Sixteen hex digits of the SHA-256 of JSON-able parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def build_once(path: Path, build: Callable[[Path], None]) -> bool:
    """Make `path` (file or folder) by `build(temporary path)` unless it is there and whole; True if it was built now.

    What was built is synced, gets its checksums and is renamed, so a killed build leaves nothing that counts. What is
    there is held against its checksums; a damaged one is set aside, said, and built again. One from before there
    were checksums is taken if it is whole by its own format, and gets them.
    """
    wrong = look(path)
    if wrong is None and (seal_of(path).exists() or not os.access(path.parent, os.W_OK)):
        return False
    try:
        with locked(path.with_name(f".{path.name}.lock"), f"building {path}"):
            return build_under_lock(path, build)
    except UsageError as error:
        if not path.exists() or wrong is None:
            raise
        raise UsageError(f"{path} is damaged ({wrong}), and cannot be built again: {error}") from error


def look(path: Path) -> str | None:
    """`fault` of an entry that another process may set aside at this moment."""
    try:
        return fault(path) if path.exists() else "not there"
    except FileNotFoundError:
        return "not there"


def build_under_lock(path: Path, build: Callable[[Path], None]) -> bool:
    """`build_once` for the holder of the entry's lock."""
    remove_unfinished(path)
    if path.exists():
        wrong = fault(path)
        if wrong is None:
            if not seal_of(path).exists():
                seal(path)
            return False
        say(f"warning: {path} is damaged ({wrong}); it is set aside as {set_aside(path).name} and built again")
    unfinished = temporary(path, BUILDING)
    try:
        with failing("write", path):
            build(unfinished)
            seal(unfinished, path)
            os.replace(unfinished, path)
            sync_folder(path.parent)
    except BaseException:
        remove(unfinished)
        raise
    return True
