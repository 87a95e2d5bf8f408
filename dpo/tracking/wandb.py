"""The W&B mirror of a run's rows. A tracker out of reach costs a bounded wait, never the run."""

from __future__ import annotations

import os
import queue
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dpo.terminal import tell
from dpo.tracking.shown import Shown

QUIET = {
    "silent": True,
    "host": "",
    "console": "off",
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "disable_git": True,
    "disable_code": True,
    "x_transaction_log_flush_interval": 1,
}
LEAST = 5.0
"""Seconds that ending may take even where starting took all of the timeout."""

EXIT_CODES = {"done": 0, "failed": 1, "interrupted": 255}
"""What W&B is told; 255 is its own client's for Ctrl-C."""

USED: set[str] = set()
"""Ids of an agent that a run of this process has taken."""

LOST: set[str] = set()
"""Servers that did not answer: later runs of this process are offline at once, instead of waiting again."""


def given_id() -> str | None:
    """The id that a W&B agent gave for its run, unless a run of this process has taken it."""
    given = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
    return given if given not in USED else None


def fresh_id(shown: Shown, taken: Sequence[str]) -> str:
    """An id of the sweep, what the run is called, and twelve random digits; under a W&B agent the one that it gave.

    Random, because a failed start keeps its id for the life of the process; readable, because `wandb leet` lists ids.
    """
    given = given_id()
    if given and given not in taken:
        USED.add(given)
        return given
    sweep, name = str(shown.config.get("sweep", "")), re.sub(r"-[0-9a-f]{8}$", "", str(shown.names["name"]))
    return "-".join(part for part in (slug(sweep)[:20], slug(name)[:28], uuid.uuid4().hex[:12]) if part)


def slug(text: str) -> str:
    """The text as a part of an id."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:40]


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def client() -> Any:
    """The wandb module, its reports about itself off: they hold up the exit by ten seconds each on a silent server."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb


class Errands:
    """Calls made one after another in a thread of their own, so that no step waits for the client or a slow server."""

    def __init__(self) -> None:
        self.given_up = False
        self.calls: queue.Queue[Callable[[], Any] | None] = queue.Queue()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while (call := self.calls.get()) is not None and not self.given_up:
            quietly(call, lambda: self.given_up)

    def done_within(self, seconds: float | None) -> bool:
        """Wait until all calls are made; whether they were in that time, which None does not limit."""
        self.calls.put(None)
        self.thread.join(seconds)
        self.given_up = self.thread.is_alive()
        return not self.given_up


def quietly(call: Callable[[], Any], given_up: Callable[[], bool]) -> None:
    """Make a call whose failure is only worth a line, or none once it was given up."""
    try:
        call()
    except Exception as error:
        if not given_up():
            tell(f"W&B: {first_line(error)}; the run goes on, its files are complete")


def cut_off() -> None:
    """End the client's own process, which else holds up the exit of this one as long as its requests hang.

    What the process had to send is in its files; there is no public way to say "do not wait".
    """
    from wandb.sdk import wandb_setup

    with suppress(Exception):
        wandb_setup._singleton._connection._proc._process.kill()  # type: ignore[union-attr]
    with suppress(Exception, SystemExit):  # teardown exits with the code of the process that was ended
        wandb_setup.teardown(1)


