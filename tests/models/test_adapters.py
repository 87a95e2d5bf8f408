"""What is trained, by architecture: full, last blocks, low-rank adapters."""

import pytest
import torch

from dpo.errors import UsageError
from dpo.models.adapters import Full, Lora, Partial, restore, train_mode, trainable_state

from .. import toys

QV = Lora(r=4, alpha=8, dropout=0.0, target="qv", layers="all", dora=False)


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_full_trains_every_weight() -> None:
    """Nothing is frozen."""
    model = toys.model("llama")
    assert trained(Full().attach(model, 0)) == {name for name, _ in model.named_parameters()}


def test_partial_trains_the_last_blocks_only() -> None:
    """One of two blocks."""
    names = trained(Partial(1).attach(toys.model("llama"), 0))
    assert names and all(".layers.1." in name for name in names)


def test_partial_refuses_more_blocks_than_there_are() -> None:
    """The number there is stands in the message."""
    with pytest.raises(UsageError, match="the model has 2 blocks"):
        Partial(3).attach(toys.model("llama"), 0)


@pytest.mark.parametrize("family", toys.FAMILIES)
@pytest.mark.parametrize("target", ["qv", "qkvo", "all_linear"])
def test_lora_roles_find_their_modules_in_every_architecture(family: str, target: str) -> None:
    """Fused projections count as the role they carry."""
    names = trained(Lora(2, 4, 0.0, target, "all", False).attach(toys.model(family), 0))
    assert names and all("lora_" in name for name in names)


def test_lora_on_the_last_half_leaves_the_first_half_alone() -> None:
    """Of two blocks only the second has adapters."""
    names = trained(Lora(2, 4, 0.0, "all_linear", "last_half", False).attach(toys.model("llama"), 0))
    assert names and all(".layers.1." in name for name in names)


def test_lora_weights_are_drawn_from_the_seed() -> None:
    """Same seed, same A; another, another; the global random state is left alone."""
    before = torch.get_rng_state()
    first, same, other = (trainable_state(QV.attach(toys.model("llama"), seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_dropout_is_active_in_training_and_the_models_own_is_not() -> None:
    """Only lora_dropout is in training mode."""
    model = Lora(2, 4, 0.3, "qkvo", "all", False).attach(toys.model("gpt2"), 0)
    train_mode(model)
    active = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Dropout) and m.training]
    assert active and all("lora_dropout" in name for name in active)


def test_a_trainable_state_is_put_back_exactly() -> None:
    """What a checkpoint holds."""
    model = QV.attach(toys.model("llama"), 0)
    state = trainable_state(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    restore(model, state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in trainable_state(model).items())
