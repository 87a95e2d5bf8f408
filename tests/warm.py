"""The dpo command without its imports: a server that has imported what a run imports forks one for each call.

`python -m tests.warm serve SOCKET` is the server. `python tests/warm.py SOCKET ARGUMENT...`, as `folder` writes it into
an executable called dpo, hands it the caller's arguments, folder, environment and standard streams, passes signals on,
and ends with its exit code. For claims about what the command does; those about its process start a real one.
"""

import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def folder(where: Path, server: Path) -> Path:
    """An executable dpo that asks the server, beside a python and a jupyter that are this environment's own."""
    where.mkdir()
    own = Path(sys.executable).parent
    texts = {name: f'exec "{own / name}" "$@"' for name in ("python", "jupyter")}
    texts["dpo"] = f'exec "{sys.executable}" -S -E "{Path(__file__)}" "{server}" "$@"'
    for name, text in texts.items():
        (where / name).write_text(f"#!/bin/sh\n{text}\n")
        (where / name).chmod(0o755)
    return where / "dpo"


def ask(server: str, arguments: list[str]) -> int:
    """Have the command run by the server; its exit code."""
    call = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(server)
        socket.send_fds(line, [len(call).to_bytes(8)], [0, 1, 2])
        line.sendall(call)
        answers = line.makefile("rb")
        pid = int(answers.readline())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _: os.kill(pid, number))
        return int(answers.readline() or 1)


def serve(path: str) -> None:
    """Fork a process for every call, until the server is ended."""
    import importlib

    importlib.import_module("tests.imported")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path)
        door.listen()
        while True:
            line, _ = door.accept()
            if os.fork() == 0:
                door.close()
                answer(line)
            line.close()


def answer(line: socket.socket) -> None:
    """In a process of its own: fork the command, tell its pid, then its exit code."""
    from tests.processes import DPO, become

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(line, 8, 3)
    whole = b""
    while len(whole) < int.from_bytes(size):
        whole += line.recv(1 << 16)
    pid = os.fork()
    if pid == 0:
        line.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        arguments, here, environment = json.loads(whole)
        become(DPO, arguments, here, environment)
    with contextlib.suppress(OSError):
        line.sendall(f"{pid}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        line.sendall(f"{code if code >= 0 else 128 - code}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
