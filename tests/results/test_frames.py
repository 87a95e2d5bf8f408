"""Run directories as frames: every number as logged, every state kept, every broken file said."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from dpo.errors import UsageError
from dpo.evaluate import length
from dpo.metrics import PairRows
from dpo.results.comparable import blank_columns, comparable, comparable_groups, require_comparable, scale_of
from dpo.results.findings import findings
from dpo.results.frames import load, load_run
from dpo.results.measures import balanced
from dpo.results.tables import failed_table
from tests.results.toy_runs import MEAN, OWN, sweep_file, write_run


def test_a_row_per_run_holds_settings_and_both_ends(tmp_path) -> None:
    """config.*, eval/* of the last evaluation, start/eval/* of the first, flags, state."""
    made = write_run(tmp_path / "beta", seed=1, beta=0.3)
    (row,) = load(tmp_path).runs.to_dict("records")
    rows = [json.loads(line) for line in made.metrics.read_text().splitlines()]
    assert row["run"] == made.path.name and made.path.name.endswith(row["id"])
    assert (row["config.beta.value"], row["seed"], row["state"], row["sweep"]) == (0.3, 1, "done", "beta")
    assert {k: row[k] for k in rows[-1] if k.startswith("eval/")} == {
        k: v for k, v in rows[-1].items() if k.startswith("eval/")
    }
    assert all(row[f"start/{k}"] == v for k, v in rows[0].items() if k.startswith("eval/"))
    assert row["flag/displacement"] is made.read("summary")["flags"]["displacement"]


def test_a_row_per_step_and_kind_as_logged(tmp_path) -> None:
    """Every row of metrics.jsonl once, with its values."""
    made = write_run(tmp_path)
    frame = load(tmp_path).steps
    rows = list(made.rows(made.metrics))
    assert list(zip(frame["kind"], frame["step"], strict=True)) == [(row["kind"], row["step"]) for row in rows]
    train = frame[frame["kind"] == "train"]
    assert train["train/loss"].tolist() == [row["train/loss"] for row in rows if row["kind"] == "train"]


@pytest.mark.parametrize(
    ("column", "metric"),
    [
        ("win", "rewards/accuracies"),
        ("margin", "rewards/margins"),
        ("d", "logratios/margins"),
        ("c", "logratios/chosen"),
        ("r", "logratios/rejected"),
        ("displaced", "displacement"),
        ("chosen_change", "logps/chosen_change"),
        ("rejected_change", "logps/rejected_change"),
    ],
)
def test_the_pairs_of_a_real_run_mean_what_was_logged(finished, column: str, metric: str) -> None:
    """At the start and at the end, for every derived column."""
    run = load_run(finished.path)
    for row in run.evaluations().to_dict("records"):
        assert run.pairs(row["step"])[column].mean() == pytest.approx(row[f"eval/{metric}"], rel=1e-12, abs=1e-15)


def test_a_real_run_knows_its_prompts_scale_and_yardsticks(finished) -> None:
    """What the runner records for readers without the trainer."""
    run = load_run(finished.path)
    assert run.provenance["loss"] == {"name": "Sigmoid", "reduction": "sum", "own_score": False, "uses_beta": True}
    assert {"eval_pairs_hash", "tokenizer_hash"} <= set(run.provenance)
    assert run.pairs()["prompt"].nunique() == 12 and run.pairs()["prompt"].str.fullmatch("[0-9a-f]{12}").all()
    assert run.samples()["repetition"].between(0, 1).all()


def test_subsets_by_length_are_those_of_the_evaluation(tmp_path) -> None:
    """Classes and the balanced subset give the logged accuracies; the subset is the trainer's, pair by pair."""
    run = load_run(write_run(tmp_path, n=60).path)
    pairs = run.pairs()
    for name, key in (("chosen longer", "chosen_longer"), ("equal", "equal"), ("chosen shorter", "chosen_shorter")):
        assert pairs[pairs["length_class"] == name]["win"].mean() == run.last[f"eval/length/accuracy_{key}"]
    assert pairs[pairs["balanced"]]["win"].mean() == run.last["eval/length/accuracy_balanced"]
    columns = {name: pairs[name].tolist() for name in ("id", "chosen_tokens", "rejected_tokens")}
    v = PairRows.read(columns).values
    assert pairs["balanced"].tolist() == length.balanced(v["chosen_tokens"] - v["rejected_tokens"]).tolist()


def test_the_balanced_subset_is_the_trainer_s_for_long_answers_too() -> None:
    """Where a tenth of the difference is more than a token."""
    difference = np.random.default_rng(0).integers(-300, 300, 200).astype(float)
    assert balanced(difference).tolist() == length.balanced(torch.tensor(difference)).tolist()


def test_a_loss_without_a_reference_wins_by_its_own_score(tmp_path) -> None:
    """Known from provenance; for a run that does not say, from its first rewards."""
    run = load_run(write_run(tmp_path, facts=OWN, gain=0.5).path)
    pairs = run.pairs()
    assert run.own_score and not np.array_equal(pairs["d"] > 0, pairs["margin"] > 0)
    assert pairs["win"].mean() == run.last["eval/rewards/accuracies"]
    provenance = {k: v for k, v in run.provenance.items() if k != "loss"}
    (run.path / "provenance.json").write_text(json.dumps(provenance))
    assert load_run(run.path).own_score


def test_older_tables_without_a_prompt_take_each_pair_for_its_own(tmp_path) -> None:
    """So that nothing is clustered that is not known to be."""
    made = write_run(tmp_path, prompts=4)
    columns = made.read_pairs(4)
    del columns["prompt"]
    made.write_pairs(4, columns)
    assert load_run(made.path).pairs()["prompt"].tolist() == columns["id"]


def test_every_state_is_kept_and_only_finished_policies_count(tmp_path) -> None:
    """failed, interrupted, reward models and jobs without a directory are there, and apart."""
    for seed, state in enumerate(("done", "failed", "running")):
        write_run(tmp_path, seed, state=state)
    write_run(tmp_path, 3, provenance={"kind": "reward"})
    runs = load(tmp_path)
    sweep_file(tmp_path, [(run.id, run.name) for run in runs] + [("0123abcd", "beta0.1-seed9")])
    runs = load(tmp_path)
    assert sorted(runs.runs["state"]) == ["done", "done", "failed", "interrupted"]  # nobody is at the running one
    assert runs.runs.set_index("seed")["error"][2] == "killed"
    assert [run.seed for run in runs.done] == [0] and [run.seed for run in runs.rewards] == [3]
    assert [run.seed for run in runs.unfinished] == [1, 2]
    assert runs.pending == ((tmp_path.name, "beta0.1-seed9", "0123abcd"),)
    assert runs.runs.set_index("seed")["error"][1] == "FloatingPointError: the loss is nan"


@pytest.mark.parametrize("odd", ["NaN", "Infinity", "-Infinity", "null"])
def test_a_run_that_ended_with_numbers_that_are_none_failed_whatever_it_said(odd: str, tmp_path) -> None:
    """As earlier versions let it, and as a copy from W&B has it; the others count as before."""
    made = [write_run(tmp_path, seed) for seed in range(3)]
    rows = made[1].metrics.read_text().splitlines()
    rows[-1] = re.sub(r'"eval/loss": [^,]+', f'"eval/loss": {odd}', rows[-1])
    made[1].metrics.write_text("\n".join(rows) + "\n")
    runs = load(tmp_path)
    assert [run.seed for run in runs.done] == [0, 2]
    assert re.fullmatch("step 4: eval/loss is (nan|inf|-inf|None)", runs.runs.set_index("seed")["error"][1])


def test_a_last_line_that_was_cut_off_is_dropped_and_said(tmp_path) -> None:
    """A broken line in the middle likewise, by its number."""
    made = write_run(tmp_path)
    lines = made.metrics.read_text().splitlines(keepends=True)
    made.metrics.write_text("".join([*lines[:2], "{broken\n", *lines[2:-1], lines[-1][:50]]))
    runs = load(tmp_path)
    assert len(runs.steps) == 5 and runs.runs["step"][0] == 0
    assert [note.split(": ", 1)[1] for note in runs.notes] == [
        "metrics.jsonl: line 3 is not a row and is dropped",
        "metrics.jsonl: line 7, the last, was cut off and is dropped",
    ]


@pytest.mark.parametrize("name", ["provenance.json", "summary.json", "audit.json", "status.json", "run.yaml"])
@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_a_broken_file_is_a_sentence_and_not_a_traceback(tmp_path, name: str, text: str) -> None:
    """The run stays in the frames, with a note that names the file."""
    made = write_run(tmp_path)
    (made.path / name).write_text(text)
    runs = load(tmp_path)
    assert len(runs.runs) == 1 and name in runs.runs["notes"][0] and name in runs.notes[0]
    assert runs.runs["state"][0] == ("unreadable" if name == "status.json" else "done")


def test_a_broken_table_of_pairs_is_one_line(tmp_path) -> None:
    """It names the file."""
    made = write_run(tmp_path)
    made.pairs(4).write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"step_4.parquet cannot be read"):
        load_run(made.path).pairs()
    with pytest.raises(UsageError, match=r"no table of pairs at step 3; there are: 0, 4"):
        load_run(made.path).pairs(3)


def test_no_folder_no_runs_and_no_run_are_said_in_a_line(tmp_path) -> None:
    """What was looked for and what would help."""
    with pytest.raises(UsageError, match="no such directory"):
        load(tmp_path / "missing")
    with pytest.raises(UsageError, match="no runs here; `dpo sweep` or `dpo train` makes some"):
        load(tmp_path)
    with pytest.raises(UsageError, match="not a run directory"):
        load_run(tmp_path)


def test_a_run_that_lies_there_twice_counts_once(tmp_path) -> None:
    """Or a copy would pass for another seed and narrow every interval."""
    first = write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    runs = load(tmp_path)
    assert [run.path for run in runs] == [first.path] and "counted once" in runs.notes[0]


def test_a_run_directory_is_a_folder_of_one_run(tmp_path) -> None:
    """`load` takes it too; a renamed directory keeps its identity."""
    made = write_run(tmp_path)
    assert len(load(made.path)) == 1
    renamed = made.path.rename(tmp_path / "mine")
    assert made.path.name.endswith(load_run(renamed).id)


def test_runs_come_in_the_order_that_people_count(tmp_path) -> None:
    """seed 2 before seed 10, beta 0.05 before 0.5."""
    for beta, seed in ((0.5, 0), (0.05, 10), (0.05, 2)):
        write_run(tmp_path, seed, beta)
    assert [run.name.rsplit("-", 1)[0] for run in load(tmp_path)] == [
        "beta0.05-seed2",
        "beta0.05-seed10",
        "beta0.5-seed0",
    ]


def test_a_hundred_runs_are_a_hundred_rows(tmp_path) -> None:
    """And their tables are read on demand."""
    for seed in range(100):
        write_run(tmp_path, seed, n=4)
    runs = load(tmp_path)
    assert len(runs.runs) == 100 and len(runs.pairs) == 400 and runs.varied() == []


def test_what_varies_is_what_can_change_a_result(tmp_path) -> None:
    """Not the seed, the tracker, or where things are written."""
    write_run(tmp_path, 0, 0.1, tracker__mode="offline", output_root="elsewhere")
    write_run(tmp_path, 1, 0.3)
    assert load(tmp_path).varied() == ["beta.value"]


def test_what_follows_from_a_chosen_class_is_no_axis(tmp_path) -> None:
    """A loss brings its own keys and usual beta; crossed with beta, both are axes."""
    write_run(tmp_path, 0, 0.1)
    simpo = {"_target_": "dpo.losses.simpo.Simpo", "gamma": 1.0, "usual_beta": 2.0}
    write_run(tmp_path, 0, 2.0, loss=simpo, facts=OWN)
    assert load(tmp_path).varied() == ["beta.value", "loss._target_", "loss.label_smoothing", "loss.gamma"]
    assert load(tmp_path).axes() == ["loss._target_"]
    assert [arm.label for arm in load(tmp_path).arms()] == ["loss Sigmoid", "loss Simpo"]
    write_run(tmp_path, 0, 0.3)
    assert load(tmp_path).axes() == ["beta.value", "loss._target_"]


def test_an_arm_never_mixes_settings(tmp_path) -> None:
    """Asked for beta alone, the learning rate still parts the arms; they are ordered by value, seeds within."""
    for beta in (0.5, 0.05):
        for rate in (1e-3, 1e-4):
            for seed in (1, 0):
                write_run(tmp_path, seed, beta, optim__lr=rate)
    arms = load(tmp_path).arms("config.beta.value")
    assert [arm.label for arm in arms] == [f"beta {b}, lr {r}" for b in ("0.05", "0.5") for r in ("0.0001", "0.001")]
    assert [list(arm.by_seed) for arm in arms] == [[0, 1]] * 4
    with pytest.raises(
        UsageError, match=r"no\.such\.key: no setting of these runs; what varies is beta\.value, optim\.lr"
    ):
        load(tmp_path).arms("no.such.key")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": 8}, "evaluation pairs differ: pairs-of in"),
        ({"provenance": {"tokenizer_hash": "u" * 64}}, "tokenizers differ: tttttttt in beta0.1-seed0"),
        ({"train__max_length": 32}, "truncations (train.max_length) differ: 64 in beta0.1-seed0"),
        ({"provenance": {"eval_data_hash": "other"}}, "(pairs, tokenizer, chat template or truncation) differ"),
    ],
)
def test_runs_that_were_measured_differently_are_refused(tmp_path, changes, said: str) -> None:
    """Which runs differ, and in what."""
    write_run(tmp_path, 0)
    write_run(tmp_path, 1, **changes)
    runs = load(tmp_path)
    (reason,) = comparable(runs)
    assert said in reason and all(run.name in reason for run in runs)
    assert [len(part) for part in comparable_groups(runs)] == [1, 1]
    with pytest.raises(UsageError, match="do not belong in one table"):
        require_comparable(runs)


def test_the_settings_behind_a_difference_are_named(tmp_path) -> None:
    """Two data sets in one folder."""
    write_run(tmp_path, 0)
    write_run(tmp_path, 1, data=8, dataset__seed=3, dataset___target_="dpo.data.hh_rlhf.HhRlhf")
    assert "they differ in dataset: Twelve and HhRlhf, dataset.seed: absent and 3" in comparable(load(tmp_path))[0]


def test_runs_measured_alike_are_comparable_whatever_else_varies(tmp_path) -> None:
    """beta, loss, seed, perturbed training pairs."""
    write_run(tmp_path, 0, 0.1)
    write_run(tmp_path, 1, 0.3, perturb__dose=0.5)
    assert comparable(load(tmp_path)) == []


def test_a_beta_sweep_leaves_nothing_blank_and_a_loss_sweep_its_rewards(tmp_path) -> None:
    """Rewards, beta and loss values across reductions; accuracy and d stay."""
    write_run(tmp_path, 0, 0.1)
    write_run(tmp_path, 0, 0.3)
    assert blank_columns(load(tmp_path)) == {}
    write_run(tmp_path, 0, 0.1, facts=MEAN, loss={"_target_": "dpo.losses.ipo.Ipo", "usual_beta": 0.1})
    blank = blank_columns(load(tmp_path))
    assert {"rewards/margins", "rewards/chosen", "beta", "loss", "length/slope", "calibration/beta"} <= set(blank)
    assert not {"rewards/accuracies", "logratios/margins", "displacement", "kl"} & set(blank)
    assert "Ipo: log-ratios, mean, usual beta 0.1" in blank["rewards/margins"]


def test_one_loss_of_another_kind_and_the_same_scale_blanks_its_loss_alone(tmp_path) -> None:
    """Hinge and sigmoid have one reward and two losses."""
    write_run(tmp_path, 0)
    hinge = {"_target_": "dpo.losses.hinge.Hinge", "usual_beta": 0.1}
    write_run(
        tmp_path, 0, loss=hinge, facts={"name": "Hinge", "reduction": "sum", "own_score": False, "uses_beta": True}
    )
    assert set(blank_columns(load(tmp_path))) == {"loss"}
    assert len({scale_of(run) for run in load(tmp_path)}) == 1


def test_results_need_neither_torch_nor_hydra_nor_wandb() -> None:
    """Importing every room of frames, tables and findings loads none of them."""
    rooms = "frames, stats, tables, findings, comparable, measures, labels"
    heavy = ("torch", "transformers", "hydra", "omegaconf", "wandb", "dpo.run", "dpo.metrics")
    code = f"import sys\nfrom dpo.results import {rooms}\nprint([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_that_went_on_with_other_texts_counts_in_no_table(tmp_path) -> None:
    """Under the same pair ids: by the hash of the text, and in older tables by the lengths of the answers."""
    for name, column in (("text", "text"), ("lengths", "chosen_tokens")):
        made = write_run(tmp_path / name)
        assert load_run(made.path).complete
        for step, end in ((0, 7.0), (4, 8.0)):
            table = made.read_pairs(step)
            made.write_pairs(
                step, table | {column: [*([5.0] * 39), end] if column != "text" else ["a"] * 39 + [f"{end}"]}
            )
        runs = load(tmp_path / name)
        assert not runs.done and "pair pair-39 is another one at step 4 than at step 0" in runs.all[0].mixed
        assert "the data changed" in failed_table(runs).rows[0][-1].text
        with pytest.raises(UsageError, match="the data changed; nothing can be said of what this run did"):
            findings(runs.all)
