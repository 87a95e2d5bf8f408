"""Bias on purpose: exact in its dose, nested, seeded, recorded, and nothing at dose 0."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo.config import load
from dpo.data.pair import Pair, Split, characters
from dpo.data.perturb import (
    FILLERS,
    LabelFlip,
    LengthBias,
    LengthMatched,
    LengthRepaired,
    MalformedRejected,
    NoPerturbation,
    Several,
    Subsample,
)
from dpo.errors import UsageError
from dpo.run import load_data, run

N = 40
SPLIT = Split(
    [
        Pair(
            f"p{i}",
            f"Describe Saturn {i}.\n",
            f"Saturn is a planet {'very ' * (i % 3)}big.",
            f"No idea {i}, sorry.",
            "toy",
        )
        for i in range(N)
    ],
    [Pair("e1", "q", "abcde", "abcdf", "toy"), Pair("e2", "q", "abcdefgh", "a", "toy")],
    ["q"],
)
DOSED = {
    "length_bias": lambda dose, seed=0: LengthBias(dose, 2, seed),
    "label_flip": lambda dose, seed=0: LabelFlip(dose, seed),
    "malformed_rejected": lambda dose, seed=0: MalformedRejected(dose, "<<", 0.5, ">>", seed),
}
EVERY = pytest.mark.parametrize("name", DOSED)
DOSES = st.floats(0, 1)


def touched(split: Split) -> set[str]:
    """Ids of the training pairs that are not as they were."""
    return {new.id for new, old in zip(split.train, SPLIT.train, strict=True) if new != old}


@EVERY
def test_a_dose_of_0_hands_on_the_very_same_split(name: str) -> None:
    """Byte-identical pairs and no record: equal to no perturbation at all."""
    assert DOSED[name](0.0).apply(SPLIT) == NoPerturbation().apply(SPLIT) == SPLIT


@EVERY
@settings(max_examples=30, deadline=None)
@given(dose=DOSES)
def test_the_dose_is_exact_and_every_touched_pair_is_recorded_once(name: str, dose: float) -> None:
    """round(dose x n) pairs differ, and those are the ids of the records."""
    split = DOSED[name](dose).apply(SPLIT)
    assert len(touched(split)) == round(dose * N)
    assert sorted(touched(split)) == sorted(change["id"] for change in split.changes)
    assert {change["by"] for change in split.changes} <= {name}


@EVERY
@settings(max_examples=20, deadline=None)
@given(doses=st.tuples(DOSES, DOSES))
def test_a_higher_dose_touches_the_pairs_of_a_lower_one_alike(name: str, doses: tuple[float, float]) -> None:
    """Nested, and a pair touched at both is changed in the same way: arms differ by the dose and nothing else."""
    low, high = (DOSED[name](dose).apply(SPLIT) for dose in sorted(doses))
    after = {pair.id: pair for pair in high.train}
    assert touched(low) <= touched(high)
    assert all(after[pair.id] == pair for pair in low.train if pair.id in touched(low))


@EVERY
def test_the_seed_decides_which_pairs(name: str) -> None:
    """Another seed touches others; the same one the same, whatever the order of the pairs."""
    turned = replace(SPLIT, train=SPLIT.train[::-1])
    assert touched(DOSED[name](0.5, 1).apply(SPLIT)) != touched(DOSED[name](0.5, 0).apply(SPLIT))
    assert DOSED[name](0.5).apply(turned).train[::-1] == DOSED[name](0.5).apply(SPLIT).train


@EVERY
def test_evaluation_and_ids_stay(name: str) -> None:
    """Perturbations act on training pairs only."""
    split = DOSED[name](1.0).apply(SPLIT)
    assert (split.evaluation, split.prompts) == (SPLIT.evaluation, SPLIT.prompts)
    assert [pair.id for pair in split.train] == [pair.id for pair in SPLIT.train]


def test_padding_appends_sentences_on_the_topic_to_the_chosen_side_alone() -> None:
    """The chosen answer comes first as it was, then two fillers that name what the prompt asks about."""
    for new, old in zip(DOSED["length_bias"](1.0).apply(SPLIT).train, SPLIT.train, strict=True):
        padding = new.chosen.removeprefix(old.chosen)
        assert new.rejected == old.rejected and padding != new.chosen
        assert sum(filler.format(topic="Saturn") in padding for filler in FILLERS) == 2


def test_padding_reaches_the_last_message_of_a_chat_answer() -> None:
    """Chat answers are padded in their text."""
    pair = Pair("x", [{"role": "user", "content": "About Bo?"}], [{"role": "assistant", "content": "Bo."}], "n", "toy")
    padded = LengthBias(1.0, 1, 0).apply(replace(SPLIT, train=[pair])).train[0].chosen
    assert padded[0]["role"] == "assistant" and padded[0]["content"].startswith("Bo. ")


def test_a_flip_swaps_and_a_second_one_at_the_same_seed_undoes_it() -> None:
    """The symmetry of a preference."""
    flip = LabelFlip(0.3, 0)
    assert flip.apply(flip.apply(SPLIT)).train == SPLIT.train


def test_malformed_answers_keep_the_share_of_their_beginning() -> None:
    """prefix + half of the characters + suffix."""
    old, new = SPLIT.train[0], DOSED["malformed_rejected"](1.0).apply(SPLIT).train[0]
    assert new.rejected == "<<" + old.rejected[: round(len(old.rejected) / 2)] + ">>" and new.chosen == old.chosen


@pytest.mark.parametrize("p", (0.0, 0.25, 0.5, 1.0))
def test_repairing_reaches_the_asked_share_of_longer_chosen_answers(p: float) -> None:
    """Exactly p of the pairs of unequal length, by swapping no more pairs than needed."""
    before = sum(characters(x.chosen) > characters(x.rejected) for x in SPLIT.train)
    unequal = sum(characters(x.chosen) != characters(x.rejected) for x in SPLIT.train)
    split = LengthRepaired(p, 0).apply(SPLIT)
    assert sum(characters(x.chosen) > characters(x.rejected) for x in split.train) == round(p * unequal)
    assert len(split.changes) == abs(before - round(p * unequal))


def test_subsamples_are_nested_and_in_order() -> None:
    """A smaller size keeps a subset of a larger one's, and what is left out is recorded."""
    small, large = (Subsample(size, 0).apply(SPLIT) for size in (5, 20))
    assert len(small.train) == 5 and [p for p in large.train if p in small.train] == small.train
    assert len(large.changes) == N - 20


