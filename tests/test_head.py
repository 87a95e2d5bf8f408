"""Log-probs from hidden states, a chunk at a time, at every size: equal to one log-softmax, values and gradients."""

from unittest.mock import patch

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo import head as head_room
from dpo.head import head_logps

WIDTH = 3


def plain(hidden, weight, bias, ids, cap):
    """The definition, with its graph."""
    z = torch.nn.functional.linear(hidden, weight, bias)
    z = z if cap is None else cap * torch.tanh(z / cap)
    return z.log_softmax(-1).gather(1, ids[:, None])[:, 0]


@settings(deadline=None, max_examples=80)
@given(
    tokens=st.integers(0, 40),
    vocabulary=st.integers(1, 23),
    chunk=st.integers(1, 1_000),
    keep=st.integers(0, 4_000),
    trained=st.sampled_from(["hidden", "head", "both", "weight"]),
    with_bias=st.booleans(),
    cap=st.sampled_from([None, 2.0]),
)
def test_values_and_gradients_equal_the_plain_path_at_every_size(
    tokens, vocabulary, chunk, keep, trained, with_bias, cap
):
    """Any number of tokens, vocabulary, chunk and memory that is kept; whatever of the head is trained."""
    draw = torch.Generator().manual_seed(tokens * 1_000 + vocabulary)
    hidden, weight, bias = (
        torch.randn(*shape, generator=draw, dtype=torch.float64)
        for shape in ((tokens, WIDTH), (vocabulary, WIDTH), (vocabulary,))
    )
    ids = torch.randint(vocabulary, (tokens,), generator=draw)
    upstream = torch.randn(tokens, generator=draw, dtype=torch.float64)
    grads = {"hidden": (1, 0, 0), "head": (0, 1, 1), "both": (1, 1, 1), "weight": (0, 1, 0)}[trained]
    results = []
    for dtype, read in ((torch.float64, plain), (torch.float32, lambda *a: head_logps(*a)[0])):
        leaves = [
            x.to(dtype, copy=True).requires_grad_(bool(g)) for x, g in zip((hidden, weight, bias), grads, strict=True)
        ]
        with patch.multiple(head_room, CHUNK_BYTES=chunk, KEEP_BYTES=keep):
            out = read(leaves[0], leaves[1], leaves[2] if with_bias else None, ids, cap)
            out.backward(upstream.to(out.dtype))
        results.append([out.detach(), *(x.grad for x in leaves if x.grad is not None)])
    assert len(results[0]) == len(results[1])
    for expected, got in zip(*results, strict=True):
        assert torch.allclose(got.double(), expected, rtol=1e-4, atol=1e-4)


def test_no_more_is_kept_than_the_budget_and_a_second_backward_finds_it_again():
    """Chunks that fit are kept, whichever they are; what a first backward used up is computed again."""
    hidden, weight = torch.randn(11, WIDTH), torch.randn(7, WIDTH, requires_grad=True)
    ids = torch.randint(7, (11,))
    with patch.multiple(head_room, CHUNK_BYTES=4 * 7 * 3, KEEP_BYTES=4 * 7 * 5):
        logp, _ = head_logps(hidden, weight, None, ids)
        kept = logp.grad_fn.kept
        assert 0 < sum(d.nbytes for d in kept.values()) <= 4 * 7 * 5
        grads = [torch.autograd.grad(logp.sum(), weight, retain_graph=True)[0] for _ in range(2)]
    assert torch.allclose(*grads, atol=1e-6)
