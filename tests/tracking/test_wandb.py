"""The mirror: the same rows in W&B as in the files, one run per attempt, never a run lost, no secret kept."""

import json
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dpo.records import RunDir
from dpo.run import run
from dpo.tracking.shown import Shown
from dpo.tracking.wandb import WandbTracker


def offline_runs(root: Path) -> list[Path]:
    """The offline runs below an output root."""
    return sorted((root / "wandb").glob("offline-run-*"))


def history(folder: Path) -> list[dict]:
    """The rows of an offline run, read back by wandb's own tool."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    records = [json.loads(line) for line in lines if '"type":"history"' in line]
    return [flat(record["history"]) for record in records]


def flat(history: dict) -> dict:
    """Key -> value of one history record, without wandb's own keys."""
    items = history.get("item", history.get("items", []))
    if isinstance(items, dict):
        return {k: v for k, v in items.items() if not k.startswith("_")}
    pairs = {(item.get("key") or "/".join(item["nested_key"])): item for item in items}
    return {
        k: (v["value"] if "value" in v else json.loads(v["value_json"]))
        for k, v in pairs.items()
        if not k.startswith("_")
    }


@pytest.fixture
def mirrored(small) -> tuple[RunDir, Path]:
    """A small run with its offline mirror, and the folder of that."""
    directory, _ = run(small("tracker=offline"))
    (folder,) = offline_runs(directory.path.parents[1])
    return directory, folder


def test_wandb_holds_the_metric_rows_one_for_one(mirrored: tuple[RunDir, Path]) -> None:
    """Every row and key of metrics.jsonl, train and evaluation interleaved, in their order."""
    directory, folder = mirrored
    rows = [{k: v for k, v in row.items() if k not in ("step", "kind")} for row in directory.rows(directory.metrics)]
    logged = [row for row in history(folder) if "samples" not in row and not any(k.startswith("samples") for k in row)]
    assert [set(row) for row in logged] == [set(row) for row in rows]
    for kept, row in zip(logged, rows, strict=True):
        assert kept == pytest.approx(row)


def test_wandb_config_is_the_resolved_configuration(mirrored: tuple[RunDir, Path]) -> None:
    """Under one key of its own, with flat copies of what sweeps vary; no host name."""
    import yaml

    directory, folder = mirrored
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    record = next(json.loads(line)["run"] for line in text.splitlines() if '"type":"run"' in line)
    config = record["config"]["update"]
    assert config["config"] == yaml.safe_load(directory.config.read_text())
    assert (config["beta"], config["loss"], config["seed"]) == (0.1, "Sigmoid", 0)
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text.replace(str(folder), ""))


def test_a_resumed_attempt_is_a_run_of_its_own_and_sets_its_forerunner_aside(tmp_path: Path) -> None:
    """The second attempt starts with the kept rows; the first one's files move to superseded/."""
    options = ("offline", "p", None, 10.0, tmp_path, Shown({"name": "n"}, {}))
    first = WandbTracker(*options)
    first.log({"step": 1, "kind": "train", "train/global_step": 1, "train/loss": 0.7})
    first.finish({}, "failed")
    second = WandbTracker(*options, forerunners=[first.id])
    second.replay([{"train/global_step": 1, "train/loss": 0.7}])
    second.finish({}, "done")
    (left,) = offline_runs(tmp_path)
    assert left.name.endswith(second.id) and [row["train/loss"] for row in history(left)] == [0.7]
    assert next(p.name for p in (tmp_path / "wandb" / "superseded").iterdir()).endswith(first.id)


def test_a_step_does_not_wait_for_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are taken while the client holds the first one up, and are all there in their order in the end."""
    tracker = WandbTracker("offline", "p", None, 10.0, tmp_path, Shown({"name": "n"}, {}))
    go_on, honest = threading.Event(), tracker.run.log
    monkeypatch.setattr(tracker.run, "log", lambda row: go_on.wait(60) and honest(row))
    for step in (1, 2, 3):
        tracker.log({"step": step, "kind": "train", "train/global_step": step})
    go_on.set()
    tracker.finish({}, "done")
    (left,) = offline_runs(tmp_path)
    assert [row["train/global_step"] for row in history(left)] == [1, 2, 3]


def test_a_job_that_raised_does_not_lend_its_run_to_the_next(small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs in one process, the first failing: two runs, the second with all its rows."""
    import dpo.loop

    def broken(*_: object) -> dict[str, float]:
        raise FloatingPointError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(dpo.loop, "optimizer_step", broken)
        with pytest.raises(FloatingPointError):
            run(small("tracker=offline"))
    second, _ = run(small("tracker=offline", "seed=1"))
    folders = offline_runs(second.path.parents[1])
    assert len(folders) == 2
    assert max(len(history(folder)) for folder in folders) >= sum(1 for _ in second.rows(second.metrics))


def test_no_secret_of_the_environment_reaches_a_file(small, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dummy key is found nowhere below the output root."""
    secret = "s3cr3t" * 7
    for name in ("WANDB_API_KEY", "HF_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, secret[:40])
    directory, _ = run(small("tracker=offline"))
    root = directory.path.parents[1]
    assert [p for p in root.rglob("*") if p.is_file() and secret[:40].encode() in p.read_bytes()] == []
