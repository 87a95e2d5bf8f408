"""Surface tells: found where they were planted, not where nothing is."""

import random

import pytest

from dpo.data.pair import Pair
from dpo.data.probe import format_features, probe, share_interval, word_features


def pairs(n: int, chosen, rejected) -> list[Pair]:
    """n pairs with a prompt each; both answers are drawn from twenty words."""
    generator = random.Random(0)
    words = [f"word{i}" for i in range(20)]

    def text() -> str:
        return " ".join(generator.choices(words, k=8))

    return [Pair(f"p{i}", f"q{i}", chosen(text()), rejected(text()), "toy") for i in range(n)]


def plain(text: str) -> str:
    return text


def test_a_planted_word_is_found_with_its_accuracy_and_name() -> None:
    """A word on the chosen side of every pair: the bag of words is always right, and the word is the first tell."""
    found = probe(pairs(200, lambda text: text + " sure", plain))
    assert found["words"]["accuracy"] == 1.0
    assert found["tells"][0] == {"feature": "word 'sure'", "chosen_only": 1.0, "rejected_only": 0.0}
    assert "a bag of words alone predicts the label in 100%" in found["sentence"]


def test_a_planted_format_is_found_by_the_format_probe() -> None:
    """A heading on the rejected side."""
    assert probe(pairs(200, plain, lambda text: f"# Answer\n{text}"))["format"]["accuracy"] == 1.0


def test_nothing_planted_is_near_one_half() -> None:
    """Random answers: the interval of the cross-validated accuracy holds one half."""
    low, high = probe(pairs(400, plain, plain))["words"]["interval"]
    assert low < 0.5 < high


def test_what_is_learnt_about_a_prompt_does_not_help_on_the_same_prompt() -> None:
    """Ten prompts, each with an answer pair of its own words, repeated: only folds by prompt see no leak."""
    made = [Pair(f"{i}", f"q{i % 10}", f"good{i % 10}", f"bad{i % 10}", "toy") for i in range(200)]
    assert probe(made)["words"]["accuracy"] == 0.5


def test_half_a_signal_is_half_found() -> None:
    """A word in one half of the pairs only: right there, a coin elsewhere."""
    made = pairs(300, plain, plain)
    marked = [Pair(p.id, p.prompt, f"{p.chosen} sure", p.rejected, "toy") if i % 2 else p for i, p in enumerate(made)]
    assert 0.65 < probe(marked)["words"]["accuracy"] < 0.85


def test_at_most_two_thousand_pairs_are_looked_at() -> None:
    """The cost is bounded, and n says so."""
    assert probe([Pair(f"{i}", f"q{i}", "yes", "no", "toy") for i in range(2100)])["n"] == 2000


def test_one_pair_is_probed_without_fault() -> None:
    """There is nothing to learn from: one half."""
    assert probe([Pair("a", "q", "yes", "no", "toy")])["words"]["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        ("- a\n- b", "list"),
        ("1. a", "list"),
        ('{"a": 1}', "JSON"),
        ("```\nx\n```", "code fence"),
        ("Sure, yes.", "first word 'sure'"),
        ("Sure, yes.", "last sign '.'"),
        ("Sure", "first sign upper-case letter"),
        ("a\n\nb", "empty line"),
    ],
)
def test_formats_are_recognised(text: str, feature: str) -> None:
    """One example each."""
    assert feature in format_features(text)


def test_words_are_compared_without_case() -> None:
    """Casing is a matter of format."""
    assert word_features("Yes, YES") == {"word 'yes'", "word ','"}


def test_intervals_are_wilson_s_and_count_prompts() -> None:
    """5 of 10: 0.2366 to 0.7634; two prompts of five pairs each are worth less."""
    hits = [1.0, 0.0] * 5
    assert share_interval(hits, range(10)) == pytest.approx([0.2366, 0.7634], abs=1e-4)
    low, high = share_interval(hits, [i % 2 for i in range(10)])
    assert low < 0.05 and high > 0.95
    assert share_interval([], []) == [0.0, 1.0]
