"""Files of a run directory, read so that a broken one becomes a sentence and not a traceback."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dpo.errors import UsageError
from dpo.json_files import Damaged, read_object
from dpo.pair_tables import other_pair
from dpo.records import RunDir
from dpo.saved_config import read_saved


def natural(text: str) -> list[Any]:
    """Sort key under which seed10 comes after seed2."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(0, float(part), "") if i % 2 else (1, 0.0, part) for i, part in enumerate(parts)]


OF_A_FINISHED_RUN = ("run.yaml", "metrics.jsonl", "summary.json", "provenance.json")
PAIR_COLUMNS = ("id", "chosen_reward", "rejected_reward", "chosen_tokens", "rejected_tokens")
"""What every table of pairs has."""
SHAPES: dict[str, dict[str, type | tuple[type, ...]]] = {
    "status.json": {"state": str, "error": str},
    "provenance.json": {"kind": str, "loss": dict, "versions": dict, "steps": int, "eval_pairs_hash": str}
    | dict.fromkeys(("commit", "start_hash", "reference_hash", "train_data_hash", "eval_data_hash"), (str, type(None))),
    "summary.json": {"flags": dict, "first": dict, "last": dict},
    "audit.json": {"train": dict, "evaluation": dict, "probe": dict, "shares": dict},
    "sweep.json": {"sweep": str, "question": str, "jobs": list},
}
"""Values that readers take for what they are, where a file has them."""


def misshapen(name: str, value: dict[str, Any]) -> str | None:
    """What of a file's value is not what it must be, in words; None where all of it is."""
    shape = SHAPES.get(name, {})
    wrong = [key for key, kind in shape.items() if key in value and not isinstance(value[key], kind)]
    return f"is damaged ({', '.join(wrong)})" if wrong else None


def read_file(path: Path, notes: list[str]) -> dict[str, Any] | None:
    """The object of a JSON file; None where there is none, and with a note where it cannot be read."""
    if not os.path.lexists(path):
        return None
    try:
        value = read_object(path)
        if not (wrong := misshapen(path.name, value)):
            return value
        notes.append(f"{path.name} {wrong}")
    except Damaged as damage:
        notes.append(f"{path.name} {damage.what}")
    except FileNotFoundError:
        notes.append(f"{path.name} is a broken link")
    return None


def read_config(path: Path, notes: list[str]) -> dict[str, Any]:
    """run.yaml as nested plain values; {} with a note where it cannot be read."""
    try:
        return read_saved(path)
    except Damaged as damage:
        notes.append(f"{path.name} {damage.what}")
    except UsageError:
        notes.append(f"{path.name} is missing")
    return {}


def first_line(error: Exception) -> str:
    """What an error says first, or its kind where it says nothing; an OSError without its path."""
    said = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return said.strip().splitlines()[0] if said.strip() else type(error).__name__


def read_rows(
    path: Path, is_row: Callable[[dict[str, Any]], bool] = lambda row: True, recent: int | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """(rows, faults) of a JSONL file: a last line cut off by a kill and lines that are no row are dropped and said.

    `recent` reads the rows in about so many bytes at the file's end alone.
    """
    rows: list[dict[str, Any]] = []
    faults: list[str] = []
    if not os.path.lexists(path):
        return rows, faults
    try:
        begin, lines = lines_of(path, recent)
    except OSError as error:
        return rows, [f"{path.name} cannot be read ({first_line(error)})"]
    for number, line in enumerate(lines[:-1], begin):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and is_row(row):
            rows.append(row)
        else:
            faults.append(f"{path.name}: line {number} is not a row and is dropped")
    if lines[-1]:
        faults.append(f"{path.name}: line {begin + len(lines) - 1}, the last, was cut off and is dropped")
    return rows, faults


def is_metric_row(row: dict[str, Any]) -> bool:
    """Whether a row of metrics.jsonl has its step and kind, and numbers for metrics."""
    named = type(row.get("step")) is int and isinstance(row.get("kind"), str)
    return named and not any("/" in key and isinstance(value, str | list | dict) for key, value in row.items())


def is_sample(row: dict[str, Any]) -> bool:
    """Whether a row of samples.jsonl is an answer."""
    return type(row.get("step")) is int and all(
        isinstance(row.get(k), str) for k in ("decoding", "prompt", "completion")
    )


def is_comparison(row: dict[str, Any]) -> bool:
    """Whether a row of compare.jsonl has its three answers."""
    return all(isinstance(row.get(key), str) for key in ("prompt", "base", "sft", "dpo"))


def lines_of(path: Path, recent: int | None) -> tuple[int, list[bytes]]:
    """(number of the first line, lines), the last of them what stands behind the last line break."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        start = max(0, end - recent) if recent else 0
        file.seek(start)
        lines = file.read().split(b"\n")
    return (1, lines) if start == 0 else (2, lines[1:])


def is_job(entry: Any) -> bool:
    """Whether an entry of sweep.json says which run it is."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("id", "name")):
        return False
    return bool(re.fullmatch("[0-9a-f]{8}", entry["id"])) and isinstance(entry.get("settings", {}), dict)


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


def read_pairs(directory: RunDir, step: int) -> pd.DataFrame:
    """A per-pair table; UsageError where its file is broken."""
    import pyarrow as pa

    path = directory.pairs(step)
    try:
        frame: pd.DataFrame = directory.pair_frame(step)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UsageError(f"{path.parent.name}/{path.name} cannot be read ({first_line(error)})") from error
    lost = [name for name in PAIR_COLUMNS if name not in frame]
    if lost:
        raise UsageError(f"{path.parent.name}/{path.name} is damaged: it has no column {lost[0]}")
    return frame


def mixed(directory: RunDir, logged: Sequence[int]) -> str:
    """In words, the first pair that the first and the last of the logged evaluations hold under one id with different
    texts; "" where they hold the same pairs, or cannot be read."""
    steps = [k for k in directory.saved_steps() if k in logged]
    if len(steps) < 2:
        return ""
    try:
        first, last = (read_pairs(directory, k) for k in (steps[0], steps[-1]))
    except UsageError:
        return ""  # said where the table is needed
    pair = other_pair(first, last)
    return f"pair {pair} is another one at step {steps[-1]} than at step {steps[0]}: the data changed" if pair else ""
