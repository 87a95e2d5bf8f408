"""What the jobs of one process share so that it is paid once: a start's weights as a master copy."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from torch import nn

T = TypeVar("T")
Model = TypeVar("Model", bound=nn.Module)

KEPT: dict[str, OrderedDict[str, object]] = {}
"""By kind, the values used last, oldest first."""
SHARING: list[Sequence[str]] = []
"""Not empty within `one_base`: the names of the runs that read one batch there."""
MODEL_BYTES = 500_000_000
"""Models up to this size stay in memory for the next job of the process; larger ones are read from disk again."""


def remember(kind: str, key: str, make: Callable[[], T], at_most: int, keep: Callable[[T], bool] = lambda _: True) -> T:
    """The value of `key`, made at its first use and kept for later ones: `at_most` values of a kind, if `keep` says so.

    Whoever gets a value must not change it.
    """
    kept = KEPT.setdefault(kind, OrderedDict())
    value: T = kept.pop(key) if key in kept else make()  # type: ignore[assignment]
    if keep(value):
        kept[key] = value
        if len(kept) > at_most:
            kept.popitem(last=False)
    return value


@contextmanager
def one_base(in_one_batch: Sequence[str] = ()) -> Iterator[None]:
    """Within it `own_copy` hands out models of their own that hold the very same weights, which nobody may change.

    `in_one_batch` names the runs whose numbers depend on one another by rounding.
    """
    SHARING.append(in_one_batch)
    try:
        yield
    finally:
        SHARING.pop()
        KEPT.pop("base", None)


def in_one_batch() -> list[str]:
    """The runs that read one batch now."""
    return list(SHARING[-1]) if SHARING else []


def own_copy(key: str, load: Callable[[], Model]) -> Model:
    """A model that the caller may train, copied from one that was loaded once and is never handed out."""
    if SHARING:
        base = remember("base", key, load, at_most=1)
        return copy.deepcopy(base, {id(x): x for x in (*base.parameters(), *base.buffers())})

    def small(model: Model) -> bool:
        return sum(p.numel() * p.element_size() for p in model.parameters()) <= MODEL_BYTES

    model = remember("model", key, load, at_most=1, keep=small)
    return copy.deepcopy(model) if small(model) else model
