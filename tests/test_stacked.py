"""Runs trained in one batch: each equal to the run it would have been alone."""

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dpo import stacked as stacked_room
from dpo.__main__ import main
from dpo.accumulate import Step, drive
from dpo.beta import Fixed
from dpo.config import load
from dpo.data import batches
from dpo.data.batches import collate, step_indices
from dpo.logps import Scorer
from dpo.loop import Trainee, optimizer_step
from dpo.losses.ipo import Ipo
from dpo.losses.sigmoid import Sigmoid
from dpo.metrics import FP32_TIE
from dpo.models.adapters import Lora, trainable_state
from dpo.records import RunDir
from dpo.reference import Reference
from dpo.reproduce import reproduce
from dpo.reproduce import rows as rows_without_time
from dpo.run_folders import find_runs
from dpo.shared import one_base, own_copy
from dpo.stacked import drive_together, stackable, stretches
from dpo.tree import as_trees, sizes

from . import toys
from .conftest import SMALL
from .sweeps import command, finish, states
from .tracking.test_wandb import history, offline_runs

LORA = ["adapter=lora_qv", "adapter.dropout=0", "train.batch_size=4"]
STACKED = [*LORA, "hydra/launcher=stacked", "hydra.launcher.bit_equal=false"]


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
        if row["kind"] == "train":  # a stack's padded rows are as long as the longest of all its runs
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
    assert one.keys() == other.keys() and all(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("layout", "padded"), [("auto", False), ("padded", True)])
def test_a_stack_reports_the_padding_of_what_it_reads(layout, padded, cache: Path, tmp_path: Path) -> None:
    """Trees have none; every step of padded rows has some."""
    assert main(stacked(cache, tmp_path, "seed=0,1", f"train.layout={layout}")) == 0
    rows = [row for run in find_runs(tmp_path) for row in run.rows(run.metrics) if row["kind"] == "train"]
    assert len(rows) == 12 and all((row["train/padding"] > 0) == padded for row in rows)


@pytest.mark.parametrize("adapter", [["adapter=full"], ["adapter=lora_qv", "adapter.dropout=0.1"], ["adapter=dora"]])
def test_what_cannot_be_stacked_equals_the_run_alone_bit_for_bit(adapter, cache: Path, tmp_path: Path) -> None:
    """Whole copies, dropout and DoRA take their own forwards; full fine-tuning never shares a weight."""
    grid = ["train", "-m", *SMALL, "train.batch_size=4", *adapter, "seed=0,1", f"cache_root={cache}"]
    assert main([*grid, f"output_root={tmp_path / 'together'}", "hydra/launcher=stacked"]) == 0
    assert main([*grid, f"output_root={tmp_path / 'alone'}"]) == 0
    for one in find_runs(tmp_path / "together"):
        assert rows_without_time(one) == rows_without_time(RunDir(tmp_path / "alone" / "multirun" / one.path.name))


def test_runs_on_a_cpu_keep_their_bits_by_default(cache: Path, tmp_path: Path, capsys) -> None:
    """In turn on one base: equal to the run alone, also where one of them is repeated by itself."""
    grid = ["beta.value=0.1,1"]
    by_turns = command(cache, tmp_path / "together", *LORA, "hydra/launcher=stacked", *grid)
    assert main(by_turns) == 0
    assert "2 runs on one base, in turn" in capsys.readouterr().err
    assert main(command(cache, tmp_path / "alone", *LORA, *grid)) == 0
    runs = find_runs(tmp_path / "together")
    before = {run.path: rows_without_time(run) for run in runs}
    for one in runs:
        assert before[one.path] == rows_without_time(RunDir(tmp_path / "alone" / "multirun" / one.path.name))
        assert "in_one_batch" not in one.read("provenance")
    killed = runs[1]
    (killed.path / "summary.json").unlink()
    killed.set_status("running")
    assert main(by_turns) == 0
    assert rows_without_time(killed) == before[killed.path]


