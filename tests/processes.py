"""Real processes without their imports: a server that has imported what a run imports forks one for each call.

Importing torch and transformers takes seconds of each new interpreter. A forked process has them, and nothing else of
the test's process: no model, no settings, no threads, its own environment, working directory, stdout and stderr.
"""

import atexit
import contextlib
import multiprocessing
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[1]
DPO = "import sys\nfrom dpo.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"
"""The dpo command."""
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.imported"])


class Python:
    """A process that executes Python source as `python -c` does; the part of subprocess.Popen that tests use."""

    def __init__(self, code: str, *arguments: str, cwd: Path = ROOT, env: Mapping[str, str] = os.environ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._said = [Path(self._folder.name) / name for name in ("out", "err")]
        for path in self._said:
            path.touch()
        given = (code, [str(a) for a in arguments], str(cwd), dict(env), *map(str, self._said))
        self._process = CONTEXT.Process(target=execute, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """The exit code, a signal's with a minus; None while it runs."""
        return self._process.exitcode

    returncode = property(poll)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when it has ended; TimeoutError where it does not."""
        self._process.join(timeout)
        if (code := self.poll()) is None:
            raise TimeoutError(f"process {self.pid} still runs after {timeout} s")
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """(stdout, stderr), when it has ended."""
        self.wait(timeout)
        return self.said()

    def said(self) -> tuple[str, str]:
        """(stdout, stderr) so far."""
        out, err = (path.read_text(encoding="utf-8", errors="replace") for path in self._said)
        return out, err

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def execute(code: str, arguments: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    """The forked process, up to its exit."""
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    become(code, arguments, cwd, env)


def become(code: str, arguments: list[str], cwd: str, env: dict[str, str]) -> NoReturn:
    """Execute Python source as `python -c` does, on this process's standard streams, up to its exit."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:0] = [part for part in env.get("PYTHONPATH", "").split(os.pathsep) if part]
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    sys.argv = ["-c", *arguments]
    status: object = 0
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if isinstance(status, str):
        os.write(2, status.encode())
    os._exit(status if isinstance(status, int) else 0 if status is None else 1)
