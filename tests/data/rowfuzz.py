"""Rows of every data set, damaged at random: what a file may hold that somebody made, exported or cut short."""

from __future__ import annotations

import copy
import datetime
import decimal
import gzip
import json
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

LETTERS = st.sampled_from('ab \n\t\r\0\x0b\x1b\x7f\x85\ud800\udfff\u2028\ufeff\u200béß漢😀<|>{}[]"\\%')
STRINGS = st.one_of(
    st.text(LETTERS, max_size=6),
    st.text(max_size=6),
    st.sampled_from(
        ["", " ", "nan", "null", "<|end|>", "</s>", "\n\nAssistant:", "\n\nHuman: a", "x" * 3000, "\ud83d"]
    ),
)
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([10**400, -(10**400), 2**63, -(2**64), 1e308, float("nan"), float("inf"), 0, -0.0, True, DIGITS]),
)


def deep(levels: int, value: Any) -> Any:
    """A value inside so many lists and objects in turn."""
    for level in range(levels):
        value = {"a": value} if level % 2 else [value]
    return value


VALUES = (
    st.recursive(
        st.one_of(st.none(), STRINGS, NUMBERS),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(STRINGS, inner, max_size=3)),
        max_leaves=5,
    )
    | st.builds(deep, st.sampled_from([70, 200]), STRINGS)
    | st.sampled_from([DEEP, DEEPEST])
)
KEYS = st.sampled_from(["id", "tools", "tool_calls", "role", "content", "replies", "rank", "labels", "prompt", "extra"])


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a row that can be damaged."""
    found = [at] if at else []
    if len(at) == 5:
        return found
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        found += places(item, (*at, name))
    return found


@st.composite
def damaged(draw: Any, dataset: str, i: int) -> Any:
    """A row with one to three values replaced, left out or added; now and then no row at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(VALUES)
    row = copy.deepcopy(good(dataset, i))
    for _ in range(draw(st.integers(1, 3))):
        if not (all_places := places(row)):
            break
        *parents, last = draw(st.sampled_from(all_places))
        node = row
        for name in parents:
            node = node[name]
        match draw(st.integers(0, 4)):
            case 0:
                del node[last]
            case 1 if isinstance(node, dict):
                node[draw(KEYS | STRINGS)] = draw(VALUES)
            case 2 if isinstance(node, list):
                node.append(copy.deepcopy(node[last]))
            case _:
                node[last] = draw(VALUES)
    return row


def as_json(value: Any) -> bytes:
    """JSON, with RAW in it."""
    text = json.dumps(value)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text.encode()


def nicer(value: Any) -> Any:
    """A value that Arrow can hold: its own types in place of what JSON alone has."""
    if isinstance(value, str):
        return {"nan": datetime.datetime(1, 1, 1), "null": decimal.Decimal("1.5")}.get(value, value)
    return value


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


@st.composite
def files(draw: Any, dataset: str) -> tuple[str, bytes | list[Any]]:
    """(ending, bytes of a file or rows for Parquet) of a data file with right rows and up to three damaged ones."""
    rows = [good(dataset, i) for i in range(12)]
    for i in range(draw(st.integers(0, 3))):
        rows.insert(draw(st.integers(0, len(rows))), draw(damaged(dataset, 12 + i)))
    ending = draw(st.sampled_from([".jsonl", ".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet"]))
    if ending == ".parquet":
        return ending, rows
    lines = [as_json(row) for row in rows]
    array = ending.startswith(".json") and not ending.startswith(".jsonl") and draw(st.booleans())
    data = b"[" + b",\n".join(lines) + b"]" if array else b"\n".join(lines) + b"\n"
    damage = draw(st.integers(0, 9))
    at = draw(st.integers(0, len(data)))
    if damage == 0:
        data = data[:at]
    elif damage == 1:
        data = data[:at] + draw(st.binary(max_size=3)) + data[at:]
    elif damage == 2:
        data = b"\xef\xbb\xbf" + data
    if ending.endswith(".gz"):
        data = gzip.compress(data, 1)
        data = data[: len(data) - 9] if damage == 3 else data
    return ending, data
