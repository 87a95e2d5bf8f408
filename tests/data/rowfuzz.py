"""Rows of every data set, damaged at random: what a file may hold that somebody made, exported or cut short."""

from __future__ import annotations

import copy
import datetime
import decimal
import gzip
import json
import math
import random
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

DIGITS, DEEP, DEEPEST = "@digits@", "@deep@", "@deepest@"
RAW = {DIGITS: "9" * 5000, DEEP: "[" * 900 + "]" * 900, DEEPEST: '{"a": [' * 20_000 + "]}" * 20_000}
"""What Python's own json does not write, by what stands for it: more digits than it reads, deeper than it goes."""


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}


def good(dataset: str, i: int) -> dict[str, Any]:
    """A right row of a data set."""
    q, a, b = f"Where is place {i}?", f"In the north {i}.", f"No idea {i}."
    both = {"chosen": [user(q), said(a)], "rejected": [user(q), said(b)]}
    flat = {"message_id": f"m{i}", "parent_id": f"m{i - i % 3}" if i % 3 else None, "lang": "en", "rank": i % 3}
    return {
        "files": [
            {"prompt": q, "chosen": a, "rejected": b},
            {"id": f"r{i}", "prompt": [user(q)], "chosen": [said(a)], "rejected": [said(b)]},
            {"prompt": [user(q)], "chosen": [CALL], "rejected": [said(b)]},
            {"prompt": q, **both},
        ][i % 4],
        "hub": {"prompt": [user(q)], "chosen": [said(a)], "rejected": b},
        "tulu": both,
        "ultrafeedback": both | {"prompt": q, "score_chosen": 8.0, "score_rejected": 5},
        "hh_rlhf": {side: f"\n\nHuman: {q}\n\nAssistant: {text}" for side, text in (("chosen", a), ("rejected", b))},
        "shp": {"history": q, "human_ref_A": a, "human_ref_B": b, "labels": i % 2, "score_ratio": 2.5},
        "orca_dpo": {"system": "", "question": q, "chosen": a, "rejected": b},
        "oasst": flat | {"role": "assistant" if i % 3 else "prompter", "text": a if i % 3 else q},
    }[dataset]


DATASETS = ("files", "hub", "tulu", "ultrafeedback", "hh_rlhf", "shp", "orca_dpo", "oasst")

LETTERS = 'ab \n\t\r\0\x0b\x1b\x7f\x85\ud800\udfff\u2028\ufeff\u200bé\u00df漢😀<|>{}[]"\\%'
STRINGS = (
    "",
    " ",
    "nan",
    "null",
    "<|end|>",
    "</s>",
    "\n\nAssistant:",
    "\n\nHuman: a",
    "x" * 3000,
    "\ud83d",
    "a\ud800b",
)
NUMBERS = (10**400, -(10**400), 2**63, -(2**64), 0, 1, -1, True, 1e308, 0.5, -0.0, math.nan, math.inf, DIGITS)
KEYS = ("id", "tools", "tool_calls", "role", "content", "replies", "rank", "labels", "prompt", "reasoning_content", "a")


def string(r: random.Random) -> str:
    """A text that somebody's file may hold."""
    return r.choice(STRINGS) if r.random() < 0.5 else "".join(r.choices(LETTERS, k=r.randint(0, 6)))


def value(r: random.Random, depth: int = 0) -> Any:
    """Any value of JSON, and some that are none."""
    kind = r.random()
    if kind < 0.15:
        return None
    if kind < 0.55:
        return string(r)
    if kind < 0.75 or depth > 3:
        return r.choice(NUMBERS)
    if kind < 0.85:
        return [value(r, depth + 1) for _ in range(r.randint(0, 2))]
    if kind < 0.95:
        return {r.choice((r.choice(KEYS), string(r))): value(r, depth + 1) for _ in range(r.randint(0, 2))}
    return r.choice((DEEP, DEEPEST, nested(70), nested(200)))


def nested(levels: int) -> Any:
    """So many lists and objects inside each other."""
    made: Any = "a"
    for level in range(levels):
        made = {"a": made} if level % 2 else [made]
    return made


def places(item: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a row that can be damaged."""
    found = [at] if at else []
    if len(at) == 5:
        return found
    inner = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
    for name, below in inner:
        found += places(below, (*at, name))
    return found


def damaged(r: random.Random, dataset: str, i: int) -> Any:
    """A row with one to three values replaced, left out, doubled or added; now and then no row at all."""
    if r.random() < 0.05:
        return value(r)
    row = copy.deepcopy(good(dataset, i))
    for _ in range(r.choice((1, 1, 1, 2, 3))):
        if not (all_places := places(row)):
            break
        *parents, last = r.choice(all_places)
        node = row
        for name in parents:
            node = node[name]
        how = r.random()
        if how < 0.15:
            del node[last]
        elif how < 0.3 and isinstance(node, dict):
            node[r.choice((r.choice(KEYS), string(r)))] = value(r)
        elif how < 0.4 and isinstance(node, list):
            node.append(copy.deepcopy(node[last]))
        else:
            node[last] = value(r)
    return row


def as_json(row: Any) -> bytes:
    """JSON, with RAW in it."""
    text = json.dumps(row)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text.encode()


def nicer(item: Any) -> Any:
    """A value that Arrow can hold: its own types in place of what JSON alone has."""
    if isinstance(item, str):
        return {"nan": datetime.datetime(1, 1, 1), "null": decimal.Decimal("1.5")}.get(item, item)
    return item


def parquet(rows: list[Any], path: Path) -> bool:
    """Write rows as Parquet; False where Arrow has no type for them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        objects = [{name: nicer(item) for name, item in row.items()} for row in rows]
        names = {name for row in objects for name in row}
        pq.write_table(pa.Table.from_pylist([{n: row.get(n) for n in names} for row in objects]), path)
    except (pa.ArrowException, ValueError, TypeError, OverflowError, AttributeError, RecursionError, UnicodeError):
        return False
    return True


def file(r: random.Random, dataset: str) -> tuple[str, bytes | list[Any]]:
    """(ending, bytes of a file or rows for Parquet) of a data file with right rows and up to three damaged ones."""
    rows = [good(dataset, i) for i in range(12)]
    for i in range(r.choice((0, 1, 1, 1, 2, 2, 3))):
        rows.insert(r.randint(0, len(rows)), damaged(r, dataset, 12 + i))
    ending = r.choice((".jsonl", ".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet"))
    if ending == ".parquet":
        return ending, rows
    lines = [as_json(row) for row in rows]
    array = ending.startswith(".json") and not ending.startswith(".jsonl") and r.random() < 0.5
    data = b"[" + b",\n".join(lines) + b"]" if array else b"\n".join(lines) + b"\n"
    damage, at = r.random(), r.randint(0, len(data))
    if damage < 0.05:
        data = data[:at]
    elif damage < 0.1:
        data = data[:at] + r.randbytes(r.randint(1, 3)) + data[at:]
    elif damage < 0.15:
        data = b"\xef\xbb\xbf" + data
    if ending.endswith(".gz"):
        data = gzip.compress(data, 1)
        data = data[: len(data) - 9] if 0.15 < damage < 0.25 else data
    return ending, data


def files(dataset: str) -> st.SearchStrategy[tuple[str, bytes | list[Any]]]:
    """Data files, each as likely as any other: a strategy's own choices lean to the first and the least."""
    return st.integers(0, 2**63).map(lambda seed: file(random.Random(f"{dataset}/{seed}"), dataset))
