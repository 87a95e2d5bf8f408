"""Asking, resuming and writing: which prompts, which seeds, what is counted, what a kill leaves."""

import json
from pathlib import Path

import pytest

from dpo.config import load
from dpo.data.files import read_pairs
from dpo.data.judge import Asked, JudgedDir, Log, asked_of, decide, pair_rows, questions_of, sample, seed_of, write
from dpo.data.judges.base import JudgeError, Question, Verdict
from dpo.errors import UsageError
from dpo.evaluate.samples import Answer
from tests.toys import text_pair

BY = load(["judge=rules_json", "judge.samples=2", "judge.batch_size=3"]).judge
BY_TWO = load(["judge=endpoint", "judge.samples=5", "judge.batch_size=1", "judge.max_no_verdict=0.3"]).judge
ASKED = [Asked(f"p{i}", f"prompt {i}", ()) for i in range(4)]


def answers(*texts: str, prompt: str = "p0", ended: bool = True) -> list[dict]:
    """Rows of answers.jsonl on one prompt."""
    return [
        {"prompt": prompt, "sample": k, "seed": 7 + k, "text": t, "tokens": 1, "ended": ended}
        for k, t in enumerate(texts)
    ]


class Counting:
    """An answerer that says its seed, and remembers what it was asked."""

    def __init__(self, fail_at: int = 99) -> None:
        self.asked, self.batches, self.fail_at = [], 0, fail_at

    def __call__(self, prompts, seeds):
        self.batches += 1
        if self.batches == self.fail_at:
            raise KeyboardInterrupt
        self.asked += list(zip(prompts, seeds, strict=True))
        return [Answer(p, (1,), (1, 2), f"{p}: {s}", True) for p, s in zip(prompts, seeds, strict=True)]


def test_every_prompt_is_asked_once_with_all_its_chosen_answers() -> None:
    """Two pairs share a prompt; both their chosen answers are references."""
    pairs = [text_pair("a", "1", name="1"), text_pair("b", "2", name="2"), text_pair("a", "3", name="3")]
    assert [(one.prompt, one.references) for one in asked_of(pairs, None, 0)] == [("a", ("1", "3")), ("b", ("2",))]


def test_fewer_prompts_are_among_those_of_more() -> None:
    """By the hash of seed and prompt: another seed draws others."""
    pairs = [text_pair(f"prompt {i}", name=str(i)) for i in range(40)]
    few, many, other = ({one.prompt for one in asked_of(pairs, n, seed)} for n, seed in ((5, 0), (20, 0), (5, 1)))
    assert len(few) == 5 and few < many and few != other


def test_more_prompts_than_there_are_is_refused() -> None:
    """Nothing is asked twice to fill up."""
    with pytest.raises(UsageError, match=r"judge.prompts=3: the data set has 1 different training prompts"):
        asked_of([text_pair("a")], 3, 0)


def test_a_seed_is_a_function_of_judge_seed_prompt_and_sample_alone() -> None:
    """And differs where any of them does."""
    assert seed_of(0, "p", 1) == seed_of(0, "p", 1)
    assert len({seed_of(0, "p", 1), seed_of(1, "p", 1), seed_of(0, "q", 1), seed_of(0, "p", 2)}) == 4


def test_sampling_interrupted_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    """Eight answers in batches of three, cut in the third batch: the second time asks the last two alone."""
    whole, first, second = Counting(), Counting(fail_at=3), Counting()
    sample(Log(tmp_path / "whole"), ASKED, BY, whole)
    with pytest.raises(KeyboardInterrupt):
        sample(Log(tmp_path / "cut"), ASKED, BY, first)
    sample(Log(tmp_path / "cut"), ASKED, BY, second)
    assert first.asked + second.asked == whole.asked and len(second.asked) == 2
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_half_written_last_line_is_dropped_and_written_again(tmp_path: Path) -> None:
    """Cut anywhere in its last line, even within a character, the file ends as if it had never been cut."""
    log = Log(tmp_path / "log")
    log.add([{"n": 1}, {"n": "ä"}])
    whole = (tmp_path / "log").read_bytes()
    for end in range(len(b'{"n": 1}\n'), len(whole)):
        (tmp_path / "log").write_bytes(whole[:end])
        again = Log(tmp_path / "log")
        assert again.rows == [{"n": 1}]
        again.add([{"n": "ä"}])
        assert (tmp_path / "log").read_bytes() == whole and Log(tmp_path / "log").rows == again.rows


def test_a_line_separator_within_a_text_is_no_end_of_line(tmp_path: Path) -> None:
    """U+2028, U+0085 and form feeds are written as they are."""
    rows = [{"text": "a\u2028b\x85c\x0cd\r"}, {"text": "e"}]
    Log(tmp_path / "log").add(rows)
    assert Log(tmp_path / "log").rows == rows


def test_blank_and_repeated_answers_are_not_put_to_the_judge() -> None:
    """Two different answers that say something make a question; of equal ones the first sample stands for all."""
    rows = answers("x", " ", "x", "y") + answers("x", "x", prompt="p1") + answers("", "x", prompt="p2")
    (question,) = questions_of(ASKED, rows, BY)
    assert question.id == "p0" and [(a.sample, a.text) for a in question.answers] == [(0, "x"), (3, "y")]


