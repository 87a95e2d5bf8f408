"""The paired change of margins: by hand, against printed t tables, and in a run's summary."""

import pytest

from dpo.evaluate.change import margin_change, sentence


def table(margins: list[float]) -> dict[str, list]:
    """A per-pair table with these margins."""
    return {"id": list(range(len(margins))), "chosen_reward": margins, "rejected_reward": [0.0] * len(margins)}


def test_a_change_is_that_of_the_same_pairs() -> None:
    """Differences 1, 2, 3: mean 2, standard error 1/sqrt(3), t(2) = 4.303: 2 +- 2.484."""
    found = margin_change(table([0.0, 1.0, 5.0]), table([1.0, 3.0, 8.0]))
    assert (found["before"], found["after"], found["change"], found["n"]) == (2.0, 4.0, 2.0, 3)
    assert found["interval"] == pytest.approx([2 - 2.4841, 2 + 2.4841], abs=1e-3) and not found["shown"]


def test_a_small_steady_change_is_shown_and_a_large_unsteady_one_is_not() -> None:
    """The interval decides, not the size."""
    assert margin_change(table([0.0] * 4), table([0.01, 0.011, 0.009, 0.01]))["shown"]
    assert not margin_change(table([0.0] * 4), table([5.0, -3.0, 4.0, -2.0]))["shown"]


def test_pairs_of_one_prompt_are_not_independent() -> None:
    """Four prompts of five equal changes each are four changes."""
    before, after = table([0.0] * 20), table([float(i % 4) for i in range(20)])
    prompts = {"prompt": [str(i % 4) for i in range(20)]}
    (low, high), (few, many) = (margin_change(before | p, after | p)["interval"] for p in ({}, prompts))
    assert many - few > 2 * (high - low)


def test_one_pair_shows_nothing() -> None:
    """No interval from one difference."""
    found = margin_change(table([0.0]), table([1.0]))
    assert found["interval"] is None and not found["shown"] and "no interval" in sentence(found)


def test_other_pairs_are_refused() -> None:
    """A change between different pairs is no change."""
    with pytest.raises(ValueError, match="different pairs"):
        margin_change(table([0.0]), table([0.0, 1.0]))


@pytest.mark.parametrize("column", ["text", "prompt", "chosen_tokens"])
def test_other_texts_under_the_same_ids_are_refused(column: str) -> None:
    """By the hash of the text; in older tables, which have none, by prompt and lengths."""
    both = [table([0.0, 1.0]) | {column: ["a", end]} for end in "bc"]
    with pytest.raises(ValueError, match="different pairs: 1"):
        margin_change(*both)


def test_a_run_sums_up_its_change_of_margin(finished) -> None:
    """From its own per-pair tables, on all evaluation pairs."""
    found, last = finished.read("summary")["margin_change"], finished.read("summary")["last"]
    assert found["n"] == 12 and found["after"] == pytest.approx(last["eval/rewards/margins"])


def test_the_sentence_claims_nothing_where_the_interval_holds_0() -> None:
    """Honest about a small effect."""
    assert "no difference shown" in sentence(margin_change(table([0.0] * 4), table([5.0, -3.0, 4.0, -2.0])))
    assert "no difference shown" not in sentence(margin_change(table([0.0] * 3), table([1.0, 1.1, 0.9])))
