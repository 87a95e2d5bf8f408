"""The files that a run reads, data and weights, by their hashes: a run is the answer for these and for no others."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpo.data.folders import ENDINGS
from dpo.errors import UsageError
from dpo.records import RunDir

WHOLE = 2**26
"""Bytes up to which a file of weights is hashed as a whole; of a larger one, `PIECES` pieces over all its length."""
PIECES = 256
MODEL_FILES = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")
BESIDE = ("provenance.json", "step.json", "trainer_state.json", "README.json")
"""Files of a model's or a judged folder that decide nothing of what is read there."""


def inputs(plain: dict[str, Any]) -> dict[str, str]:
    """Hash of every local file that the settings of a run make it read, by its path as the settings give it."""
    found: dict[str, str] = {}
    for path in named_in(plain.get("dataset")):
        for file in data_files(path):
            found[str(file)] = digest(file)
    for group in ("model", "reference"):
        node = plain.get(group) or {}
        for path in named_in({key: node.get(key) for key in ("path", "chat_template")}):
            for file in model_files(path):
                found[str(file)] = digest(file, WHOLE)
    return found


def named_in(node: Any) -> Iterator[Path]:
    """Every file or folder that is there under a text anywhere in the values."""
    if isinstance(node, dict):
        for value in node.values():
            yield from named_in(value)
    elif isinstance(node, str) and 0 < len(node) < 4096:
        path = Path(node).expanduser()
        try:
            there = path.exists()
        except OSError:  # a text that no path can be
            return
        if there:
            yield path


def data_files(path: Path) -> list[Path]:
    """The data in a file or folder; hidden files are none."""
    if path.is_file():
        return [path]
    files = (file for file in sorted(path.rglob("*")) if file.name.endswith(ENDINGS) and file.name not in BESIDE)
    return [f for f in files if f.is_file() and not any(part.startswith(".") for part in f.relative_to(path).parts)]


def model_files(path: Path) -> list[Path]:
    """The files of a model's folder that make its weights, tokenizer and template."""
    if path.is_file():
        return [path]
    files = (file for file in sorted(path.iterdir()) if file.suffix in MODEL_FILES and file.name not in BESIDE)
    return [file for file in files if file.is_file() and not file.name.startswith(".")]


def digest(path: Path, whole: float = float("inf")) -> str:
    """Twelve hex digits of a file's SHA-256; beyond `whole` bytes that of its size and of pieces all over it."""
    facts = path.stat()
    return digest_of(str(path.absolute()), facts.st_size, facts.st_mtime_ns, facts.st_ino, whole)


@functools.lru_cache(4096)
def digest_of(path: str, size: int, changed: int, inode: int, whole: float) -> str:
    """The same for a file as it is: a sweep's jobs read their files once."""
    with open(path, "rb") as file:
        if size <= whole:
            return hashlib.file_digest(file, "sha256").hexdigest()[:12]
        made = hashlib.sha256(str(size).encode())
        for piece in range(PIECES):
            file.seek((size - 65536) * piece // (PIECES - 1))
            made.update(file.read(65536))
    return made.hexdigest()[:12]


def changed(made_by: dict[str, Any], plain: dict[str, Any]) -> list[tuple[str, str]]:
    """(path, what happened to it) of every file that is not the one that a run recorded in its provenance."""
    then, now = made_by.get("files", {}), inputs(plain)
    folders = {str(Path(path).parent) for path in then}  # a run that recorded no folder cannot tell what is new in it
    said = []
    for path in sorted({*then, *now}):
        if path not in now:
            said.append((path, "gone"))
        elif path in then and then[path] != now[path]:
            said.append((path, f"changed from {then[path]} to {now[path]}"))
        elif path not in then and str(Path(path).parent) in folders:
            said.append((path, "new"))
    return said


def refuse_changed(run: RunDir, plain: dict[str, Any], verb: str, way: str = "") -> None:
    """Raise UsageError where the run was made of other files than there are now.

    verb  what it cannot: "be the answer", or "go on"
    way   a further way out, beside those that always are
    """
    if not run.metrics.exists() or not (run.path / "provenance.json").exists():
        return
    files = [f"{path} {what}" for path, what in changed(run.read("provenance"), plain) if what != "gone"]
    if files:
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        raise UsageError(
            f"{run.path}: made of other data or weights than there are now ({', '.join(files[:3])}{more}), "
            f"so it cannot {verb}; bring them back, {way}give another output_root, or move the run away"
        )


def refuse_moving(before: dict[str, str], plain: dict[str, Any]) -> None:
    """Raise UsageError where a file was written to while it was read."""
    for path, now in inputs(plain).items():
        if before.get(path) != now:
            raise UsageError(f"{path}: changed while it was read; give the same command again when it is whole")
