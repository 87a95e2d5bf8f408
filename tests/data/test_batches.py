"""Layout of pairs as rows, micro-batches by token budget, and the seeded order of pairs."""

import functools
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo.data.batches import PADDING, WHOLE, back, collate, micro_batches, rectangles, row_length, step_indices
from dpo.data.tokens import TokenPair
from tests import toys

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
TWO = [TokenPair("p", (1, 2), (3, 4, 5), (6,)), TokenPair("q", (7,), (8,), (9, 10))]


def test_chosen_rows_come_first_and_rejected_rows_in_the_same_order():
    """Row i is pair i's prompt and chosen answer, row B + i its prompt and rejected answer, padded on the right."""
    expected = [[1, 2, 3, 4, 5], [7, 8, 0, 0, 0], [1, 2, 6, 0, 0], [7, 9, 10, 0, 0]]
    assert collate(TWO, [0, 1], pad_id=0).ids_RT.tolist() == expected


def test_masks_and_lengths_are_carried():
    """Real tokens, completion tokens and their counts, by hand."""
    batch = collate(TWO, [0, 1], pad_id=0)
    assert batch.mask_RT.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]
    assert batch.completion_RT.int().tolist() == [[0, 0, 1, 1, 1], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 1, 1, 0, 0]]
    assert batch.length_R.tolist() == [3, 1, 1, 2]


def test_masks_do_not_depend_on_the_padding_id():
    """A padding id that is also a real token (EOS, in most models) hides none of its real occurrences."""
    as_eos, as_zero = collate(TWO, [0, 1], pad_id=10), collate(TWO, [0, 1], pad_id=0)
    assert torch.equal(as_eos.mask_RT, as_zero.mask_RT) and torch.equal(as_eos.length_R, as_zero.length_R)
    assert torch.equal(as_eos.completion_RT, as_zero.completion_RT)


def test_a_batch_says_which_pairs_it_holds():
    """pair_B are positions in the list, in the order asked for."""
    batch = collate(TWO, [1, 0], pad_id=0)
    assert batch.pair_B.tolist() == [1, 0] and batch.ids_RT[0, :2].tolist() == [7, 8]


def test_moving_a_batch_keeps_every_field():
    """`to` copies what a model reads and leaves the positions."""
    batch = collate(TWO, [0, 1], pad_id=0)
    moved = batch.to(torch.device("meta"))
    on_meta = (moved.ids_RT, moved.mask_RT, moved.completion_RT, moved.length_R)
    assert all(t.device.type == "meta" for t in on_meta) and moved.pair_B.tolist() == [0, 1]


@QUICK
@given(seed=st.integers(0, 999), count=st.integers(1, 20), budget=st.integers(1, 300))
def test_micro_batches_hold_every_index_once(seed, count, budget):
    """No pair is lost or doubled, whatever the budget; only the indices asked for are there."""
    pairs = toys.random_pairs(20, seed)
    asked = list(range(20))[::-1][:count]
    assert sorted(i for group in micro_batches(pairs, asked, budget) for i in group) == sorted(asked)


@QUICK
@given(seed=st.integers(0, 999), budget=st.integers(1, 300))
def test_micro_batches_keep_the_budget(seed, budget):
    """Padded tokens of both rows of every pair stay within it, but for a pair that is too long by itself."""
    pairs = toys.random_pairs(20, seed)
    for group in micro_batches(pairs, range(20), budget):
        assert len(group) == 1 or collate(pairs, group, 0).ids_RT.numel() <= budget


@QUICK
@given(seed=st.integers(0, 999), budget=st.integers(1, 300))
def test_micro_batches_are_as_full_as_the_budget_lets_them(seed, budget):
    """The next group's shortest pair would not have fitted: one pair each would keep any budget and be slow."""
    pairs = toys.random_pairs(20, seed)
    groups = micro_batches(pairs, range(20), budget)
    for group, following in itertools.pairwise(groups):
        assert collate(pairs, [*group, following[0]], 0).ids_RT.numel() > budget


def test_micro_batches_group_pairs_of_similar_length():
    """Sorted by length: no group's longest pair is longer than the next group's shortest."""
    pairs = toys.random_pairs(30, 1)
    groups = [[row_length(pairs[i]) for i in group] for group in micro_batches(pairs, range(30), 60)]
    assert len(groups) > 2
    assert all(max(a) <= min(b) for a, b in itertools.pairwise(groups))


def test_micro_batches_do_not_depend_on_the_order_asked_for():
    """The same pairs in another order make the same groups."""
    pairs = toys.random_pairs(12, 2)
    assert micro_batches(pairs, range(12), 60) == micro_batches(pairs, reversed(range(12)), 60)


LENGTHS = st.lists(st.integers(1, 400), min_size=1, max_size=40)


