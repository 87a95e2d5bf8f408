"""Files as they come: every way to be unreadable is one line with the file and the line."""

import gzip
import json
from pathlib import Path

import pytest

from dpo.data.files import Files, read_pairs
from dpo.data.rows import MAX_LINE, rows
from dpo.errors import UsageError

ROW = {"prompt": "p", "chosen": "a", "rejected": "b"}
LINE = json.dumps(ROW).encode() + b"\n"


def refusal(path: Path) -> str:
    """What reading a file says."""
    with pytest.raises(UsageError) as error:
        read_pairs(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    """Latin-1 in the second line."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINE + '{"prompt": "é"}'.encode("latin-1"))
    assert "a.jsonl:2: not UTF-8" in refusal(path)


@pytest.mark.parametrize(
    "damage", (lambda data: data[:-9], lambda data: b"plain text", lambda data: data[:20] + b"\0" * 40)
)
def test_broken_gzip_is_named(damage, tmp_path: Path) -> None:
    """Cut short, not gzip at all, or damaged in the middle."""
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(damage(gzip.compress(LINE * 50)))
    assert "cannot be read" in refusal(path)


def test_a_line_of_100_mb_is_refused_unread(tmp_path: Path) -> None:
    """A file without line breaks is no list of rows; reading stops at the limit."""
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(LINE + b'{"prompt": "')
        for _ in range(100):
            file.write(b"x" * 2**20)
    assert f"a.jsonl:2: longer than {MAX_LINE:,} bytes" in refusal(path)


def test_an_id_given_twice_names_both_lines(tmp_path: Path) -> None:
    """Ids name pairs in every table, so two rows must not share one."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(json.dumps(ROW | {"id": i}).encode() + b"\n" for i in ("x", "y", "x")))
    assert f"a.jsonl:3: the id 'x' is also that of {path}:1" in refusal(path)


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    """No tokenizer can read it."""
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROW | {"chosen": "a\ud800"}) + "\n")
    assert "a.jsonl:1: chosen holds a lone surrogate" in refusal(path)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"id": ' + b"9" * 5000 + b"}", "a number has too many digits"),
        (b'{"prompt": "p"', "not JSON"),
        (json.dumps(ROW | {"id": "\ud800"}).encode(), "id holds a lone surrogate"),
        (json.dumps(ROW | {"prompt": [{"role": "\ud800", "content": "x"}]}).encode(), "prompt holds a lone surrogate"),
        (json.dumps(ROW | {"prompt": [{"role": "u", "content": "x", "\ud800": 1}]}).encode(), "a lone surrogate"),
        (b"[1, 2]", "must be an object"),
        (b"NaN", "must be an object"),
        (json.dumps(ROW | {"prompt": None}).encode(), "no prompt"),
    ],
)
def test_every_malformed_line_is_named(line: bytes, why: str, tmp_path: Path) -> None:
    """In the second line, behind one that is right."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINE + line + b"\n")
    assert why in (said := refusal(path)) and "a.jsonl:2:" in said


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    """Notepad and Excel write one; in lines and in arrays."""
    for name, content in (("a.jsonl", LINE), ("a.json", b" [" + LINE + b"]")):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content)
        assert [row for _, row in rows(tmp_path / name)] == [ROW]


@pytest.mark.parametrize("content", (b"[\n" + LINE + b"]\n", b"[" + LINE.strip() + b"]"))
def test_an_array_in_a_file_of_lines_says_so(content: bytes, tmp_path: Path) -> None:
    """The ending says how a file is read, and is the thing to change."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    assert "begins a JSON array; name the file .json" in refusal(path)


def test_other_line_breaks_of_unicode_end_no_row(tmp_path: Path) -> None:
    """U+2028, U+2029 and U+0085 may stand in a text as they are."""
    path = tmp_path / "a.jsonl"
    text = "a\u2028b\u2029c\u0085d"
    path.write_text(json.dumps(ROW | {"prompt": text}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_pairs(path)[0].prompt == text


def parquet(path: Path, **columns: object) -> Path:
    """A Parquet file of 30 rows with prompt, chosen, rejected and other columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {name: [f"{name} {i}" for i in range(30)] for name in ROW}
    pq.write_table(pa.table(table | columns), path)
    return path


def test_parquet_values_that_python_lacks_are_named_with_their_row(tmp_path: Path) -> None:
    """Text that is not UTF-8, a duration out of range; the row and the column are said."""
    import struct

    import pyarrow as pa

    offsets = pa.py_buffer(struct.pack("<31i", *range(0, 62, 2)))
    bad = pa.Array.from_buffers(pa.string(), 30, [None, offsets, pa.py_buffer(b"ok" * 20 + b"\xff\xfe" * 10)])
    assert "row 21: column id cannot be read" in refusal(parquet(tmp_path / "a.parquet", id=bad))
    when = pa.array([0] * 29 + [2**62], pa.duration("s"))
    assert "row 30: column when cannot be read" in refusal(parquet(tmp_path / "b.parquet", when=when))


def test_a_parquet_file_cut_short_is_named(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet")
    for data in (path.read_bytes()[:-9], b"", b"PAR1"):
        path.write_bytes(data)
        assert "not a Parquet file" in refusal(path)


def test_json_nested_without_end_is_refused(tmp_path: Path) -> None:
    """A recursion error is no message for people."""
    path = tmp_path / "a.jsonl"
    path.write_text("[" * 100_000 + "\n")
    assert "a.jsonl:1:" in refusal(path)


def test_a_json_array_is_read_as_its_elements(tmp_path: Path) -> None:
    """Where a .json file is one array and not lines."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps([ROW, ROW], indent=1))
    assert [row for _, row in rows(path)] == [ROW, ROW]


def test_a_folder_without_data_files_is_refused(tmp_path: Path) -> None:
    """The endings that would do are named."""
    with pytest.raises(UsageError, match=r"no files.*\.jsonl"):
        list(rows(tmp_path))


def test_rows_without_ids_that_repeat_are_dropped_and_counted(tmp_path: Path) -> None:
    """The counts travel with the split into the audit."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINE * 2 + b"".join(json.dumps(ROW | {"prompt": str(i)}).encode() + b"\n" for i in range(30)))
    split = Files(str(path), None, 0.2).load()
    assert len(split.train) + len(split.evaluation) == 31
    assert split.counts == {"rows": 32, "duplicate_rows": 1, "dropped": 1}


def test_a_tool_call_may_stand_without_content(tmp_path: Path) -> None:
    """A message of a tool call has no text; it passes through as it is."""
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    prompt = [{"role": "user", "content": "q"}, call, {"role": "tool", "content": "3"}]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROW | {"prompt": prompt}) + "\n")
    assert read_pairs(path)[0].prompt == prompt
