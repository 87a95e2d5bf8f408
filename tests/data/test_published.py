"""Published sets in small files of their real formats: what becomes a pair, and what is left out and counted."""

import dataclasses
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dpo.config import load
from dpo.data.pair import check_pairs
from dpo.errors import UsageError

SETS = ("hh_rlhf", "hub", "oasst", "orca_dpo", "shp", "tulu", "ultrafeedback")


def write(path: Path, rows: list) -> Path:
    """JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def source(name: str, path: Path, *options: str):
    """The data set of an option, from a local path, with every row trained on but one in a hundred."""
    return load([f"dataset={name}", f"dataset.path={path}", "dataset.eval_share=0.01", *options]).dataset


def pairs(name: str, tmp_path: Path, rows: list, *options: str):
    """(pairs, counts) of rows in a file."""
    split = source(name, write(tmp_path / "rows.jsonl", rows), *options).load()
    return split.train + split.evaluation, split.counts


def hh(prompt: str, chosen: str, rejected: str, other: str | None = None) -> dict:
    """A row of HH-RLHF."""
    history = prompt if other is None else other
    return {
        "chosen": f"\n\nHuman: {prompt}\n\nAssistant:{chosen}",
        "rejected": f"\n\nHuman: {history}\n\nAssistant:{rejected}",
    }


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def test_hh_prompt_is_the_common_history(tmp_path: Path) -> None:
    """All turns up to and including the last "Assistant:" are the prompt; the answers keep their first space."""
    made, _ = pairs("hh_rlhf", tmp_path, [hh("a\n\nAssistant: b\n\nHuman: c", " yes", " no")])
    assert made[0].prompt == "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    assert (made[0].chosen, made[0].rejected) == (" yes", " no")


def test_hh_rows_that_are_no_pair_are_counted_by_reason(tmp_path: Path) -> None:
    """Differing prompts and empty answers are dropped; a row with two faults counts under both and is one row less."""
    rows = [hh("q", " y", " n"), hh("q", " y", " n", "other"), hh("q", " ", " n"), hh("q", " y", "", "other")]
    made, counts = pairs("hh_rlhf", tmp_path, rows)
    expected = {"rows": 4, "dropped": 3, "prompt_differs": 2, "empty_chosen": 1, "empty_rejected": 1}
    assert len(made) == 1 and expected.items() <= counts.items()


def test_hh_messages_are_the_turns(tmp_path: Path) -> None:
    """form=messages gives chat turns; a transcript with a role twice in a row is counted as odd."""
    rows = [hh("a\n\nAssistant: b\n\nHuman: c", " yes", " no"), hh("a\n\nHuman: b", " yes", " no")]
    made, counts = pairs("hh_rlhf", tmp_path, rows, "dataset.form=messages")
    assert made[0].prompt == [user("a"), assistant("b"), user("c")] and made[0].chosen == "yes"
    assert len(made) == 1 and counts["odd_turns"] == 1


@pytest.mark.parametrize("name", ("tulu", "ultrafeedback"))
def test_conversations_part_at_their_last_turn(name: str, tmp_path: Path) -> None:
    """System and earlier turns are the prompt; other histories and last turns by the user are dropped and counted."""
    history = [{"role": "system", "content": "s"}, user("q"), assistant("a"), user("r")]
    rows = [
        {"prompt": "q", "chosen": [*history, assistant("y")], "rejected": [*history, assistant("n")]},
        {"prompt": "q", "chosen": [user("q"), assistant("y")], "rejected": [user("p"), assistant("n")]},
        {"prompt": "q", "chosen": [user("q"), user("y")], "rejected": [user("q"), assistant("n")]},
        {"prompt": "q", "chosen": [user("q"), assistant("y")], "rejected": [user("q"), assistant("")]},
    ]
    made, counts = pairs(name, tmp_path, rows)
    assert made[0].prompt == history and (made[0].chosen, made[0].rejected) == ([assistant("y")], [assistant("n")])
    assert len(made) == 1 and {"prompt_differs": 1, "not_assistant": 1, "empty_rejected": 1}.items() <= counts.items()


def test_ultrafeedback_gap_leaves_out_close_scores(tmp_path: Path) -> None:
    """score_chosen - score_rejected below dataset.min_gap is counted as gap_too_small."""
    rows = [
        {
            "chosen": [user(f"q{i}"), assistant("y")],
            "rejected": [user(f"q{i}"), assistant("n")],
            "score_chosen": score,
            "score_rejected": 5.0,
        }
        for i, score in enumerate((5.0, 6.0, 8.0))
    ]
    made, counts = pairs("ultrafeedback", tmp_path, rows, "dataset.min_gap=2")
    assert [p.prompt[0]["content"] for p in made] == ["q2"] and counts["gap_too_small"] == 2


def test_orca_opens_with_its_system_turn_where_there_is_one(tmp_path: Path) -> None:
    """An empty system text is no turn."""
    rows = [{"system": s, "question": "q", "chosen": "y", "rejected": "n"} for s in ("be brief", "")]
    made, _ = pairs("orca_dpo", tmp_path, rows)
    assert [[turn["role"] for turn in p.prompt] for p in made] == [["system", "user"], ["user"]]


def test_shp_prefers_by_label_and_keeps_clear_ratios(tmp_path: Path) -> None:
    """labels 1 prefers A and 0 prefers B; a score ratio under the threshold is counted."""
    row = {"history": "post", "human_ref_A": "a", "human_ref_B": "b", "score_ratio": 3.0}
    rows = [row | {"labels": 1}, row | {"labels": 0}, row | {"labels": 1, "score_ratio": 1.5}]
    made, counts = pairs("shp", tmp_path, rows)
    assert [p.chosen for p in made] == ["a", "b"] and counts["ratio_too_small"] == 1


TREE = {
    "message_id": "m0",
    "role": "prompter",
    "text": "q",
    "lang": "en",
    "replies": [
        {"message_id": "m1", "role": "assistant", "text": "worst", "rank": 2, "replies": []},
        {
            "message_id": "m2",
            "role": "assistant",
            "text": "best",
            "rank": 0,
            "replies": [
                {
                    "message_id": "m5",
                    "role": "prompter",
                    "text": "and?",
                    "replies": [
                        {"message_id": "m6", "role": "assistant", "text": "n", "rank": 1},
                        {"message_id": "m7", "role": "assistant", "text": "y", "rank": 0},
                    ],
                }
            ],
        },
        {"message_id": "m3", "role": "assistant", "text": "middle", "rank": 1, "replies": []},
        {"message_id": "m4", "role": "assistant", "text": "unranked", "rank": None, "replies": []},
    ],
}


def flat(message: dict, parent: str | None = None) -> list[dict]:
    """The same tree as the hub has it: a row a message."""
    row = {k: v for k, v in message.items() if k != "replies"} | {"parent_id": parent}
    return [row] + [r for reply in message.get("replies", []) for r in flat(reply, message["message_id"])]


@pytest.mark.parametrize("rows", ([{"message_tree_id": "m0", "prompt": TREE}], flat(TREE), flat(TREE)[::-1]))
def test_oasst_pairs_the_best_and_the_worst_answer_to_a_message(rows: list, tmp_path: Path) -> None:
    """From trees and from flat messages in any order, with the conversation that led there as the prompt."""
    made, counts = pairs("oasst", tmp_path, rows)
    found = {(len(p.prompt), p.prompt[-1]["content"], p.chosen, p.rejected) for p in made}
    assert found == {(1, "q", "best", "worst"), (3, "and?", "y", "n")}
    assert (counts["messages"], counts["unranked"], counts["rows"]) == (8, 1, 2)


def test_oasst_can_pair_every_two(tmp_path: Path) -> None:
    """Three ranked answers make three pairs, the better one chosen; the other message adds one."""
    made, _ = pairs("oasst", tmp_path, flat(TREE), "dataset.pairing=all")
    assert sorted((p.chosen, p.rejected) for p in made) == sorted(
        [("best", "middle"), ("best", "worst"), ("middle", "worst"), ("y", "n")]
    )


def test_oasst_counts_other_languages_and_orphans(tmp_path: Path) -> None:
    """A tree in another language and a reply to a message that is not there make no pairs, and are named."""
    other = {"message_id": "x", "parent_id": None, "role": "prompter", "text": "q", "lang": "de"}
    lost = {"message_id": "z", "parent_id": "gone", "role": "assistant", "text": "a", "rank": 0}
    _, counts = pairs("oasst", tmp_path, [*flat(TREE), other, lost])
    assert (counts["other_language"], counts["orphans"]) == (1, 1)


def test_hub_takes_columns_by_their_names(tmp_path: Path) -> None:
    """Any names, text or messages."""
    rows = [{"q": "p", "good": "y", "bad": [assistant("n")], "more": 1}]
    names = ("dataset.prompt=q", "dataset.chosen=good", "dataset.rejected=bad")
    made, _ = pairs("hub", tmp_path, rows, *names)
    assert (made[0].prompt, made[0].chosen, made[0].rejected) == ([user("p")], "y", [assistant("n")])


def test_hub_without_a_prompt_column_splits_conversations(tmp_path: Path) -> None:
    """All turns but the last are the prompt."""
    rows = [{"chosen": [user("q"), assistant("y")], "rejected": [user("q"), assistant("n")]}]
    made, _ = pairs("hub", tmp_path, rows, "dataset.prompt=null")
    assert made[0].prompt == [user("q")] and made[0].chosen == [assistant("y")]


@pytest.mark.parametrize("name", SETS)
def test_wrong_columns_name_those_found(name: str, tmp_path: Path) -> None:
    """File, line, what is missing, and what the row has instead."""
    path = write(tmp_path / "rows.jsonl", [{"alpha": 1, "beta": 2}])
    with pytest.raises(UsageError, match=r"rows\.jsonl:1: no column \w+; the row has alpha, beta"):
        source(name, path).load()


@pytest.mark.parametrize("name", SETS)
def test_without_the_hub_the_message_names_the_local_option(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the id and dataset.path."""
    monkeypatch.setattr("dpo.models.pretrained.hub_in_reach", lambda path: False)
    made = dataclasses.replace(load([f"dataset={name}"]).dataset, hub="nobody/nothing")
    with pytest.raises(UsageError, match=r"nobody/nothing.*dataset\.path=<file or folder>") as error:
        made.load()
    assert "\n" not in str(error.value)


