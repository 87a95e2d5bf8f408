"""Merged boundaries and cut answers are counted, and the hash of token pairs follows what a model sees."""

import pytest

from dpo.data.tokens import TokenPair, content_hash, tokenise, tokenise_pair
from dpo.errors import UsageError
from tests import toys
from tests.toys import text_pair as pair

MERGING = toys.merging_tokenizer()


@pytest.mark.parametrize(
    ("chosen", "rejected", "merges"), [("b", "c", 1), ("c", "b", 1), ("b", "bb", 1), ("c", "d", 0)]
)
def test_a_pair_whose_boundary_merges_counts_once(chosen, rejected, merges):
    """In this vocabulary ab is one token: the pair counts if either side merges, and once if both do."""
    _, counts = tokenise([pair("a", chosen, rejected)], MERGING, 99)
    assert counts["boundary_merges"] == merges and counts["pairs"] == 1


def test_a_merged_boundary_is_split_where_the_texts_meet():
    """The prompt keeps its own last token, and the answer starts with its own first."""
    made, merged = tokenise_pair(pair("a", "bx", "c"), MERGING)
    assert merged
    assert [MERGING.decode(ids) for ids in (made.prompt_ids, made.chosen_ids)] == ["a", "bx<|end|>"]


def test_more_merged_pairs_than_the_share_stop_the_run():
    """One pair of two is more than a share of 0.4, and the message says which key says so."""
    pairs = [pair("a", "b", "c", "p1"), pair("a", "c", "d", "p2")]
    with pytest.raises(UsageError, match=r"1 of 2 pairs.*train\.max_merge_share=0\.4"):
        tokenise(pairs, MERGING, 99, max_merge_share=0.4)


def test_as_many_merged_pairs_as_the_share_pass():
    """The limit itself is allowed: one pair of two at a share of 0.5."""
    pairs = [pair("a", "b", "c", "p1"), pair("a", "c", "d", "p2")]
    assert tokenise(pairs, MERGING, 99, max_merge_share=0.5)[1]["boundary_merges"] == 1


def test_a_prompt_that_ends_as_the_merge_message_advises_does_not_merge():
    """The advice of the share's message must cure what it complains of, for ordinary words in byte-level BPE."""
    with pytest.raises(UsageError) as error:
        tokenise([pair("a", "b", "c")], MERGING, 99, max_merge_share=0.0)
    for end, word in ((" ", "space"), ("\n", "newline")):
        merged = tokenise_pair(pair("Describe it:" + end, "known", "planet"), toys.tokenizer("bpe"))[1]
        assert not (merged and word in str(error.value)), word


@pytest.mark.parametrize(
    ("max_length", "chosen", "rejected", "cut_chosen", "cut_rejected"),
    [(8, 5, 3, 0, 0), (7, 4, 3, 1, 0), (5, 2, 2, 1, 1), (4, 1, 1, 1, 1)],
)
def test_truncation_is_counted_per_side(max_length, chosen, rejected, cut_chosen, cut_rejected):
    """Prompt of 3 bytes, answers of 4 + EOS and 2 + EOS: a cut side counts, and each cut loses its EOS."""
    made, counts = tokenise([pair("abc", "1234", "56")], toys.tokenizer("byte"), max_length)
    assert (len(made[0].chosen_ids), len(made[0].rejected_ids)) == (chosen, rejected)
    assert (counts["truncated_chosen"], counts["truncated_rejected"]) == (cut_chosen, cut_rejected)
    assert counts["eos_lost"] == cut_chosen + cut_rejected


def test_truncation_keeps_the_beginning_of_an_answer():
    """The cut is at the end, and a cut answer has no EOS."""
    made, _ = tokenise([pair("abc", "1234", "56")], toys.tokenizer("byte"), 5)
    assert toys.tokenizer("byte").decode(made[0].chosen_ids) == "12"


@pytest.mark.parametrize("max_length", (1, 2, 3))
def test_a_prompt_without_room_for_an_answer_is_refused(max_length):
    """A prompt of 3 tokens needs a max_length of 4; the message has both numbers, the pair and the key."""
    with pytest.raises(UsageError, match=rf"pair 'p1'.* 3 tokens .*train\.max_length={max_length}"):
        tokenise([pair("abc")], toys.tokenizer("byte"), max_length)


def test_tokenise_keeps_the_order_and_the_ids_of_pairs():
    """Row i is pair i."""
    made, _ = tokenise([pair(f"q{i}", name=f"id{i}") for i in (2, 0, 1)], toys.tokenizer("byte"), 99)
    assert [p.id for p in made] == ["id2", "id0", "id1"]


BASE = TokenPair("x", (1, 2), (3, 4), (5,))


@pytest.mark.parametrize(
    "other",
    [
        TokenPair("x", (1, 9), (3, 4), (5,)),
        TokenPair("x", (1, 2), (3, 9), (5,)),
        TokenPair("x", (1, 2), (3, 4), (9,)),
        TokenPair("x", (1, 2), (5,), (3, 4)),
        TokenPair("x", (1,), (2, 3, 4), (5,)),
        TokenPair("x", (1, 2), (3,), (4, 5)),
        TokenPair("x", (12,), (3, 4), (5,)),
    ],
)
def test_the_content_hash_changes_with_the_ids_of_a_pair(other):
    """Any id, the sides swapped, or a boundary moved."""
    assert content_hash([other]) != content_hash([BASE])


def test_the_content_hash_changes_with_the_order_of_pairs():
    """Stored rows are found by position, so the order is content."""
    other = TokenPair("y", (7,), (8,), (9,))
    assert content_hash([BASE, other]) != content_hash([other, BASE])


def test_the_content_hash_ignores_what_a_pair_is_called():
    """Renaming pairs computes nothing anew."""
    assert content_hash([TokenPair("renamed", *[(1, 2), (3, 4), (5,)])]) == content_hash([BASE])
