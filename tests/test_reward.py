"""`dpo reward`: a run of its own, its files, and its comparison with a policy's implicit reward."""

import json
import math
from pathlib import Path

import pytest

from dpo.__main__ import main
from dpo.config import load
from dpo.records import RunDir
from dpo.run import run

from .processes import DPO, Python

TINY = "model=tiny_byte model.steps=0 model.width=32 model.layers=2 dataset=twelve sft=none tracker=disabled"
QUICK = "evaluate.samples=0 evaluate.greedy=0 evaluate.kl_samples=0 train.device=cpu train.max_steps=40 optim.lr=3e-3"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Where all runs of this module go."""
    return tmp_path_factory.mktemp("runs")


def settings(root: Path) -> list[str]:
    """Overrides of a run of seconds."""
    return [*TINY.split(), *QUICK.split(), f"output_root={root}", f"cache_root={root}/cache"]


@pytest.fixture(scope="module")
def policy(root) -> RunDir:
    """A finished policy run."""
    return run(load(settings(root)))[0]


@pytest.fixture(scope="module")
def reward(root, policy) -> RunDir:
    """A reward model with the policy's settings, made by the command and compared with it."""
    assert main(["reward", "--against", str(policy.path)]) == 0
    (path,) = [path for path in (root / "runs").iterdir() if "-reward-" in path.name]
    return RunDir(path)


def evaluations(directory: RunDir) -> list[dict]:
    """The evaluation rows."""
    return [row for row in directory.rows(directory.metrics) if row["kind"] == "eval"]


def test_the_first_loss_is_ln_2_and_training_lowers_it(reward):
    """The head begins at zero; the twelve pairs are learnt."""
    first, *_, last = evaluations(reward)
    assert first["eval/loss"] == pytest.approx(math.log(2)) and first["eval/rewards/accuracies"] == 0.5
    assert last["eval/loss"] < 0.3 and last["eval/rewards/accuracies"] > 0.9


def test_a_reward_run_has_the_files_of_a_run(reward):
    """What other tools read of any run directory."""
    names = ("run.yaml", "status.json", "provenance.json", "summary.json", "audit.json", "metrics.jsonl")
    assert all((reward.path / name).is_file() for name in names)
    assert reward.status()["state"] == "done" and reward.kind == "reward" and reward.saved_steps()[0] == 0


def test_the_logged_values_are_those_of_the_pair_rows(reward):
    """Loss softplus(-(r_c - r_r)) and margin, from the table alone."""
    columns, last = reward.read_pairs(reward.saved_steps()[-1]), evaluations(reward)[-1]
    margin = [c - r for c, r in zip(columns["chosen_reward"], columns["rejected_reward"], strict=True)]
    assert sum(margin) / 12 == pytest.approx(last["eval/rewards/margins"], abs=1e-9)
    assert sum(math.log1p(math.exp(-m)) for m in margin) / 12 == pytest.approx(last["eval/loss"], abs=1e-6)


def test_it_starts_from_the_policys_start_and_data(reward, policy):
    """Same start folder, training pairs and evaluation pairs."""
    ours, theirs = (directory.read("provenance") for directory in (reward, policy))
    assert all(ours[name] == theirs[name] for name in ("start", "train_data_hash", "eval_data_hash", "steps"))


def test_a_finished_one_is_not_repeated(reward, policy, capsys):
    """The same command says so, prints the directory last, and leaves the rows alone."""
    before = reward.metrics.read_bytes()
    assert main(["reward", "--against", str(policy.path)]) == 0
    captured = capsys.readouterr()
    assert "already finished, not repeated" in captured.err
    assert captured.out.splitlines()[-1] == str(reward.path) and reward.metrics.read_bytes() == before


def test_the_comparison_is_that_of_both_runs_last_evaluations(reward, policy):
    """Accuracies as logged; agreement counted by hand on the two tables."""
    values = reward.read(f"against-{policy.path.name}")
    assert values["explicit/accuracy"] == evaluations(reward)[-1]["eval/rewards/accuracies"]
    assert values["implicit/accuracy"] == evaluations(policy)[-1]["eval/rewards/accuracies"]
    tables = [d.read_pairs(d.saved_steps()[-1]) for d in (reward, policy)]
    signs = [[c > r for c, r in zip(t["chosen_reward"], t["rejected_reward"], strict=True)] for t in tables]
    assert values["agreement"] == pytest.approx(sum(a == b for a, b in zip(*signs, strict=True)) / 12)


def test_beta_and_loss_make_no_other_reward_model(root, reward, policy):
    """Against a policy of another beta the finished reward model is found, not trained again."""
    other, _ = run(load([*settings(root), "beta.value=0.7"]))
    assert main(["reward", "--against", str(other.path)]) == 0
    assert len([path for path in (root / "runs").iterdir() if "-reward-" in path.name]) == 1
    assert reward.read(f"against-{other.path.name}")["pairs"] == 12


def test_it_scores_a_pairs_file_in_a_fresh_process(reward, tmp_path):
    """The evaluation pairs as a file: the last evaluation's numbers again."""
    file = tmp_path / "pairs.jsonl"
    pairs = load(["dataset=twelve"]).dataset.load().evaluation
    texts = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs]
    file.write_text("".join(json.dumps(row) + "\n" for row in texts))
    printed = json.loads(Python(DPO, "score", str(reward.path), str(file)).communicate()[0])
    last = evaluations(reward)[-1]
    assert printed["rewards/margins"] == pytest.approx(last["eval/rewards/margins"], rel=1e-5)


def test_it_is_reproduced_bit_by_bit(reward):
    """From its run.yaml alone, as a reward model."""
    assert main(["reproduce", str(reward.path)]) == 0


@pytest.mark.parametrize("override", ["beta.value=0.3", "loss=ipo", "reference.path=x", "evaluate.samples=3"])
def test_an_override_that_a_reward_model_does_not_read_is_refused(override, capsys):
    """Every swept knob changes the run or raises."""
    assert main(["reward", override]) == 2
    assert "would change nothing" in capsys.readouterr().err


def test_runs_on_other_pairs_are_not_compared(root, policy, capsys):
    """A shorter max_length cuts the answers, so the tokens differ."""
    assert main(["reward", "--against", str(policy.path), "train.max_length=24", "train.max_steps=0"]) == 2
    assert "its evaluation pairs are not those of" in capsys.readouterr().err


def test_a_reward_model_is_no_policy_to_compare_with(reward, capsys):
    """--against names a policy's run."""
    assert main(["reward", "--against", str(reward.path)]) == 2
    assert "must be the directory of a finished policy run" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["score", "RUN"], ["score", "RUN", "--loss", "ipo"], ["compare", "RUN"]])
def test_what_needs_a_policy_refuses_a_reward_model(reward, capsys, arguments):
    """One line, exit 2."""
    capsys.readouterr()
    assert main([argument.replace("RUN", str(reward.path)) for argument in arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
