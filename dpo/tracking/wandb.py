"""The W&B mirror of a run's rows. A tracker out of reach costs a bounded wait, never the run."""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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


def fresh_id(sweep: str, taken: Sequence[str]) -> str:
    """An id of the sweep's name and twelve random digits; under a W&B agent the one it gave, unless that is used.

    Random, because a failed start keeps its id for the life of the process.
    """
    given = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
    if given and given not in (*taken, *USED):
        USED.add(given)
        return given
    return re.sub(r"[^A-Za-z0-9_-]+", "_", sweep)[:40] + ("-" if sweep else "") + uuid.uuid4().hex[:12]


USED: set[str] = set()
"""Ids of an agent that a run of this process has taken."""


class WandbTracker:
    """One W&B run per job and attempt, with an id of its own; `past` rows are replayed into it first."""

    def __init__(
        self,
        mode: str,
        project: str,
        entity: str | None,
        timeout: float,
        directory: Path,
        identity: dict[str, Any],
        config: dict[str, Any],
        past: Iterable[dict[str, Any]] = (),
        forerunners: Sequence[str] = (),
    ) -> None:
        """`identity` holds name, group, job_type and tags; `timeout` in seconds bounds start and finish each.

        `forerunners` are the ids of this job's earlier attempts, all of whose kept rows are in `past`.
        """
        import wandb

        directory = directory.resolve()
        directory.mkdir(parents=True, exist_ok=True)
        os.environ["WANDB_DATA_DIR"] = str(directory / "wandb" / "staged")
        options = {"project": project, "entity": entity, "dir": str(directory), "config": config}

        def start(mode: str) -> Any:
            self.id = fresh_id(str(config.get("sweep", "")), forerunners)
            settings = wandb.Settings(init_timeout=timeout, finish_timeout=timeout, **QUIET)  # type: ignore[arg-type]
            return wandb.init(mode=mode, settings=settings, reinit="finish_previous", id=self.id, **options, **identity)  # type: ignore[arg-type]

        try:
            self.run = start(mode)
        except Exception as error:  # no key, no network, a refusing server: all end offline
            reason = str(error).strip().splitlines()[0]
            print(f"W&B is out of reach ({reason}); this run is tracked offline in {directory}", file=sys.stderr)
            self.run = start("offline")
        self.run.define_metric("train/global_step")
        self.run.define_metric("*", step_metric="train/global_step")
        for row in past:
            self.log(row)
        for earlier in forerunners:
            self._supersede(earlier, directory / "wandb")

    def log(self, row: dict[str, Any]) -> None:
        self._quietly(lambda: self.run.log({k: v for k, v in row.items() if k not in ("step", "kind")}))

    def samples(self, step: int, rows: list[dict[str, Any]]) -> None:
        import wandb

        def send() -> None:
            table = wandb.Table(columns=["step", "decoding", "prompt", "completion"])
            for row in rows:
                table.add_data(row["step"], row["decoding"], row["prompt"], row["completion"])
            self.run.log({"samples": table, "train/global_step": step})

        self._quietly(send)

    def finish(self, summary: dict[str, Any], failed: bool) -> None:
        self._quietly(lambda: self.run.summary.update(summary))
        self._quietly(lambda: self.run.finish(exit_code=int(failed)))

    def _supersede(self, earlier: str, folder: Path) -> None:
        """Tag an earlier attempt "superseded" online; offline, where no tag can be added, set its files aside."""
        for left in folder.glob(f"*run-*-{earlier}"):
            (folder / "superseded").mkdir(exist_ok=True)
            left.rename(folder / "superseded" / left.name)
        if not self.run.offline:

            def tag() -> None:
                import wandb

                run = wandb.Api(timeout=10).run(f"{self.run.entity}/{self.run.project}/{earlier}")
                run.tags = [*run.tags, "superseded"]
                run.update()

            self._quietly(tag)

    def _quietly(self, action: Any) -> None:
        try:
            action()
        except Exception as error:
            print(
                f"W&B: {str(error).strip().splitlines()[0]}; the run goes on, its files are complete", file=sys.stderr
            )
