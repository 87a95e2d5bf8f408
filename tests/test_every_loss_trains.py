"""`dpo train loss=X` for every X of conf/loss, on the embedded model, at its usual beta."""

import math
import re
from pathlib import Path

import pytest

import dpo
from dpo.run import run
from tests.losses.every import NAMES, built, logps

BRIEF = [
    "beta.value=${loss.usual_beta}",
    "train.max_steps=3",
    "train.eval_every=0",
    "evaluate.samples=0",
    "evaluate.kl_samples=4",
    "evaluate.greedy=2",
]


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ("full", "lora_qv"))
@pytest.mark.parametrize("name", NAMES)
def test_every_loss_trains_a_model(small, name, adapter):
    """A whole run in micro-batches: it starts where the loss says, its rows are numbers, and its weights move."""
    config = small(f"loss={name}", f"adapter={adapter}", "train.token_budget=400", *BRIEF)
    directory, _ = run(config)
    rows = list(directory.rows(directory.metrics))
    first = next(row for row in rows if row["kind"] == "eval")
    steps = [row for row in rows if row["kind"] == "train"]
    assert len(steps) == 3 and all(row["train/grad_norm"] > 0 for row in steps)
    assert all(math.isfinite(x) for row in rows for x in row.values() if isinstance(x, float))
    expected = config.loss.at_reference(config.beta.value(0), start_logps(directory))
    if expected is not None and "reference" in config.loss.needs:
        assert first["eval/loss"] == pytest.approx(expected, rel=1e-4)
    assert steps[-1]["train/logps/chosen"] != steps[0]["train/logps/chosen"]


def start_logps(directory):
    """The evaluation pairs under the reference, from the rows of the first evaluation."""
    columns = directory.read_pairs(0)
    sides = [[float(x) for x in columns[f"{side}_ref_logp"]] for side in ("chosen", "rejected")]
    lengths = [[int(x) for x in columns[f"{side}_tokens"]] for side in ("chosen", "rejected")]
    return logps(*sides, *lengths)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", (["beta=annealed"], ["beta=dynamic"], ["loss=sigmoid", "loss.wpo=true"]))
def test_other_betas_and_modifiers_train(small, overrides):
    """The row shows the beta that each step used, and annealing ends at its end."""
    directory, _ = run(small(*overrides, "train.token_budget=400", *BRIEF))
    betas = [row["train/beta"] for row in directory.rows(directory.metrics) if row["kind"] == "train"]
    assert len(betas) == 3
    if "beta=annealed" in overrides:
        assert betas == pytest.approx([0.07, 0.04, 0.01])


def test_nothing_outside_asks_for_a_losss_name():
    """No file of the package but a loss's own names its class, so that a new loss needs no other file."""
    names = {type(built(name)[0]).__name__ for name in NAMES} - {"Sft", "Sum"}  # words of their own elsewhere
    assert len(names) > 20
    for path in Path(dpo.__file__).parent.rglob("*.py"):
        if path.parent.name != "losses":
            assert not set(re.findall(r"\w+", path.read_text())) & names, path