def test_a_run_of_a_joint_batch_is_reproduced_up_to_rounding_and_says_so(cache: Path, tmp_path: Path, capsys) -> None:
    """Its provenance names the others; reproduce says why bits differ, and by how much at most."""
    assert main(stacked(cache, tmp_path, "beta.value=0.1,1")) == 0
    run = find_runs(tmp_path)[0]
    assert len(run.read("provenance")["in_one_batch"]) == 2
    capsys.readouterr()
    if reproduce(run.path, None):
        said = capsys.readouterr().err
        assert "in one batch of 2 runs" in said and "at most" in said


def test_the_models_of_a_stack_hold_one_base_and_others_their_own() -> None:
    """The same storage within one_base; a copy outside of it."""

    def pointer() -> int:
        return own_copy("test_stacked", lambda: torch.nn.Linear(3, 3)).weight.data_ptr()

    with one_base():
        assert pointer() == pointer()
    assert pointer() != pointer()


@pytest.mark.parametrize("layout", ["auto", "padded"])
def test_a_nan_in_one_run_of_a_stack_leaves_its_neighbours_alone(layout, cache: Path, tmp_path: Path) -> None:
    """One run's numbers overflow within a few steps; the other run ends as if alone."""
    same = ["optim.max_grad_norm=null", f"train.layout={layout}"]
    assert main(stacked(cache, tmp_path / "together", "optim.lr=1e-3,1e38", *same)) == 1
    assert main(command(cache, tmp_path / "alone", *LORA, "optim.lr=1e-3", *same)) == 0
    [fine] = [r for r in find_runs(tmp_path / "together") if r.status()["state"] == "done"]
    [broken] = [r for r in find_runs(tmp_path / "together") if r.status()["state"] == "failed"]
    assert any(said in broken.status()["error"] for said in ("is nan at step", "without overflow"))
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


PAIRS = toys.random_pairs(24, seed=4)
RUNS = (
    (Sigmoid(), 0.1, 0, 1e-3),
    (Ipo(), 0.5, 0, 3e-3),
    (Sigmoid(wpo=True), 0.1, 1, 1e-3),
    (Sigmoid(ld_alpha=0.5), 0.3, 2, 2e-3),
)
"""(loss, beta, seed, learning rate) of the runs of a toy stack."""
STEPS = 4


@functools.cache
def composed():
    """The shipped settings, composed once."""
    return load(["train.batch_size=6", "train.precision=fp32", "train.device=cpu"])


class Pad:
    """As much of a tokenizer as a step reads."""

    pad_token_id = 0


