"""Rows of data files and of hub data sets, with where each came from, for messages about it."""

from __future__ import annotations

import codecs
import gzip
import json
import logging
import typing
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from dpo.data.folders import ENDINGS, folder_files
from dpo.errors import UsageError, first_line

Row = tuple[str, Any]
"""(where it came from, parsed value)."""

ARRAY = "name the file .json (or write one object a line), and set dataset.path to it"
MAX_LINE = 16 * 2**20
"""Bytes of one line; a longer one is a whole file without line breaks, not a pair."""


def rows(path: Path, files: Sequence[Path] | None = None) -> Iterator[Row]:
    """Rows of a file, or of a folder's data files in name order; of a folder only those of `files` where given."""
    if path.is_dir():
        for file in folder_files(path) if files is None else files:
            yield from file_rows(file)
    elif path.is_file():
        yield from file_rows(path)
    else:
        raise UsageError(f"{path}: no such file or folder; set dataset.path (or dataset.eval_path) to one that exists")


def file_rows(path: Path) -> Iterator[Row]:
    """Rows of one file, by its ending; raises UsageError with file, line and rule at the first unreadable one."""
    if path.suffix == ".parquet":
        yield from parquet_rows(path)
    elif path.name.endswith(ENDINGS):
        yield from text_rows(path)
    else:
        raise UsageError(f"{path}: must end in {', '.join(ENDINGS)}")


def text_rows(path: Path) -> Iterator[Row]:
    """Rows of a JSON Lines file (blank lines passed over; a line ends at "\\n" only) or of a JSON array."""
    number = 0
    try:
        with open_binary(path) as file:
            if first_character(file) == b"[":
                if ".json" not in path.suffixes:
                    raise UsageError(f"{path}:1: begins a JSON array; {ARRAY}")
                number = 1
                for at, row in enumerate(load_json(file.read().decode("utf-8-sig")), 1):
                    yield f"{path}: element {at}", row
                return
            for number, line in enumerate(lines(file, path), 1):
                if line.strip():
                    yield f"{path}:{number}", load_json(line.strip().decode("utf-8" if number > 1 else "utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}:{number}: not UTF-8 ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{path}:{number + error.lineno - 1}: not JSON ({error.msg} at column {error.colno})"
        ) from error
    except RecursionError as error:
        raise UsageError(f"{path}:{number}: JSON nested too deeply") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read after line {number} ({error})") from error


def load_json(text: str) -> Any:
    """The value of a text in JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # Python reads no number of more than 4,300 digits
        raise json.JSONDecodeError("a number has too many digits", text, 0) from error


def first_character(file: IO[bytes]) -> bytes:
    """The first byte of a file that is no white space or byte order mark; the file is at its start again."""
    head = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    file.seek(0)
    return head


def open_binary(path: Path) -> IO[bytes]:
    """A file's bytes, unpacked where its name ends in .gz."""
    return typing.cast(IO[bytes], gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def lines(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """The lines of a file, none longer than MAX_LINE, so that no file is taken into memory by mistake."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise UsageError(f"{path}:{number}: longer than {MAX_LINE:,} bytes; a row is one line of JSON")
        yield line


def parquet_rows(path: Path) -> Iterator[Row]:
    """Rows of a Parquet file, a batch at a time."""
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1024):
            for row in python_rows(batch, path, number):
                number += 1
                yield f"{path}: row {number}", row
    except UsageError:
        raise
    except Exception as error:  # OSError, and whatever pyarrow raises for a file that is none
        raise UsageError(f"{path}: not a Parquet file after row {number} ({first_line(error)})") from error


def python_rows(batch: Any, path: Path, before: int) -> list[dict[str, Any]]:
    """The rows of a batch; raises UsageError with the number of the first that Python has no value for."""
    try:
        return list(batch.to_pylist())
    except Exception as error:  # text that is not UTF-8, dates and durations out of range
        for i in range(batch.num_rows):
            for name in batch.schema.names:
                try:
                    batch.column(name)[i].as_py()
                except Exception as fault:
                    raise UsageError(
                        f"{path}: row {before + i + 1}: column {name} cannot be read ({first_line(fault)}); "
                        "mend the row, or leave the column out"
                    ) from fault
        raise UsageError(f"{path}: cannot be read after row {before} ({first_line(error)})") from error


def hub_rows(hub: str, split: str, revision: str | None, **options: Any) -> Iterator[Row]:
    """Rows of a split of a hub data set, through `datasets` and its cache."""
    for name in ("huggingface_hub", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import datasets
    import huggingface_hub

    from dpo.models.pretrained import hub_in_reach

    if not hub_in_reach(hub):  # neither client has an argument for it, and both retry for half a minute
        huggingface_hub.constants.HF_HUB_OFFLINE = True
        datasets.config.HF_HUB_OFFLINE = True
    try:
        table = datasets.load_dataset(hub, split=split, revision=revision, **options)
    except Exception as error:  # OSError, ValueError, and a dozen of the hub client's own
        raise UsageError(
            f"dataset.hub={hub} ({split}) cannot be loaded ({first_line(error)}); "
            "without a network give a local copy: dataset.path=<file or folder>"
        ) from error
    number = -1
    try:
        for number, row in enumerate(table):
            yield f"{hub} {split}: row {number}", row
    except (OSError, ValueError, TypeError, OverflowError) as error:
        raise UsageError(f"{hub} {split}: cannot be read after row {number} ({first_line(error)})") from error


def first(rows: Iterator[Row], count: int | None) -> Iterator[Row]:
    """The first `count` rows, all of them for None."""
    return rows if count is None else islice(rows, count)
