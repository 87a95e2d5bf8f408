"""JSON in files: written whole and strictly, read back or refused by the file's name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from dpo.disk import write_atomically
from dpo.errors import UsageError


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, atomically."""
    write_atomically(path, to_json(value, indent=2) + "\n")


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that every reader takes: a NaN or an infinity, which the format does not have, becomes null.

    No such number reaches a metric row (`dpo.finite`); elsewhere it says that there is none.
    """
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(only_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def only_finite(value: Any) -> Any:
    """The value with None for every number that is not finite."""
    if isinstance(value, dict):
        return {key: only_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [only_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Damaged(UsageError):
    """A file that cannot be what was once written there; the message names it, what is wrong, and what to do."""

    def __init__(self, path: Path, what: str) -> None:
        away = "it" if path.name == "sweep.json" else "its folder"
        super().__init__(f"{path}: {what}; restore the file, or move {away} away and give the command again")
        self.path, self.what = path, what


def what_is_wrong(error: Exception) -> str:
    """Why a file could not be read, in words."""
    if isinstance(error, json.JSONDecodeError):
        return f"is cut off or damaged (line {error.lineno})" if error.doc.strip("\0 \n") else "is empty"
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error})"
    return "is damaged (not text)" if isinstance(error, UnicodeDecodeError) else "is damaged"


def read_json(path: Path) -> Any:
    """Parsed JSON of a file that must exist; raises Damaged where it is there and cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(path, what_is_wrong(error)) from error


def read_object(path: Path) -> dict[str, Any]:
    """`read_json` of a file that holds a JSON object; raises Damaged where it holds anything else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise Damaged(path, "holds no JSON object")
    return value


def row_of(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """The row in a line of a JSONL file; raises Damaged where it is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise Damaged(path, f"line {number} is damaged")
    return row
