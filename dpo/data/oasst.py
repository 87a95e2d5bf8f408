"""OpenAssistant conversations (Köpf et al. 2023, arXiv:2304.07327): message trees whose answers people ranked."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from dpo.data.pair import Message
from dpo.data.published import Draft, Published, column, score
from dpo.data.rows import Row
from dpo.errors import UsageError

ROLES = {"prompter": "user", "assistant": "assistant"}


@dataclass(frozen=True)
class Oasst(Published):
    """Messages (message_id, parent_id, role, text, rank, lang), one a row as on the hub, or nested in trees.

    A tree row has `prompt`, a message with `replies`. Answers to the same message that carry a rank (0 is the
    best) make pairs: "best_worst" one of the first and the last, "all" one of every two. The prompt is the
    conversation that led there. Counted: messages, other_language (trees whose root is not in `lang`; null keeps
    every language), unranked (answers without a rank where there is more than one), orphans (messages whose
    parent is not in the data, with all below them).
    """

    pairing: Literal["best_worst", "all"]
    lang: str | None

    def draft(self, row: dict[str, Any], where: str) -> Draft:
        raise NotImplementedError("pairs are made from trees, not from rows")

    def drafts(self, rows: Iterator[Row], counts: Counter[str]) -> Iterator[tuple[str, Draft]]:
        roots, children = collect(rows, counts)
        for where, root in roots:
            if self.lang is not None and root.get("lang") != self.lang:
                counts["other_language"] += 1
                continue
            yield from self.compare(where, root, children, counts)

    def compare(
        self, where: str, root: dict[str, Any], children: dict[str, list[dict[str, Any]]], counts: Counter[str]
    ) -> Iterator[tuple[str, Draft]]:
        """Pairs below a message, parents before children."""
        waiting: list[tuple[dict[str, Any], list[Message]]] = [(root, [])]
        while waiting:
            message, before = waiting.pop()
            role = column(message, "role", where)
            if role not in ROLES:
                raise UsageError(f"{where}: role={role!r}; must be one of {', '.join(ROLES)}")
            history = [*before, {"role": ROLES[role], "content": column(message, "text", where)}]
            replies = children.get(column(message, "message_id", where), [])
            waiting += [(reply, history) for reply in reversed(replies)]
            answers = [reply for reply in replies if reply.get("role") == "assistant"]
            ranked = [r for r in answers if r.get("rank") is not None]
            ranked.sort(key=lambda r: score(r, "rank", where))
            if len(answers) > 1:
                counts["unranked"] += len(answers) - len(ranked)
            both = [(0, len(ranked) - 1)] if self.pairing == "best_worst" else every_two(len(ranked))
            for better, worse in both if len(ranked) > 1 else []:
                yield where, Draft(history, *(column(ranked[i], "text", where) for i in (better, worse)))


def parent_of(row: dict[str, Any], where: str) -> str | None:
    """The id of the message that a flat row answers; None for a root."""
    return None if row.get("parent_id") is None else str(column(row, "parent_id", where))


def every_two(n: int) -> list[tuple[int, int]]:
    """All (i, j) with i < j < n."""
    return [(i, j) for i in range(n) for j in range(i + 1, n)]


def collect(
    rows: Iterator[Row], counts: Counter[str]
) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, list[dict[str, Any]]]]:
    """(where and message of every root, children by the id of their parent), from flat rows or trees."""
    roots: list[tuple[str, dict[str, Any]]] = []
    children: dict[str, list[dict[str, Any]]] = defaultdict(list)
    known: set[str] = set()

    def add(where: str, message: dict[str, Any], parent: str | None) -> None:
        counts["messages"] += 1
        identity = column(message, "message_id", where)
        if identity in known:
            raise UsageError(f"{where}: the message id {identity!r} occurs twice")
        known.add(identity)
        if parent is None:
            roots.append((where, message))
        else:
            children[parent].append(message)

    for where, row in rows:
        if not isinstance(row, dict):
            raise UsageError(f"{where}: a row must be a message or a message tree")
        waiting: list[tuple[dict[str, Any], str | None]] = (
            [(column(row, "prompt", where, dict), None)] if "prompt" in row else [(row, parent_of(row, where))]
        )
        while waiting:
            message, parent = waiting.pop()
            add(where, message, parent)
            replies = column(message, "replies", where, list) if message.get("replies") else []
            if not all(isinstance(reply, dict) for reply in replies):
                raise UsageError(f"{where}: replies holds something that is no message")
            waiting += [(reply, message["message_id"]) for reply in reversed(replies)]
    counts["orphans"] += sum(len(below) for parent, below in children.items() if parent not in known)
    return roots, children
