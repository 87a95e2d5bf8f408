"""A whole run: its files, its first and last numbers, and that it is the same run again."""

import json
import math
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from dpo.config import load
from dpo.metrics import COLUMNS, PairRows, scalars
from dpo.records import RunDir
from dpo.reproduce import rows as rows_without_time
from dpo.run import run

from .conftest import SMALL
from .processes import DPO, Python

REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")


def evaluations(directory: RunDir) -> list[dict]:
    return [row for row in directory.rows(directory.metrics) if row["kind"] == "eval"]


def test_the_first_evaluation_shows_identical_policy_and_reference(finished: RunDir) -> None:
    """Loss ln 2, margin 0, accuracy one half by ties: else the data pipeline is wrong."""
    first = evaluations(finished)[0]
    assert first["step"] == 0
    assert first["eval/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["eval/rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert first["eval/rewards/accuracies"] == 0.5
    assert first["eval/kl"] == pytest.approx(0, abs=1e-4)


def test_every_file_of_the_run_directory_exists(finished: RunDir) -> None:
    """The contract that sweeps and reports read by name."""
    names = "run.yaml status.json provenance.json metrics.jsonl samples.jsonl compare.jsonl audit.json summary.json"
    assert [name for name in names.split() if not (finished.path / name).is_file()] == []
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= {
        path.name for path in finished.checkpoint.iterdir()
    }
    assert finished.saved_steps() == [0, 3, 6]


def test_what_the_self_check_found_is_in_its_provenance(finished: RunDir) -> None:
    """Each figure of its line; nothing of it is part of the run's rows."""
    facts = finished.read("provenance")
    found = facts["self_check"]
    assert facts["layout"] == "shared_prompt" and found["tree_plain"] == found["alone_together"] < 1e-4
    assert found["causal"] < 1e-4 and found["largest_id"] < found["embeddings"] and found["longest"] > 0


def test_one_row_per_step_and_kind_with_the_four_reward_metrics(finished: RunDir) -> None:
    """Training rows 1 to 6, evaluation rows 0, 3 and 6."""
    rows = list(finished.rows(finished.metrics))
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [0, 3, 6]
    assert all(f"{row['kind']}/{name}" in row for row in rows for name in REWARDS)


def test_every_evaluation_scalar_is_recomputed_from_the_pair_rows(finished: RunDir) -> None:
    """The logged means are means over the table of that step."""
    tables = {}
    for step in finished.saved_steps():
        columns = finished.read_pairs(step)
        values = {name: torch.tensor(columns[name], dtype=torch.float64) for name in COLUMNS}
        tables[step] = PairRows(torch.arange(len(columns["id"])), values)
    for row in evaluations(finished):
        again = scalars(tables[row["step"]], row["eval/beta"], row["eval/tie"], tables[0])
        assert {name: row[f"eval/{name}"] for name in again} == again


def test_samples_hold_greedy_and_sampled_answers_of_start_and_end(finished: RunDir) -> None:
    """Two greedy and six sampled answers at steps 0 and 6, without special tokens."""
    rows = list(finished.rows(finished.samples))
    assert [(row["step"], row["decoding"]) for row in rows] == [
        (step, decoding) for step in (0, 6) for decoding in ["greedy"] * 2 + ["sampled"] * 6
    ]
    assert not any("<|end|>" in row["completion"] for row in rows)


def test_compare_holds_base_sft_and_dpo_answers_to_the_same_prompts(finished: RunDir) -> None:
    """The start's and the end's greedy answers stand beside the base's."""
    greedy = [row for row in finished.rows(finished.samples) if row["decoding"] == "greedy"]
    for row in finished.rows(finished.compare):
        said = {g["step"]: g["completion"] for g in greedy if g["prompt"] == row["prompt"]}
        assert (row["sft"], row["dpo"]) == (said[0], said[6]) and isinstance(row["base"], str)


def test_another_beta_meets_the_stored_reference(small) -> None:
    """One reference pass per model and data, whatever the beta, loss or seed."""
    run(small())
    for other in ("beta.value=0.3", "loss=ipo", "seed=5"):
        directory, _ = run(small(other))
        assert directory.read("provenance")["reference_store"] == {"hits": 2, "misses": 0}


def test_the_sft_start_does_not_depend_on_seed_beta_or_loss(small) -> None:
    """Else every arm would have another reference."""
    starts = {run(small(*o))[0].read("provenance")["start_hash"] for o in ([], ["seed=5", "beta.value=1", "loss=ipo"])}
    assert len(starts) == 1


def test_a_finished_run_is_not_repeated(small) -> None:
    """The second call finds it done and writes nothing."""
    directory, _ = run(small())
    before = directory.metrics.stat().st_mtime_ns
    assert run(small()) == (directory, True)
    assert directory.metrics.stat().st_mtime_ns == before


def test_max_steps_zero_evaluates_the_start_and_stops(small) -> None:
    """One evaluation row, no training row, state done."""
    directory, _ = run(small("train.max_steps=0"))
    assert [(row["kind"], row["step"]) for row in directory.rows(directory.metrics)] == [("eval", 0)]
    assert directory.status()["state"] == "done"


def test_a_failure_is_recorded_with_its_traceback_and_raised(small, monkeypatch: pytest.MonkeyPatch) -> None:
    """status.json says failed; the same command then runs it anew."""
    import dpo.loop

    def broken(*_: object) -> dict[str, float]:
        raise FloatingPointError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(dpo.loop, "optimizer_step", broken)
        with pytest.raises(FloatingPointError):
            run(small())
    directory = run(small())[0]
    assert directory.status()["state"] == "done"


def test_a_nan_loss_stops_the_run_with_its_step(small, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN never trains on."""
    import dpo.loop

    honest = dpo.loop.optimizer_step

    def not_a_number(*arguments):
        values = yield from honest(*arguments)
        return values | {"loss": math.nan}

    monkeypatch.setattr(dpo.loop, "optimizer_step", not_a_number)
    with pytest.raises(FloatingPointError, match="step 1"):
        run(small())


def test_wrong_data_leaves_nothing_behind(small, tmp_path: Path) -> None:
    """A refused run has no directory."""
    from dpo.errors import UsageError

    with pytest.raises(UsageError):
        run(small("train.max_length=3"))
    assert list((tmp_path / "out" / "runs").iterdir()) == []


def test_another_tracker_leaves_the_rows_equal(small, tmp_path: Path) -> None:
    """W&B is a mirror: with and without it the metric rows are the same but for wall-clock values."""
    without = rows_without_time(run(small())[0])
    mirrored = run(small("tracker=offline", f"output_root={tmp_path / 'other'}"))[0]
    assert rows_without_time(mirrored) == without


def test_adapter_dropout_is_drawn_from_the_seed_and_changes_the_run(small) -> None:
    """A dropout that is silently zeroed would give the rows of none."""
    none = rows_without_time(run(small("adapter=lora_qv"))[0])
    some = rows_without_time(run(small("adapter=lora_qv", "adapter.dropout=0.5"))[0])
    assert none[-1]["eval/loss"] != some[-1]["eval/loss"]


def test_a_smaller_embedded_reference_is_another_model(small) -> None:
    """reference=tiny_small: same tokenizer, other weights, so margins at the start are not 0."""
    directory = run(small("reference=tiny_small", "model.width=64"))[0]
    facts = directory.read("provenance")
    assert facts["reference_hash"] != facts["start_hash"]
    assert evaluations(directory)[0]["eval/rewards/accuracies"] != 0.5


def test_a_reference_path_alone_is_enough(small, finished: RunDir) -> None:
    """reference.path names any folder with the same vocabulary; here the finished run's start."""
    start = finished.read("provenance")["start"]
    directory = run(small(f"reference.path={start}"))[0]
    assert directory.read("provenance")["reference_hash"] == finished.read("provenance")["reference_hash"]


def start_process(root: Path, cache: Path, *more: str) -> Python:
    """The small run in a process of its own."""
    overrides = [*SMALL, f"cache_root={cache}", f"output_root={root}", "adapter=lora_qv", "adapter.dropout=0.2", *more]
    return Python(DPO, "train", *overrides)


@pytest.mark.slow
def test_killed_at_any_row_the_same_command_ends_with_the_same_rows(cache: Path, tmp_path: Path) -> None:
    """SIGKILL after 1, 3, 5, ... rows, over and over, then to the end: bit-equal to an uninterrupted run."""
    whole = load(
        [*SMALL, f"cache_root={cache}", f"output_root={tmp_path / 'a'}", "adapter=lora_qv", "adapter.dropout=0.2"]
    )
    expected = run(whole)[0]
    target = RunDir(tmp_path / "b" / "runs" / expected.path.name)
    for rows in (1, 3, 6, 8):
        process = start_process(tmp_path / "b", cache)
        while process.poll() is None and sum(1 for _ in target.rows(target.metrics)) < rows:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert sum(1 for _ in target.rows(target.metrics)) >= min(rows, 1)
    assert start_process(tmp_path / "b", cache).wait() == 0
    assert rows_without_time(target) == rows_without_time(expected)
    assert [json.loads(line) for line in target.samples.read_text().splitlines()] == [
        json.loads(line) for line in expected.samples.read_text().splitlines()
    ]
    assert {s: target.read_pairs(s) for s in target.saved_steps()} == {
        s: expected.read_pairs(s) for s in expected.saved_steps()
    }
