"""The start gate: it lets rounding through and stops a broken reference or pipeline."""

import json

import pytest
import torch

from dpo import run as runner
from dpo.config import load
from dpo.gate import StartError, check
from dpo.logps import PairLogps
from dpo.losses.ipo import Ipo
from dpo.metrics import PairRows
from dpo.models.pretrained import load_model
from dpo.reference import Reference, StoredLogps
from dpo.run_folders import find_runs

LENGTHS = torch.tensor([3, 5]), torch.tensor([4, 2])
REFERENCE = PairLogps(torch.tensor([-30.0, -50.0]), torch.tensor([-40.0, -20.0]), *LENGTHS)


def rows(shift: float, loss: Ipo, beta: float = 0.1) -> PairRows:
    """A policy whose chosen log-probs lie `shift` nats above the reference's."""
    policy = PairLogps(REFERENCE.chosen_B + shift, REFERENCE.rejected_B, *LENGTHS)
    return PairRows.of(torch.arange(2), loss(policy, REFERENCE, beta), policy, REFERENCE)


def test_the_start_passes_and_says_its_loss():
    """IPO at beta 0.1 is 1 / (4 x 0.01) = 25 where the policy is the reference."""
    assert check(rows(0.0, Ipo()), Ipo(), 0.1, "fp32", True).startswith("start gate passed: loss 25 ")


def test_rounding_passes():
    """3e-5 nats on sums of tens of nats is what batching does to equal weights in fp32."""
    assert "passed" in check(rows(3e-5, Ipo()), Ipo(), 0.1, "fp32", True)


def test_a_shifted_policy_is_stopped_with_both_values():
    """A hundredth of a nat is not rounding; the line has loss and margin."""
    with pytest.raises(StartError) as error:
        check(rows(0.01, Ipo()), Ipo(), 0.1, "fp32", True)
    message = str(error.value)
    assert "the data pipeline or the reference is wrong" in message and "\n" not in message
    assert "(at the reference 25)" in message and "mean margin 0.001 " in message


def test_equal_shifts_of_both_answers_are_stopped_although_the_margin_is_zero():
    """A reference that likes every answer less by the same amount leaves d = 0."""
    policy = PairLogps(REFERENCE.chosen_B + 1, REFERENCE.rejected_B + 1, *LENGTHS)
    shifted = PairRows.of(torch.arange(2), Ipo()(policy, policy, 0.1), policy, REFERENCE)
    with pytest.raises(StartError):
        check(shifted, Ipo(), 0.1, "fp32", True)


def test_a_loss_that_is_not_its_value_at_the_reference_is_stopped():
    """The log-ratios are 0, but the rows' loss was made with another beta."""
    with pytest.raises(StartError):
        check(rows(0.0, Ipo(), beta=0.2), Ipo(), 0.1, "fp32", True)


def test_the_noise_of_bf16_passes_and_nothing_beyond():
    """Each pair's four log-probs add up to 140 nats: 0.547 nats are 2^-8 of them."""
    assert "passed" in check(rows(0.5, Ipo()), Ipo(), 0.1, "bf16", True)
    with pytest.raises(StartError):
        check(rows(0.6, Ipo()), Ipo(), 0.1, "bf16", True)


def test_a_value_that_is_not_a_number_is_stopped():
    """NaN compares as neither small nor large."""
    with pytest.raises(StartError):
        check(rows(float("nan"), Ipo()), Ipo(), 0.1, "fp32", True)


def test_a_reference_that_differs_on_purpose_gets_a_note():
    """The same facts, and the run goes on."""
    assert check(rows(5.0, Ipo()), Ipo(), 0.1, "fp32", False).startswith("note: the reference is not")


TINY = "model=tiny_byte model.steps=0 model.width=32 model.layers=1 dataset=twelve sft=none tracker=disabled"
QUICK = "evaluate.samples=0 evaluate.greedy=0 evaluate.kl_samples=0 train.max_steps=1 train.device=cpu"


def tiny(root, *more: str):
    """A run of a second."""
    return load([*TINY.split(), *QUICK.split(), f"output_root={root}", f"cache_root={root}/cache", *more])


def the_run_stops(root) -> None:
    """The run raises in one line, takes no step, and is on disk as failed."""
    with pytest.raises(StartError, match="the data pipeline or the reference is wrong"):
        runner.run(tiny(root))
    (directory,) = find_runs(root)
    assert directory.status()["state"] == "failed" and not list(directory.rows(directory.metrics))


def test_a_run_with_other_weights_as_its_reference_stops(tmp_path, monkeypatch):
    """The reference is loaded with one tensor off: the run fails before its first step."""

    def broken(config, model, start, *rest):
        other = load_model(start).requires_grad_(False)
        other.model.embed_tokens.weight.data.mul_(1.01)
        return Reference(other)

    monkeypatch.setattr(runner, "make_reference", broken)
    the_run_stops(tmp_path)


def test_a_run_whose_stored_log_probs_are_of_other_pairs_stops(tmp_path, monkeypatch):
    """The store hands out every row for its neighbour."""
    honest = StoredLogps.logps

    def neighbours(self, batch, *more):
        logps = honest(self, batch, *more)
        return PairLogps(logps.chosen_B.roll(1), logps.rejected_B.roll(1), logps.chosen_len_B, logps.rejected_len_B)

    monkeypatch.setattr(StoredLogps, "logps", neighbours)
    the_run_stops(tmp_path)


def test_a_run_with_another_reference_on_purpose_prints_a_note(tmp_path, capsys):
    """reference.embedded=small on a model of two layers: the note has the loss, and the run is done."""
    directory, _ = runner.run(tiny(tmp_path, "reference=tiny_small", "model.layers=2", "model.width=64"))
    assert directory.status()["state"] == "done"
    assert "note: the reference is not the policy's start: loss" in capsys.readouterr().err


def test_the_gate_is_said_aloud(tmp_path, capsys):
    """An ordinary run prints that its first loss is ln 2."""
    directory, _ = runner.run(tiny(tmp_path))
    assert "start gate passed: loss 0.693147 (at the reference 0.693147)" in capsys.readouterr().err
    assert json.loads(directory.metrics.read_text().splitlines()[0])["eval/loss"] == pytest.approx(0.6931471805599453)
