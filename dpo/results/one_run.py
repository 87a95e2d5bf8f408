"""One run directory, read: its files as plain values, its tables of pairs and its answers as pandas frames."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from dpo.config import identity
from dpo.errors import UsageError
from dpo.records import RunDir
from dpo.results import measures
from dpo.results.reading import flatten, is_comparison, is_json_object, is_sample, mixed, read_pairs, read_rows


@dataclass(frozen=True)
class Run:
    """One run directory, read. `rows` are the rows of metrics.jsonl, `notes` say in words what could not be read."""

    path: Path
    status: dict[str, Any]
    config: dict[str, Any]
    provenance: dict[str, Any]
    summary: dict[str, Any]
    audit: dict[str, Any]
    rows: tuple[dict[str, Any], ...]
    said: tuple[str, ...] = ()
    """What was wrong with the files read so far."""
    lost: str = ""
    """What the runs beside it have and it has not, its pairs or its provenance; runs that come back from W&B have no
    pairs, and old ones no provenance."""

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What of the run's files could not be read, in sentences; reads the pairs and answers too."""
        answers = [fault for faults in (self._sampled[1], self._compared[1]) for fault in faults]
        step, saved = self.last.get("step"), RunDir(self.path).saved_steps()
        missing = (
            f"pairs/step_{step}.parquet is missing" if self.state == "done" and saved and step not in saved else ""
        )
        return (*self.said, *filter(None, (self.fault_of_pairs, missing)), *answers)

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @cached_property
    def id(self) -> str:
        """The identity that ends the directory's name; of a renamed directory, computed from its configuration."""
        found = re.search(r"(?:^|-)([0-9a-f]{8})$", self.name)
        return found[1] if found else identity(self.config)

    @property
    def state(self) -> str:
        """pending, running, done, failed or interrupted (also a run that nobody is at); unreadable where it is that."""
        return str(self.status.get("state", "unreadable"))

    @property
    def error(self) -> str:
        """What a run failed with, or was interrupted by, in a line."""
        return str(self.status.get("error", self.status.get("cause", "")))

    @property
    def kind(self) -> str:
        """policy, or reward for a reward model."""
        return str(self.provenance.get("kind", "policy"))

    @property
    def complete(self) -> bool:
        """Whether the run is done, with a configuration, evaluations and pairs that could be read, of one set."""
        readable = self.state == "done" and bool(self.config) and bool(self.last)
        return readable and not self.lost and not self.fault_of_pairs and not self.mixed

    @cached_property
    def fault_of_pairs(self) -> str:
        """Why the tables of pairs that belong to the last evaluation cannot be read; nothing where they can."""
        if self.lost == "pairs":
            return "pairs/ is missing"
        saved = RunDir(self.path).saved_steps()
        if self.state != "done" or not self.last or not saved:
            return ""
        try:
            self.pairs()
        except UsageError as error:
            return str(error)
        return ""

    @cached_property
    def mixed(self) -> str:
        """What is wrong where two evaluations of the run hold different pairs under the same ids; "" where they do not.

        Such a run went on with other data than it began with, so none of its changes are changes of the policy alone.
        """
        return mixed(RunDir(self.path), [row["step"] for row in self._evaluations])

    @property
    def seed(self) -> Any:
        """The run's seed; None where its configuration could not be read."""
        return self.config.get("seed")

    @property
    def sweep(self) -> str:
        """The folder that the run lies in."""
        return self.path.parent.name

    @cached_property
    def group(self) -> str:
        """Hash of every setting that can change a result but the seed: equal for the seeds of one arm."""
        return identity(self.config | {"seed": None})

    @cached_property
    def flat(self) -> dict[str, Any]:
        """The configuration with dotted keys; lists as JSON text."""
        return dict(flatten(self.config))

    @property
    def own_score(self) -> bool:
        """Whether rewards are a score of the policy's own (a loss without a reference) or of a reward model."""
        return self.kind == "reward" or bool(self.provenance.get("loss", {}).get("own_score", measures.guess(self)))

    def steps(self) -> pd.DataFrame:
        """A row per optimizer step and per evaluation, as logged: kind, step, and the keys of docs/metrics.md."""
        return pd.DataFrame([{"kind": row["kind"], "step": row["step"]} | row for row in self.rows])

    def evaluations(self) -> pd.DataFrame:
        """The evaluation rows alone, in order."""
        return pd.DataFrame(self._evaluations)

    @cached_property
    def _evaluations(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["kind"] == "eval"]

    @property
    def first(self) -> dict[str, Any]:
        """The first evaluation's row, {} where there is none."""
        return self._evaluations[0] if self._evaluations else {}

    @property
    def last(self) -> dict[str, Any]:
        """The last evaluation's row, {} where there is none."""
        return self._evaluations[-1] if self._evaluations else {}

    def pairs(self, step: int | None = None) -> pd.DataFrame:
        """A row per evaluation pair at `step`, by default at the last evaluation, with the columns of `measures.add`.

        Raises UsageError for a step without a table. Each table is read once; change a copy, not what this returns.
        """
        directory = RunDir(self.path)
        logged = {row["step"]: row for row in self._evaluations}
        steps = [k for k in directory.saved_steps() if k in logged]
        step = steps[-1] if step is None and steps else step
        if step not in steps:
            there = ", ".join(map(str, steps)) or "none"
            raise UsageError(f"{self.path}: no table of pairs at step {step}; there are: {there}")
        if step not in self._tables:
            start = read_pairs(directory, steps[0]) if steps[0] == 0 else None
            tie = logged[step].get("eval/tie", 1e-6)
            self._tables[step] = measures.add(read_pairs(directory, step), tie, self.own_score, start)
        return self._tables[step]

    @cached_property
    def _tables(self) -> dict[int, pd.DataFrame]:
        return {}

    def samples(self) -> pd.DataFrame:
        """This run's answers: step, decoding, prompt, completion, tokens, ended; is_json; `draw` counts those
        of one prompt. Read once, like `pairs`."""
        return self._samples

    @cached_property
    def _samples(self) -> pd.DataFrame:
        frame = pd.DataFrame(self._sampled[0])
        if len(frame):
            frame["draw"] = frame.groupby(["step", "decoding", "prompt"]).cumcount()
            frame["is_json"] = [is_json_object(text) for text in frame["completion"]]
        return frame

    def compare(self) -> pd.DataFrame:
        """Base, SFT and DPO answers to the same prompts."""
        return pd.DataFrame(self._compared[0])

    @cached_property
    def _sampled(self) -> tuple[list[dict[str, Any]], list[str]]:
        return read_rows(RunDir(self.path).samples, is_sample)

    @cached_property
    def _compared(self) -> tuple[list[dict[str, Any]], list[str]]:
        return read_rows(RunDir(self.path).compare, is_comparison)

    def row(self) -> dict[str, Any]:
        """The run as a row of `Runs.runs`."""
        facts: dict[str, Any] = {
            "run": self.name,
            "id": self.id,
            "path": str(self.path),
            "state": self.state,
            "error": self.error,
        }
        facts |= {"kind": self.kind, "sweep": self.sweep, "group": self.group, "seed": self.seed}
        facts |= {"notes": "; ".join(self.notes), "step": self.last.get("step")}
        facts |= {f"flag/{name}": value for name, value in self.summary.get("flags", {}).items()}
        facts |= {k: v for k, v in self.last.items() if k.startswith("eval/")}
        facts |= {f"start/{k}": v for k, v in self.first.items() if k.startswith("eval/")}
        return facts | {f"config.{key}": value for key, value in self.flat.items()}
