"""Token ids kept on disk between runs, found again by what decides them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from dpo.data.pair import Pair

if TYPE_CHECKING:
    from dpo.data.tokens import TokenPair


IDS: list[int] = []


def shared(ids: Iterable[int]) -> tuple[int, ...]:
    """The ids as a tuple of int objects that all pairs share: 8 bytes a token in memory, not 40."""
    ids = tuple(ids)
    if ids and max(ids) >= len(IDS):
        IDS.extend(range(len(IDS), max(ids) + 1))
    return tuple(map(IDS.__getitem__, ids))


def digest(rendered: Sequence[tuple[str, str, str]]) -> str:
    """SHA-256 of texts in order."""
    sha = hashlib.sha256()
    for row in rendered:
        sha.update(json.dumps(row).encode())
    return sha.hexdigest()


def fingerprint(tokenizer: Any) -> str:
    """SHA-256 of what decides a tokenizer's ids: its model and rules (of a slow one, its vocabulary), BOS and EOS."""
    state = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else json.dumps(tokenizer.get_vocab())
    text = json.dumps([type(tokenizer).__name__, state, tokenizer.bos_token_id, tokenizer.eos_token_id])
    return hashlib.sha256(text.encode()).hexdigest()


def save(path: Path, pairs: Sequence[Pair], token_pairs: Sequence[TokenPair], counts: dict[str, int]) -> None:
    """Token pairs and counts as one file: ids end to end, lengths of the sides, positions of the kept pairs."""
    position = {pair.id: i for i, pair in enumerate(pairs)}
    sides = [side for pair in token_pairs for side in (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids)]
    tensors = {
        "ids": np.fromiter((i for side in sides for i in side), dtype=np.int32, count=sum(map(len, sides))),
        "lengths": np.array([len(side) for side in sides], dtype=np.int32),
        "kept": np.array([position[pair.id] for pair in token_pairs], dtype=np.int32),
    }
    save_file(tensors, path, metadata={"counts": json.dumps(counts)})


def saved(path: Path) -> tuple[Iterator[tuple[list[int], list[int], list[int]]], list[int], dict[str, int]]:
    """(prompt, chosen and rejected ids of every kept pair; their positions; counts), as `save` wrote them."""
    with safe_open(path, framework="numpy") as file:
        counts: dict[str, int] = json.loads(file.metadata()["counts"])
        ids, lengths, kept = (file.get_tensor(name) for name in ("ids", "lengths", "kept"))
    ends = lengths.cumsum().reshape(-1, 3).tolist()
    begins = [0, *(row[2] for row in ends)]
    sides = (
        (ids[begin:a].tolist(), ids[a:b].tolist(), ids[b:c].tolist())
        for begin, (a, b, c) in zip(begins, ends, strict=False)
    )
    return sides, kept.tolist(), counts