@QUICK
@given(lengths=LENGTHS)
def test_groups_of_rows_hold_every_row_once(lengths):
    """And `back` finds each of them again."""
    groups = rectangles(lengths)
    flat = [row for group in groups for row in group]
    assert [flat[place] for place in back(groups).tolist()] == list(range(len(lengths)))


@QUICK
@given(lengths=LENGTHS)
def test_little_of_a_large_batch_is_padding(lengths):
    """At most 5 % of its groups' places; a batch of few places stays whole."""
    groups = rectangles(lengths)
    places = sum(len(group) * max(lengths[r] for r in group) for group in groups)
    if len(lengths) * max(lengths) <= WHOLE:
        assert groups == [list(range(len(lengths)))]
    else:
        assert 1 - sum(lengths) / places <= PADDING == 0.05


def test_rows_are_cut_where_their_lengths_part_and_no_further():
    """Two lengths make two groups; lengths within 5 % of each other make one."""
    assert rectangles([300, 100, 300, 100]) == [[1, 3], [0, 2]]
    assert rectangles([300, 290, 300, 295]) == [[0, 1, 2, 3]]


@pytest.mark.parametrize("seed", range(6))
def test_hardly_fewer_groups_of_rows_would_do(seed):
    """At most one more than the fewest that any cuts of the sorted rows could be."""
    lengths = sorted(row_length(pair) for pair in toys.random_pairs(24, seed, longest=90))

    @functools.cache
    def fewest_places(rows: int, groups: int) -> float:
        """Of the shortest `rows` rows in so many groups."""
        if groups == 1 or not rows:
            return rows * lengths[rows - 1] if rows else 0
        starts = range(rows)
        return min(fewest_places(start, groups - 1) + (rows - start) * lengths[rows - 1] for start in starts)

    allowed = sum(lengths) / (1 - PADDING)
    assert fewest_places(24, max(1, len(rectangles(lengths)) - 2)) > allowed


def test_some_rows_of_a_batch_are_cut_to_their_longest():
    """Rows 3 and 1 of TWO: the tokens that were there, in the order asked for, without the third row's width."""
    some = collate(TWO, [0, 1], pad_id=0).only([3, 1])
    assert some.ids_RT.tolist() == [[7, 9, 10], [7, 8, 0]]
    assert some.mask_RT.int().tolist() == [[1, 1, 1], [1, 1, 0]]
    assert some.completion_RT.int().tolist() == [[0, 1, 1], [0, 1, 0]] and some.length_R.tolist() == [2, 1]


def test_a_row_takes_as_many_places_as_the_longest_of_its_group():
    """Rows of 400 and 300 tokens in two groups of 2: 1400 places without padding; the whole would be 1600."""
    pairs = [TokenPair(str(i), (1,), (2,) * 399, (3,) * 299) for i in range(2)]
    batch = collate(pairs, [0, 1], pad_id=0)
    assert batch.groups() == [[2, 3], [0, 1]] and batch.widths(batch.groups()).tolist() == [400, 400, 300, 300]


@QUICK
@given(n=st.integers(1, 40), size=st.integers(1, 50), seed=st.integers(0, 2**31), epoch=st.integers(0, 5))
def test_an_epoch_holds_every_pair_once(n, size, seed, epoch):
    """The steps of any epoch are a partition of the pairs."""
    per_epoch = -(-n // size)
    steps = range(epoch * per_epoch + 1, (epoch + 1) * per_epoch + 1)
    assert sorted(i for step in steps for i in step_indices(n, size, step, seed)) == list(range(n))


def test_only_the_last_batch_of_an_epoch_is_smaller():
    """10 pairs by 4: batches of 4, 4 and 2, then the next epoch begins."""
    assert [len(step_indices(10, 4, step, 0)) for step in range(1, 7)] == [4, 4, 2, 4, 4, 2]


@pytest.mark.parametrize(("a", "b"), [((1, 0), (1, 1)), ((1, 7), (6, 7))])
def test_seeds_and_epochs_order_pairs_differently(a, b):
    """(step, seed): another seed, or the same seed's next epoch, meets the pairs in another order."""
    assert step_indices(50, 10, *a) != step_indices(50, 10, *b)


def test_the_order_is_shuffled():
    """Pairs are not met in file order."""
    assert step_indices(50, 50, 1, 0) != list(range(50))


def test_the_order_is_a_function_of_its_arguments_alone():
    """A resumed run draws the same batches, whatever the global random state, and leaves that state alone."""
    first = [step_indices(20, 4, step, 3) for step in range(1, 11)]
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert [step_indices(20, 4, step, 3) for step in range(10, 0, -1)] == first[::-1]
    assert torch.equal(torch.get_rng_state(), before)
