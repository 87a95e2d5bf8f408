"""Pairs read as token trees score as padded rows do: values, gradients, every architecture that is claimed."""

import copy
from dataclasses import replace

import pytest
import torch
import transformers as t

from dpo import attention, kernels
from dpo import head as head_room
from dpo import logps as logps_room
from dpo import tree as tree_room
from dpo.data.batches import collate
from dpo.data.tokens import TokenPair
from dpo.kernels import quicken
from dpo.logps import Scorer, score
from dpo.models.adapters import Lora
from dpo.reference import Reference
from dpo.tree import FAMILIES, as_trees, layout_of, refusal
from tests import toys

LONG = TokenPair("long", tuple(range(1, 39)) * 8, (3, 4, 5), (6, 7, 8, 9, 3, 4, 5, 1, 2))
PAIRS = [*toys.random_pairs(7, seed=3), LONG]
WITHIN = 1e-5  # nats per completion token
MORE = {"qwen3": t.Qwen3Config, "gemma": t.GemmaConfig, "gemma3_text": t.Gemma3TextConfig}
EVERY = pytest.mark.parametrize("family", FAMILIES)
FACTS = frozenset({"wpo", "token_facts"})


def model(family, **changes):
    """A random model of any claimed family, with room for a long pair; Mistral's and Gemma's windows are shorter."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    if family in MORE:
        common = {"vocab_size": 40, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 400}
        specials = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "initializer_range": 0.2}
        if family == "gemma3_text":
            specials |= {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return t.AutoModelForCausalLM.from_config(MORE[family](**sizes, **common, **specials)).eval()
    places = {"n_positions": 400} if family == "gpt2" else {"max_position_embeddings": 400}
    if family == "mistral":
        places["sliding_window"] = 50
    return toys.model(family, initializer_range=0.2, **places, **changes)


def adapted(net, target="all_linear", dropout=0.0):
    """LoRA that does something, of the size training gives it."""
    net = Lora(r=2, alpha=8, dropout=dropout, target=target, layers="all", dora=False).attach(net, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "lora_B" in name:
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    return net


def scored(net, layout, pairs=PAIRS, needs=frozenset()):
    """(log-probs and facts, gradients by name) of one batch under fixed upstream gradients."""
    net.zero_grad()
    device = next(net.parameters()).device
    out = Scorer(net, layout)(collate(pairs, range(len(pairs)), 0).to(device), needs)
    logp_RC = out[0] if needs else out
    weights = torch.randn(logp_RC.shape, generator=torch.Generator().manual_seed(0)).to(device)
    (logp_RC * weights).sum().backward()
    return out.detach(), {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


def assert_same(padded, packed, slack=1):
    """Values to 1e-5 a token; gradients to 1e-4 of each tensor's largest; with `slack` times as much."""
    assert torch.allclose(padded[0], packed[0], rtol=0, atol=slack * WITHIN)
    assert padded[1].keys() == packed[1].keys()
    for name, grad in padded[1].items():
        assert float((grad - packed[1][name]).abs().max()) <= slack * 1e-4 * max(float(grad.abs().max()), 1e-3), name


@EVERY
@pytest.mark.parametrize("lora", (False, True), ids=["full", "lora"])
def test_log_probs_and_gradients_equal_the_padded_layouts(family, lora):
    """Every claimed family, all weights trained and under LoRA, windows shorter than the pair included."""
    nets = [adapted(model(family)) if lora else model(family) for _ in range(2)]
    assert refusal(nets[0].config) is None
    assert_same(scored(nets[0], "padded", needs=FACTS), scored(nets[1], "shared_prompt", needs=FACTS))


@pytest.mark.parametrize("family", ("llama", "gpt2", "gemma2"))
def test_packed_log_probs_equal_a_loop_over_tokens(family):
    """The definition itself: one unpadded forward per token."""
    net, pair = model(family), PAIRS[0]
    with torch.no_grad():
        row = Scorer(net, "shared_prompt")(collate(PAIRS, range(len(PAIRS)), 0))[0]
    expected = toys.naive_logps(net, pair.prompt_ids, pair.chosen_ids)
    assert row[: len(expected)].tolist() == pytest.approx(expected, abs=2 * WITHIN)


