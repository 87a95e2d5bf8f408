"""What a model's own code does around its head, so that log-probs may be taken from hidden states.

Shapes: N completion tokens, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dpo.data.batches import PairBatch, collate
from dpo.data.tokens import TokenPair
from dpo.head import capped
from dpo.models.causal import as_it_is

SEEN: WeakKeyDictionary[nn.Module, dict[str, tuple[bool, float | None]]] = WeakKeyDictionary()
"""What `linear_head` found, by model and layout: policy and reference are often one model."""


def linear_head(scorer: Any) -> tuple[bool, float | None]:
    """What `seen_head` finds, looked for once per model."""
    if scorer.plain_head() is None:
        return False, None
    seen = SEEN.setdefault(bare(scorer.model), {})
    if scorer.layout not in seen:
        seen[scorer.layout] = seen_head(scorer)
    return seen[scorer.layout]


def seen_head(scorer: Any) -> tuple[bool, float | None]:
    """(whether the model's logits are its head's output and nothing else, the soft cap on them that its config says).

    Decided by what its code does with numbers of ours, of every size, in place of the head's output: a cap that bends
    none of today's logits, a scale or a shift under whatever name shows itself. Where trees are read, the head must
    be given what the body puts out as it is, because there nobody else calls the head.
    """
    head, model = scorer.plain_head(), bare(scorer.model)
    batch = look_at(head.weight.device)
    given: list[Tensor] = []
    bodies: list[Tensor] = []

    def replace(_m: Any, _a: Any, out_1NV: Tensor) -> Tensor:
        given.append(probe(out_1NV))
        return given[0]

    def keep(_m: Any, _a: Any, out: Any) -> None:
        bodies.append(out[0])

    layout, scorer.layout = scorer.layout, "padded"  # the code around a head does not ask for it
    try:
        with (
            hooked(head.register_forward_hook(replace)),
            hooked(model.base_model.register_forward_hook(keep)),
            as_it_is(scorer.model),
        ):
            hidden_ND, logits_NV = scorer.one_pass(batch)
    finally:
        scorer.layout = layout
    if not given or given[0].shape[1:] != logits_NV.shape:
        return False, None
    if layout == "shared_prompt" and not (bodies and torch.equal(bodies[0][batch.predicts_RT()], hidden_ND)):
        return False, None
    for cap in (None, getattr(model.config, "final_logit_softcapping", None)):
        expected_NV = capped(given[0][0].float().clone(), cap)
        within = 1e-5 if logits_NV.dtype == torch.float32 else 2**-7
        same = torch.equal if cap is None else functools.partial(torch.allclose, rtol=within, atol=within)
        if same(expected_NV, logits_NV.float()):
            return True, cap
    return False, None


def narrows(scorer: Any) -> bool:
    """Whether the head may be given the positions of completion tokens alone: code may add to all positions' logits.

    transformers' own models never do; any other's logits are held against those of its whole forward.
    """
    if type(bare(scorer.model)).__module__.startswith("transformers."):
        return True
    batch = look_at(next(scorer.model.parameters()).device)
    try:
        with as_it_is(scorer.model):
            scorer.narrows = True
            few_NV = scorer.one_pass(batch)[1]
            scorer.narrows = False
            all_NV = scorer.one_pass(batch)[1]
    except Exception:  # whatever its code makes of fewer positions, it is not made for them
        return False
    within = 1e-4 if few_NV.dtype == torch.float32 else 2**-6
    return few_NV.shape == all_NV.shape and torch.allclose(few_NV, all_NV, rtol=within, atol=within)


def look_at(device: torch.device) -> PairBatch:
    """A pair of few tokens that any vocabulary has."""
    return collate([TokenPair("", (0,), (1,), (2, 3))], [0], 0).to(device)


def probe(like_1NV: Tensor) -> Tensor:
    """Numbers from 1e-3 to 1e4 of both signs, the same ones at every call, in the shape and dtype of some logits."""
    draw = torch.Generator().manual_seed(0)
    size, sign = (torch.rand(like_1NV.shape, generator=draw) for _ in range(2))
    return (10 ** (7 * size - 3) * (2 * sign.round() - 1)).to(like_1NV)


@contextmanager
def hooked(hook: RemovableHandle) -> Iterator[None]:
    """Within it the hook is in place."""
    try:
        yield
    finally:
        hook.remove()


def bare(model: Any) -> Any:
    """The model inside an adapter's wrapper, with the adapter's layers in place."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
