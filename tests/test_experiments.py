"""The shipped experiments do what their first lines say (end to end, on the embedded model)."""

from pathlib import Path

import pytest

from dpo.config import load
from dpo.rounds import rounds
from dpo.run import run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One output root and cache for the module: the base is built once."""
    return tmp_path_factory.mktemp("experiments")


def train(root: Path, *overrides: str) -> dict:
    """The summary of a run."""
    config = load([*overrides, f"output_root={root}", f"cache_root={root / 'cache'}", "tracker=disabled"])
    return run(config)[0].read("summary")


@pytest.mark.slow
def test_json_over_prose_learns_json_and_stays_close(root: Path) -> None:
    """Undecided before; after: accurate, parseable on unseen topics, few chosen answers displaced, no flag."""
    summary = train(root, "experiment=json_over_prose")
    first, last = summary["first"], summary["last"]
    assert first["eval/loss"] == pytest.approx(0.693147, abs=1e-5)
    assert first["eval/rewards/accuracies"] == 0.5 and first["eval/rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert 0.35 <= first["eval/json_rate"] <= 0.65
    assert last["eval/rewards/accuracies"] > 0.97
    assert last["eval/json_rate"] >= 0.85
    assert last["eval/displacement"] <= 0.2
    assert not any(summary["flags"].values())


@pytest.mark.slow
def test_collapse_has_a_loss_near_0_and_says_that_it_is_broken(root: Path) -> None:
    """The better-looking dashboard, and broken answers: displacement and degeneration are flagged."""
    summary = train(root, "experiment=collapse")
    assert summary["last"]["eval/loss"] < 0.001 and summary["last"]["eval/rewards/accuracies"] > 0.97
    assert summary["last"]["eval/json_rate"] < 0.2
    assert summary["flags"]["displacement"] and summary["flags"]["degeneration"]


@pytest.mark.slow
def test_capstone_prints_loss_and_margin_per_step(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Thirty lines."""
    train(root, "experiment=capstone")
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("step ")]
    assert len(lines) == 30 and all("loss" in line and "margin" in line for line in lines)


@pytest.mark.slow
def test_hand_authored_runs(root: Path) -> None:
    """A smoke test of the pipeline on text the embedded model has never seen."""
    assert train(root, "experiment=hand_authored", "train.max_steps=4")["steps"] == 4


@pytest.mark.slow
def test_judged_json_teaches_itself_json_from_its_own_answers(root: Path) -> None:
    """Undecided before, parseable after, on topics it never saw; every training pair is a judged one."""
    settings = ["experiment=judged_json", f"output_root={root}", f"cache_root={root / 'cache'}", "tracker=disabled"]
    directory = rounds(load(settings))
    summary = directory.read("summary")
    assert 0.35 <= summary["first"]["eval/json_rate"] <= 0.65 and summary["last"]["eval/json_rate"] >= 0.85
    assert directory.read("audit")["judged"] == directory.read("audit")["train"]["pairs"] > 250
