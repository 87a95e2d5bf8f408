"""Several sets as one: proportions, caps, seeds, and nothing taken twice."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo.config import load
from dpo.data.files import Files
from dpo.data.mixture import Mixture, shares
from dpo.data.pair import check_pairs
from dpo.errors import UsageError


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Files]:
    """a has 30 training pairs, b has 90; 10 evaluation pairs each."""
    made = {}
    for name, count in (("a", 30), ("b", 90)):
        for kind, number in (("train", count), ("eval", 10)):
            rows = [{"prompt": f"{name}{kind}{i}", "chosen": "x", "rejected": "y", "id": f"{i}"} for i in range(number)]
            (tmp_path / f"{name}-{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        made[name] = Files(str(tmp_path / f"{name}-train.jsonl"), str(tmp_path / f"{name}-eval.jsonl"), 0.1)
    return made


def sizes(mixture: Mixture) -> dict[str, int]:
    """Training pairs by part; the mixture must be usable as it is."""
    split = mixture.load()
    check_pairs(split.train, "train")
    check_pairs(split.evaluation, "evaluation")
    return dict(Counter(pair.id.split("/")[0] for pair in split.train))


def test_equal_weights_take_as_many_of_each_as_there_can_be(parts) -> None:
    """The smaller part decides."""
    assert sizes(Mixture(parts, {}, {}, None, 0)) == {"a": 30, "b": 30}


def test_weights_are_proportions(parts) -> None:
    """One to three, all of both."""
    assert sizes(Mixture(parts, {"b": 3}, {}, None, 0)) == {"a": 30, "b": 90}


def test_a_cap_holds_and_the_proportion_stays(parts) -> None:
    """At most ten of b, so ten of a as well."""
    assert sizes(Mixture(parts, {}, {"b": 10}, None, 0)) == {"a": 10, "b": 10}


def test_size_is_exact_and_nested(parts) -> None:
    """The pairs of a smaller mixture are among those of a larger one at the same seed."""
    small, large = (Mixture(parts, {}, {}, size, 0).load().train for size in (11, 40))
    assert len(small) == 11 and len(large) == 40 and {p.id for p in small} <= {p.id for p in large}


def test_the_seed_decides_which_pairs(parts) -> None:
    """And nothing else does."""
    ids = [[pair.id for pair in Mixture(parts, {}, {}, 10, seed).load().train] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_counts_of_the_parts_and_what_mixing_left_out_travel_on(parts) -> None:
    """120 + 20 rows read; 60 training and 20 evaluation pairs used."""
    counts = Mixture(parts, {}, {}, None, 0).load().counts
    assert counts["rows"] == 140 and counts["left_out_by_mixing"] == 60


def test_more_than_there_is_is_refused(parts) -> None:
    """With the largest size that would do."""
    with pytest.raises(UsageError, match=r"dataset\.size=61.*at most 60"):
        Mixture(parts, {}, {}, 61, 0).load()


@pytest.mark.parametrize("key", ("weights", "caps"))
def test_unknown_parts_are_refused(key: str, parts) -> None:
    """The parts there are, by name."""
    given = {"weights": {}, "caps": {}} | {key: {"c": 1}}
    with pytest.raises(UsageError, match=rf"dataset\.{key}\.c: no such part; the parts are a, b"):
        Mixture(parts, **given, size=None, seed=0)


def test_parts_are_composed_from_their_option_files() -> None:
    """Each part has the keys of its own yaml."""
    config = load(["dataset=mixture", "+dataset@dataset.parts.a=twelve", "+dataset@dataset.parts.b=json_over_prose"])
    split = config.dataset.load()
    assert len(split.train) == 24 and {p.source for p in split.train} == {"twelve", "json_over_prose"}


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=6), st.integers(0, 1000))
def test_shares_sum_to_the_size_and_stay_within_one_of_their_proportion(weights: list[float], size: int) -> None:
    """Largest remainders."""
    exact = {f"{i}": w / sum(weights) for i, w in enumerate(weights)}
    counts = shares(exact, size)
    assert sum(counts.values()) == size
    assert all(abs(counts[name] - exact[name] * size) < 1 + 1e-6 for name in exact)
