"""What is loaded: an attention that the model has, and causal models only."""

import pytest
import torch
import transformers as t

from dpo import progress
from dpo.errors import UsageError
from dpo.models import pretrained
from dpo.models.causal import as_it_is, check_causal
from dpo.models.pretrained import load_model
from dpo.models.reward import untrained
from tests import toys

SIZES = {"vocab_size": 61, "hidden_size": 32, "initializer_range": 0.2}
ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
DEEP = SIZES | {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def saved(path, config, auto=t.AutoModelForCausalLM):
    """A folder with a random model of this config."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        auto.from_config(config).save_pretrained(path)
    return str(path)


@pytest.fixture
def notes(monkeypatch):
    """What is said while a test runs."""
    said = []
    monkeypatch.setattr(progress, "say", said.append)
    progress.remark.cache_clear()
    return said


def test_a_model_without_sdpa_is_read_eagerly_and_one_note_says_so(tmp_path, notes):
    """The default attention does not refuse a family; what is loaded twice is noted once; a reward model follows."""
    path = saved(tmp_path, t.BloomConfig(**SIZES, n_layer=2, n_head=2, **ENDS))
    assert load_model(path).config._attn_implementation == load_model(path).config._attn_implementation == "eager"
    assert len(notes) == 1 and "model.attention=eager" in notes[0] and path in notes[0]
    base = pretrained.Pretrained(path, None, "float32", "sdpa", False)
    assert untrained(path, base, 0).config._attn_implementation == "eager"


@pytest.mark.parametrize("attention", ("flash_attention_2", "flex_attention"))
def test_another_attention_that_cannot_be_had_is_refused_by_its_key(tmp_path, notes, attention):
    """It was asked for by name; the line does not blame the path."""
    path = saved(tmp_path, t.BloomConfig(**SIZES, n_layer=2, n_head=2, **ENDS))
    with pytest.raises(UsageError, match=f"model.attention={attention}") as refusal:
        load_model(path, attention=attention)
    assert "hub" not in str(refusal.value) and not notes


@pytest.mark.parametrize("kind", (t.BertConfig, t.RobertaConfig, t.ElectraConfig))
def test_an_encoder_is_refused_and_its_decoder_form_is_not(tmp_path, kind):
    """One line names the model, the rule and the key of its config."""
    with pytest.raises(UsageError, match=r"not causal.*is_decoder"):
        load_model(saved(tmp_path / "encoder", kind(**DEEP)))
    load_model(saved(tmp_path / "decoder", kind(**DEEP, is_decoder=True)))


def test_a_known_family_that_reads_ahead_is_refused():
    """Code of one's own under a known model_type, and transformers' own with bidirectional attention."""

    class Fork(t.LlamaForCausalLM):
        """A llama whose every state holds the mean of all."""

        def forward(self, input_ids, **named):
            out = super().forward(input_ids, **named)
            out.logits = out.logits + out.logits.mean(1, keepdim=True)
            return out

    config = toys.model("llama").config
    with pytest.raises(UsageError, match="Fork is not causal"):
        check_causal(Fork(config).eval(), "a fork")
    check_causal(toys.model("llama"), "the family itself")
    both_ways = t.Gemma3TextConfig(**DEEP, num_key_value_heads=1, head_dim=16, use_bidirectional_attention=True)
    with pytest.raises(UsageError, match="not causal"):
        check_causal(t.Gemma3ForCausalLM(both_ways).eval(), "gemma")


def test_a_look_leaves_everything_as_it_was():
    """Modes, attention and random state."""
    net = toys.model("gpt2").train()
    net.transformer.wte.eval()
    before = torch.get_rng_state(), [m.training for m in net.modules()], net.config._attn_implementation
    with as_it_is(net):
        torch.rand(3)
        assert not net.training
    after = torch.get_rng_state(), [m.training for m in net.modules()], net.config._attn_implementation
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
