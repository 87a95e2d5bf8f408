"""Losses from per-pair rows alone, against what runs logged and against numbers by hand."""

import json
import math
from pathlib import Path

import pytest
import torch

from dpo.__main__ import main
from dpo.config import conf_dir, load
from dpo.errors import UsageError
from dpo.losses.base import Loss, LossOut
from dpo.losses.ipo import Ipo
from dpo.losses.sigmoid import Sigmoid
from dpo.metrics import PairRows
from dpo.posthoc import HELD, choose, evaluation, rescore
from dpo.records import RunDir
from dpo.run import run

TINY = "model=tiny_byte model.steps=0 model.width=64 model.layers=2 dataset=twelve sft=none tracker=disabled"
QUICK = "evaluate.samples=0 evaluate.greedy=0 evaluate.kl_samples=0 train.device=cpu optim.lr=1e-3"
LOSSES = sorted(path.stem for path in (conf_dir() / "loss").glob("*.yaml"))

ROWS = PairRows.read(
    {"id": ["a", "b"], "loss": [9.0, 9.0], "chosen_reward": [0.0, 0.0], "rejected_reward": [0.0, 0.0]}
    | {"chosen_logp": [-10.0, -20.0], "rejected_logp": [-30.0, -8.0], "chosen_tokens": [2, 4]}
    | {"chosen_ref_logp": [-12.0, -16.0], "rejected_ref_logp": [-26.0, -8.0], "rejected_tokens": [4, 2]}
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A function from overrides to a finished tiny run (seconds)."""
    root = tmp_path_factory.mktemp("runs")

    def make(*overrides: str) -> RunDir:
        places = [f"output_root={root}", f"cache_root={root}/cache"]
        return run(load([*TINY.split(), *QUICK.split(), *places, *overrides]))[0]

    return make


def logged(directory: RunDir) -> float:
    """The loss of the last evaluation."""
    return [row["eval/loss"] for row in directory.rows(directory.metrics) if row["kind"] == "eval"][-1]


@pytest.mark.parametrize("overrides", [["loss=sigmoid"], ["loss=ipo", "beta.value=0.3", "train.token_budget=200"]])
def test_the_runs_own_loss_is_the_logged_one(trained, overrides):
    """Rescored with its own loss and beta, the last evaluation has its logged loss to 1e-9."""
    directory = trained("train.max_steps=3", *overrides)
    config = choose(directory, None, None, [])
    _, _, rows, row = evaluation(directory, None)
    assert float(rescore(rows, config.loss, row["eval/beta"]).values["loss"].mean()) == pytest.approx(
        logged(directory), abs=1e-9
    )


def test_another_loss_gives_what_a_run_with_it_logs(trained):
    """Two runs that only evaluate against a smaller reference, under sigmoid and under IPO."""
    one, other = (trained("train.max_steps=0", "reference=tiny_small", f"loss={name}") for name in ("sigmoid", "ipo"))
    _, _, rows, _ = evaluation(one, None)
    assert float(rescore(rows, Ipo(), 0.1).values["loss"].mean()) == pytest.approx(logged(other), abs=1e-9)
    assert logged(one) != pytest.approx(logged(other))


def test_ipo_by_hand():
    """c/n - r/n is 2/2 + 4/4 = 2 and -4/4 - 0 = -1; at beta 0.25 the target is 2: losses 0 and 9."""
    assert rescore(ROWS, Ipo(), 0.25).values["loss"].tolist() == pytest.approx([0.0, 9.0])


def test_rewards_follow_the_beta():
    """d is 6 and -4, so at beta 0.5 the margins are 3 and -2."""
    again = rescore(ROWS, Ipo(), 0.5).values
    assert (again["chosen_reward"] - again["rejected_reward"]).tolist() == pytest.approx([3.0, -2.0])


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_scored_or_refused_by_what_it_lacks(name, tmp_path):
    """An option of conf/loss gives finite values, or an error that names a need the rows do not meet."""
    config = load([f"loss={name}"])
    if missing := config.loss.needs - HELD:
        with pytest.raises(UsageError, match=min(missing)):
            rescore(ROWS, config.loss, config.beta.value(0))
    else:
        assert rescore(ROWS, config.loss, config.beta.value(0)).values["loss"].isfinite().all()


class Coupled(Loss):
    """A toy that couples pairs: each pair's loss is the mean log-prob over all of them."""

    def __call__(self, policy, reference, beta):
        mean = policy.chosen_B.mean().expand_as(policy.chosen_B)
        return LossOut(mean, policy.chosen_B, policy.rejected_B)


def test_a_loss_that_couples_pairs_sees_all_of_them():
    """The mean of -10 and -20."""
    assert rescore(ROWS, Coupled(), 0.1).values["loss"].tolist() == [-15.0, -15.0]


class Greedy(Coupled):
    """A toy that reads what no row holds."""

    needs = frozenset({"reference", "token_kl"})


def test_a_loss_that_reads_more_is_refused_with_what_is_missing():
    """The line names the loss and the input."""
    with pytest.raises(UsageError, match="loss Greedy also reads token_kl, which per-pair rows do not hold"):
        rescore(ROWS, Greedy(), 0.1)


def test_rows_without_a_reference_refuse_a_loss_that_reads_one():
    """They were written under a loss that needs none."""
    without = PairRows(ROWS.pair_B, {k: v * math.nan if "_ref_" in k else v for k, v in ROWS.values.items()})
    with pytest.raises(UsageError, match="reads a reference"):
        rescore(without, Ipo(), 0.1)


def test_the_command_prints_another_losss_value(trained, capsys):
    """`dpo score RUN --loss ipo --beta 0.5` without a pairs file."""
    directory = trained("train.max_steps=3", "loss=sigmoid")
    capsys.readouterr()
    assert main(["score", str(directory.path), "--loss", "ipo", "--beta", "0.5"]) == 0
    _, _, rows, _ = evaluation(directory, None)
    printed = json.loads(capsys.readouterr().out)
    assert printed["loss"] == pytest.approx(float(rescore(rows, Ipo(), 0.5).values["loss"].mean()), abs=1e-12)


def test_the_command_takes_settings_of_the_loss(trained, capsys):
    """Label smoothing 0.25 changes the value to that of the smoothed loss."""
    directory = trained("train.max_steps=3", "loss=sigmoid")
    capsys.readouterr()
    main(["score", str(directory.path), "--loss", "sigmoid", "--set", "loss.label_smoothing=0.25"])
    _, _, rows, _ = evaluation(directory, None)
    expected = float(rescore(rows, Sigmoid(label_smoothing=0.25), 0.1).values["loss"].mean())
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(expected, abs=1e-12)


def test_a_pairs_file_is_scored_under_the_other_loss_too(trained, tmp_path, capsys):
    """The evaluation pairs as a file, scored by the checkpoint: the value that the rows give, to fp32."""
    directory = trained("train.max_steps=3", "loss=sigmoid")
    file = tmp_path / "pairs.jsonl"
    pairs = load(["dataset=twelve"]).dataset.load().evaluation
    texts = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs]
    file.write_text("".join(json.dumps(row) + "\n" for row in texts))
    capsys.readouterr()
    assert main(["score", str(directory.path), str(file), "--loss", "ipo"]) == 0
    _, _, rows, _ = evaluation(directory, None)
    expected = float(rescore(rows, Ipo(), 0.1).values["loss"].mean())
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--loss", "ipo", "--beta", "0"], "must be above 0"),
        (["--beta", "-1"], "must be at least 0"),
        (["--loss", "ippo"], "did you mean ipo"),
        (["--set", "loss.label_smoothing=0.1"], "sets a key of the loss that --loss names"),
        (["--loss", "ipo", "--set", "seed=1"], "sets a key of the loss"),
        (["--step", "2"], "there are: 0, 3"),
    ],
)
def test_what_cannot_be_scored_is_one_line_and_exit_two(trained, capsys, arguments, said):
    """The rule and the value, nothing on stdout."""
    directory = trained("train.max_steps=3", "loss=sigmoid")
    capsys.readouterr()
    assert main(["score", str(directory.path), *arguments]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_a_directory_without_a_run_is_refused(tmp_path, capsys):
    """No run.yaml."""
    assert main(["score", str(Path(tmp_path))]) == 2
    assert "is this a run directory?" in capsys.readouterr().err


def test_swapping_every_pair_flips_every_margin():
    """Rows read from the other side: d changes its sign under any beta."""
    sides = {"chosen": "rejected", "rejected": "chosen"}
    swapped = {k: ROWS.values[k.replace(s, sides[s])] for s in sides for k in ROWS.values if k.startswith(s)}
    swapped["loss"] = ROWS.values["loss"]
    one, other = (rescore(rows, Ipo(), 0.5).values for rows in (ROWS, PairRows(ROWS.pair_B, swapped)))
    margin = one["chosen_reward"] - one["rejected_reward"]
    assert torch.equal(other["chosen_reward"] - other["rejected_reward"], -margin)
