"""What a model cannot read or write: more positions than its table has, token ids past its embedding."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import nn

from dpo.data.tokens import TokenPair
from dpo.errors import UsageError
from dpo.rotary import OwnLengths

POSITIONS = re.compile(r"wpe|pos(ition)?s?(_|$)|positional", re.IGNORECASE)
"""Names of tables that are looked up by position."""
RELATIVE = re.compile(r"rel", re.IGNORECASE)
"""Names of tables that are looked up by the distance of two positions, which have no end."""
KEYS = ("n_positions", "max_position_embeddings", "max_seq_len", "n_ctx", "seq_length")


def positions(model: Any) -> tuple[int, str] | None:
    """(how many tokens the model has positions for, that as its config says it); None where there is no end.

    Rotary positions go on past the length that a model was trained with; a table of positions does not.
    """
    rows = min(tables(model), default=None)
    if rows is None:
        return None
    config = model.config.get_text_config()
    key = next((key for key in KEYS if getattr(config, key, None) == rows), None)
    return rows, f"{key}={rows} in its config" if key else f"a table of {rows} positions"


def trained_length(model: Any) -> int | None:
    """How long the texts were that the model was made for, as its config says it; None where it says nothing."""
    config = model.config.get_text_config()
    length = getattr(config, "max_position_embeddings", None)
    return length if isinstance(length, int) and OwnLengths.of(model) is None else None


def tables(model: Any) -> Iterator[int]:
    """Places of each table of positions: embeddings, fixed sines, and the mask of distances that MPT is built with."""
    tokens = model.get_input_embeddings()
    for name, module in model.named_modules():
        own = name.rsplit(".", 1)[-1]
        if isinstance(module, nn.Embedding) and module is not tokens and position_name(own):
            skipped = getattr(module, "offset", 0) or (0 if module.padding_idx is None else module.padding_idx + 1)
            yield module.num_embeddings - skipped
    for name, buffer in model.named_buffers():
        own = name.rsplit(".", 1)[-1]
        if buffer.dim() == 2 and buffer.is_floating_point() and position_name(own):
            yield len(buffer)
    if model.config.model_type == "mpt" and model.config.attn_config.alibi:
        yield model.config.max_seq_len


def position_name(name: str) -> bool:
    """Whether a module or buffer called so is looked up by position."""
    return bool(POSITIONS.search(name)) and not RELATIVE.search(name)


def check_texts(model: Any, lengths: Iterable[int], key: str) -> None:
    """Raise UsageError where a text of that many tokens has more than the model has positions for."""
    longest, limit = max(lengths, default=0), positions(model)
    if limit is not None and longest > limit[0]:
        raise UsageError(
            f"{key}: the longest text has {longest} tokens, and the model reads {limit[0]} ({limit[1]}); "
            f"set {key} to at most {limit[0]}"
        )


def check_answers(model: Any, prompts: Iterable[int], new_tokens: int, key: str = "evaluate.max_new_tokens") -> None:
    """Raise UsageError where prompts of that many tokens leave no room for answers of `new_tokens`."""
    longest, limit = max(prompts, default=0), positions(model)
    if limit is not None and longest + new_tokens > limit[0]:
        room = limit[0] - longest
        advice = f"set {key} to at most {room}" if room > 0 else "give shorter prompts, or lower train.max_length"
        raise UsageError(
            f"{key}={new_tokens}: the longest prompt has {longest} tokens, together {longest + new_tokens}, "
            f"and the model reads {limit[0]} ({limit[1]}); {advice}"
        )


def check_ids(model: Any, tokenizer: Any, pairs: Iterable[TokenPair], where: str) -> None:
    """Raise UsageError where the data, its padding or an answer's end have token ids that the model has no rows for."""
    largest, rows = largest_id(pairs, tokenizer), embedding_rows(model)
    if largest >= rows:
        name = tokenizer.convert_ids_to_tokens([largest])[0]
        raise UsageError(
            f"{where}: the model has {rows} embedding rows, and its tokenizer gives the id {largest} ({name!r}); "
            "give the tokenizer that belongs to the model, or a model whose embeddings were resized to it"
        )


def largest_id(pairs: Iterable[TokenPair], tokenizer: Any) -> int:
    """The largest token id that the pairs hold or that ends or pads them."""
    ids = (max(max(p.prompt_ids), max(p.chosen_ids), max(p.rejected_ids)) for p in pairs)
    return max(tokenizer.eos_token_id, tokenizer.pad_token_id, *ids)


def embedding_rows(model: Any) -> int:
    """How many token ids the model can read and put out."""
    rows: int = model.get_input_embeddings().num_embeddings
    head = model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    return rows if weight is None else min(rows, len(weight))


def row_lengths(pairs: Sequence[TokenPair]) -> Iterator[int]:
    """Tokens of each text of the pairs."""
    for p in pairs:
        yield from (len(p.prompt_ids) + len(answer) for answer in (p.chosen_ids, p.rejected_ids))