def test_a_judge_of_two_gets_the_different_answers_two_by_two() -> None:
    """Five different answers are two questions; the fifth has nobody to be compared with."""
    made = questions_of(ASKED, answers(*"abcde"), BY_TWO)
    assert [(q.id, [a.text for a in q.answers]) for q in made] == [("p0.0", ["a", "b"]), ("p0.1", ["c", "d"])]


def test_pairs_carry_where_they_come_from_and_counts_add_up(tmp_path: Path) -> None:
    """One pair, one tie, one disagreement, one without a verdict; all questions are accounted for."""
    rows = [row for i in range(4) for row in answers("x", "y", prompt=f"p{i}")]
    given, verdicts = Log(tmp_path / "a"), Log(tmp_path / "v")
    given.add(rows)
    questions = questions_of(ASKED, given.rows, BY)
    outcomes = [("pair", 1, 0), ("tie", None, None), ("disagreement", None, None), ("no_verdict", None, None)]
    verdicts.add(
        vars(Verdict(q.id, o, c, r, {"scores": {"0": 0}})) for q, (o, c, r) in zip(questions, outcomes, strict=True)
    )
    made, counts = pair_rows(ASKED, given, verdicts, questions, {"judge": "toy", "checkpoint_hash": "abc"})
    (pair,) = made
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == ("prompt 0", "y", "x")
    assert pair["made_by"]["chosen"] == {"sample": 1, "seed": 8, "ended": True}
    assert pair["made_by"]["said"] == {"scores": {"0": 0}} and pair["made_by"]["checkpoint_hash"] == "abc"
    names = ("pairs", "ties", "disagreements", "no_verdict", "chosen_cut", "identical_answers", "prompts", "samples")
    assert [counts[name] for name in names] == [1, 1, 1, 1, 0, 0, 4, 8]


def test_an_answer_cut_at_its_limit_is_never_chosen(tmp_path: Path) -> None:
    """It would teach to end there; it is counted."""
    given, verdicts = Log(tmp_path / "a"), Log(tmp_path / "v")
    given.add(answers("x", "y", ended=False))
    questions = questions_of(ASKED, given.rows, BY)
    verdicts.add([vars(Verdict("p0", "pair", 0, 1))])
    rows, counts = pair_rows(ASKED, given, verdicts, questions, {"judge": "toy"})
    assert rows == [] and counts["chosen_cut"] == 1 and counts["cut_answers"] == 2


def silent(questions, recall):
    """A judge that says nothing; its reply is kept all the same."""
    return [Verdict(q.id, "no_verdict", detail={"said": recall(q.id, lambda: "")}) for q in questions]


def twenty() -> list[Question]:
    """Twenty questions."""
    asked = [Asked(f"p{i}", f"prompt {i}", ()) for i in range(20)]
    return questions_of(asked, [row for one in asked for row in answers("x", "y", prompt=one.id)], BY_TWO)


def test_a_judge_that_says_nothing_is_given_up_after_ten_questions(tmp_path: Path) -> None:
    """One line that names the share and the setting; verdicts and replies so far are kept."""
    verdicts, replies = Log(tmp_path / "v"), Log(tmp_path / "r")
    with pytest.raises(JudgeError, match=r"10 of 10 questions have no verdict .*judge.max_no_verdict=0.3"):
        decide(verdicts, replies, twenty(), BY_TWO, silent)
    assert len(verdicts.rows) == len(replies.rows) == 10


def test_a_few_silent_questions_are_given_up_at_the_end(tmp_path: Path) -> None:
    """Fewer than ten are looked at when all are answered."""
    with pytest.raises(JudgeError, match="5 of 5"):
        decide(Log(tmp_path / "v"), Log(tmp_path / "r"), twenty()[:5], BY_TWO, silent)


def test_kept_replies_are_not_asked_for_again(tmp_path: Path) -> None:
    """A reply on disk stands, whether or not its verdict was written."""
    replies = Log(tmp_path / "r")
    replies.add([{"key": "p0.0", "reply": "kept"}])
    asked = []

    def verdict(question, recall):
        said = recall(question.id, lambda: asked.append(question.id) or "new")
        return Verdict(question.id, "tie", detail={"said": said})

    decide(
        Log(tmp_path / "v"),
        replies,
        twenty()[:2],
        BY_TWO,
        lambda questions, recall: [verdict(q, recall) for q in questions],
    )
    assert asked == ["p1.0"]
    assert [row["detail"]["said"] for row in Log(tmp_path / "v").rows] == ["kept", "new"]
    assert [row["key"] for row in Log(tmp_path / "r").rows] == ["p0.0", "p1.0"]


def test_a_written_folder_is_finished_until_its_pairs_change(tmp_path: Path) -> None:
    """The pairs are those of dataset=files, and provenance.json holds their hash."""
    directory = JudgedDir(tmp_path)
    assert not directory.finished
    row = {"id": "1", "prompt": "p", "chosen": "a", "rejected": "b", "source": "s", "made_by": {}}
    write(directory, [row], {"counts": {"pairs": 1}})
    assert directory.finished and read_pairs(directory.pairs)[0].chosen == "a"
    assert json.loads(directory.provenance.read_text())["counts"] == {"pairs": 1}
    directory.pairs.write_text(directory.pairs.read_text() + "\n")
    assert not directory.finished
