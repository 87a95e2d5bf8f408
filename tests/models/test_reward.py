"""The reward model: its start, its adapters, and what it reads of a batch."""

import pytest
import torch

from dpo.data import batches
from dpo.data.batches import collate
from dpo.models.adapters import Full, Lora, Partial
from dpo.models.pretrained import load_model, weights_hash
from dpo.models.reward import RewardScorer, head_of, trainable, trained, untrained
from dpo.models.tiny import Tiny
from tests import toys

BASE = Tiny("byte", 259, 32, 2, 0, 8, 128, 0.003, 0, "float32", "sdpa")
ADAPTERS = {
    "full": Full(),
    "partial": Partial(1),
    "lora": Lora(2, 4, 0.0, "qv", "all", False),
    "dora": Lora(2, 4, 0.0, "all_linear", "last_half", True),
}
PAIRS = toys.random_pairs(6)


@pytest.fixture(scope="module", params=["llama", "gpt2", "gpt_neox"])
def start(request, tmp_path_factory) -> str:
    """The folder of a random model."""
    path = tmp_path_factory.mktemp("start") / request.param
    toys.model(request.param).save_pretrained(path)
    return str(path)


def stirred(model):
    """The same model with every trained weight moved, so that rewards differ."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model


@torch.no_grad()
def rewards(model, pairs=PAIRS, pad_id: int = 0) -> list[float]:
    """Rewards of all answers, chosen first, in one batch."""
    chosen, rejected = RewardScorer(model)(collate(pairs, range(len(pairs)), pad_id))
    return chosen.tolist() + rejected.tolist()


def test_the_body_is_the_start_to_the_bit(start):
    """Every weight of the policy's start below the head."""
    body, causal = untrained(start, BASE, 0).base_model, load_model(start).base_model
    assert all(torch.equal(tensor, causal.state_dict()[name]) for name, tensor in body.state_dict().items())


def test_an_untrained_head_scores_every_answer_zero(start):
    """So the first loss is ln 2."""
    assert rewards(untrained(start, BASE, 0)) == [0.0] * 12


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_head_is_trained_with_every_adapter(name, tmp_path):
    """Its weights require gradients and receive them."""
    toys.model().save_pretrained(tmp_path)
    model = trainable(untrained(str(tmp_path), BASE, 0), ADAPTERS[name], 0)
    chosen, rejected = RewardScorer(model)(collate(PAIRS, range(6), 0))
    (chosen - rejected).sum().backward()
    grads = [p.grad for p in head_of(model).parameters() if p.requires_grad]
    assert grads and all(grad is not None and grad.abs().sum() > 0 for grad in grads)


def test_a_reward_is_the_heads_output_after_the_answers_last_token(start):
    """By hand: the body's last hidden state of each unpadded row, times the head's weights."""
    model = stirred(trainable(untrained(start, BASE, 0), Full(), 0))
    expected = []
    for side in ("chosen_ids", "rejected_ids"):
        for pair in PAIRS:
            ids = torch.tensor([pair.prompt_ids + getattr(pair, side)])
            with torch.no_grad():
                expected.append(float(model.base_model(input_ids=ids).last_hidden_state[0, -1] @ model.score.weight[0]))
    assert rewards(model) == pytest.approx(expected, abs=1e-4)


def test_padding_with_the_answers_last_token_changes_nothing(start):
    """The pad token is the EOS of many models: rewards come from the mask, not from where pads begin."""
    model = stirred(trainable(untrained(start, BASE, 7), Full(), 0))
    pairs = [type(p)(p.id, p.prompt_ids, (*p.chosen_ids, 7), (*p.rejected_ids, 7)) for p in PAIRS]
    assert rewards(model, pairs, 7) == pytest.approx(rewards(model, pairs, 0), abs=1e-5)


def test_groups_of_similar_rows_are_scored_as_one_batch(start, monkeypatch):
    """Each answer's reward in its own place."""
    model = stirred(trainable(untrained(start, BASE, 0), Full(), 0))
    whole = rewards(model)
    monkeypatch.setattr(batches, "WHOLE", 0)
    assert len(collate(PAIRS, range(6), 0).groups()) > 2 and rewards(model) == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_saved_reward_model_scores_as_before(name, tmp_path):
    """Adapter and head, or full weights, put together again from the checkpoint and the start."""
    start = str(tmp_path / "start")
    toys.model().save_pretrained(start)
    model = stirred(trainable(untrained(start, BASE, 0), ADAPTERS[name], 0)).eval()
    model.save_pretrained(tmp_path / "checkpoint")
    again = trained(tmp_path / "checkpoint", start, BASE, ADAPTERS[name], 0)
    assert rewards(again) == pytest.approx(rewards(model), abs=1e-6)
    assert max(map(abs, rewards(again))) > 0


def test_making_one_leaves_the_random_state(tmp_path):
    """The head is drawn before it is zeroed; a run's own draws must not depend on it."""
    toys.model().save_pretrained(tmp_path)
    before = torch.get_rng_state()
    untrained(str(tmp_path), BASE, 0)
    assert torch.equal(before, torch.get_rng_state())


def test_the_hash_of_the_start_ignores_an_adapter(tmp_path):
    """Provenance names the weights that the model grew from."""
    toys.model().save_pretrained(tmp_path)
    first, second = (weights_hash(untrained(str(tmp_path), BASE, 0)) for _ in range(2))
    assert first == second
