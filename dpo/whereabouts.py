"""Folders that a file names and that may have been moved since, together with what names them."""

from __future__ import annotations

import os
from pathlib import Path


def is_path(name: str) -> bool:
    """Whether a model's name can only be a folder: it exists, or it is no hub id (`name` or `owner/name`)."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).expanduser().is_dir()


def absolute(name: str) -> str:
    """A folder's absolute path; hub ids as they are."""
    folder = Path(name).expanduser()
    return str(folder.absolute()) if folder.is_dir() else name


def find(recorded: Path, near: Path, holds: tuple[str, ...] = (".",)) -> Path | None:
    """Where the folder `recorded` is now: there, else where the end of its path lies below a folder above `near`.

    After the renaming or moving of a folder that held both, that is the folder meant. Only one that has one of the
    files `holds` counts. Folders below cache/models are also looked for in $DPO_CACHE.
    """
    parts = [part for part in recorded.parts if part != recorded.anchor]
    places = [recorded]
    places += [above.joinpath(*parts[k:]) for above in near.absolute().parents for k in range(len(parts))]
    if os.environ.get("DPO_CACHE"):
        places.append(Path(os.environ["DPO_CACHE"], "models", recorded.name))
    return next((place.absolute() for place in places if any((place / name).exists() for name in holds)), None)
