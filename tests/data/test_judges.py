"""The judges that need no network: what wins, what ties, and which settings are refused."""

from collections.abc import Sequence

import pytest
import torch

from dpo.config import load
from dpo.data.judges.base import Given, Question, Verdict, by_score
from dpo.errors import UsageError

CPU = torch.device("cpu")


def question(*texts: str, references: Sequence[str] = ()) -> Question:
    """Answers with the sample numbers 0, 1, ..."""
    given = tuple(Given(i, 10 + i, text, True) for i, text in enumerate(texts))
    return Question("q", "the prompt", tuple(references), given)


def verdict(asked: Question, *overrides: str) -> Verdict:
    """What the judge of these overrides says."""
    judge = load(list(overrides)).judge
    return judge.open(CPU)([asked], lambda key, ask: ask())[0]


def winner(*texts: str, by: Sequence[str], references: Sequence[str] = ()) -> str | None:
    """The text of the chosen answer, None for a tie."""
    said = verdict(question(*texts, references=references), *by)
    return None if said.chosen is None else texts[said.chosen]


def test_the_best_is_chosen_and_the_worst_rejected_the_earliest_of_equals() -> None:
    """Scores 1, 3, 3, 0, 0: sample 1 against sample 3, with every score kept."""
    said = by_score(question(*"abcde"), [1, 3, 3, 0, 0])
    assert (said.outcome, said.chosen, said.rejected) == ("pair", 1, 3)
    assert said.detail == {"scores": {"0": 1, "1": 3, "2": 3, "3": 0, "4": 0}}


def test_equal_scores_are_a_tie_with_no_sides() -> None:
    """No pair comes of them."""
    said = by_score(question("a", "b"), [2.0, 2.0])
    assert (said.outcome, said.chosen, said.rejected) == ("tie", None, None)


@pytest.mark.parametrize(
    ("texts", "overrides", "chosen"),
    [
        (("prose", '{"a": 1}'), [], '{"a": 1}'),
        (("[1]", '{"a": 1}'), [], '{"a": 1}'),
        (('{"a": 1} and more', "prose"), [], None),
        (("[" * 100_000, '{"a": 1}'), [], '{"a": 1}'),
        (('{"a": 1}', '{"b": 2, "a": 1}'), ["judge.keys=[a,b]"], '{"b": 2, "a": 1}'),
        (('{"a": 1, "b": 2, "c": 3}', "prose"), ["judge.keys=[a,b]"], None),
    ],
)
def test_rules_json_prefers_what_parses(texts, overrides, chosen) -> None:
    """A whole object, with exactly the keys where they are given."""
    assert winner(*texts, by=["judge=rules_json", *overrides]) == chosen


@pytest.mark.parametrize(
    ("texts", "overrides", "chosen"),
    [
        (("no digit", "a 7"), ["judge.pattern='[0-9]'"], "a 7"),
        (("a 7", "7"), ["judge.pattern='[0-9]'", "judge.whole=true"], "7"),
        (("a 7", "b 8"), ["judge.pattern='[0-9]'"], None),
    ],
)
def test_rules_regex_prefers_what_matches(texts, overrides, chosen) -> None:
    """Anywhere, or as a whole."""
    assert winner(*texts, by=["judge=rules_regex", *overrides]) == chosen


@pytest.mark.parametrize(
    ("overrides", "chosen"),
    [
        ([], "a b c"),
        (["judge.wins=longer"], "elephants"),
        (["judge.unit=words"], "elephants"),
        (["judge.wins=longer", "judge.unit=words"], "a b c"),
    ],
)
def test_length_counts_in_its_unit(overrides, chosen) -> None:
    """Five characters in three words against nine in one."""
    assert winner("a b c", "elephants", by=["judge=length", *overrides]) == chosen


@pytest.mark.parametrize(
    ("texts", "overrides", "chosen"),
    [
        (("5", " 4 "), [], " 4 "),
        (("Paris", "paris"), [], None),
        (("Paris", "4 "), ["judge.ignore_case=true"], "4 "),
        (('{"n": 4, "x": 0}', '{"n": "4"}'), ["judge.field=n"], '{"n": 4, "x": 0}'),
        (("{}", "none"), ["judge.field=n"], None),
    ],
)
def test_exact_prefers_the_known_answer(texts, overrides, chosen) -> None:
    """Any chosen answer of the data set on this prompt; white space at the ends aside; or one field of it."""
    known = ['{"n": 4}'] if "judge.field=n" in overrides else ["4", "four"]
    assert winner(*texts, by=["judge=exact", *overrides], references=known) == chosen


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["judge.samples=1"], "judge.samples=1: must be at least 2"),
        (["judge.temperature=0"], "judge.temperature=0.0: must be"),
        (["judge.prompts=0"], "judge.prompts=0: must be at least 1"),
        (["judge.batch_size=0"], "judge.batch_size=0: must be at least 1"),
        (["judge=rules_regex", "judge.pattern='(['"], "judge.pattern=([: not a regular expression"),
        (["judge=length", "judge.wins=bigger"], "judge.wins='bigger': must be one of shorter, longer"),
        (["judge=endpoint", "judge.workers=0"], "judge.workers=0: must be at least 1"),
        (["judge=endpoint", "judge.retries=-1"], "judge.retries=-1"),
        (["judge=endpoint", "judge.max_no_verdict=2"], "judge.max_no_verdict=2.0: must be at least 0 and at most 1"),
        (["rounds=0"], "rounds=0: must be at least 1"),
        (["judge=judy"], "unknown option judge=judy"),
    ],
)
def test_wrong_settings_are_refused(overrides, said) -> None:
    """The rule, the value, the key."""
    with pytest.raises(UsageError) as caught:
        load(overrides)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["judge=rules_regex"], "judge.pattern is not set"),
        (["judge=reward"], "judge.path is not set"),
        (["judge=reward", "judge.path=/no/such/folder"], "judge.path=/no/such/folder: no finished reward model here"),
        (["judge=endpoint"], "judge.url is not set"),
    ],
)
def test_a_judge_that_lacks_something_is_refused_when_it_is_opened(overrides, said) -> None:
    """Before anything is sampled."""
    with pytest.raises(UsageError, match=said):
        load(overrides).judge.open(CPU)
