"""Files of a run directory, read so that a broken one becomes a sentence and not a traceback."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dpo.records import read_json


def natural(text: str) -> list[Any]:
    """Sort key under which seed10 comes after seed2."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(0, float(part), "") if i % 2 else (1, 0.0, part) for i, part in enumerate(parts)]


def read_file(path: Path, notes: list[str]) -> dict[str, Any] | None:
    """The object of a JSON file; None where there is none, and with a note where it cannot be read."""
    if not path.is_file():
        return None
    try:
        value = read_json(path)
        if isinstance(value, dict):
            return value
        notes.append(f"{path.name} does not hold an object, and was left out")
    except (ValueError, OSError) as error:
        notes.append(f"{path.name} cannot be read ({str(error).splitlines()[0]})")
    return None


def read_config(path: Path, notes: list[str]) -> dict[str, Any]:
    """run.yaml as nested plain values; {} with a note where it cannot be read."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), loader)
        if isinstance(value, dict):
            return value
        notes.append("run.yaml holds no configuration")
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        notes.append(f"run.yaml cannot be read ({str(error).splitlines()[0]})")
    return {}


def read_rows(path: Path, needed: tuple[str, ...] = ()) -> tuple[list[dict[str, Any]], list[str]]:
    """(rows, faults) of a JSONL file: a last line cut off by a kill and lines that are no row are dropped and said."""
    rows: list[dict[str, Any]] = []
    faults: list[str] = []
    if not path.is_file():
        return rows, faults
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            faults.append(f"{path.name}: line {number}, the last, was cut off and is dropped")
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and all(key in row for key in needed):
            rows.append(row)
        else:
            faults.append(f"{path.name}: line {number} is not a row and is dropped")
    return rows, faults


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested plain values; lists and empty mappings as JSON text."""
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict) and item:
            yield from flatten(item, f"{name}.")
        else:
            yield name, json.dumps(item) if isinstance(item, list | dict) else item


def is_json_object(text: str) -> bool:
    """Whether the whole text is a JSON object, as `json_rate` counts it."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
