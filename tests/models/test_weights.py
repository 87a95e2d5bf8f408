"""Weights that do not fill a model, and adapters that do not fit one, are refused by name; whole ones never are."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpo.errors import UsageError
from dpo.models.adapters import Lora, restore, trainable_state
from dpo.models.pretrained import load_model
from dpo.models.reward import trained
from dpo.models.tiny import Tiny
from dpo.models.weights import adapted
from tests import toys

FAMILIES = (*toys.FAMILIES, "mixtral", "opt", "gemma")
X = torch.arange(1, 9)[None]
FILE = "model.safetensors"


def settings(family: str, layers: int = 2):
    """A toy's configuration."""
    import transformers as t

    if family in toys.FAMILIES:
        made = toys.config(family, 40)
    else:
        common = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        common |= {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
        if family == "opt":
            made = t.OPTConfig(**common, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=64)
        elif family == "gemma":
            made = t.GemmaConfig(**common, intermediate_size=48, num_key_value_heads=1, head_dim=16)
        else:
            made = t.MixtralConfig(**common, intermediate_size=48, num_key_value_heads=1, num_local_experts=4)
    plain = {name: value for name, value in made.to_dict().items() if name not in ("layer_types", "num_hidden_layers")}
    return type(made)(**plain | {"n_layer" if family == "gpt2" else "num_hidden_layers": layers})


def causal(family: str, layers: int = 2):
    """A random toy language model."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(settings(family, layers)).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """saved(family) -> the folder of a toy, made once."""
    made: dict[str, Path] = {}

    def save(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            causal(family).save_pretrained(made[family])
        return made[family]

    return save


def changed(folder: Path, to: Path, change) -> str:
    """A copy of a folder whose weights went through `change`."""
    shutil.copytree(folder, to)
    save_file(change(load_file(folder / FILE)), to / FILE, metadata={"format": "pt"})
    return str(to)


def renamed(prefix: str):
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def one(state: dict) -> str:
    """A weight of the second block."""
    return max(name for name in state if ".1." in name and name.endswith("weight") and state[name].dim() > 1)


DAMAGES = {
    "module.": (renamed("module."), "missing.*begins with 'module.'"),
    "_orig_mod.": (renamed("_orig_mod."), "missing.*begins with '_orig_mod.'"),
    "hole": (lambda state: {name: t for name, t in state.items() if name != one(state)}, "missing|shape"),
    "shape": (lambda state: state | {one(state): torch.cat([state[one(state)]] * 2)}, r"another shape.*\[.*\] in the"),
    "head of a reward model": (lambda state: state | {"score.weight": torch.ones(1, 32)}, "reward model"),
    "another layer": (lambda state: state | {one(state).replace(".1.", ".7."): state[one(state)].clone()}, "no place"),
    "value head": (lambda state: state | {"v_head.summary.weight": torch.ones(1, 32)}, "reward model"),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_that_do_not_fill_a_model_are_refused_by_name(saved, tmp_path, family, damage):
    """One line with the path, what is missing or too much, and what to do."""
    change, said = DAMAGES[damage]
    path = changed(saved(family), tmp_path / "bad", change)
    with pytest.raises(UsageError, match=said) as caught:
        load_model(path, attention="eager")
    assert path in str(caught.value) and "\n" not in str(caught.value) and "; " in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifiers_folder_is_no_language_model(tmp_path, family):
    """Its body fits, and its head is another one."""
    from transformers import AutoModelForSequenceClassification

    AutoModelForSequenceClassification.from_config(settings(family)).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"score\.weight.*reward model"):
        load_model(str(tmp_path), attention="eager")


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_models_are_read_in_every_form(saved, tmp_path, family):
    """Sharded, as .bin, tied heads that no file holds, masks and rotary tables of old files."""
    model, state = causal(family), load_file(saved(family) / FILE)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    shutil.copytree(saved(family), tmp_path / "bin")
    (tmp_path / "bin" / FILE).unlink()
    torch.save(state, tmp_path / "bin" / "pytorch_model.bin")
    stem = one(state)[: one(state).index(".1.")]
    old = {f"{stem}.0.attn.bias": torch.ones(1, 1, 4, 4), f"{stem}.0.attention.masked_bias": torch.tensor(-1e4)}
    old |= {f"{stem}.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    changed(saved(family), tmp_path / "old", lambda state: state | old)
    for form in ("shards", "bin", "old"):
        read = load_model(str(tmp_path / form), attention="eager").state_dict()
        assert all(torch.equal(read[name], tensor) for name, tensor in model.state_dict().items()), form


def test_an_expert_that_is_missing_is_named(saved, tmp_path):
    """Transformers stacks the experts of a file into one weight."""
    path = changed(
        saved("mixtral"),
        tmp_path / "bad",
        lambda s: {k: v for k, v in s.items() if "0.block_sparse_moe.experts.3." not in k},
    )
    with pytest.raises(UsageError, match="experts"):
        load_model(path, attention="eager")


def adapter(base, folder: Path, target: str = "all_linear") -> Path:
    """The folder of an adapter that does something."""
    toys.moved(Lora(2, 4, 0.0, target, "all", False).attach(base, 0)).save_pretrained(folder)
    return folder


def edited(folder: Path, change) -> None:
    """The adapter's weights after `change`."""
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


ADAPTER_DAMAGES = {
    "doubled": lambda s: {
        k.replace("base_model.model.", "base_model.model.base_model.model.", 1): v for k, v in s.items()
    },
    "half": lambda s: {k: v for k, v in s.items() if "lora_B" not in k},
    "one missing": lambda s: dict(list(s.items())[1:]),
    "one more": lambda s: s | {next(iter(s)).replace("0", "9"): next(iter(s.values())).clone()},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("damage", ADAPTER_DAMAGES)
def test_adapters_that_peft_would_drop_are_refused(tmp_path, family, damage):
    """Names that fit no layer are dropped by peft without a word."""
    folder = adapter(causal(family), tmp_path)
    edited(folder, ADAPTER_DAMAGES[damage])
    with pytest.raises(UsageError, match=r"fill an adapter.*lora_") as caught:
        adapted(causal(family), str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_is_whole_on_its_own_model_and_refused_on_others(tmp_path, family):
    """A model with more blocks or fewer is another one; so is one of other widths."""
    base = causal(family)
    folder = adapter(base, tmp_path)
    expected = base(X).logits
    assert torch.equal(adapted(causal(family), str(folder))(X).logits, expected)
    for layers in (1, 3):
        with pytest.raises(UsageError, match="fill an adapter"):
            adapted(causal(family, layers), str(folder))


KINDS = {
    "dora": {"use_dora": True},
    "embeddings": {"target_modules": ["att", "emb"]},
    "head": {"target_modules": ["att", "lm_head"]},
    "trained head": {"modules_to_save": ["lm_head"]},
    "trained embeddings": {"modules_to_save": ["emb"]},
    "tokens": {"trainable_token_indices": [1, 2]},
    "biases": {"bias": "all"},
    "ranks": {"rank_pattern": {"att": 3}},
}


@pytest.mark.parametrize("family", ("llama", "gpt2"))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whole", ("auto", True), ids=["lean", "with embeddings"])
def test_what_is_merged_is_what_was_adapted(saved, tmp_path, family, kind, whole):
    """Also beside tied embeddings (GPT-2's), and after it was saved and read again."""
    from peft import LoraConfig, get_peft_model

    names = {"att": "q_proj", "emb": "embed_tokens"} if family == "llama" else {"att": "c_attn", "emb": "wte"}
    text = json.dumps({"target_modules": ["att"], **KINDS[kind]})
    for role, name in names.items():
        text = text.replace(f'"{role}"', f'"{name}"')
    model = get_peft_model(causal(family), LoraConfig(r=2, task_type="CAUSAL_LM", **json.loads(text)))
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    expected = model.eval()(X).logits
    model.peft_config["default"].base_model_name_or_path = str(saved(family))
    model.save_pretrained(tmp_path / "ad", save_embedding_layers=whole)
    merged = load_model(str(tmp_path / "ad"))
    merged.save_pretrained(tmp_path / "merged")
    for read in (merged, load_model(str(tmp_path / "merged"))):
        assert torch.allclose(read(X).logits, expected, atol=1e-4)


def test_an_adapter_that_changes_no_weights_is_refused(saved, tmp_path):
    """A prefix cannot be merged."""
    from peft import PrefixTuningConfig, get_peft_model

    model = get_peft_model(causal("llama"), PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    model.peft_config["default"].base_model_name_or_path = str(saved("llama"))
    model.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="PREFIX_TUNING adapter changes no weights"):
        load_model(str(tmp_path))


def test_an_adapter_of_another_width_is_refused_with_both_shapes(tmp_path):
    """The first layer that does not fit is named."""
    folder = adapter(causal("llama"), tmp_path, "qv")
    wide = toys.config("llama", 40)
    wide.hidden_size = 64
    from transformers import AutoModelForCausalLM

    with pytest.raises(UsageError, match=r"another model.*size mismatch for .*lora_A") as caught:
        adapted(AutoModelForCausalLM.from_config(wide), str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lora", (False, True))
def test_a_reward_model_without_its_head_is_refused(saved, tmp_path, lora):
    """A head drawn at random would score."""
    from dpo.models.adapters import Full
    from dpo.models.reward import trainable, untrained

    base = Tiny("byte", 259, 32, 2, 0, 8, 128, 0.003, 0, "float32", "sdpa")
    how = Lora(2, 4, 0.0, "qv", "all", False) if lora else Full()
    trainable(untrained(str(saved("llama")), base, 0), how, 0).save_pretrained(tmp_path)
    file = tmp_path / ("adapter_model.safetensors" if lora else FILE)
    save_file({k: v for k, v in load_file(file).items() if "score" not in k}, file, metadata={"format": "pt"})
    with pytest.raises(UsageError, match="score"):
        trained(tmp_path, str(saved("llama")), base, how, 0)


def test_a_checkpoint_of_other_weights_is_not_resumed_from():
    """Neither with a weight too few nor with one of another shape."""
    model = Lora(2, 4, 0.0, "qv", "all", False).attach(causal("llama"), 0)
    state = trainable_state(model)
    name = next(iter(state))
    for bad in ({k: v for k, v in state.items() if k != name}, state | {name: state[name][:1]}, state | {"x": X}):
        with pytest.raises(UsageError, match="resume"):
            restore(model, bad)
    restore(model, state)


def test_the_weights_of_an_image_tower_beside_a_text_model_do_not_count(saved, tmp_path):
    """A composite's folder may be read as its text model."""
    path = changed(saved("llama"), tmp_path / "both", lambda s: s | {"vision_tower.x.weight": torch.ones(2)})
    load_model(path)
    assert json.loads((tmp_path / "both" / "config.json").read_text())["model_type"] == "llama"
