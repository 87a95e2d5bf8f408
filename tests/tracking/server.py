"""A test double of the W&B server, as far as the pinned client asks: it answers, and keeps what arrives.

`with Server() as server:` listens on a free local port; `server.environment` points a client at it. What it does not
know is never answered with a guess: it is kept in `server.unknown`, refused, and makes leaving the block fail.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from .operations import ANSWERS


@dataclass
class StoredRun:
    """What one run of the server has received: rows are history lines in order, `sent` counts all lines ever sent."""

    id: str
    project: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    sent: int = 0
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    state: str = "running"
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """The configuration as a user gave it."""
        return {key: entry["value"] for key, entry in self.config.items() if key != "_wandb"}

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows without the client's own keys, and without tables and other media."""
        rows = [{k: v for k, v in row.items() if not k.startswith("_")} for row in self.rows]
        return [row for row in rows if not any(isinstance(value, dict) for value in row.values())]


class Server:
    """State, and the socket it is reached by. `silent` makes it a black hole: it accepts and never answers.

    With `die_after` it is gone, in the midst of a run, once it has received that many history lines.
    """

    def __init__(self, silent: bool = False, die_after: int | None = None) -> None:
        self.silent, self.die_after = silent, die_after
        self.runs: dict[str, StoredRun] = {}
        self.sweeps: dict[str, dict[str, Any]] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.projects: set[str] = set()
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.unknown: list[str] = []
        self.lock = threading.RLock()
        self.over = threading.Event()
        self.listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.listener.daemon_threads = True
        self.listener.double = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self.listener.server_address[1]}"
        self.thread = threading.Thread(target=self.listener.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Server:
        self.thread.start()
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self.close()
        if kind is None:
            assert self.unknown == [], f"the double does not know: {self.unknown}"

    def close(self) -> None:
        """Stop listening; a request that hangs in the black hole is dropped."""
        self.over.set()
        self.listener.shutdown()
        self.listener.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to take this for its server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "k" * 40}

    @property
    def operations(self) -> list[str]:
        """The names of the GraphQL operations so far."""
        return [name for name, _ in self.asked]

    def run(self, id: str, project: str | None = None) -> StoredRun:
        """The stored run of an id, made on first sight."""
        return self.runs.setdefault(id, StoredRun(id, project or ""))

    def named(self, name: str) -> StoredRun:
        """The one run of a display name."""
        (found,) = [run for run in self.runs.values() if run.facts.get("displayName") == name]
        return found

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The answer to an operation, by its name."""
        found = re.search(r"\b(?:query|mutation)\s+(\w+)", query)
        name = found[1] if found else query[:60]
        with self.lock:
            self.asked.append((name, variables))
            if name not in ANSWERS:
                self.unknown.append(name)
                return {"errors": [{"message": f"unknown operation {name}"}]}
            return {"data": ANSWERS[name](self, variables)}

    def stream(self, id: str, sent: dict[str, Any]) -> dict[str, Any]:
        """Lines of a run's files, each at its offset."""
        with self.lock:
            run = self.run(id)
            for name, chunk in sent.get("files", {}).items():
                lines = [json.loads(line) for line in chunk["content"]] if name.endswith((".json", ".jsonl")) else []
                if name == "wandb-history.jsonl":
                    run.rows[chunk["offset"] :] = lines
                    run.sent += len(lines)
                elif name == "wandb-summary.json":
                    run.summary = lines[-1]
            if sent.get("complete"):
                run.state = "finished" if sent.get("exitcode") == 0 else "failed"
            if self.die_after is not None and run.sent >= self.die_after:
                threading.Thread(target=self.close, daemon=True).start()
        return {"limits": {}}


class Handler(BaseHTTPRequestHandler):
    """GraphQL, file streams, uploads and downloads; one connection for each request."""

    def do_POST(self) -> None:
        double: Server = self.server.double  # type: ignore[attr-defined]
        sent = json.loads(self._body() or b"{}")
        stream = re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
        if double.silent:
            double.over.wait()
        elif self.path == "/graphql":
            self._answer(double.graphql(sent["query"], sent.get("variables") or {}))
        elif stream:
            self._answer(double.stream(stream[1], sent))
        elif self.path.startswith("/sdk/otel/"):  # the client asks whether its own telemetry is wanted
            self.send_error(404)
        else:
            self._refuse()

    def do_PUT(self) -> None:
        double: Server = self.server.double  # type: ignore[attr-defined]
        content = self._body()
        upload = re.fullmatch(r"/upload/([^/]+)/(.+)", unquote(self.path))
        if not upload:
            return self._refuse()
        with double.lock:
            known = double.artifacts.get(upload[1])
            (double.run(upload[1]).files if known is None else known.setdefault("files", {}))[upload[2]] = content
        self._answer({})

    def do_GET(self) -> None:
        double: Server = self.server.double  # type: ignore[attr-defined]
        stored = re.fullmatch(r"/upload/([^/]+)/(.+)", unquote(self.path))
        if not stored or stored[1] not in double.runs or stored[2] not in double.runs[stored[1]].files:
            return self._refuse()
        self._send(double.runs[stored[1]].files[stored[2]], "application/octet-stream")

    def _refuse(self) -> None:
        self.server.double.unknown.append(f"{self.command} {self.path}")  # type: ignore[attr-defined]
        self.send_error(404)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip

            return gzip.decompress(content)
        return content

    def _answer(self, value: dict[str, Any]) -> None:
        self._send(json.dumps(value, allow_nan=False).encode(), "application/json")

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass
