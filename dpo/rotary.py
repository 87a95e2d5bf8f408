"""Rotary positions whose frequencies depend on the longest text that is read: each text is read with its own.

Dynamic NTK stretches its frequencies by that length, LongRoPE changes from short to long factors at one, and both take
it from the whole batch; dynamic NTK even keeps the longest one it has met. So rows are read together only where they
have the same frequencies alone, and what was kept is forgotten before each reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from dpo.data.batches import rectangles

SWITCHED = ("longrope", "su")
"""Rotary types with two sets of frequencies, for texts up to a length and past it; all others grow with the length."""
DYNAMIC = re.compile(r"dynamic|longrope|suscaled", re.IGNORECASE)
KEPT = "max_seq_len_cached"
"""What rotary modules call the longest text they have met."""
LIMITS = ("original_max_position_embeddings", "max_position_embeddings", "seq_length", "n_positions", "max_seq_len")


@dataclass(frozen=True)
class OwnLengths:
    """How the texts of a model with such positions may be read together.

    limit     texts up to this many tokens share one set of frequencies
    switched  whether all longer ones share another; else each length has its own
    modules   what keeps the longest length that it has met
    """

    limit: int
    switched: bool
    modules: tuple[nn.Module, ...] = ()

    @staticmethod
    def of(model: Any) -> OwnLengths | None:
        """None for a model whose frequencies are fixed, as nearly every model's are."""
        by_config = by_length(model.config)
        foreign = [m for m in model.modules() if DYNAMIC.search(type(m).__name__) and hasattr(m, KEPT)]
        if by_config is None and not foreign:
            return None
        limit, switched = by_config or (min(limits({}, model.config), default=0), False)
        keeping = tuple(m for m in model.modules() if any(name.endswith(KEPT) for name in vars(m)))
        return OwnLengths(limit, switched, keeping)

    def groups(self, length_R: Sequence[int]) -> list[list[int]]:
        """Rows of these lengths in groups that may be read together, each with little padding."""
        kinds: dict[int, list[int]] = {}
        for row, length in enumerate(length_R):
            kinds.setdefault(self.kind(length), []).append(row)
        return [
            [rows[i] for i in group] for rows in kinds.values() for group in rectangles([length_R[r] for r in rows])
        ]

    def kind(self, length: int) -> int:
        """Equal for texts that have the same frequencies alone."""
        return 0 if length <= self.limit else 1 if self.switched else length

    def forget(self) -> None:
        """Make the next text's frequencies its own, whatever was read before it."""
        for module in self.modules:
            for name in [name for name in vars(module) if name.endswith(KEPT)]:
                setattr(module, name, 0)


def by_length(config: Any) -> tuple[int, bool] | None:
    """(limit, switched) as in `OwnLengths` where a config's rotary frequencies depend on a text's length, else None."""
    found = []
    for rope, owner in ropes(config):
        kind = str(rope.get("rope_type") or rope.get("type") or "")
        if kind in SWITCHED or "long_mscale" in rope:
            found.append((min(limits(rope, owner)[:1], default=0), True))
        elif "dynamic" in kind:
            found.append((min(limits(rope, owner), default=0), False))
    if getattr(config, "use_dynamic_ntk", False):
        found.append((min(limits({}, config), default=0), False))
    if not found:
        return None
    return min(limit for limit, _ in found), len(found) == 1 and found[0][1]


def ropes(config: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Every description of rotary positions in a config, one per kind of layer where it has several, and its owner."""
    for owner in {id(c): c for c in (config, config.get_text_config())}.values():
        for name in ("rope_parameters", "rope_scaling"):
            described = getattr(owner, name, None)
            if isinstance(described, dict):
                yield described, owner
                yield from ((part, owner) for part in described.values() if isinstance(part, dict))


def limits(rope: dict[str, Any], config: Any) -> list[int]:
    """The lengths at which frequencies may begin to change, the one that was trained with first."""
    found = [rope.get(LIMITS[0]), *(getattr(config, name, None) for name in LIMITS)]
    return [int(limit) for limit in found if limit]
