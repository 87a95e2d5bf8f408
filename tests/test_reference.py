"""The frozen reference: the start under a disabled adapter, the freeze proof, and a policy that starts as its copy."""

import copy

import pytest
import torch

from dpo.data.batches import collate
from dpo.errors import UsageError
from dpo.evaluate.held_out import evaluate_pairs, noise_floor
from dpo.logps import Scorer, score
from dpo.losses.sigmoid import Sigmoid
from dpo.metrics import scalars, wins
from dpo.models.adapters import Full, Lora, Partial, train_mode
from dpo.reference import Reference, check_vocabulary
from tests import toys

PAIRS = toys.random_pairs(9, seed=5)


@pytest.mark.parametrize("adapter", (toys.LORA, toys.DORA), ids=["lora", "dora"])
def test_a_disabled_adapter_scores_as_the_start(adapter):
    """The reference of a trained LoRA policy is the start, bit for bit, and the policy is not."""
    batch = collate(PAIRS, range(9), 0)
    net = toys.moved(adapter.attach(toys.model(), seed=0)).eval()
    reference = Reference(net, lambda: adapter.disabled(net))
    start_RC = Reference(toys.model()).score(batch)
    assert torch.equal(reference.score(batch), start_RC)
    with torch.no_grad():
        assert float((Scorer(net)(batch) - start_RC).abs().max()) > 0.1


def test_scoring_a_shared_reference_leaves_the_adapter_on():
    """After the reference has been read, the policy still is the policy, and still learns."""
    batch, net = collate(PAIRS, range(9), 0), toys.moved(toys.LORA.attach(toys.model(), seed=0)).eval()
    trainable = [name for name, p in net.named_parameters() if p.requires_grad]
    before_RC = Scorer(net)(batch).detach()
    Reference(net, lambda: toys.LORA.disabled(net)).score(batch)
    assert torch.equal(Scorer(net)(batch).detach(), before_RC)
    assert [name for name, p in net.named_parameters() if p.requires_grad] == trainable != []


def test_an_untouched_reference_is_proven_frozen():
    """Scoring is reading: the proof holds after it, also beside a trained adapter."""
    net = toys.LORA.attach(toys.model(), seed=0)
    reference = Reference(net, lambda: toys.LORA.disabled(net))
    score(Scorer(net), collate(PAIRS, [0], 0)).chosen_B.sum().backward()
    reference.score(collate(PAIRS, [0], 0))
    toys.moved(net)
    reference.prove_frozen()


def test_a_changed_weight_breaks_the_proof():
    """The smallest step on a single weight."""
    reference = Reference(toys.model())
    with torch.no_grad():
        next(reference.model.parameters()).view(-1)[0] += 1e-6
    with pytest.raises(RuntimeError, match="weights changed"):
        reference.prove_frozen()


def test_a_gradient_on_a_weight_breaks_the_proof():
    """A backward that reached the reference, though nothing stepped yet."""
    reference = Reference(toys.model())
    score(reference.scorer, collate(PAIRS, [0], 0)).chosen_B.sum().backward()
    with pytest.raises(RuntimeError, match="received a gradient"):
        reference.prove_frozen()


def test_a_reference_has_no_graph():
    """Its scores cannot send a gradient anywhere, even where its weights would take one."""
    reference = Reference(toys.model().requires_grad_(True))
    assert not reference.score(collate(PAIRS, [0], 0)).requires_grad


ADAPTERS = {
    "full": Full(),
    "partial": Partial(blocks=1),
    "lora": toys.LORA,
    "dora": toys.DORA,
    "lora-dropout": Lora(r=2, alpha=8, dropout=0.5, target="qkvo", layers="all", dora=False),
}


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("family", ("llama", "gpt2"))
def test_the_policy_starts_as_a_copy_of_the_reference(family, name):
    """In training mode, built-in dropout and adapter dropout included, no log-ratio passes 1e-6 per token."""
    if name == "dora" and family == "gpt2":
        pytest.skip("peft has no DoRA for GPT-2's transposed linear layers")
    policy = ADAPTERS[name].attach(toys.model(family), seed=7)
    train_mode(policy)
    batch = collate(PAIRS, range(9), 0)
    with torch.no_grad():
        difference_RC = Scorer(policy)(batch) - Reference(toys.model(family)).score(batch)
    assert float(difference_RC.abs().max()) < 1e-6


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=["fp32-weights", "bf16-weights"])
def test_nothing_is_won_or_displaced_before_the_first_step_in_bf16(tmp_path, dtype, name):
    """precision=bf16, frozen weights kept in either dtype: every pair is a tie and no chosen answer has fallen."""
    start, pairs = toys.model(initializer_range=0.1).to(dtype), toys.random_pairs(24, seed=0)
    kept, _ = Reference(copy.deepcopy(start), precision="bf16").stored(pairs, 0, 300, tmp_path)
    scorer = Scorer(ADAPTERS[name].attach(start, seed=7).eval())
    rows = evaluate_pairs(scorer, pairs, kept, Sigmoid(0.0), 0.1, 0, 300, "bf16")
    tie = noise_floor(scorer, pairs, 0, 300, "bf16", rows)
    assert wins(rows, tie).tolist() == [0.5] * 24
    assert scalars(rows, 0.1, tie)["displacement"] == 0


def test_the_same_vocabulary_is_accepted():
    """Two builds of one tokenizer."""
    check_vocabulary(toys.merging_tokenizer(), toys.merging_tokenizer(), "here")


def test_another_vocabulary_is_refused_with_its_path_and_sizes():
    """The key, the place, and both vocabularies' sizes."""
    ours, theirs = toys.tokenizer("bpe"), toys.tokenizer("byte")
    with pytest.raises(UsageError, match=rf"reference\.path=there.*\({len(theirs)} against {len(ours)}\)"):
        check_vocabulary(ours, theirs, "there")


def test_a_vocabulary_in_another_order_is_refused():
    """The same tokens under other ids are other tokens; how many differ is said."""
    with pytest.raises(UsageError, match=r"differs from the policy's in 2 tokens"):
        check_vocabulary(Vocabulary(a=0, b=1, c=2), Vocabulary(a=1, b=0, c=2), "there")


class Vocabulary:
    """As much of a tokenizer as the check reads."""

    def __init__(self, **ids):
        self.ids = ids

    def get_vocab(self):
        return self.ids
