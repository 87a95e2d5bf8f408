"""The start of a run against its data and settings: limits of the model, then the self-check, once per start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpo.cache import key
from dpo.config import Config
from dpo.data.pair import Split
from dpo.data.templates import render
from dpo.data.tokens import TokenPair, encode_prompt
from dpo.models.limits import (
    check_answers,
    check_ids,
    check_texts,
    embedding_rows,
    largest_id,
    positions,
    row_lengths,
    trained_length,
)
from dpo.progress import remark, say
from dpo.self_check import Checked, self_check
from dpo.shared import remember


def checked(
    config: Config, model: Any, start: str, tokenizer: Any, pairs: Sequence[TokenPair], where: str | None = None
) -> Checked:
    """How `model`, loaded from `start`, is read for these pairs, and what was found on the way.

    Prints the self-check's line where it is made: once for a start, an adapter and a way of reading in a process.
    Raises UsageError where the model cannot read the pairs or its numbers would not be a pair's own.
    """
    where = where or f"model.path={start}"
    limits = check_limits(model, tokenizer, pairs, where)
    wanted, precision = config.train.layout, config.train.precision
    facts = (start, config.model.identity(Path(config.cache_root)), config.plain["adapter"], config.plain["model"])
    made: list[Checked] = []

    def look() -> Checked:
        made.append(self_check(model, pairs, tokenizer.pad_token_id, wanted, precision, where))
        return made[0]

    found = remember("self-check", key(*facts, wanted, precision, str(model.device)), look, at_most=16)
    found = replace(found, figures=found.figures | limits)
    if made:
        say(found.line())
    return found


def check_limits(model: Any, tokenizer: Any, pairs: Sequence[TokenPair], where: str) -> dict[str, Any]:
    """What the pairs take of the model's positions and embeddings; raises UsageError where it has not so many."""
    longest, limit = max(row_lengths(pairs)), positions(model)
    check_ids(model, tokenizer, pairs, where)
    check_texts(model, [longest], "train.max_length")
    meant = trained_length(model)
    if limit is None and meant is not None and longest > meant:
        remark(
            f"{where}: the longest text has {longest} tokens, and the model was made for {meant} "
            "(max_position_embeddings in its config); what it says of later tokens may be worth little: "
            f"set train.max_length to at most {meant}"
        )
    return {
        "longest": longest,
        "positions": None if limit is None else limit[0],
        "largest_id": largest_id(pairs, tokenizer),
        "embeddings": embedding_rows(model),
    }


def check_room(config: Config, model: Any, tokenizer: Any, split: Split) -> None:
    """Raise UsageError where the prompts that will be answered leave no room for evaluate.max_new_tokens."""
    e = config.evaluate
    if positions(model) is None:
        return
    asked = [*split.prompts[: max(e.greedy, e.samples)], *[p.prompt for p in split.evaluation[: e.kl_samples]]]
    lengths = [len(encode_prompt(render(prompt, tokenizer), tokenizer)) for prompt in asked]
    check_answers(model, lengths, e.max_new_tokens)
