"""The run directory: every path of it, written and read here only."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo.disk import (
    BUILDING,
    failing,
    make_folder,
    remove,
    remove_unfinished,
    sync,
    sync_folder,
    temporary,
    tidy,
)
from dpo.disk import write_atomically as write_atomically  # what a run's files are written by
from dpo.errors import UsageError
from dpo.json_files import Damaged, read_json, read_object, row_of, to_json, what_is_wrong, write_json
from dpo.progress import say
from dpo.seals import check, fault, seal, set_aside

OLD = ".checkpoint.old"
"""A checkpoint while another one takes its place."""


WRITTEN = (
    *("run.yaml", "status.json", "provenance.json", "audit.json", "perturb.json", "summary.json", "tracker.json"),
    *("metrics.jsonl", "samples.jsonl", "compare.jsonl", "curves.svg", "checkpoint"),
)
"""What a run writes into its directory, beside pairs/ and hidden files."""


@dataclass(frozen=True)
class RunDir:
    """outputs/<sweep>/<run>/ and everything in it."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration; `dpo train --config-dir DIR --config-name run` runs it again."""
        return self.path / "run.yaml"

    @property
    def metrics(self) -> Path:
        """A JSON row per optimizer step and per evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """This run's answers to fixed prompts."""
        return self.path / "samples.jsonl"

    @property
    def compare(self) -> Path:
        """Base, SFT and DPO answers side by side."""
        return self.path / "compare.jsonl"

    @property
    def curves(self) -> Path:
        """The four reward curves as a picture."""
        return self.path / "curves.svg"

    @property
    def checkpoint(self) -> Path:
        """Trained weights, tokenizer and, while unfinished, what a resume needs."""
        return self.path / "checkpoint"

    @property
    def lock(self) -> Path:
        """Held by the process that trains this run."""
        return self.path / ".lock"

    def pairs(self, step: int) -> Path:
        """A row per evaluation pair at `step`."""
        return self.path / "pairs" / f"step_{step}.parquet"

    def create(self) -> None:
        """Make the directory; raises UsageError where that is not allowed."""
        make_folder(self.path / "pairs")

    def discard(self) -> bool:
        """Remove what a run writes, and the folder where nothing else lies in it; whether it is gone.

        A note that somebody put beside the files of a run was not ours to write, and stays.
        """
        if not self.path.is_dir():
            return True
        for entry in self.path.iterdir():
            if entry.name in WRITTEN or entry.name.startswith(".") or entry.match("against-*.json"):
                remove(entry)
        for table in (self.path / "pairs").glob("*step_*.parquet*"):
            remove(table)
        for folder in (self.path / "pairs", self.path):
            with suppress(OSError):  # something else lies there
                folder.rmdir()
        return not self.path.exists()

    def status(self) -> dict[str, Any]:
        """The content of status.json; state "pending" where there is none."""
        path = self.path / "status.json"
        if not path.exists():
            return {"state": "pending"}
        value = read_object(path)
        if not isinstance(value.get("state"), str):
            raise Damaged(path, "names no state")
        return value

    def set_status(self, state: str, **more: Any) -> None:
        """pending, running, done, failed (with its `error`) or interrupted (with its `cause`)."""
        write_json(self.path / "status.json", {"state": state, **more})

    def write(self, name: str, value: Any) -> None:
        """provenance, audit, summary or tracker as <name>.json."""
        write_json(self.path / f"{name}.json", value)

    def read(self, name: str) -> Any:
        """The value of <name>.json; raises UsageError where the run has none."""
        path = self.path / f"{name}.json"
        if not path.exists():
            raise UsageError(f"{path}: no such file; is this a run directory, and is the run finished?")
        return read_object(path)

    def attempts(self) -> list[str]:
        """Tracker ids of this run's attempts so far, oldest first."""
        path = self.path / "tracker.json"
        return list(read_object(path).get("attempts", ())) if path.exists() else []

    @property
    def kind(self) -> str:
        """What was trained: policy, or reward for a reward model."""
        path = self.path / "provenance.json"
        return str(read_object(path).get("kind", "policy")) if path.exists() else "policy"

    def append(self, path: Path, rows: Iterable[dict[str, Any]]) -> None:
        """Rows at the end of a JSONL file, in the system's hands when this returns; a checkpoint syncs them."""
        with failing("write", path), path.open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(to_json(row) + "\n")
            file.flush()

    def write_rows(self, path: Path, rows: Iterable[dict[str, Any]]) -> None:
        """A JSONL file of these rows, atomically."""
        write_atomically(path, "".join(to_json(row) + "\n" for row in rows))

    def rows(self, path: Path) -> Iterator[dict[str, Any]]:
        """The rows of a JSONL file; a last line cut off by a kill does not count, any other that is none is Damaged."""
        if not path.exists():
            return
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.endswith(b"\n"):
                        yield row_of(path, number, line)
        except OSError as error:
            raise Damaged(path, what_is_wrong(error)) from error

    def last_rows(self, path: Path, size: int = 65536) -> list[dict[str, Any]]:
        """The rows in about the last `size` bytes of a JSONL file: enough to see how a run stands while it grows."""
        if not path.exists():
            return []
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size))
            lines = file.read().split(b"\n")
        return [json.loads(line) for line in lines[(1 if end > size else 0) : -1]]

    @property
    def checkpoint_step(self) -> int | None:
        """The step an unfinished run can resume from, or None."""
        path = self.checkpoint / "step.json"
        return int(read_json(path)["step"]) if path.exists() else None

    def kept_rows(self) -> list[dict[str, Any]]:
        """The metric rows that a resume keeps: none without a checkpoint to resume from."""
        self.recover()
        step = self.checkpoint_step
        return [] if step is None else [row for row in self.rows(self.metrics) if row["step"] <= step]

    def write_pairs(self, step: int, columns: dict[str, Any]) -> None:
        """The per-pair table of an evaluation, atomically."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = io.BytesIO()
        pq.write_table(pa.table(columns), table)
        write_atomically(self.pairs(step), table.getvalue())

    def read_pairs(self, step: int) -> dict[str, list[Any]]:
        """The columns of `write_pairs`."""
        import pyarrow.parquet as pq

        return pq.read_table(self.pairs(step)).to_pydict()

    def pair_frame(self, step: int) -> Any:
        """The same as a pandas DataFrame."""
        import pyarrow.parquet as pq

        return pq.read_table(self.pairs(step)).to_pandas()

    def saved_steps(self) -> list[int]:
        """Steps that have a per-pair table, in order."""
        return sorted(int(p.stem.removeprefix("step_")) for p in (self.path / "pairs").glob("step_*.parquet"))

    @contextmanager
    def new_checkpoint(self) -> Iterator[Path]:
        """A folder to fill, which takes the checkpoint's place when the block ends: synced, with checksums, whole.

        The rows behind it are synced before. A kill at any moment leaves the old one or the new one.
        """
        remove_unfinished(self.checkpoint)
        unfinished = temporary(self.checkpoint, BUILDING)
        try:
            with failing("write", self.checkpoint):
                unfinished.mkdir()
                yield unfinished
                for rows in (self.metrics, self.samples):
                    if rows.exists():
                        sync(rows)
                seal(unfinished)
                self._replace_checkpoint(unfinished)
        except BaseException:
            remove(unfinished)
            raise

    def _replace_checkpoint(self, unfinished: Path) -> None:
        old = self.path / OLD
        remove(old)
        if self.checkpoint.exists():
            os.replace(self.checkpoint, old)
        os.replace(unfinished, self.checkpoint)
        sync_folder(self.path)
        remove(old)

    def recover(self) -> None:
        """After a kill, for the holder of the run's lock: what was half written goes, a whole checkpoint stays.

        A damaged checkpoint is set aside and said; the one it was replacing takes its place, where that is there.
        """
        old = self.path / OLD
        for folder in (self.path, self.path / "pairs"):
            tidy(folder)
        remove_unfinished(self.checkpoint)
        wrong = fault(self.checkpoint) if self.checkpoint.exists() else None
        if wrong:
            wrong = f"{self.checkpoint} is damaged ({wrong}), set aside as {set_aside(self.checkpoint).name}"
        if old.exists() and not self.checkpoint.exists() and not fault(old):
            os.replace(old, self.checkpoint)
        remove(old)
        if wrong:
            goes_on = self.checkpoint.exists()
            say(f"warning: {wrong}; the run " + ("goes on from the one before it" if goes_on else "starts over"))

    def check_checkpoint(self) -> None:
        """Raise UsageError, naming the file, where the finished weights are not as they were written."""
        check(self.checkpoint, "restore it from a copy, or move the run away and train it again")

    def cut(self, last_step: int) -> None:
        """Drop every row and table past `last_step` (all of them for -1): a resume starts there."""
        for path in (self.metrics, self.samples):
            kept = [row for row in self.rows(path) if row["step"] <= last_step]
            if path.exists():
                self.write_rows(path, kept)
        for step in self.saved_steps():
            if step > last_step:
                self.pairs(step).unlink()
