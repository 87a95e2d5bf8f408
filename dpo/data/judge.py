"""Sampled-then-judged pairs: a policy answers, a judge picks, pairs are written. Killed anywhere, it goes on there.

The folder holds answers.jsonl, replies.jsonl (of judges that are asked over a network) and verdicts.jsonl, each
appended to and on disk before the next is asked for; then pairs.jsonl and provenance.json, each whole or not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dpo.data.judges.base import Ask, Given, Judge, JudgeError, Question, Verdict
from dpo.data.pair import Pair, Text, content_id, plain_text, text_key
from dpo.data.perturb import draw
from dpo.disk import failing
from dpo.errors import UsageError
from dpo.evaluate.samples import Answer
from dpo.json_files import read_json, to_json, write_json
from dpo.progress import bar
from dpo.records import write_atomically

ENOUGH = 10
"""Questions after which the share without a verdict is looked at."""

WHY_NONE = ("identical_answers", "ties", "disagreements", "no_verdict", "chosen_cut")
"""Counts of what makes no pair."""

Answerer = Callable[[Sequence[Text], Sequence[int]], list[Answer]]
"""Answers to prompts, each drawn with its seed."""


@dataclass(frozen=True)
class Asked:
    """A prompt, and the chosen answers that its data set has for it."""

    id: str
    prompt: Text
    references: tuple[str, ...]


@dataclass(frozen=True)
class JudgedDir:
    """outputs/judged/<name>-<id>/ and everything in it."""

    path: Path

    @property
    def pairs(self) -> Path:
        """The finished pairs, ready for dataset=files and dataset=judged."""
        return self.path / "pairs.jsonl"

    @property
    def provenance(self) -> Path:
        """Where they come from, with their counts and their hash; written last."""
        return self.path / "provenance.json"

    @property
    def lock(self) -> Path:
        """Held by the process that samples and judges here."""
        return self.path / ".lock"

    @property
    def finished(self) -> bool:
        """Whether the pairs are there and are those that the provenance speaks of."""
        if not (self.provenance.is_file() and self.pairs.is_file()):
            return False
        return bool(read_json(self.provenance).get("pairs_sha256") == sha256(self.pairs))


class Log:
    """Append-only JSON rows. Opening it drops a last line that a kill cut off; `rows` are those it had and has."""

    def __init__(self, path: Path) -> None:
        if path.exists():
            whole = path.read_bytes()
            end = whole.rfind(b"\n") + 1
            if end < len(whole):
                os.truncate(path, end)
            self.rows: list[dict[str, Any]] = [json.loads(line) for line in whole[:end].split(b"\n")[:-1]]
        else:
            self.rows = []
        self.path = path
        self.one = threading.Lock()

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Rows at the end, on disk when this returns."""
        rows = list(rows)
        with self.one, failing("write", self.path), self.path.open("a", encoding="utf-8") as file:
            file.write("".join(to_json(row) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())
            self.rows += rows


def asked_of(pairs: Iterable[Pair], count: int | None, seed: int) -> list[Asked]:
    """The different prompts of the pairs in order, or `count` of them: the same ones for a larger count and more."""
    grouped: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        grouped[text_key(pair.prompt)].append(pair)
    names = {text: hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16] for text in grouped}
    if count is not None and count > len(names):
        raise UsageError(f"judge.prompts={count}: the data set has {len(names)} different training prompts; lower it")
    kept = set(draw(list(names.values()), len(names) if count is None else count, seed))
    return [
        Asked(names[text], same[0].prompt, tuple(plain_text(pair.chosen) for pair in same))
        for text, same in grouped.items()
        if names[text] in kept
    ]