def test_no_token_is_read_twice_and_none_is_padding():
    """The packed row holds each prompt once and both answers but their last tokens, which predict nothing."""
    packed = as_trees(collate(PAIRS, range(len(PAIRS)), 0))
    expected = [i for p in PAIRS for i in (*p.prompt_ids, *p.chosen_ids[:-1], *p.rejected_ids[:-1])]
    assert packed.ids_1N[0].tolist() == expected


@pytest.mark.parametrize("window", (None, 3))
def test_a_token_sees_its_own_text_before_it_and_nothing_else(window):
    """The mask of every group, against the definition on token strings."""
    packed = as_trees(collate(PAIRS[:7], range(7), 0))
    for group in packed.tree.groups:
        hidden_BTT = group.hidden(window)
        for hidden, branch, place in zip(hidden_BTT, group.branch_BT, group.position_BT, strict=True):
            for q in range(len(branch)):
                if branch[q] < 0:
                    continue
                for k in range(len(branch)):
                    own = int(branch[k]) in (0, int(branch[q])) and place[k] <= place[q] and k <= q
                    near = window is None or place[q] - place[k] < window
                    assert bool(hidden[q, k]) == (not (own and near))


def test_blocks_of_queries_change_nothing(monkeypatch):
    """A long tree in blocks of 16 queries, each pair its own group, against all at once."""
    whole = scored(model("llama"), "shared_prompt")
    monkeypatch.setattr(attention, "BLOCK", 8)
    monkeypatch.setattr(tree_room, "SCORES", 1)
    assert_same(whole, scored(model("llama"), "shared_prompt"))


@pytest.mark.parametrize("trained", (False, True), ids=["frozen-head", "trained-head"])
@pytest.mark.parametrize("cap", (None, 3.0), ids=["plain", "soft-capped"])
@pytest.mark.parametrize("keep", (0, 1 << 27), ids=["again", "kept"])
def test_the_chunked_head_equals_log_softmax_with_its_gradient(monkeypatch, trained, cap, keep):
    """Chunks of a few positions, with a bias, against autograd through the whole logits in float64."""
    monkeypatch.setattr(head_room, "CHUNK_BYTES", 4 * 30 * 3)
    monkeypatch.setattr(head_room, "KEEP_BYTES", keep)
    draw = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*s, generator=draw) for s in ((11, 8), (30, 8), (30,)))
    ids, upstream = torch.randint(30, (11,), generator=draw), torch.randn(11, generator=draw)
    wide = [x.double().requires_grad_() for x in (hidden, weight, bias)]
    z = wide[0] @ wide[1].t() + wide[2]
    z = z if cap is None else cap * torch.tanh(z / cap)
    expected = z.log_softmax(-1).gather(1, ids[:, None])[:, 0]
    expected.backward(upstream.double())
    mine = [hidden.requires_grad_(), weight.requires_grad_(trained), bias.requires_grad_(trained)]
    got, _ = head_room.head_logps(*mine, ids, cap)
    got.backward(upstream)
    assert torch.allclose(got.double(), expected, atol=1e-5)
    for a, b in list(zip(mine, wide, strict=True))[: 3 if trained else 1]:
        assert torch.allclose(a.grad.double(), b.grad, atol=1e-5)


def test_nothing_of_the_vocabularys_size_is_kept_for_the_backward():
    """With a frozen head, memory does not grow with vocabulary times length."""
    net, kept = adapted(toys.model("llama", vocabulary=4_000), target="qv"), []
    batch = collate(PAIRS[:7], range(7), 0)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        Scorer(net, "shared_prompt")(batch)
    completions = int(batch.length_R.sum())
    assert kept and not [shape for shape in kept if 4_000 in shape and completions in shape]


def test_an_adapter_on_the_head_is_scored_through_its_logits():
    """A head that is no plain linear layer keeps its own forward, and its gradient."""
    nets = [adapted(model("llama"), target="q_proj,lm_head") for _ in range(2)]
    assert Scorer(nets[0], "shared_prompt").plain_head() is None
    assert_same(scored(nets[0], "padded"), scored(nets[1], "shared_prompt"))


def test_the_whole_vocabularys_divergence_is_the_same():
    """token_kl reads full logits in either layout."""
    net, other = model("llama"), toys.model("llama", seed=5, max_position_embeddings=400)
    batch, needs = collate(PAIRS, range(len(PAIRS)), 0), frozenset({"token_kl"})
    with torch.no_grad():
        rows = [
            score(Scorer(net, layout), batch, needs, Scorer(other, layout).logits(batch))
            for layout in ("padded", "shared_prompt")
        ]
    assert torch.allclose(rows[0].chosen_kl_B, rows[1].chosen_kl_B, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("family", ("llama", "mistral", "qwen2"))
def test_every_part_of_a_decoder_is_stood_in_for(family):
    """A library that renames a class would otherwise cost speed without a word."""
    net = adapted(model(family), target="qv")
    quicken(net)
    layer = net.get_base_model().model.layers[0]
    parts = (layer, layer.self_attn, layer.mlp, layer.input_layernorm, layer.post_attention_layernorm)
    linear = (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp.down_proj)
    assert all(type(part).__name__.startswith("Quick") for part in (*parts, *linear))


@pytest.mark.parametrize("target", ("qv", "all_linear"))
@pytest.mark.parametrize("family", ("llama", "mistral", "qwen2"))
def test_a_block_in_one_piece_equals_its_parts(family, target, monkeypatch):
    """Values, facts and every adapter's gradient; the last block goes on with the predicting rows alone."""
    whole = scored(adapted(model(family), target), "shared_prompt", needs=FACTS)
    monkeypatch.setattr(kernels, "LAYERS", ())
    assert_same(scored(adapted(model(family), target), "shared_prompt", needs=FACTS), whole)


def test_adapters_alone_are_trained_through_blocks(monkeypatch):
    """Blocks are used under LoRA, the last one narrowed; where all weights are trained, only without gradients."""
    seen = []
    apply = kernels.Block.apply
    monkeypatch.setattr(kernels.Block, "apply", lambda x, layer, *f: seen.append(layer.kept_M) or apply(x, layer, *f))
    monkeypatch.setattr(logps_room, "linear_head", lambda _: (True, None))  # its look reads a batch of its own
    packed = as_trees(collate(PAIRS, range(len(PAIRS)), 0))
    scored(adapted(model("llama"), "qv"), "shared_prompt")
    assert seen[0] is None and seen[1].tolist() == sorted(set(packed.predicts_M.tolist())) and len(seen) == 2
    scored(model("llama"), "shared_prompt")
    assert len(seen) == 2
    with torch.no_grad():
        Scorer(model("llama"), "shared_prompt")(collate(PAIRS, range(len(PAIRS)), 0))
    assert len(seen) == 4


@pytest.mark.parametrize("lora", (False, True), ids=["parts", "block"])
def test_a_norm_that_overflows_is_not_a_number(lora):
    """1 / inf would be 0: finite log-probs without a gradient, and a diverged run would end as done."""
    net = adapted(model("llama"), "qv") if lora else model("llama")
    with torch.no_grad():
        net.get_input_embeddings().weight.mul_(1e25)
    logp, grads = scored(net, "shared_prompt")
    assert logp.isnan().any() and all(grad.isnan().any() for grad in grads.values())


def test_dropout_at_work_is_drawn_as_before():
    """LoRA with dropout in training mode falls back to peft's own forward: same seed, same numbers."""
    nets = [adapted(model("llama"), dropout=0.5).train() for _ in range(2)]
    quicken(nets[1])
    ids = torch.arange(1, 12)[None]
    torch.manual_seed(0)
    expected = nets[0](ids).logits
    torch.manual_seed(0)
    assert torch.allclose(nets[1](ids).logits, expected, atol=1e-5)


def test_a_disabled_adapter_is_the_start_again():
    """Stand-ins respect peft's switch, also after a step."""
    net = adapted(model("llama"), target="qv")
    scorer = Scorer(net, "shared_prompt")
    batch = collate(PAIRS, range(len(PAIRS)), 0)
    with torch.no_grad():
        start = Scorer(model("llama"), "shared_prompt")(batch)
        with net.disable_adapter():
            assert torch.allclose(scorer(batch), start, rtol=0, atol=WITHIN)
        assert not torch.allclose(scorer(batch), start, atol=0.01)


def test_a_quickened_model_copies_saves_and_generates(tmp_path):
    """Weights, names and answers stay; a deep copy is a model of its own."""
    net = model("llama")
    before = net.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=6, do_sample=False, pad_token_id=0)
    names = list(net.state_dict())
    quicken(net)
    assert list(net.state_dict()) == names
    twin = copy.deepcopy(net)
    net.save_pretrained(tmp_path)
    loaded = t.AutoModelForCausalLM.from_pretrained(tmp_path)
    for other in (net, twin, loaded):
        after = other.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=6, do_sample=False, pad_token_id=0)
        assert after.tolist() == before.tolist()


