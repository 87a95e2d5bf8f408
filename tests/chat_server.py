"""A local double of an OpenAI-compatible server: it counts what it is asked, and behaves as it is told."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Behaviour = Callable[[int, dict], tuple[int, bytes, dict[str, str]]]
"""(status, body, headers) from the number of the request, from 1, and what was sent."""


def said(text: str | None) -> bytes:
    """A completion with this content."""
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def answers(body: dict) -> tuple[str, str]:
    """The two answers that the default rubric shows."""
    shown = body["messages"][0]["content"]
    return tuple(re.search(rf"<answer_{side}>\n(.*?)\n</answer_{side}>", shown, re.DOTALL)[1] for side in "AB")


def longer_wins(number: int, body: dict) -> tuple[int, bytes, dict[str, str]]:
    """An honest judge with a taste for length."""
    first, second = answers(body)
    verdict = "tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B"
    return 200, said(f"I compared them.\n\n**Verdict: {verdict}**\n"), {}


class Server:
    """Listens on a free port until closed; `asked` has the body and `headers` the headers of every request.

    While `hold` is cleared, requests wait; it clears itself after `stop_at` of them.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self.asked: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.stop_at: int | None = None
        self.hold = threading.Event()
        self.hold.set()
        one, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with one:
                    outer.asked.append(body)
                    outer.headers.append(dict(self.headers))
                    number = len(outer.asked)
                    if outer.stop_at is not None and number > outer.stop_at:
                        outer.hold.clear()
                outer.hold.wait()
                status, content, headers = behaviour(number, body)
                try:
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(content)), **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:  # whoever asked has gone
                    return

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.hold.set()
        self.http.shutdown()
        self.http.server_close()

    def comparisons(self) -> list[tuple[str, str]]:
        """The (first, second) answers of every request."""
        return [answers(body) for body in self.asked]