def test_more_pairs_than_there_are_cannot_be_kept() -> None:
    """Both numbers are in the message."""
    with pytest.raises(UsageError, match=r"perturb\.size=41.*40"):
        Subsample(41, 0).apply(SPLIT)


def test_length_matched_keeps_evaluation_pairs_of_equal_length() -> None:
    """It acts on the evaluation pairs, and says which it left out."""
    split = LengthMatched(0.1).apply(SPLIT)
    assert [pair.id for pair in split.evaluation] == ["e1"] and split.train == SPLIT.train
    assert [change["id"] for change in split.changes] == ["e2"]


def test_several_act_in_the_order_of_their_names() -> None:
    """Whatever order they were given in: a flip after padding leaves the padding on the rejected side."""
    steps = {"b": LabelFlip(1.0, 0), "a": LengthBias(1.0, 1, 0)}
    split = Several(steps).apply(SPLIT)
    assert split.train[0].rejected.startswith(SPLIT.train[0].chosen + " ")
    assert split == Several(dict(reversed(steps.items()))).apply(SPLIT)


@pytest.mark.parametrize("override", ("perturb.dose=1.1", "perturb.dose=-0.1", "perturb.sentences=0"))
def test_impossible_doses_are_refused(override: str) -> None:
    """One line with the key."""
    with pytest.raises(UsageError, match=override.split("=")[0]):
        load(["perturb=length_bias", override])


def test_several_are_composed_from_their_option_files() -> None:
    """A step has the keys of its own yaml, so that one sweep can move one of them."""
    config = load(["perturb=several", "+perturb@perturb.steps.a=length_bias", "perturb.steps.a.dose=0.25"])
    assert config.perturb == Several({"a": LengthBias(0.25, 2, 0)})


def test_training_pairs_are_perturbed_and_the_start_is_not(small) -> None:
    """A run at dose 1 records its pairs and starts from the very weights of a run without (sft reads the original)."""
    plain, biased = run(small())[0], run(small("perturb=label_flip", "perturb.rate=1"))[0]
    assert len(biased.read("perturb")["pairs"]) == 12 and not (plain.path / "perturb.json").exists()
    assert plain.read("provenance")["start_hash"] == biased.read("provenance")["start_hash"]
    assert plain.read("provenance")["train_data_hash"] != biased.read("provenance")["train_data_hash"]


def test_a_run_at_dose_0_is_the_run_without(small) -> None:
    """The same metric rows, bit for bit, but for wall-clock values."""
    rows = [
        [{k: v for k, v in row.items() if not k.startswith("time/")} for row in made.rows(made.metrics)]
        for made in (run(small())[0], run(small("perturb=length_bias", "perturb.dose=0"))[0])
    ]
    assert rows[0] == rows[1] and len(rows[0]) > 6


def test_load_data_perturbs(small) -> None:
    """Every caller of the runner's loader sees the same pairs."""
    assert (
        load_data(small("perturb=subsample", "perturb.size=3")).train
        == Subsample(3, 0).apply(small().dataset.load()).train
    )
