"""The append-only truth of a run: a row per optimizer step and per evaluation, on disk before the next one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from dpo.finite import check_values
from dpo.records import RunDir


class Tracker(Protocol):
    """Receives rows as they are written, and a run's outcome. Only a mirror: it may lose them, never stop the run."""

    def log(self, row: dict[str, Any]) -> None: ...

    def samples(self, step: int, rows: list[dict[str, Any]]) -> None: ...

    def replay(self, past: Iterable[dict[str, Any] | list[dict[str, Any]]]) -> None: ...

    def finish(self, summary: dict[str, Any], state: str) -> None: ...


class NoTracker:
    """tracker=disabled: the files are all there is."""

    def log(self, row: dict[str, Any]) -> None:
        pass

    def samples(self, step: int, rows: list[dict[str, Any]]) -> None:
        pass

    def replay(self, past: Iterable[dict[str, Any] | list[dict[str, Any]]]) -> None:
        pass

    def finish(self, summary: dict[str, Any], state: str) -> None:
        pass


class Recorder:
    """Writes each row to the run's files first and hands it to the tracker second."""

    def __init__(self, run: RunDir, tracker: Tracker) -> None:
        self.run = run
        self.tracker = tracker

    def log(self, step: int, kind: str, values: dict[str, float], timing: dict[str, float]) -> None:
        """One row: `values` become <kind>/<name>, wall-clock `timing` becomes time/<name>.

        Raises FloatingPointError, and writes nothing, where a value is not finite.
        """
        check_values(values, step, kind)
        row: dict[str, Any] = {"step": step, "kind": kind, "train/global_step": step}
        row |= {f"{kind}/{name}": value for name, value in values.items()}
        row |= {f"time/{name}": value for name, value in timing.items()}
        self.run.append(self.run.metrics, [row])
        self.tracker.log(row)

    def samples(self, step: int, rows: list[dict[str, Any]]) -> None:
        """This run's answers at a step."""
        self.run.append(self.run.samples, rows)
        self.tracker.samples(step, rows)
