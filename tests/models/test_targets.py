"""What gets an adapter: of the text model alone, by role and by name, experts included."""

import copy
from pathlib import Path

import pytest
import torch

from dpo import progress
from dpo.data.batches import collate
from dpo.errors import UsageError
from dpo.logps import Scorer
from dpo.models.adapters import Lora, Partial, save
from dpo.models.pretrained import weights_hash
from dpo.models.targets import blocks_of
from dpo.models.weights import adapted
from tests import toys

X = torch.arange(1, 9)[None]
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
TEXT = SMALL | {"vocab_size": 40, "num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 16}


@pytest.fixture
def said(monkeypatch):
    """The notes of a test."""
    notes: list[str] = []
    monkeypatch.setattr(progress, "say", notes.append)
    progress.remark.cache_clear()
    return notes


def mixture(family: str):
    """A random mixture of experts."""
    import transformers as t

    experts = {"num_experts_per_tok": 2, "pad_token_id": None}
    config = {
        "mixtral": lambda: t.MixtralConfig(**TEXT, **experts, num_local_experts=4),
        "qwen3_moe": lambda: t.Qwen3MoeConfig(**TEXT, **experts, num_experts=4, moe_intermediate_size=16),
        "gpt_oss": lambda: t.GptOssConfig(**TEXT, **experts, num_local_experts=4),
    }[family]()
    config.initializer_range = 0.3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return t.AutoModelForCausalLM.from_config(config).eval()


def seeing(family: str):
    """A random model with a deeper tower for images beside its text model."""
    import transformers as t

    text = t.LlamaConfig(**TEXT) if family == "llava" else t.Gemma3TextConfig(**TEXT)
    if family == "llava":
        eyes = t.CLIPVisionConfig(**SMALL, num_hidden_layers=5, image_size=8, patch_size=4)
        return t.LlavaForConditionalGeneration(t.LlavaConfig(vision_config=eyes, text_config=text))
    eyes = t.SiglipVisionConfig(**SMALL, num_hidden_layers=5, image_size=8, patch_size=4)
    return t.Gemma3ForConditionalGeneration(t.Gemma3Config(text_config=text, vision_config=eyes, mm_tokens_per_image=4))


def trained(model) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("family", ("mixtral", "qwen3_moe", "gpt_oss"))
@pytest.mark.parametrize("layers", ("all", "last_half"))
def test_adapters_on_experts_train_switch_off_save_and_merge(family, layers, tmp_path, said):
    """All linear layers means the experts too; the base stays what it was, and its hash."""
    base = mixture(family)
    how = Lora(2, 4, 0.0, "all_linear", layers, False)
    model = toys.moved(how.attach(copy.deepcopy(base), 0))
    assert weights_hash(model) == weights_hash(base)
    experts = {name for name in trained(model) if "experts" in name}
    assert experts and (layers == "all" or all(".layers.1." in name for name in trained(model)))
    moved = model(X).logits
    with how.disabled(model):
        assert torch.equal(model(X).logits, base(X).logits) and not torch.equal(moved, base(X).logits)
    save(model, Path(tmp_path), "base", None)
    again = adapted(copy.deepcopy(base), str(tmp_path))
    assert torch.equal(again(X).logits, moved)
    assert torch.allclose(again.merge_and_unload()(X).logits, moved, atol=1e-4)
    Scorer(model, "padded")(collate(toys.random_pairs(6), range(6), 0)).sum().backward()
    assert trained(model) == {name for name, p in model.named_parameters() if p.grad is not None}
    assert any("experts" in note and "twice" in note for note in said)
    assert any("router" in note and "frozen" in note for note in said)


@pytest.mark.parametrize(
    "how", (Lora(2, 4, 0.1, "all_linear", "all", False), Lora(2, 4, 0.0, "all_linear", "all", True))
)
def test_experts_that_an_adapter_cannot_be_put_on_are_named(how, said):
    """Dropout and DoRA cannot be had on stacked weights."""
    assert not any("experts" in name for name in trained(how.attach(mixture("mixtral"), 0)))
    assert any("experts.gate_up_proj" in note and "adapter.dropout=0" in note for note in said)


def test_experts_and_routers_can_be_named(said):
    """A name of a weight that is no module's."""
    named = trained(Lora(2, 4, 0.0, "q_proj,down_proj,gate.weight", "all", False).attach(mixture("mixtral"), 0))
    assert {name.split(".layers.0.")[1].split(".lora")[0] for name in named if ".layers.0." in name} == {
        "self_attn.q_proj",
        "mlp.experts",
        "mlp.gate",
    }


def test_a_name_that_the_model_does_not_have_is_refused():
    """Also beside one that it has."""
    with pytest.raises(UsageError, match=r"adapter\.target=q_proj,w9: .* w9"):
        Lora(2, 4, 0.0, "q_proj,w9", "all", False).attach(toys.model(), 0)


@pytest.mark.parametrize("family", ("llava", "gemma3"))
@pytest.mark.parametrize("target", ("qv", "qkvo", "all_linear", "q_proj,lm_head", "fc1,q_proj"))
@pytest.mark.parametrize("layers", ("all", "last_half"))
def test_a_tower_for_images_gets_no_adapter(family, target, layers, said):
    """Its layers have the same names, and there are more of them."""
    model = seeing(family)
    assert len(blocks_of(model)) == 2
    names = trained(Lora(2, 4, 0.0, target, layers, False).attach(model, 0))
    assert names and all("language_model" in name or "lm_head" in name for name in names)
    assert layers == "all" or all(".layers.1." in name for name in names)
    assert any(".layers.1." in name for name in names)


@pytest.mark.parametrize("family", ("llava", "gemma3"))
def test_partial_training_takes_the_text_models_last_blocks(family):
    """Not those of the deeper tower."""
    names = trained(Partial(1).attach(seeing(family), 0))
    assert names and all("language_model.layers.1." in name for name in names)


def test_experts_in_a_list_are_no_blocks():
    """More experts than blocks, each a module of its own, as in models with code of their own."""
    model = toys.model()
    for block in model.model.layers:
        block.mlp.experts = torch.nn.ModuleList(torch.nn.Linear(32, 32) for _ in range(5))
        block.mlp.experts.forward = None
    assert blocks_of(model) is model.model.layers
    names = trained(Lora(2, 4, 0.0, "all_linear", "last_half", False).attach(model, 0))
    assert all(".layers.1." in name for name in names) and sum("experts" in name for name in names) == 10
