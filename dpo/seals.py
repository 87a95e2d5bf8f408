"""Checksums of what is kept on disk to be read later: made before it is renamed into place, compared when it is read.

A file's checksum lies beside it, a folder's inside. They are XXH3 (128 bits) and find every flipped bit and every
cut; they are no defence against somebody who changes a file on purpose.
"""

from __future__ import annotations

import errno
import json
import zipfile
from pathlib import Path
from typing import Any

import xxhash

from dpo.disk import failing, remove, sync, write_atomically
from dpo.errors import UsageError

NAME = ".checksums.json"
BLOCK = 1 << 22
FOUND_WHOLE: dict[Path, Any] = {}
"""What this process compared already, by size and time of its files: weights are read once more, not at every use."""


def seal_of(path: Path) -> Path:
    """Where the checksums of a file or folder are."""
    return path / NAME if path.is_dir() else path.with_name(f".{path.name}{NAME}")


def seal(path: Path, beside: Path | None = None) -> None:
    """Sync a file or folder and write its checksums, of a file beside the name that it is renamed to."""
    with failing("write", path):
        sync(path)
        files = files_of(path) if path.is_dir() else {(beside or path).name: path}
        record = {name: [file.stat().st_size, checksum(file)] for name, file in files.items()}
    where = path / NAME if path.is_dir() else seal_of(beside or path)
    write_atomically(where, json.dumps({"xxh3_128": record}, indent=1) + "\n")


def fault(path: Path) -> str | None:
    """What is wrong with a file or folder, by name; None where it is as it was sealed.

    One without checksums (a foreign one, or from before there were any) is held against its own format alone.
    """
    record = seal_of(path)
    if not record.exists():
        return misread(path)
    now = [(name, *signature(file)) for name, file in {**files_of(path), NAME: record}.items()]
    if FOUND_WHOLE.get(path) == now:
        return None
    wrong = differing(path, record)
    if wrong is None:
        FOUND_WHOLE[path] = now
    return wrong


def differing(path: Path, record: Path) -> str | None:
    """The first file that is not as its checksum says."""
    try:
        sealed: dict[str, list[Any]] = json.loads(record.read_bytes())["xxh3_128"]
        files = files_of(path)
        for name, (size, expected) in sealed.items():
            if name not in files:
                return f"{name} is missing"
            if (found := files[name].stat().st_size) != size:
                return f"{name} has {found:,} of {size:,} bytes"
            if checksum(files[name]) != expected:
                return f"the checksum of {name} is not the one it was written with"
    except (ValueError, KeyError, TypeError):
        return f"its checksums in {record.name} cannot be read"
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return f"the disk does not give it back ({error.strerror})"
    return None


def check(path: Path, advice: str) -> None:
    """Raise UsageError, naming the file, where something sealed is not as it was; `advice` is what to do."""
    if seal_of(path).exists() and (wrong := fault(path)):
        raise UsageError(f"{path} is damaged: {wrong}; {advice}")


def set_aside(path: Path) -> Path:
    """Move a damaged file or folder out of the way, over the one before it; where it is now."""
    aside = path.with_name(f".{path.name}.damaged")
    remove(aside)
    path.rename(aside)
    if not aside.is_dir():
        seal_of(path).unlink(missing_ok=True)
    return aside


def files_of(path: Path) -> dict[str, Path]:
    """The files to compare, by their names within the folder."""
    if not path.is_dir():
        return {path.name: path}
    found = (file for file in sorted(path.rglob("*")) if file.is_file() and file.name != NAME)
    return {file.relative_to(path).as_posix(): file for file in found}


def signature(file: Path) -> tuple[int, int, int]:
    """What changes with a file's content: size, time, place on the disk."""
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def checksum(file: Path) -> str:
    """XXH3 of a file's bytes, 32 hex digits."""
    digest = xxhash.xxh3_128()
    with file.open("rb") as content:
        while block := content.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def misread(path: Path) -> str | None:
    """What is wrong with a file or folder by the formats of its files: cut off, empty, or no JSON."""
    files = files_of(path)
    if not files:
        return "it is empty"
    for name, file in files.items():
        if wrong := READERS.get(file.suffix, lambda _: None)(file):
            return f"{name} {wrong}"
    return None


def bad_json(file: Path) -> str | None:
    """Why a file is no JSON value."""
    try:
        json.loads(file.read_bytes())
    except ValueError:
        return "is no whole JSON"
    return None


def bad_tensors(file: Path) -> str | None:
    """Why a safetensors file is not whole: its size is in its head."""
    with file.open("rb") as content:
        size = int.from_bytes(content.read(8), "little")
        try:
            head = json.loads(content.read(size)) if size < 1 << 30 else {}
            ends = [value["data_offsets"][1] for name, value in head.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError):
            return "has no readable head"
    length = file.stat().st_size
    return None if ends and length == 8 + size + max(ends) else f"is cut off at {length:,} bytes"


def bad_archive(file: Path) -> str | None:
    """Why a file of torch.save is not whole: it is a zip archive with checksums of its own."""
    try:
        with zipfile.ZipFile(file) as archive:
            return f"is damaged at {bad}" if (bad := archive.testzip()) else None
    except (zipfile.BadZipFile, OSError, EOFError):
        return "is no whole archive"


READERS = {".json": bad_json, ".safetensors": bad_tensors, ".pt": bad_archive}
