"""One request to an OpenAI-compatible chat endpoint, with bounded patience. The key is in a header and nowhere else."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from dpo.data.judges.base import JudgeError
from dpo.errors import UsageError

LONGEST = 2**20
"""Bytes read of an answer."""
PATIENCE = 60.0
"""Most seconds before a further attempt."""


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host; it is an error instead."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


@dataclass(frozen=True)
class Chat:
    """Where to ask, and how long. Once a request has failed for good, `failures` says why and no other is begun."""

    url: str
    key: str | None = field(repr=False)
    timeout: float
    retries: int
    backoff: float
    given_up: threading.Event = field(default_factory=threading.Event, repr=False)
    failures: list[str] = field(default_factory=list, repr=False)

    @classmethod
    def ready(cls, url: str | None, variable: str | None, timeout: float, retries: int, backoff: float) -> Chat:
        """Raises UsageError for an address that cannot be meant, or a key that is not in the environment."""
        if url is None:
            raise UsageError("judge.url is not set: give it as judge.url=http://<host>:<port>/v1")
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            usable = False
        if not usable:
            raise UsageError("judge.url: must be an address such as http://localhost:8000/v1")
        if parts.username or parts.password or "key=" in parts.query or "token=" in parts.query:
            raise UsageError("judge.url: holds a secret, and addresses are written to files; use judge.key_variable")
        key = None
        if variable is not None:
            key = os.environ.get(variable, "").strip()
            if not key:
                raise UsageError(
                    f"judge.key_variable={variable}: this environment variable is not set; "
                    "set it to the key, or judge.key_variable=null for a server that wants none"
                )
            if not (key.isascii() and key.isprintable()):
                raise UsageError(
                    f"judge.key_variable={variable}: its value cannot stand in a header; mend the variable"
                )
        path = parts.path.rstrip("/")
        path += "" if path.endswith("/chat/completions") else "/chat/completions"
        return cls(parts._replace(path=path, fragment="").geturl(), key, timeout, retries, backoff)

    def ask(self, body: dict[str, Any]) -> str:
        """The reply's text, "" where the answer holds none; raises JudgeError when patience is at its end."""
        problem = ""
        for attempt in range(self.retries + 1):
            if self.given_up.is_set():
                raise JudgeError(self.failures[0])
            try:
                return self.scrub(text_of(self.post(body)))
            except urllib.error.HTTPError as error:
                with error:
                    problem = self.describe(error)
                    wait = error.headers.get("Retry-After", "")
                if error.code != 429 and error.code < 500:
                    raise self.give_up(
                        f"judge.url={self.url}: refused ({problem}); what was answered is kept"
                    ) from None
            except (OSError, http.client.HTTPException) as error:  # time-outs and broken connections among them
                problem, wait = self.scrub(str(getattr(error, "reason", "") or error or type(error).__name__)), ""
            if attempt < self.retries:
                pause = float(wait) if wait.isdecimal() else self.backoff * 2**attempt
                self.given_up.wait(min(pause, PATIENCE))
        attempts = f"{self.retries + 1} attempt" + "s" * (self.retries > 0)
        raise self.give_up(
            f"judge.url={self.url}: no reply after {attempts} (last: {problem}); "
            "what was answered is kept, and the same command goes on from there"
        )

    def give_up(self, why: str) -> JudgeError:
        """The error to raise, which other requests that are waiting raise too."""
        self.failures.append(why)
        self.given_up.set()
        return JudgeError(self.failures[0])

    def post(self, body: dict[str, Any]) -> bytes:
        """The body of the answer to one request, read within `timeout` seconds as a whole."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "dpo-lab"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers, method="POST")
        end = time.monotonic() + self.timeout
        parts: list[bytes] = []
        with urllib.request.build_opener(NoRedirects).open(request, timeout=self.timeout) as answer:
            while part := answer.read1(65536):
                parts.append(part)
                if time.monotonic() > end:
                    raise TimeoutError("timed out")
                if sum(map(len, parts)) > LONGEST:
                    break
        return b"".join(parts)

    def describe(self, error: urllib.error.HTTPError) -> str:
        """Status and what the server says of it, in one line."""
        try:
            said = error.read(2000).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            said = ""
        return self.scrub(" ".join(f"HTTP {error.code} {error.reason} {said}".split()))[:200]

    def scrub(self, text: str) -> str:
        """The text without the key, should a server repeat it."""
        return text.replace(self.key, "[key]") if self.key else text


def text_of(answer: bytes) -> str:
    """choices[0].message.content of the answer; "" where it has none."""
    try:
        content = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return content.encode("utf-8", "replace").decode() if isinstance(content, str) else ""
