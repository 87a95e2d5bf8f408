"""What only the logits tell, losses without a reference, changes, flags: against definitions worked out by hand."""

import math

import pytest
import torch

from dpo.data.batches import collate
from dpo.distributions import entropy_and_top
from dpo.logps import PairLogps, Scorer, score
from dpo.losses.base import LossOut
from dpo.metrics import PairRows, flags, scalars, token_means, wins
from tests import toys


def logps(chosen: list[float], rejected: list[float]) -> PairLogps:
    """Completions of 2 and 4 tokens with these summed log-probs."""
    lengths = torch.tensor([2] * len(chosen)), torch.tensor([4] * len(chosen))
    return PairLogps(torch.tensor(chosen), torch.tensor(rejected), *lengths)


def rows(chosen: list[float], rejected: list[float], reference: PairLogps | None) -> PairRows:
    """Rows of policy log-probs under beta 0.5; without a reference the rewards are half the log-probs."""
    policy = logps(chosen, rejected)
    zero = reference or logps([0.0] * len(chosen), [0.0] * len(chosen))
    rewards = 0.5 * (policy.chosen_B - zero.chosen_B), 0.5 * (policy.rejected_B - zero.rejected_B)
    out = LossOut(policy.chosen_B, *rewards, own_score=reference is None)
    theirs = reference or logps([math.nan] * len(chosen), [math.nan] * len(chosen))
    return PairRows.of(torch.arange(len(chosen)), out, policy, theirs)


REFERENCE = logps([-10.0, -10.0, -10.0], [-20.0, -20.0, -20.0])
ROWS = rows([-9.0, -12.0, -10.0], [-22.0, -21.0, -16.0], REFERENCE)


def test_rewards_margin_and_d_by_hand():
    """c = 1, -2, 0 and r = -2, -1, 4: mean d = (3 - 1 - 4) / 3, and the margin is half of it."""
    values = scalars(ROWS, 0.5)
    assert values["logratios/margins"] == pytest.approx(-2 / 3)
    assert values["rewards/margins"] == pytest.approx(-1 / 3)


def test_the_gradient_weight_is_the_mean_of_sigmoid_of_minus_the_margin():
    """Margins 1.5, -0.5, -2."""
    weights = [1 / (1 + math.exp(m)) for m in (1.5, -0.5, -2.0)]
    assert scalars(ROWS, 0.5)["gradient_weight"] == pytest.approx(sum(weights) / 3)


def test_displacement_is_the_share_of_chosen_answers_below_the_reference():
    """Only the second pair's chosen log-prob fell."""
    assert scalars(ROWS, 0.5)["displacement"] == pytest.approx(1 / 3)


def test_changes_are_measured_from_the_start_pair_by_pair():
    """From -8 to -9, -12, -10 over completions of 2 tokens: a mean of -7/3, -7/6 per token."""
    start = rows([-8.0] * 3, [-20.0] * 3, REFERENCE)
    values = scalars(ROWS, 0.5, start=start)
    assert values["logps/chosen_change"] == pytest.approx(-7 / 3)
    assert values["logps/chosen_change_per_token"] == pytest.approx(-7 / 6)


def test_accuracy_counts_a_tie_as_one_half():
    """d = 3 wins, -1 loses, and 1e-5 of 60 nats is rounding."""
    near = rows([-9.0, -12.0, -10.0], [-22.0, -21.0, -20.0 + 1e-5], REFERENCE)
    assert wins(near, 1e-6).tolist() == [1.0, 0.0, 0.5]


def test_without_a_reference_the_rewards_decide_and_log_ratios_are_absent():
    """Scores -4.5 against -11, -6 against -10.5, -5 against -8: the chosen answer wins each."""
    values = scalars(rows([-9.0, -12.0, -10.0], [-22.0, -21.0, -16.0], None), 0.5)
    assert values["rewards/accuracies"] == 1
    assert not {"logratios/margins", "displacement"} & values.keys()


def test_swapping_the_answers_flips_margin_and_accuracy():
    """Every margin changes its sign, so the mean does and accuracy becomes its complement."""
    swapped = rows([-22.0, -21.0, -16.0], [-9.0, -12.0, -10.0], logps([-20.0] * 3, [-10.0] * 3))
    one, other = scalars(ROWS, 0.5), scalars(swapped, 0.5)
    assert other["rewards/margins"] == pytest.approx(-one["rewards/margins"])
    assert other["rewards/accuracies"] == pytest.approx(1 - one["rewards/accuracies"])


def test_rows_survive_their_table():
    """What is written as columns is read back as the same rows."""
    columns = {"id": ["a", "b", "c"]} | {name: column.tolist() for name, column in ROWS.values.items()}
    again = PairRows.read(columns)
    assert all(again.values[name].equal(column) for name, column in ROWS.values.items())


