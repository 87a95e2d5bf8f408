"""From a split to token pairs and the audit of both: what every run and `dpo audit` do before anything else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo.cache import build_once, key
from dpo.data.audit import VERSION, Audit, report
from dpo.data.pair import Split
from dpo.data.tokens import TokenPair, content_hash, tokenise
from dpo.errors import UsageError
from dpo.json_files import read_json, write_json


@dataclass(frozen=True)
class Prepared:
    """Token pairs of both parts of a split, the split without what had no room, and the audit of it."""

    split: Split
    train: list[TokenPair]
    evaluation: list[TokenPair]
    audit: dict[str, Any]


def prepare(
    split: Split,
    tokenizer: Any,
    max_length: int,
    max_merge_share: float,
    drop_long_prompts: bool,
    limits: Audit,
    cache: Path,
) -> Prepared:
    """Tokenise and audit, both found again under `cache` where nothing they depend on has changed.

    The audit ends in `findings`, what is above a limit; a caller decides what a "stop" stops.
    """
    parts, counts = [], []
    for name, pairs in (("training", split.train), ("evaluation", split.evaluation)):
        made, counted = tokenise(pairs, tokenizer, max_length, max_merge_share, drop_long_prompts, cache)
        if not made:
            raise UsageError(
                f"all {len(pairs)} {name} pairs were dropped: no prompt leaves room for an answer within "
                f"train.max_length={max_length}; raise it"
            )
        parts.append(made)
        counts.append(counted)
    kept = {pair.id for part in parts for pair in part}
    gone = {pair.id for pair in [*split.train, *split.evaluation]} - kept
    whole, split = split, split.without(gone)
    made_of = (split.counts, split.changes, [content_hash(part) for part in parts], max_length, tokenizer.eos_token_id)
    path = cache / "audit" / f"{key(VERSION, text_hash(whole), *made_of)}.json"
    build_once(path, lambda new: write_json(new, report(whole, split, parts[0], parts[1], (counts[0], counts[1]))))
    audit = read_json(path)
    return Prepared(split, parts[0], parts[1], audit | {"findings": limits.findings(audit["shares"])})


def text_hash(split: Split) -> str:
    """Changes with the texts and ids of a split."""
    return key([[(p.id, p.prompt, p.chosen, p.rejected) for p in part] for part in (split.train, split.evaluation)])


def stop_if_told(audit: dict[str, Any]) -> None:
    """Raise UsageError for the first finding that stops."""
    for finding in audit["findings"]:
        if finding["level"] == "stop":
            raise UsageError(
                f"{finding['text']}, more than audit.stop.{finding['name']}={finding['limit']}; mend the data, "
                "or raise the limit"
            )