@pytest.mark.parametrize("adapter", ("full", "lora"))
def test_bf16_autocast_stays_within_its_own_noise(adapter):
    """Both layouts under autocast differ by no more than autocast from float32."""
    nets = [model("llama") if adapter == "full" else adapted(model("llama"), target="qv") for _ in range(2)]
    batch = collate(PAIRS[:7], range(7), 0)
    with torch.no_grad():
        exact = Scorer(nets[0])(batch)
        with torch.autocast("cpu", torch.bfloat16):
            padded, packed = Scorer(nets[0])(batch), Scorer(nets[1], "shared_prompt")(batch)
    noise = float((padded - exact).abs().mean())
    assert 0 < float((packed - exact).abs().mean()) < 2 * noise and packed.dtype == torch.float32


def test_other_architectures_are_refused_by_name():
    """They are read as padded rows, and a note names them."""
    config = t.OPTConfig(vocab_size=40, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=2)
    config._attn_implementation = "sdpa"
    for wanted in ("auto", "shared_prompt"):
        layout, note = layout_of(config, wanted)
        assert layout == "padded" and "opt" in note and f"train.layout={wanted}" in note
    assert layout_of(model("llama").config, "auto") == ("shared_prompt", None)
    assert layout_of(model("llama").config, "padded") == ("padded", None)


def test_the_stores_key_changes_with_the_layout(tmp_path):
    """Another layout rounds elsewhere, so it is another entry; each finds its own again."""
    for layout in ("padded", "shared_prompt"):
        hits = [Reference(model("llama"), layout=layout).stored(PAIRS, 0, 9999, tmp_path)[1] for _ in range(2)]
        assert hits == [False, True]


def test_a_pair_without_a_prompt_token_is_an_error():
    """Nothing would predict its first answer token."""
    batch = collate([PAIRS[0]], [0], 0)
    with pytest.raises(ValueError, match="prompt token"):
        as_trees(replace(batch, mask_RT=batch.completion_RT))


@EVERY
def test_what_a_gpu_is_given_equals_the_padded_layout(family, monkeypatch):
    """FlexAttention by its definition (a CPU can do its forward uncompiled): masks, windows, caps, shared keys."""
    from torch.nn.attention.flex_attention import flex_attention

    calls = []
    monkeypatch.setattr(attention, "takes_flex", lambda device: True)
    monkeypatch.setattr(attention, "flex", lambda: lambda *a, **named: calls.append(1) or flex_attention(*a, **named))
    batch, net = collate(PAIRS, range(len(PAIRS)), 0), adapted(model(family))
    with torch.no_grad():
        assert torch.allclose(Scorer(net)(batch), Scorer(net, "shared_prompt")(batch), rtol=0, atol=WITHIN)
    assert len(calls) == 2  # once for each layer


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention is for a GPU, and there is none here")
@pytest.mark.parametrize("lora", (False, True), ids=["full", "lora"])
@pytest.mark.parametrize("family", ("llama", "mistral", "gpt2"))
def test_flex_attention_equals_the_padded_layout_on_a_gpu(family, lora):
    """The same trees through FlexAttention, in float32: values and gradients."""
    nets = [(adapted(model(family)) if lora else model(family)).cuda() for _ in range(2)]
    assert_same(scored(nets[0], "padded"), scored(nets[1], "shared_prompt"), 10)