class WandbTracker:
    """One W&B run per job and attempt, with an id of its own."""

    def __init__(
        self,
        mode: str,
        project: str,
        entity: str | None,
        timeout: float,
        directory: Path,
        shown: Shown,
        forerunners: Sequence[str] = (),
    ) -> None:
        """`timeout` in seconds bounds what starting and ending may take together, `LEAST` seconds for the end aside.

        `forerunners` are the ids of this job's earlier attempts, whose kept rows the caller logs again.
        """
        begin = time.monotonic()
        wandb = client()
        self.directory = directory.resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        os.environ["WANDB_DATA_DIR"] = str(self.directory / "wandb" / "staged")
        self.rows = 0

        def start(mode: str) -> Any:
            self.id = fresh_id(shown, forerunners)
            settings = wandb.Settings(init_timeout=timeout, finish_timeout=timeout, finish_timeout_raises=True, **QUIET)  # type: ignore[arg-type]
            options = {"project": project, "entity": entity, "dir": str(self.directory), "config": shown.config}
            return wandb.init(mode=mode, settings=settings, reinit="create_new", id=self.id, **options, **shown.names)  # type: ignore[arg-type]

        self.server = wandb.setup().settings.base_url
        if mode == "online" and self.server in LOST:
            mode = "offline"
        try:
            self.run = start(mode)
        except Exception as error:  # no key, no network, a refusing server: all end offline
            self._lose(first_line(error))
            for empty in self.directory.glob(f"wandb/run-*-{self.id}"):
                shutil.rmtree(empty)
            self.run = start("offline")
        self.left = max(LEAST, timeout - (time.monotonic() - begin))
        self.errands = Errands()
        set_axis(self.run)
        for earlier in forerunners:
            self._supersede(earlier, self.directory / "wandb")

    def log(self, row: dict[str, Any]) -> None:
        self.rows += 1
        self._send(lambda: self.run.log(line(row)))

    def samples(self, step: int, rows: list[dict[str, Any]]) -> None:
        self._send(lambda: self.run.log(line(rows)))

    def replay(self, past: Iterable[dict[str, Any] | list[dict[str, Any]]]) -> None:
        """Log what an earlier attempt, or a finished run, has in its files (see `shown.entries`)."""
        for entry in past:
            if isinstance(entry, list):
                self.samples(entry[0]["step"], entry)
            else:
                self.log(entry)

    def finish(self, summary: dict[str, Any], state: str) -> None:
        """End the run there as done, failed or interrupted; `metric_rows` in its summary is how many rows to find.

        An interrupted process is killed soon: it waits no longer than `LEAST` seconds.
        """
        seconds = min(self.left, LEAST) if state == "interrupted" else self.left
        self._send(lambda: self.run.summary.update(summary | {"state": state, "metric_rows": self.rows}))
        self._send(lambda: self.run.finish(exit_code=EXIT_CODES[state]))
        if not self.errands.done_within(None if self.run.offline else seconds):
            self._lose(f"it did not take everything in {seconds:.0f} s")

    def _lose(self, reason: str) -> None:
        """Say once that the server is out of reach, and never wait for it again in this process."""
        LOST.add(self.server)
        cut_off()
        where = f"this run is tracked offline in {self.directory}"
        tell(f"W&B is out of reach ({reason}); {where}, and `dpo push` sends it later")

    def _supersede(self, earlier: str, folder: Path) -> None:
        """Tag an earlier attempt "superseded" online; offline, where no tag can be added, set its files aside."""
        for left in folder.glob(f"*run-*-{earlier}"):
            (folder / "superseded").mkdir(exist_ok=True)
            left.rename(folder / "superseded" / left.name)
        if not self.run.offline:
            path = f"{self.run.entity}/{self.run.project}/{earlier}"
            self._send(lambda: tag_superseded(path))

    def _send(self, call: Callable[[], Any]) -> None:
        self.errands.calls.put(call)


def set_axis(run: Any) -> None:
    """The optimizer step is the x-axis of every metric."""
    run.define_metric("train/global_step")
    run.define_metric("*", step_metric="train/global_step")


def line(entry: dict[str, Any] | list[dict[str, Any]]) -> dict[str, Any]:
    """What W&B logs of a metric row, or of the answers of a step: a table under `samples`."""
    if isinstance(entry, dict):
        return {k: v for k, v in entry.items() if k not in ("step", "kind")}
    columns = ["step", "decoding", "prompt", "completion"]
    table = client().Table(columns=columns, data=[[row[name] for name in columns] for row in entry])
    return {"samples": table, "train/global_step": entry[0]["step"]}


def tag_superseded(path: str) -> None:
    """Mark entity/project/id as replaced by a later attempt; one that never reached the server needs no mark."""
    from wandb.errors import CommError

    try:
        run = client().Api(timeout=10).run(path)
    except (ValueError, CommError):
        return
    if "superseded" not in run.tags:
        run.tags = [*run.tags, "superseded"]
        run.update()