def test_repeated_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    """Word for word the same row is one pair, so that ids stay unique and no copy slips into evaluation."""
    made, counts = pairs("hh_rlhf", tmp_path, [hh("q", " y", " n")] * 3)
    check_pairs(made, "pairs")
    assert len(made) == 1 and (counts["duplicate_rows"], counts["dropped"]) == (2, 2)


def test_a_folder_is_split_by_the_names_of_its_files(tmp_path: Path) -> None:
    """As a clone of the hub set lies: files that name the training and the evaluation split, gzip and Parquet alike."""
    folder = tmp_path / "data"
    folder.mkdir()
    with gzip.open(folder / "train.jsonl.gz", "wt") as file:
        file.write(json.dumps(hh("q", " y", " n")) + "\n")
    pq.write_table(pa.Table.from_pylist([hh("r", " y", " n")]), folder / "test-00000.parquet")
    split = source("hh_rlhf", tmp_path).load()
    assert [len(split.train), len(split.evaluation)] == [1, 1] and "Human: r" in split.evaluation[0].prompt


def test_max_rows_reads_the_beginning(tmp_path: Path) -> None:
    """The rest is not even looked at: its last row is broken."""
    rows = [hh(f"q{i}", " y", " n") for i in range(5)]
    made, counts = pairs("hh_rlhf", tmp_path, [*rows, {}], "dataset.max_rows=5")
    assert len(made) == counts["rows"] == 5


def test_the_prompts_to_answer_are_those_of_evaluation(tmp_path: Path) -> None:
    """A local evaluation file is used whole."""
    train, held = write(tmp_path / "a.jsonl", [hh("q", " y", " n")]), write(tmp_path / "b.jsonl", [hh("r", " y", " n")])
    split = source("hh_rlhf", train, f"dataset.eval_path={held}").load()
    assert split.prompts == [split.evaluation[0].prompt] and len(split.train) == 1