def training(loss, beta, seed, rate, cache, family="llama", layout="shared_prompt", budget=9999, target="all_linear"):
    """A toy run: a generator of its batches that returns (its logged values step by step, its adapter's weights)."""
    model = Lora(r=2, alpha=8, dropout=0.0, target=target, layers="all", dora=False).attach(toys.model(family), seed)
    known, _ = Reference(model, model.disable_adapter, layout=layout).stored(PAIRS, 0, 9999, cache)
    trainee = Trainee(model, Scorer(model, layout), Pad(), PAIRS, known, loss, Fixed(beta), seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    optim, settings = composed().optim, replace(composed().train, token_budget=budget)
    values = []
    for step in range(1, STEPS + 1):
        indices = step_indices(len(PAIRS), 6, step, seed)
        values.append(
            (yield from optimizer_step(trainee, optimizer, parameters, indices, step, optim, settings, FP32_TIE))
        )
    return values, trainable_state(model)


def assert_same_training(together, alone):
    """Losses, rewards, margins and gradient norms of every step, and the weights after the last, agree to 1e-4."""
    (rows, weights), (others, expected) = together, alone
    for row, other in zip(rows, others, strict=True):
        assert {**row, "padding": 0} == pytest.approx({**other, "padding": 0}, rel=1e-4, abs=1e-4)
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        assert torch.allclose(tensor, expected[name], rtol=0, atol=1e-4), name


@pytest.fixture
def only_joint(monkeypatch):
    """Steps that are taken by themselves fail until `undo` is called."""

    def refuse(*_):
        raise AssertionError("a step of the stack was taken by itself")

    with monkeypatch.context() as patch:
        patch.setattr(Step, "accumulate", refuse)
        yield patch


@pytest.mark.parametrize("layout", ("shared_prompt", "padded"))
@pytest.mark.parametrize("budget", (9999, 300), ids=["one", "several"])
def test_runs_of_every_kind_in_one_batch_train_as_they_would_alone(layout, budget, only_joint, tmp_path):
    """Beta, loss, seed and rate differ; in one micro-batch and in several; as trees and as padded rows."""
    rounds, honest = [], stacked_room.share
    only_joint.setattr(stacked_room, "share", lambda *given: rounds.append(given) or honest(*given))
    together = drive_together([training(*run, tmp_path, layout=layout, budget=budget) for run in RUNS])
    only_joint.undo()
    assert (len(rounds) == STEPS * len(RUNS)) == (budget == 9999)
    for run, joint in zip(RUNS, together, strict=True):
        assert all((row["padding"] == 0) == (layout == "shared_prompt") for row in joint[0])
        assert_same_training(joint, drive(training(*run, tmp_path, layout=layout, budget=budget)))


def test_padded_rows_of_all_runs_in_groups_of_similar_length_train_as_they_would_alone(
    monkeypatch, only_joint, tmp_path
):
    """A group may hold many rows of one run and none of another; all runs' padding together is at most 5 %."""
    monkeypatch.setattr(batches, "WHOLE", 0)
    together = drive_together([training(*run, tmp_path, layout="padded") for run in RUNS])
    only_joint.undo()
    for rows in zip(*(values for values, _ in together), strict=True):
        tokens, places = (
            sum(row["tokens/step"] / by(row) for row in rows) for by in (lambda _: 1, lambda row: 1 - row["padding"])
        )
        assert 0 <= 1 - tokens / places <= 0.05 and all(row["padding"] >= 0 for row in rows)
    monkeypatch.setattr(batches, "WHOLE", 9999)
    for run, joint in zip(RUNS, together, strict=True):
        assert_same_training(joint, drive(training(*run, tmp_path, layout="padded")))


@pytest.mark.parametrize("family", ("gpt2", "gemma2", "qwen2"))
def test_other_architectures_train_in_one_batch_of_trees(family, only_joint, tmp_path):
    """Fused projections, soft caps with windows, biases."""
    together = drive_together([training(*run, tmp_path, family) for run in RUNS])
    only_joint.undo()
    for run, joint in zip(RUNS, together, strict=True):
        assert_same_training(joint, drive(training(*run, tmp_path, family)))


def test_a_joint_step_that_fails_halfway_leaves_no_gradient_behind(monkeypatch, capsys, tmp_path):
    """Its second micro-batch fails: the batches are taken one by one, and the next steps together again."""
    calls, honest = [], stacked_room.stretches

    def failing(joint, jobs):
        calls.append(joint)
        if len(calls) == 2:
            raise MemoryError("planted")
        return honest(joint, jobs)

    monkeypatch.setattr(stacked_room, "stretches", failing)
    together = drive_together([training(*run, tmp_path, budget=300) for run in RUNS])
    assert capsys.readouterr().err.count("a joint step failed") == 1 and len(calls) > STEPS
    for run, joint in zip(RUNS, together, strict=True):
        assert_same_training(joint, drive(training(*run, tmp_path, budget=300)))


def test_the_sizes_of_trees_are_what_each_pair_takes_of_the_packed_row():
    """In the order of the pairs; runs whose pairs differ have stretches that differ."""
    batch = collate(PAIRS, range(6), 0)
    assert sizes(batch) == as_trees(batch).tree.pair_N.bincount().tolist()
    halves = stretches(batch, 2)
    assert halves == [sum(sizes(batch)[:3]), sum(sizes(batch)[3:])] and halves[0] != halves[1]


def test_an_adapter_on_the_head_is_not_stacked(tmp_path):
    """The head reads completion tokens alone, which are not one stretch per run."""
    adapters = [Lora(2, 8, 0.0, target, "all", False).attach(toys.model(), 0) for target in ("qv", "q_proj,lm_head")]
    assert [stackable(model) for model in adapters] == [True, False]
