"""Whether a model is causal: what it says of a token must not depend on the tokens behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dpo.errors import UsageError
from dpo.tree import FAMILIES


def check_causal(model: Any, where: str) -> None:
    """Raise UsageError where two texts with one beginning and other ends show that the model reads ahead."""
    if own_code(model) and not getattr(model.config, "use_bidirectional_attention", False):
        return
    rows = model.get_input_embeddings().num_embeddings
    shared = (rows // 3, rows // 2)
    ends = [(rows // 4, rows // 5), (2 * rows // 3, 3 * rows // 4)]
    ids_RT = torch.tensor([(*shared, *end) for end in ends], device=next(model.parameters()).device)
    try:
        with as_it_is(model):
            logits_RTV = model(input_ids=ids_RT, attention_mask=torch.ones_like(ids_RT), use_cache=False).logits.float()
    except Exception:  # a model that wants other inputs says so in its own words once it is read
        return
    first_TV, second_TV = logits_RTV[:, : len(shared)]
    within = 1e-4 if next(model.parameters()).dtype == torch.float32 else 2**-6
    if float((first_TV - second_TV).abs().max()) > within * float(first_TV.abs().max()):
        raise UsageError(reads_ahead(model, where))


def reads_ahead(model: Any, where: str) -> str:
    """The line that refuses a model which is not causal."""
    hint = ""
    if getattr(model.config, "is_decoder", None) is False:
        hint = " (its config.json has is_decoder false: where it was trained as a decoder, set it to true)"
    return (
        f"{where}: {type(model).__name__} is not causal: what it says of a token changes with the tokens behind it, "
        f"so an answer's log-probs would have seen the answer; give a causal language model{hint}"
    )


def own_code(model: Any) -> bool:
    """Whether the model runs transformers' own code of a family whose numbers a test holds (`dpo.tree.FAMILIES`)."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(inner).__module__.startswith("transformers.models.") and model.config.model_type in FAMILIES


@contextmanager
def at_rest(model: Any) -> Iterator[None]:
    """Within it a look at the model changes nothing: no gradient, no dropout, nobody's random numbers."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def as_it_is(model: Any) -> Iterator[None]:
    """The same with eager attention: fast ones refuse some dtypes outside of autocast, and some refuse a CPU."""
    config = model.config
    asked, config._attn_implementation = config._attn_implementation, "eager"
    try:
        with at_rest(model):
            yield
    finally:
        config._attn_implementation = asked
