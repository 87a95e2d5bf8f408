"""Rows of data files and of hub data sets, with where each came from, for messages about it."""

from __future__ import annotations

import gzip
import json
import logging
import typing
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from dpo.errors import UsageError

Row = tuple[str, Any]
"""(where it came from, parsed value)."""

ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
MAX_LINE = 16 * 2**20
"""Bytes of one line; a longer one is a whole file without line breaks, not a pair."""


def rows(path: Path, split: str | None = None) -> Iterator[Row]:
    """Rows of a file, or of the files of a folder in name order.

    Of a folder, only the files whose path below it names `split`; all of them where `split` is None.
    """
    if path.is_dir():
        files = folder_files(path, split)
        if not files:
            wanted = f" with {split} in their names" if split else ""
            raise UsageError(f"{path}: no files{wanted} that end in {', '.join(ENDINGS)}")
        for file in files:
            yield from file_rows(file)
    elif path.is_file():
        yield from file_rows(path)
    else:
        raise UsageError(f"{path}: no such file or folder; set dataset.path (or dataset.eval_path) to one that exists")


def folder_files(folder: Path, split: str | None) -> list[Path]:
    """Data files below a folder whose path names the split, in name order."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name.endswith(ENDINGS)]
    return [path for path in found if split is None or split in str(path.relative_to(folder))]


def file_rows(path: Path) -> Iterator[Row]:
    """Rows of one file, by its ending; raises UsageError with file, line and rule at the first unreadable one."""
    if path.suffix == ".parquet":
        yield from parquet_rows(path)
    elif path.name.endswith(ENDINGS):
        yield from text_rows(path)
    else:
        raise UsageError(f"{path}: must end in {', '.join(ENDINGS)}")


def text_rows(path: Path) -> Iterator[Row]:
    """Rows of a JSON Lines file (blank lines passed over) or of a JSON array."""
    number = 0
    try:
        with open_binary(path) as file:
            if ".json" in path.suffixes and file.read(1) == b"[":
                file.seek(0)
                for number, row in enumerate(json.loads(file.read().decode("utf-8")), 1):
                    yield f"{path}: element {number}", row
                return
            file.seek(0)
            for number, line in enumerate(lines(file, path), 1):
                if line.strip():
                    yield f"{path}:{number}", json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}:{number}: not UTF-8 ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}:{number}: not JSON ({error.msg} at column {error.colno})") from error
    except RecursionError as error:
        raise UsageError(f"{path}:{number}: JSON nested too deeply") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read after line {number} ({error})") from error


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
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", row
    except (pa.ArrowInvalid, OSError) as error:
        raise UsageError(f"{path}: not a Parquet file after row {number} ({first_line(error)})") from error


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
    for number, row in enumerate(table):
        yield f"{hub} {split}: row {number}", row


def first(rows: Iterator[Row], count: int | None) -> Iterator[Row]:
    """The first `count` rows, all of them for None."""
    return rows if count is None else islice(rows, count)


def first_line(error: Exception) -> str:
    """The first line of a library's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
