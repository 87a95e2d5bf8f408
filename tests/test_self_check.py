"""Before training a run looks at what it is about to trust: each planted violation stops it in one line."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import transformers as t

from dpo import checked as checked_room
from dpo.data.batches import row_length
from dpo.data.tokens import TokenPair
from dpo.errors import UsageError
from dpo.models.adapters import Lora
from dpo.models.causal import at_rest
from dpo.models.limits import check_answers, check_ids, check_texts, positions
from dpo.self_check import self_check, some_pairs
from tests import toys

PAIRS = toys.random_pairs(12, seed=3)
FAMILIES = ("llama", "gpt2", "gemma2", "mistral", "gpt_neox")
ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def look(net, layout="auto", precision="fp32", pairs=PAIRS):
    return self_check(net, pairs, 0, layout, precision, "model.path=here")


def llama(forward=None, attention=None):
    """A llama whose own code is changed under llama's model_type: its forward, or its layers' attention."""

    class Fork(t.LlamaForCausalLM):
        pass

    if forward is not None:
        Fork.forward = lambda self, input_ids=None, **named: forward(
            lambda ids=input_ids: t.LlamaForCausalLM.forward(self, input_ids=ids, **named), self
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Fork(toys.model("llama", initializer_range=0.3).config).eval()
    for layer in net.model.layers if attention is not None else ():
        layer.self_attn.__class__ = attention
    return net


class OwnAttention(t.models.llama.modeling_llama.LlamaAttention):
    """Plain causal attention that asks nobody who may see whom: right for rows, wrong for trees."""

    def forward(self, hidden_states, position_embeddings, **_):
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        q, k, v = (f(hidden_states).view(shape).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        q, k = t.models.llama.modeling_llama.apply_rotary_pos_emb(q, k, *position_embeddings)
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).flatten(2)), None


def batch_mean(read, _):
    out = read()
    out.logits = out.logits + out.logits.mean((0, 1), keepdim=True).detach() * (out.logits.shape[0] > 1)
    return out


def longest_first(read, _):
    out = read()
    out.logits = out.logits * (1 + out.logits.shape[1] / 100)
    return out


def one_ahead(read, _):
    out = read()
    out.logits = out.logits + 0.5 * out.logits.roll(-1, 1)
    return out


@pytest.mark.parametrize("adapter", (False, True), ids=["full", "lora"])
@pytest.mark.parametrize("precision", ("fp32", "bf16"))
@pytest.mark.parametrize("family", FAMILIES)
def test_sound_models_pass_in_either_layout(family, precision, adapter):
    """Within rounding, whatever is trained and in which precision; with dropout put to train as well."""
    net = toys.model(family, initializer_range=0.3)
    if adapter:
        target = "query_key_value" if family == "gpt_neox" else "c_attn" if family == "gpt2" else "qv"
        net = Lora(2, 4, 0.5, target, "all", False).attach(net, 0).train()
    for layout, expected in (("auto", "shared_prompt"), ("padded", "padded")):
        found = look(net, layout, precision)
        assert found.layout == expected and found.note is None
        assert found.figures["alone_together"] < (1e-5 if precision == "fp32" else 0.05)
    assert look(toys.model(family, initializer_range=0.3).bfloat16()).layout == "shared_prompt"


@pytest.mark.parametrize(
    ("violation", "says"),
    (
        (batch_mean, "among other texts than alone"),
        (longest_first, "among other texts than alone"),
        (one_ahead, "is not causal"),
    ),
    ids=["batch", "length", "ahead"],
)
@pytest.mark.parametrize("layout", ("auto", "padded"))
def test_a_planted_violation_stops_it_in_one_line(violation, says, layout):
    """A mean over the batch, a scale by the longest text, a look at the next token; trees are one row, so no batch."""
    if violation is batch_mean and layout == "auto":
        assert look(llama(violation), layout).layout == "shared_prompt"
        return
    with pytest.raises(UsageError, match=says) as refusal:
        look(llama(violation), layout)
    assert "\n" not in str(refusal.value) and "model.path=here" in str(refusal.value)


def test_a_violation_is_seen_in_bf16():
    """Its tolerance is wider, and no such thing is within it."""
    for violation in (batch_mean, one_ahead):
        with pytest.raises(UsageError):
            look(llama(violation), "padded", "bf16")


def test_attention_of_ones_own_under_a_known_model_type_is_read_as_rows():
    """The note says how far its trees are off; its rows are right."""
    found = look(llama(attention=OwnAttention))
    assert found.layout == "padded" and found.figures["tree_plain"] > 0.01
    assert "train.layout=auto" in found.note and "padded rows" in found.note
    assert found.figures["alone_together"] < 1e-5


def test_code_that_takes_no_tree_at_all_is_read_as_rows():
    """Whatever it raises."""

    def refuses(read, net):
        if net.config._attn_implementation == "dpo_token_tree":
            raise TypeError("no such attention")
        return read()

    net = llama(refuses)
    net.model.forward = lambda *a, **k: (
        (_ for _ in ()).throw(TypeError("none"))
        if net.config._attn_implementation == "dpo_token_tree"
        else type(net.model).forward(net.model, *a, **k)
    )
    assert look(net).layout == "padded"


def test_log_probs_that_are_no_numbers_stop_it():
    """Weights of a half-written file."""
    net = toys.model("llama")
    with torch.no_grad():
        net.lm_head.weight[3] = torch.nan
    with pytest.raises(UsageError, match="not finite"):
        look(net)


def test_nothing_is_changed_by_looking():
    """Weights, gradients, modes, random numbers."""
    net = Lora(2, 4, 0.5, "qv", "all", False).attach(toys.model("llama"), 0).train()
    weights = {name: p.clone() for name, p in net.state_dict().items()}
    state = torch.get_rng_state()
    look(net)
    assert torch.equal(state, torch.get_rng_state()) and net.training
    assert all(torch.equal(p, weights[name]) for name, p in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_few_and_short_pairs_are_read():
    """A short one and another; beside foreign code the longest. One pair is enough, and equal answers say nothing."""
    by_length = sorted(PAIRS, key=lambda p: len(p.prompt_ids) + max(len(p.chosen_ids), len(p.rejected_ids)))
    few = some_pairs(toys.model("llama"), PAIRS)
    assert few[1] in by_length[:6] and len(few) == 2
    assert some_pairs(llama(), PAIRS)[0] == max(PAIRS, key=row_length)
    long = [TokenPair(str(i), (5,) * 90, (6,) * 5 + (i,) * 50, (6,) * 5 + (9,) * 70) for i in range(2)]
    assert [row_length(pair) for pair in some_pairs(toys.model("llama"), long)] == [8, 16]
    assert look(toys.model("llama"), pairs=PAIRS[:1]).layout == "shared_prompt"
    prefix = TokenPair("p", (5, 6), (3, 4), (3, 4, 7))
    assert look(toys.model("llama"), pairs=[prefix]).figures["causal"] is None


def sized(name):
    """A model with room for 24 tokens, and how its config says so."""
    common = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    deep = common | {"intermediate_size": 48, "max_position_embeddings": 24}
    flat = {"vocab_size": 40, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 24, **ENDS}
    return {
        "gpt2": lambda: t.GPT2Config(**flat),
        "gptj": lambda: t.GPTJConfig(**flat, rotary_dim=8),
        "gpt_bigcode": lambda: t.GPTBigCodeConfig(**flat),
        "opt": lambda: t.OPTConfig(**common, ffn_dim=48, max_position_embeddings=24, word_embed_proj_dim=32),
        "bert": lambda: t.BertConfig(**deep, is_decoder=True),
        "roberta": lambda: t.RobertaConfig(**deep | {"max_position_embeddings": 26}, is_decoder=True),
        "mpt": lambda: t.MptConfig(vocab_size=40, d_model=32, n_layers=2, n_heads=2, max_seq_len=24),
        "llama": lambda: t.LlamaConfig(**deep),
        "bloom": lambda: t.BloomConfig(vocab_size=40, hidden_size=32, n_layer=2, n_head=2),
    }[name]()


@pytest.mark.parametrize("name", ("gpt2", "gptj", "gpt_bigcode", "opt", "bert", "roberta", "mpt"))
def test_the_end_of_a_models_positions_is_known(name):
    """Exactly where its forward fails: all texts up to there are read, and a line says what to set."""
    net = t.AutoModelForCausalLM.from_config(sized(name)).eval()
    assert positions(net)[0] == 24
    net(torch.full((1, 24), 5))
    with pytest.raises((IndexError, RuntimeError)):
        net(torch.full((1, 25), 5))
    check_texts(net, [3, 24], "train.max_length")
    with pytest.raises(UsageError, match=r"train.max_length: the longest text has 25 tokens, and the model reads 24"):
        check_texts(net, [3, 25], "train.max_length")
    check_answers(net, [3, 16], 8)
    with pytest.raises(UsageError, match=r"evaluate.max_new_tokens=9: .*16 tokens.*25.*24.*at most 8"):
        check_answers(net, [3, 16], 9)


@pytest.mark.parametrize("name", ("llama", "bloom"))
def test_positions_without_an_end_are_not_limited(name):
    """Rotary positions and ALiBi go on."""
    assert positions(t.AutoModelForCausalLM.from_config(sized(name))) is None


def test_token_ids_past_the_embedding_are_refused_by_both_sizes():
    """Of the data, or of the padding that a tokenizer was given and the model was not."""
    net, tokenizer = toys.model("llama"), toys.tokenizer("byte")
    rows = net.get_input_embeddings().num_embeddings
    with pytest.raises(UsageError, match=f"{rows} embedding rows, and its tokenizer gives the id"):
        check_ids(net, tokenizer, [TokenPair("a", (rows + 300,), (1,), (2,))], "model.path=here")


def test_a_start_is_looked_at_once_in_a_process_and_its_limits_for_every_run(monkeypatch):
    """A sweep's second run prints no second line; its own longest text is held against the model all the same."""
    net, tokenizer, said = t.GPT2LMHeadModel(sized("gpt2")).eval(), toys.tokenizer("byte"), []
    net.resize_token_embeddings(len(tokenizer))
    monkeypatch.setattr(checked_room, "say", said.append)
    model = SimpleNamespace(identity=lambda cache: ["weights"])
    train = SimpleNamespace(layout="auto", precision="fp32")
    config = SimpleNamespace(train=train, model=model, cache_root="", plain={"adapter": {}, "model": {}})
    first, second = (checked_room.checked(config, net, "start", tokenizer, PAIRS) for _ in range(2))
    assert first == second and first.layout == "shared_prompt" and len(said) == 1 and "\n" not in said[0]
    assert said[0].startswith("self-check: ") and "of 24 positions" in said[0]
    long = TokenPair("long", (1,) * 20, (2,) * 5, (3,))
    with pytest.raises(UsageError, match=r"train\.max_length"):
        checked_room.checked(config, net, "start", tokenizer, [*PAIRS, long])


def test_a_look_at_rest_puts_every_module_back():
    """Also those that were left in evaluation by hand."""
    net = toys.model("gpt2").train()
    net.transformer.wte.eval()
    modes = [m.training for m in net.modules()]
    with at_rest(net):
        assert not net.training and not torch.is_grad_enabled()
    assert [m.training for m in net.modules()] == modes
