"""Runs trained in one batch: each equal to the run it would have been alone."""

from pathlib import Path

import pytest
import torch

from dpo.__main__ import main
from dpo.records import RunDir, find_runs
from dpo.reproduce import rows as rows_without_time
from dpo.shared import one_base, own_copy

from .conftest import SMALL
from .sweeps import command, finish, states
from .tracking.test_wandb import history, offline_runs

LORA = ["adapter=lora_qv", "adapter.dropout=0", "train.batch_size=4"]
STACKED = [*LORA, "hydra/launcher=stacked"]


def stacked(cache: Path, root: Path, *overrides: str) -> list[str]:
    """`dpo train -m` of small runs in one batch."""
    return command(cache, root, *STACKED, *overrides)


FITTED = ("eval/calibration/beta", "eval/calibration/temperature")
"""Fits to margins near zero, which magnify rounding."""


def same_rows(one: RunDir, other: RunDir) -> None:
    """Every metric row agrees to 1e-4 (of the value, or of one)."""
    mine, theirs = rows_without_time(one), rows_without_time(other)
    assert [(row["step"], row["kind"]) for row in mine] == [(row["step"], row["kind"]) for row in theirs]
    for row, expected in zip(mine, theirs, strict=True):
        if row["kind"] == "train":  # a stack reads padded rows of its own, a run alone may read trees
            assert 0 <= row.pop("train/padding") < 1 and 0 <= expected.pop("train/padding") < 1
        numbers, others = ({k: v for k, v in r.items() if k not in ("kind", *FITTED)} for r in (row, expected))
        assert numbers == pytest.approx(others, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    "grid",
    [
        ["beta.value=0.1,0.5", "seed=0,1"],
        ["loss=sigmoid,ipo,simpo", "seed=3"],
        ["optim.lr=1e-3,3e-3", "loss=aot,bco_pair"],
        ["loss=sigmoid,tdpo,kto_pair", "seed=0"],
    ],
    ids=["beta-seed", "loss", "lr", "alone"],
)
def test_each_run_of_a_stack_equals_the_run_alone(grid: list[str], cache: Path, tmp_path: Path) -> None:
    """Losses with and without reference, whole-batch ones, and those that cannot be stacked."""
    assert main(stacked(cache, tmp_path / "together", *grid)) == 0
    assert main(command(cache, tmp_path / "alone", *LORA, *grid)) == 0
    runs = find_runs(tmp_path / "together")
    assert len(runs) >= 3
    for one in runs:
        same_rows(one, RunDir(tmp_path / "alone" / "multirun" / one.path.name))


def test_a_stack_says_so_and_every_run_has_its_own_adapter(cache: Path, tmp_path: Path, capsys) -> None:
    """Two directories, two sets of weights."""
    from safetensors.torch import load_file

    assert main(stacked(cache, tmp_path, "seed=0,1")) == 0
    assert "2 runs in one batch: seed0, seed1" in capsys.readouterr().err
    one, other = (load_file(run.checkpoint / "adapter_model.safetensors") for run in find_runs(tmp_path))
    padding = [
        row["train/padding"] for run in find_runs(tmp_path) for row in run.rows(run.metrics) if row["kind"] == "train"
    ]
    assert len(padding) == 12 and all(share > 0 for share in padding)
    assert one.keys() == other.keys() and all(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("adapter", [["adapter=full"], ["adapter=lora_qv", "adapter.dropout=0.1"], ["adapter=dora"]])
def test_what_cannot_be_stacked_equals_the_run_alone_bit_for_bit(adapter, cache: Path, tmp_path: Path) -> None:
    """Whole copies, dropout and DoRA take their own forwards; full fine-tuning never shares a weight."""
    grid = ["train", "-m", *SMALL, "train.batch_size=4", *adapter, "seed=0,1", f"cache_root={cache}"]
    assert main([*grid, f"output_root={tmp_path / 'together'}", "hydra/launcher=stacked"]) == 0
    assert main([*grid, f"output_root={tmp_path / 'alone'}"]) == 0
    for one in find_runs(tmp_path / "together"):
        assert rows_without_time(one) == rows_without_time(RunDir(tmp_path / "alone" / "multirun" / one.path.name))


def test_the_models_of_a_stack_hold_one_base_and_others_their_own() -> None:
    """The same storage within one_base; a copy outside of it."""

    def pointer() -> int:
        return own_copy("test_stacked", lambda: torch.nn.Linear(3, 3)).weight.data_ptr()

    with one_base():
        assert pointer() == pointer()
    assert pointer() != pointer()


def test_a_nan_in_one_run_of_a_stack_leaves_its_neighbours_alone(cache: Path, tmp_path: Path) -> None:
    """Its weights become NaN at step 4; the other run ends as if alone."""
    grid = ["optim.lr=1e-3,1e30", "optim.max_grad_norm=null"]
    assert main(stacked(cache, tmp_path / "together", *grid)) == 1
    assert main(command(cache, tmp_path / "alone", *LORA, "optim.lr=1e-3", "optim.max_grad_norm=null")) == 0
    [fine] = [r for r in find_runs(tmp_path / "together") if r.status()["state"] == "done"]
    [broken] = [r for r in find_runs(tmp_path / "together") if r.status()["state"] == "failed"]
    assert "the loss is nan" in broken.status()["error"]
    [alone] = find_runs(tmp_path / "alone")
    same_rows(fine, alone)


def test_each_run_of_a_stack_has_a_tracker_run_of_its_own(cache: Path, tmp_path: Path) -> None:
    """Open at the same time, each with the rows of its own directory."""
    assert main(stacked(cache, tmp_path, "seed=0,1", "tracker=offline")) == 0
    losses = {
        tuple(row["eval/loss"] for row in run.rows(run.metrics) if row["kind"] == "eval") for run in find_runs(tmp_path)
    }
    mirrored = {
        tuple(row["eval/loss"] for row in history(folder) if "eval/loss" in row) for folder in offline_runs(tmp_path)
    }
    assert len(losses) == 2 and mirrored == losses


@pytest.mark.slow
def test_a_killed_stack_resumes_to_the_same_rows(cache: Path, tmp_path: Path) -> None:
    """One of its runs kills the process at step 4; the same command without the fault ends as if nothing had been."""
    grid = [*STACKED, "seed=0,1,2"]
    assert finish(command(cache, tmp_path / "cut", *grid), "1=kill")[0] == -9
    assert set(states(tmp_path / "cut" / "multirun").values()) == {"interrupted"}
    assert finish(command(cache, tmp_path / "cut", *grid))[0] == 0
    assert main(command(cache, tmp_path / "alone", *LORA, "seed=0,1,2")) == 0
    for one in find_runs(tmp_path / "cut"):
        same_rows(one, RunDir(tmp_path / "alone" / "multirun" / one.path.name))
