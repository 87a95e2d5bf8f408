"""Rows of pairs become scalars: hand-derived means, ties, displacement, changes since the start, flags."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo.logps import PairLogps
from dpo.losses.base import LossOut
from dpo.metrics import COLUMNS, FP32_TIE, PairRows, flags, log_ratios, scalars, wins


def rows(**columns):
    """Rows from columns given by hand; those left out are zero, tokens are one."""
    n = len(next(iter(columns.values())))
    values = {name: torch.full((n,), float(name.endswith("_tokens")), dtype=torch.float64) for name in COLUMNS}
    values |= {name: torch.tensor(column, dtype=torch.float64) for name, column in columns.items()}
    return PairRows(torch.arange(n), values)


TWO = rows(
    loss=[0.5, 0.7],
    chosen_reward=[0.2, -0.1],
    rejected_reward=[-0.3, 0.1],
    chosen_logp=[-10.0, -5.0],
    rejected_logp=[-20.0, -6.0],
    chosen_ref_logp=[-12.0, -4.0],
    rejected_ref_logp=[-17.0, -7.0],
    chosen_tokens=[4.0, 2.0],
    rejected_tokens=[6.0, 3.0],
)
"""Pair 0: c = 2, r = -3, d = 5. Pair 1: c = -1, r = 1, d = -2. At beta 0.1 the rewards are a tenth of c and r."""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", 0.6),
        ("rewards/chosen", 0.05),
        ("rewards/rejected", -0.1),
        ("rewards/margins", 0.15),
        ("rewards/accuracies", 0.5),
        ("logps/chosen", -7.5),
        ("logps/rejected", -13.0),
        ("logratios/chosen", 0.5),
        ("logratios/rejected", -1.0),
        ("logratios/margins", 1.5),
        ("displacement", 0.5),
        ("tokens/chosen", 3.0),
        ("tokens/rejected", 4.5),
        ("beta", 0.1),
    ],
)
def test_a_scalar_is_the_mean_over_pairs(name, value):
    """Two pairs by hand (see TWO)."""
    assert scalars(TWO, beta=0.1)[name] == pytest.approx(value, abs=1e-12)


def test_log_ratios_are_policy_minus_reference():
    """c and r of TWO."""
    assert [side.tolist() for side in log_ratios(TWO)] == [[2.0, -1.0], [-3.0, 1.0]]


def test_a_pair_wins_by_its_log_ratio_difference_not_by_its_log_probs():
    """Both chosen answers of TWO are likelier than the rejected ones; only the first gained on it."""
    assert wins(TWO, FP32_TIE).tolist() == [1.0, 0.0]


def test_an_exact_tie_counts_one_half():
    """Policy and reference agree."""
    same = rows(chosen_logp=[-3.0], rejected_logp=[-4.0], chosen_ref_logp=[-3.0], rejected_ref_logp=[-4.0])
    assert wins(same, FP32_TIE).tolist() == [0.5]


@pytest.mark.parametrize(
    ("noise", "win"), [(3e-4, 0.5), (-3e-4, 0.5), (3.9e-4, 0.5), (4.1e-4, 1.0), (-4.1e-4, 0.0), (1e-2, 1.0)]
)
def test_rounding_noise_is_a_tie(noise, win):
    """Four log-probs of 100 nats: |d| up to 1e-6 x 400 = 4e-4 is the rounding of float32, more is not."""
    close = rows(
        chosen_logp=[-100.0 + noise], rejected_logp=[-100.0], chosen_ref_logp=[-100.0], rejected_ref_logp=[-100.0]
    )
    assert wins(close, FP32_TIE).tolist() == [win]


def test_a_tie_is_wider_where_the_noise_floor_is():
    """bf16 hands on a measured floor: at 1e-3 a difference of 0.3 in 400 nats is a tie."""
    close = rows(chosen_logp=[-99.7], rejected_logp=[-100.0], chosen_ref_logp=[-100.0], rejected_ref_logp=[-100.0])
    assert (wins(close, FP32_TIE).tolist(), wins(close, 1e-3).tolist()) == ([1.0], [0.5])


@pytest.mark.parametrize(("fall", "share"), [(0.0, 0.0), (1e-4, 0.0), (0.1, 1.0), (-0.1, 0.0)])
def test_displacement_is_a_chosen_log_prob_below_the_reference(fall, share):
    """Whatever the rejected side did; rounding (1e-6 x 200 nats) is no fall."""
    fallen = rows(
        chosen_logp=[-100.0 - fall], rejected_logp=[-150.0], chosen_ref_logp=[-100.0], rejected_ref_logp=[-100.0]
    )
    assert scalars(fallen, 0.1)["displacement"] == share


def test_changes_since_the_start_by_hand():
    """Chosen -10 from -12 and -5 from -4: +2 over 4 tokens and -1 over 2. Rejected -3 over 6 and +1 over 3."""
    start = rows(chosen_logp=[-12.0, -4.0], rejected_logp=[-17.0, -7.0])
    values = scalars(TWO, 0.1, start=start)
    assert values["logps/chosen_change"] == pytest.approx((2 - 1) / 2)
    assert values["logps/rejected_change"] == pytest.approx((-3 + 1) / 2)
    assert values["logps/chosen_change_per_token"] == pytest.approx((2 / 4 - 1 / 2) / 2)
    assert values["logps/rejected_change_per_token"] == pytest.approx((-3 / 6 + 1 / 3) / 2)


def test_changes_need_a_start():
    """Without one no change is made up."""
    assert not [name for name in scalars(TWO, 0.1) if "change" in name]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(order=st.permutations(range(8)), cuts=st.sets(st.integers(1, 7)))
def test_rows_and_scalars_do_not_depend_on_the_batching(order, cuts):
    """Any split of 8 pairs into batches in any order gives the same rows, to the bit, and the same scalars."""
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randn(8, generator=generator, dtype=torch.float64) for name in COLUMNS}
    edges = [0, *sorted(cuts), 8]
    batches = [torch.tensor(order[a:b]) for a, b in itertools.pairwise(edges)]
    pooled = PairRows.concat([PairRows(b, {name: v[b] for name, v in values.items()}) for b in batches])
    assert pooled.pair_B.tolist() == list(range(8))
    assert all(torch.equal(pooled.values[name], values[name]) for name in COLUMNS)
    assert scalars(pooled, 0.1) == scalars(PairRows(torch.arange(8), values), 0.1)


def test_batches_of_unequal_size_are_pooled_by_pair():
    """Losses 1 | 4, 4, 4: the mean over pairs is 13/4, the mean of batch means would be 5/2."""
    one, three = rows(loss=[1.0]), rows(loss=[4.0, 4.0, 4.0])
    three = PairRows(torch.tensor([1, 2, 3]), three.values)
    assert scalars(PairRows.concat([one, three]), 0.1)["loss"] == pytest.approx(3.25)


def test_each_column_holds_what_its_name_says():
    """Nine different numbers end in nine columns, in float64 and without a graph."""
    numbers = [torch.tensor([float(i)], requires_grad=True) for i in range(9)]
    out, policy = LossOut(*numbers[:3]), PairLogps(numbers[3], numbers[4], numbers[7], numbers[8])
    made = PairRows.of(torch.tensor([0]), out, policy, PairLogps(numbers[5], numbers[6], numbers[7], numbers[8]))
    names = (
        "loss chosen_reward rejected_reward chosen_logp rejected_logp "
        "chosen_ref_logp rejected_ref_logp chosen_tokens rejected_tokens"
    )
    assert {name: float(column) for name, column in made.values.items()} == dict(
        zip(names.split(), map(float, range(9)), strict=True)
    )
    assert all(v.dtype == torch.float64 and not v.requires_grad for v in made.values.values())


CALM = {"eval/displacement": 0.2, "eval/rewards/chosen": 0.3, "eval/rewards/rejected": -0.4}
FIRST = CALM | {"eval/samples/eos_rate": 0.9, "eval/samples/repetition": 0.1, "eval/json_rate": 0.5}


@pytest.mark.parametrize(
    ("changes", "raised"),
    [
        ({}, []),
        ({"eval/displacement": 0.5}, []),
        ({"eval/displacement": 0.51}, ["displacement"]),
        ({"eval/rewards/chosen": -1.1}, []),
        ({"eval/rewards/rejected": -9.0}, []),
        ({"eval/rewards/chosen": -0.8, "eval/rewards/rejected": -1.5}, ["reward_collapse"]),
        ({"eval/samples/eos_rate": 0.75}, []),
        ({"eval/samples/eos_rate": 0.65}, ["degeneration"]),
        ({"eval/json_rate": 0.25}, ["degeneration"]),
        ({"eval/json_rate": 1.0}, []),
        ({"eval/samples/repetition": 0.25}, []),
        ({"eval/samples/repetition": 0.35}, ["degeneration"]),
    ],
)
def test_flags_are_raised_by_their_own_numbers(changes, raised):
    """A calm run raises none; each limit raises its flag alone, and only past it."""
    given_flags = flags(FIRST, FIRST | changes)
    assert [name for name, is_raised in given_flags.items() if is_raised] == raised
    assert set(given_flags) == {"displacement", "reward_collapse", "degeneration"}


def test_flags_need_no_samples():
    """A run without sampled answers has flags all the same, none raised for want of numbers."""
    assert not any(flags(CALM, CALM).values())
