"""How a run is shown in W&B: its name, group, tags and configuration, from its directory alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dpo.config import identity
from dpo.records import RunDir

LINEAGE = ("kind", "commit", "start_hash", "reference_hash", "train_data_hash", "eval_data_hash")
"""What of a run's provenance is shown: runs of one table must agree in the last."""


@dataclass(frozen=True)
class Shown:
    """`names` is what wandb.init takes as name, group, job_type and tags; `config` the run's configuration there."""

    names: dict[str, Any]
    config: dict[str, Any]


def short_name(plain: dict[str, Any]) -> str:
    """Data set, loss and beta of a run, for people."""
    dataset = plain["dataset"]["_target_"].rsplit(".", 2)[1]
    loss = plain["loss"]["_target_"].rsplit(".", 1)[1].lower()
    beta = plain["beta"].get("value")
    return f"{dataset}-{loss}" + (f"-beta{beta:g}" if beta is not None else "")


def shown(directory: RunDir, plain: dict[str, Any]) -> Shown:
    """A run of the configuration `plain` (what run.yaml holds); its group is its configuration without the seed.

    The resolved configuration stands under `config`; beside it are flat copies of what sweeps vary.
    """
    if directory.kind == "reward":
        group = plain["dataset"]["_target_"].rsplit(".", 2)[1] + "-reward"
        axes: dict[str, Any] = {"arm": "reward"}
    else:
        group = f"{short_name(plain)}-{identity(plain | {'seed': None})}"
        axes = {"beta": plain["beta"].get("value"), "loss": plain["loss"]["_target_"].rsplit(".", 1)[1]}
    made = directory.read("provenance") if (directory.path / "provenance.json").exists() else {}
    audit = directory.read("audit") if (directory.path / "audit.json").exists() else {}
    names = {
        "name": directory.path.name[-128:],
        "group": (plain["tracker"]["group"] or group)[:128],
        "job_type": "train",
        "tags": [*plain["tracker"]["tags"], *(word[:64] for word in group.split("-")[:2])],
    }
    config = {
        "config": plain,
        "run_dir": str(directory.path),
        "sweep": directory.path.parent.name,
        "seed": plain["seed"],
        **axes,
        "lineage": {key: made[key] for key in LINEAGE if key in made},
        "audit": {k: v for k, v in audit.items() if isinstance(v, int | float) or k == "shares"},
    }
    return Shown(names, config)


def entries(directory: RunDir, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any] | list[dict[str, Any]]]:
    """What a tracker received of `rows`, in its order: metric rows, and before an evaluation its answers as a list."""
    answers: dict[int, list[dict[str, Any]]] = {}
    for answer in directory.rows(directory.samples):
        answers.setdefault(answer["step"], []).append(answer)
    for row in rows:
        if row["kind"] == "eval" and row["step"] in answers:
            yield answers.pop(row["step"])
        yield row