def test_rows_are_in_the_order_of_their_pairs_whatever_the_batches_were():
    """Two batches in reverse order."""
    one = PairRows(torch.tensor([2, 1]), {"loss": torch.tensor([0.2, 0.1])})
    assert PairRows.concat([one, PairRows(torch.tensor([0]), {"loss": torch.tensor([0.0])})]).values[
        "loss"
    ].tolist() == pytest.approx([0.0, 0.1, 0.2])


def test_token_means_weigh_tokens_not_pairs():
    """Entropies 2 + 3 + 12 + 3 nats over 6 + 14 tokens; argmax right in 4 of 6 and 7 of 14."""
    columns = {"id": ["a", "b"], "chosen_tokens": [2, 4], "rejected_tokens": [4, 10]}
    columns |= {"chosen_entropy": [2.0, 3.0], "rejected_entropy": [12.0, 3.0]}
    columns |= {"chosen_top": [1, 3], "rejected_top": [0, 7]}
    assert token_means(PairRows.read(columns)) == {
        "entropy": 1.0,
        "mean_token_accuracy": pytest.approx(4 / 6),
        "mean_token_accuracy_rejected": 0.5,
    }


def test_entropy_of_known_distributions():
    """Uniform over 4 is ln 4; a certain token has none, even where the others underflow to probability 0."""
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -1e4, -1e4, -1e4]])
    entropy, top = entropy_and_top(logits, torch.tensor([1, 0]), chunk=1)
    assert entropy.tolist() == pytest.approx([math.log(4), 0.0])
    assert top[1] == 1


@torch.no_grad()
def naive_facts(net, prompt, answer) -> tuple[float, int]:
    """Summed entropy and right argmaxes by one forward per token over its bare prefix."""
    entropy, right, ids = 0.0, 0, [*prompt, *answer]
    for position in range(len(prompt), len(ids)):
        logp_V = net(input_ids=torch.tensor([ids[:position]])).logits[0, -1].double().log_softmax(-1)
        entropy -= float((logp_V.exp() * logp_V).sum())
        right += int(logp_V.argmax()) == ids[position]
    return entropy, right


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_entropy_and_token_accuracy_equal_a_naive_loop(family):
    """Per completion and side, on a random model that caps its logits and one that does not."""
    net, pairs = toys.model(family), toys.random_pairs(8)
    with torch.no_grad():
        facts = score(Scorer(net), collate(pairs, range(8), 0), frozenset({"token_facts"}))
    chosen = [naive_facts(net, pair.prompt_ids, pair.chosen_ids) for pair in pairs]
    rejected = [naive_facts(net, pair.prompt_ids, pair.rejected_ids) for pair in pairs]
    assert facts.chosen_entropy_B.tolist() == pytest.approx([entropy for entropy, _ in chosen], rel=1e-5)
    assert facts.rejected_entropy_B.tolist() == pytest.approx([entropy for entropy, _ in rejected], rel=1e-5)
    assert facts.chosen_top_B.tolist() + facts.rejected_top_B.tolist() == [n for _, n in chosen + rejected]


def test_asking_for_the_facts_changes_no_log_prob():
    """Evaluation and training read the same numbers."""
    batch, scorer = collate(toys.random_pairs(5), range(5), 0), Scorer(toys.model())
    plain, detailed = score(scorer, batch), score(scorer, batch, frozenset({"token_facts"}))
    assert plain.chosen_entropy_B is None and detailed.chosen_entropy_B is not None
    assert plain.chosen_B.equal(detailed.chosen_B)


FIRST = {"eval/displacement": 0.0, "eval/rewards/chosen": 0.0, "eval/rewards/rejected": 0.0}


def test_displacement_is_flagged_where_most_chosen_answers_fell():
    """0.6 of the pairs, from none."""
    assert flags(FIRST, FIRST | {"eval/displacement": 0.6})["displacement"]


def test_pairs_that_began_below_another_reference_are_not_displaced():
    """A larger reference begins with 0.8 below it; 0.7 at the end is a rise."""
    assert not flags(FIRST | {"eval/displacement": 0.8}, FIRST | {"eval/displacement": 0.7})["displacement"]


@pytest.mark.parametrize("chosen, rejected, raised", [(-1.5, -3.0, True), (-0.5, -3.0, False), (0.2, -9.0, False)])
def test_reward_collapse_needs_both_rewards_very_negative(chosen, rejected, raised):
    """One side alone is how DPO works."""
    last = FIRST | {"eval/rewards/chosen": chosen, "eval/rewards/rejected": rejected}
    assert flags(FIRST, last)["reward_collapse"] is raised


def test_scores_that_begin_very_negative_have_not_collapsed():
    """A loss without a reference scores log-probs, below -1 before any step; a fall of both by more than 1 counts."""
    first = {"eval/rewards/chosen": -2.5, "eval/rewards/rejected": -2.6}
    assert not flags(first, {"eval/rewards/chosen": -2.7, "eval/rewards/rejected": -4.0})["reward_collapse"]
    assert flags(first, {"eval/rewards/chosen": -3.6, "eval/rewards/rejected": -4.0})["reward_collapse"]
