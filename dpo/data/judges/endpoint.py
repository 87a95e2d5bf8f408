"""A language model behind any OpenAI-compatible chat endpoint as the judge: a rubric, and both orders asked."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch

from dpo.data.judges.base import Ask, Given, Judge, Question, Recall, Verdict
from dpo.data.judges.chat import Chat
from dpo.data.pair import Text
from dpo.errors import UsageError
from dpo.ranges import Range, Seconds, Share, Tokens

DEFAULT_RUBRIC = Path(__file__).parent / "rubric.txt"
PLACES = ("prompt", "first", "second")
SAID = re.compile(r"verdict[^\w\n]*(A|B|tie)[^\w\n]*$", re.IGNORECASE | re.MULTILINE)
BARE = re.compile(r"\W*(A|B|tie)\W*", re.IGNORECASE)


@dataclass(frozen=True)
class Endpoint(Judge):
    """Asks `model` at `url` to compare two answers, once in each order; only what both orders say counts.

    url             base address of the API, such as http://localhost:8000/v1
    key_variable    name of the environment variable that holds the key; None sends no key
    rubric          file with the places {prompt}, {first} and {second}; None is the one that ships
    reply_tokens    most tokens of a reply
    workers         questions asked at the same time
    retries         further attempts after a 429, a 5xx, a time-out or a broken connection
    backoff         seconds before the first further attempt, doubled for each one, at most a minute
    timeout         seconds to wait for a reply
    max_no_verdict  largest share of questions whose replies hold no verdict before it is given up
    """

    url: str | None
    model: str
    key_variable: str | None
    rubric: str | None
    reply_tokens: Tokens
    workers: Annotated[int, Range(1, 1024)]
    retries: Annotated[int, Range(0, 1000)]
    backoff: Annotated[float, Range(0, 86_400)]
    timeout: Seconds
    max_no_verdict: Share

    free: ClassVar[frozenset[str]] = Judge.free | {
        "key_variable",
        "rubric",
        "workers",
        "retries",
        "backoff",
        "timeout",
        "max_no_verdict",
    }
    two_at_a_time: ClassVar[bool] = True

    @property
    def no_verdict_limit(self) -> float:
        return self.max_no_verdict

    def facts(self) -> dict[str, Any]:
        return {"rubric": self.template()}

    def template(self) -> str:
        """The rubric's text; raises UsageError where it cannot be read or misses a place."""
        path = Path(self.rubric).expanduser() if self.rubric else DEFAULT_RUBRIC
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"judge.rubric={path}: cannot be read ({reason}); give a text file") from error
        missing = [place for place in PLACES if f"{{{place}}}" not in text]
        if missing:
            raise UsageError(
                f"judge.rubric={path}: has no {{{missing[0]}}}; a rubric says where {', '.join(PLACES)} go"
            )
        return text

    def open(self, device: torch.device) -> Ask:
        rubric = self.template()
        chat = Chat.ready(self.url, self.key_variable, self.timeout, self.retries, self.backoff)

        def reply(question: Question, first: Given, second: Given, recall: Recall) -> str:
            said = fill(rubric, prompt=as_text(question.prompt), first=first.text, second=second.text)
            body = {
                "model": self.model,
                "messages": [{"role": "user", "content": said}],
                "temperature": 0,
                "max_tokens": self.reply_tokens,
            }
            return recall(f"{question.id}/{first.sample}-{second.sample}", lambda: chat.ask(body))

        def judge(question: Question, recall: Recall) -> Verdict:
            one, two = question.answers
            return decide(question, reply(question, one, two, recall), reply(question, two, one, recall))

        def ask(questions: Sequence[Question], recall: Recall) -> list[Verdict]:
            pool = ThreadPoolExecutor(self.workers)
            try:
                return list(pool.map(functools.partial(judge, recall=recall), questions))
            except BaseException as error:
                chat.give_up(f"interrupted ({type(error).__name__})")  # no further attempt of those still waiting
                raise
            finally:
                pool.shutdown(cancel_futures=True)  # questions not yet begun are left for the next time

        return ask


def decide(question: Question, one_first: str, two_first: str) -> Verdict:
    """The answer that both orders prefer; what they say differently is a tie, by the name of disagreement."""
    one, two = (answer.sample for answer in question.answers)
    said = (read_verdict(one_first), read_verdict(two_first))
    detail = {"first_order": said[0], "second_order": said[1]}
    if None in said:
        return Verdict(question.id, "no_verdict", detail=detail)
    if said == ("tie", "tie"):
        return Verdict(question.id, "tie", detail=detail)
    if said == ("A", "B"):
        return Verdict(question.id, "pair", one, two, detail)
    if said == ("B", "A"):
        return Verdict(question.id, "pair", two, one, detail)
    return Verdict(question.id, "disagreement", detail=detail)


def read_verdict(reply: str) -> Literal["A", "B", "tie"] | None:
    """The last line of the form "Verdict: A", or a reply that is nothing but A, B or tie."""
    found = SAID.findall(reply) or [match[1] for match in [BARE.fullmatch(reply)] if match]
    if not found:
        return None
    word = found[-1].upper()
    return "tie" if word == "TIE" else "A" if word == "A" else "B"


def fill(rubric: str, **texts: str) -> str:
    """The rubric with its places filled, once each: what a filled-in text holds is left as it is."""
    return re.sub(r"\{(" + "|".join(PLACES) + r")\}", lambda match: texts[match[1]], rubric)


def as_text(prompt: Text) -> str:
    """A prompt to read: chat messages with their roles."""
    if isinstance(prompt, str):
        return prompt.strip()
    return "\n".join(f"{m['role']}: {m.get('content') or json.dumps(m.get('tool_calls'))}" for m in prompt)