def seed_of(seed: int, prompt: str, sample: int) -> int:
    """The seed of one answer: a function of the judge's seed, the prompt's id and the sample's number alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{prompt}/{sample}".encode()).digest()[:7])


def sample(log: Log, asked: Sequence[Asked], judge: Judge, answer: Answerer) -> None:
    """Every answer that the log lacks, a batch at a time, in the order of `asked`."""
    known = {(row["prompt"], row["sample"]) for row in log.rows}
    everything = [(one, k) for one in asked for k in range(judge.samples)]
    todo = [(one, k) for one, k in everything if (one.id, k) not in known]
    with bar(range(len(everything)), "answers", "answer", initial=len(everything) - len(todo)) as progress:
        for begin in range(0, len(todo), judge.batch_size):
            part = todo[begin : begin + judge.batch_size]
            seeds = [seed_of(judge.seed, one.id, k) for one, k in part]
            given = answer([one.prompt for one, _ in part], seeds)
            log.add(
                {"prompt": one.id, "sample": k, "seed": seed, "text": a.text, "tokens": len(a.ids), "ended": a.ended}
                for (one, k), seed, a in zip(part, seeds, given, strict=True)
            )
            progress.update(len(part))


def questions_of(asked: Sequence[Asked], answers: Sequence[dict[str, Any]], judge: Judge) -> list[Question]:
    """What the judge is asked: the different answers to each prompt that say anything, at least two of them."""
    given: dict[str, dict[str, Given]] = defaultdict(dict)
    for row in sorted(answers, key=lambda row: row["sample"]):
        if row["text"].strip():
            answer = Given(row["sample"], row["seed"], row["text"], row["ended"])
            given[row["prompt"]].setdefault(row["text"], answer)
    questions = []
    for one in asked:
        different = tuple(given[one.id].values())
        groups = [different]
        if judge.two_at_a_time:
            groups = [different[i : i + 2] for i in range(0, len(different), 2)]
        for number, group in enumerate(groups):
            if len(group) > 1:
                name = f"{one.id}.{number}" if judge.two_at_a_time else one.id
                questions.append(Question(name, one.prompt, one.references, group))
    return questions


def decide(log: Log, replies: Log, questions: Sequence[Question], judge: Judge, ask: Ask) -> None:
    """Every verdict that the log lacks. Raises JudgeError where too many questions have none."""
    kept = {row["key"]: row["reply"] for row in replies.rows}

    def recall(key: str, request: Callable[[], str]) -> str:
        if key not in kept:
            reply = request()
            replies.add([{"key": key, "reply": reply}])
            kept[key] = reply
        return str(kept[key])

    known = {row["id"] for row in log.rows}
    todo = [question for question in questions if question.id not in known]
    refuse_silence(log, judge, ENOUGH)
    with bar(range(len(questions)), "verdicts", "question", initial=len(questions) - len(todo)) as progress:
        for begin in range(0, len(todo), judge.batch_size):
            part = todo[begin : begin + judge.batch_size]
            log.add(asdict(verdict) for verdict in ask(part, recall))
            refuse_silence(log, judge, ENOUGH)
            progress.update(len(part))
    refuse_silence(log, judge, 1)


def refuse_silence(log: Log, judge: Judge, enough: int) -> None:
    """Raise JudgeError where more than the allowed share of at least `enough` questions has no verdict."""
    silent, n = sum(row["outcome"] == "no_verdict" for row in log.rows), len(log.rows)
    if n >= enough and silent > judge.no_verdict_limit * n:
        raise JudgeError(
            f"{silent} of {n} questions have no verdict in the judge's replies, more than "
            f"judge.max_no_verdict={judge.no_verdict_limit:g}; read {log.path.parent / 'replies.jsonl'}, "
            "then mend the rubric or the model, or raise that share"
        )


def pair_rows(
    asked: Sequence[Asked], answers: Log, verdicts: Log, questions: Sequence[Question], made_by: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """(rows of pairs.jsonl, counts by name). An answer cut at the length limit is never a chosen one."""
    said = {row["id"]: Verdict(**row) for row in verdicts.rows}
    counts = {"prompts": len(asked), "samples": len(answers.rows)}
    counts["empty_answers"] = sum(not row["text"].strip() for row in answers.rows)
    counts["cut_answers"] = sum(not row["ended"] for row in answers.rows)
    counts["identical_answers"] = len(asked) - len({question.id.split(".")[0] for question in questions})
    counts["questions"] = len(questions)
    counts |= dict.fromkeys((*WHY_NONE[1:], "pairs"), 0)
    plural = {"tie": "ties", "disagreement": "disagreements", "no_verdict": "no_verdict"}
    rows = []
    for question in questions:
        verdict = said[question.id]
        if verdict.chosen is None or verdict.rejected is None:
            counts[plural[verdict.outcome]] += 1
            continue
        by_number = {answer.sample: answer for answer in question.answers}
        chosen, rejected = by_number[verdict.chosen], by_number[verdict.rejected]
        if not chosen.ended:
            counts["chosen_cut"] += 1
            continue
        counts["pairs"] += 1
        rows.append(row_of(question, chosen, rejected, verdict, made_by))
    return rows, counts


def row_of(
    question: Question, chosen: Given, rejected: Given, verdict: Verdict, made_by: dict[str, Any]
) -> dict[str, Any]:
    """A pair with where it comes from."""
    sides = {
        side: {"sample": answer.sample, "seed": answer.seed, "ended": answer.ended}
        for side, answer in (("chosen", chosen), ("rejected", rejected))
    }
    return {
        "id": content_id(question.prompt, chosen.text, rejected.text),
        "prompt": question.prompt,
        "chosen": chosen.text,
        "rejected": rejected.text,
        "source": f"judged by {made_by['judge']}",
        "made_by": made_by | {"question": question.id, **sides, "said": verdict.detail},
    }


def write(directory: JudgedDir, rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> None:
    """pairs.jsonl, then provenance.json with its hash, each whole or not at all."""
    write_atomically(directory.pairs, "".join(to_json(row) + "\n" for row in rows))
    write_json(directory.provenance, facts | {"pairs_sha256": sha256(directory.pairs)})


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
