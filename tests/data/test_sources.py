"""The data sets: what they promise, and that bad rows are named."""

import gzip
import json
from pathlib import Path

import pytest

from dpo.data.files import Files, read_pairs
from dpo.data.hand_authored import HandAuthored
from dpo.data.json_over_prose import (
    TRAINING_TOPICS,
    UNSEEN_TOPICS,
    JsonOverProse,
    has_schema,
    parse,
    topics,
)
from dpo.data.pair import Pair, check_pairs, hold_out, warn_overlap
from dpo.data.twelve import Twelve
from dpo.errors import UsageError
from dpo.models.corpus import documents

DEFAULT = JsonOverProse(seed=42, train_pairs=400, eval_pairs=100)


def test_json_over_prose_has_400_and_100_pairs_of_the_same_facts() -> None:
    """The chosen side is the JSON object, the rejected side names the same category and features in prose."""
    split = DEFAULT.load()
    assert (len(split.train), len(split.evaluation)) == (400, 100)
    for pair in split.train + split.evaluation:
        facts = json.loads(pair.chosen)
        assert all(value in pair.rejected for value in (facts["name"], facts["category"], *facts["features"]))
        assert parse(pair.rejected) is None and has_schema(facts)


def test_json_over_prose_is_a_function_of_its_seed() -> None:
    """Same seed, same pairs; another seed, others."""
    assert DEFAULT.load() == DEFAULT.load()
    assert JsonOverProse(43, 400, 100).load().train != DEFAULT.load().train


def test_json_over_prose_evaluation_stays_when_training_shrinks() -> None:
    """Arms with less data are judged on the same pairs."""
    assert JsonOverProse(42, 50, 100).load().evaluation == DEFAULT.load().evaluation


def test_no_evaluation_prompt_occurs_in_training() -> None:
    """Each prompt is drawn once."""
    assert warn_overlap(DEFAULT.load()) is None


def test_at_least_sixty_topics_and_twelve_unseen_ones() -> None:
    """The unseen twelve are in no pair and in no text the embedded base reads."""
    seen, unseen = topics(TRAINING_TOPICS), topics(UNSEEN_TOPICS)
    assert len(seen) >= 60 and len(unseen) == 12
    split = DEFAULT.load()
    text = "\n".join(documents(20_000, 0)) + "".join(p.prompt + p.chosen for p in split.train + split.evaluation)
    assert [topic.name for topic in unseen if topic.name in text] == []
    assert all(any(topic.name in prompt for topic in unseen) for prompt in split.prompts)


def test_the_check_counts_parseable_schema_and_novel_answers() -> None:
    """Four answers: in schema with a new value, JSON of another shape, prose, broken JSON."""
    answers = [
        '{"name": "X", "category": "zeppelin", "features": ["a b"]}',
        '{"title": "X"}',
        "X is a tree.",
        '{"name": "X"',
    ]
    shares = DEFAULT.check(answers, DEFAULT.load().train)
    assert shares == {"json_rate": 0.5, "schema_rate": 0.25, "novel_value_rate": 0.25}


def test_a_bare_list_or_number_is_no_json_object() -> None:
    """ "3" parses as JSON and is no answer."""
    assert parse("3") is None and parse("[1]") is None and parse("[" * 100_000) is None


def test_more_pairs_than_combinations_are_refused() -> None:
    """Prompts are never repeated, so their number bounds the set."""
    with pytest.raises(UsageError, match=r"dataset.train_pairs=4000 and dataset.eval_pairs=100"):
        JsonOverProse(42, 4000, 100)


def test_twelve_holds_capitals_arithmetic_and_lists() -> None:
    """Four of each, evaluated on themselves, and said so."""
    split = Twelve().load()
    assert len(split.train) == 12 and split.train == split.evaluation
    assert {pair.id.split("-")[0] for pair in split.train} == {"capital", "arithmetic", "list"}
    assert "12 of 12 evaluation prompts" in (warn_overlap(split) or "")


def test_hand_authored_holds_out_a_share_by_id() -> None:
    """Disjoint, complete, near the asked share."""
    split = HandAuthored(eval_share=0.2).load()
    ids = [pair.id for pair in split.train + split.evaluation]
    assert len(ids) == len(set(ids)) >= 120
    assert 0.1 < len(split.evaluation) / len(ids) < 0.3


def test_a_hold_out_depends_on_ids_alone() -> None:
    """Order and neighbours change no pair's side."""
    pairs = [Pair(str(i), "p", "a", "b", "s") for i in range(200)]
    _, held = hold_out(pairs, 0.25)
    _, again = hold_out(pairs[::-1][:150], 0.25)
    assert {p.id for p in again} == {p.id for p in held} & {p.id for p in pairs[::-1][:150]}


ROWS = [
    {"prompt": "p1", "chosen": "a", "rejected": "b"},
    {"id": "x", "prompt": [{"role": "user", "content": "p2"}], "chosen": "a", "rejected": "b"},
]


def test_jsonl_gzip_and_parquet_hold_the_same_pairs(tmp_path: Path) -> None:
    """One reader, three formats, strings and chat messages."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = "".join(json.dumps(row) + "\n" for row in ROWS[:1])
    (tmp_path / "a.jsonl").write_text(text)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    pq.write_table(pa.Table.from_pylist(ROWS[:1]), tmp_path / "c.parquet")
    read = [read_pairs(tmp_path / name)[0] for name in ("a.jsonl", "b.jsonl.gz", "c.parquet")]
    assert len({(p.id, p.prompt, p.chosen, p.rejected) for p in read}) == 1


def test_an_id_of_the_source_is_kept_and_else_is_the_hash_of_the_content(tmp_path: Path) -> None:
    """Stable across runs either way."""
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    first, second = read_pairs(tmp_path / "a.jsonl")
    assert second.id == "x" and len(first.id) == 16


def test_an_evaluation_file_of_its_own_is_used_whole(tmp_path: Path) -> None:
    """dataset.eval_path; the same file for both is allowed."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    split = Files(str(path), str(path), 0.1).load()
    assert len(split.train) == len(split.evaluation) == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"prompt": "p", "chosen": "a", "rejected": "b"}\n\xff\n', ":2: not UTF-8"),
        ("a.jsonl.gz", b"not gzip", "cannot be read"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"prompt": "p", "chosen": "a", "rejected": "b"}\n', mtime=0)[:-9],
            "cannot be read after line",
        ),
        ("a.parquet", b"not parquet", "not a Parquet file"),
        ("a.csv", b"x", "must end in"),
    ],
)
def test_files_that_cannot_be_read_are_refused_by_name(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    """File, line where there is one, and what is wrong."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_pairs(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and said in str(caught.value)


def test_an_id_that_occurs_twice_is_refused() -> None:
    """Rows are joined on ids later."""
    with pytest.raises(UsageError, match="'1' occurs twice"):
        check_pairs([Pair("1", "p", "a", "b", "s")] * 2, "x")


def test_swap_turns_the_preference_round() -> None:
    """And twice is the pair itself."""
    pair = Pair("1", "p", "a", "b", "s")
    assert pair.swap().chosen == "b" and pair.swap().swap() == pair
