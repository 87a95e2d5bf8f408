"""The notebooks of analysis/: which of them fit some runs, and running them, each in a kernel of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dpo.errors import UsageError, first_line

ALONE = ("HistoryManager.enabled=False", "InteractiveShellApp.ignore_cwd=True", "IPKernelApp.exec_PYTHONSTARTUP=False")
"""Settings of a kernel that knows nothing of the user's own IPython, and imports nothing from where it works."""
T = TypeVar("T")

SECONDS = 300
"""How long one cell may take."""


@dataclass(frozen=True)
class Notebook:
    """A stored notebook: its cells, and the name of what it needs of the runs (a function of dpo.results.fits)."""

    name: str
    order: int
    fits: str
    content: dict[str, Any]


def analysis_dir() -> Path:
    """The analysis/ folder: $DPO_ANALYSIS, else in the installed package, else in the checkout."""
    package = Path(__file__).parents[1]
    for folder in (os.environ.get("DPO_ANALYSIS"), package / "analysis", package.parent / "analysis"):
        if folder and Path(folder).is_dir():
            return Path(folder).resolve()
    raise UsageError("no analysis/ folder found: set DPO_ANALYSIS to one, or reinstall the package")


def notebooks() -> list[Notebook]:
    """Every notebook of analysis/, in the order of a report."""
    found = []
    for path in sorted(analysis_dir().glob("*.ipynb")):
        content = json.loads(path.read_text(encoding="utf-8"))
        about = content["metadata"]["dpo"]
        found.append(Notebook(path.stem, about["order"], about["fits"], content))
    return sorted(found, key=lambda notebook: (notebook.order, notebook.name))


def with_parameters(notebook: Notebook, parameters: Mapping[str, str | None]) -> dict[str, Any]:
    """The notebook's content with its cell tagged `parameters` set to these values.

    Raises UsageError for a parameter that the cell does not have.
    """
    content = json.loads(json.dumps(notebook.content))
    cell = next(c for c in content["cells"] if "parameters" in c["metadata"].get("tags", ()))
    lines = source(cell).split("\n")
    for name, value in parameters.items():
        at = [i for i, line in enumerate(lines) if line.partition("=")[0].strip() == name]
        if not at:
            raise UsageError(f"{notebook.name}.ipynb: its first code cell has no parameter {name}")
        lines[at[0]] = f"{name} = {value!r}"
    cell["source"] = "\n".join(lines)
    return content


def parameters(notebook: Notebook) -> list[str]:
    """Names that the cell tagged `parameters` sets."""
    cell = next(c for c in notebook.content["cells"] if "parameters" in c["metadata"].get("tags", ()))
    return [line.partition("=")[0].strip() for line in source(cell).split("\n") if "=" in line]


def source(cell: Mapping[str, Any]) -> str:
    """A cell's text, which files store as one string or as lines."""
    text = cell["source"]
    return text if isinstance(text, str) else "".join(text)


def execute(
    work: Sequence[tuple[Notebook, Mapping[str, str | None]]], done: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Run notebooks with these parameters; their contents with outputs, in the same order.

    Each has a kernel of its own, so that none sees another's names; as many at once as there are processors.
    `done` is called with a notebook's name when it has ended. Kernels speak through files in a temporary folder
    and not through ports, so they work without any network. Raises RuntimeError with the cell that failed.
    """
    try:
        import nbclient  # noqa: F401
    except ImportError as error:
        raise UsageError("dpo report runs notebooks: pip install 'dpo-lab[report]'") from error

    async def all_of_them() -> list[dict[str, Any]]:
        room = asyncio.Semaphore(processors())
        with tempfile.TemporaryDirectory(prefix="dpo-", dir=short_folder()) as folder:
            jobs = [one(i, notebook, given, Path(folder), room) for i, (notebook, given) in enumerate(work)]
            ended = await asyncio.gather(*jobs, return_exceptions=True)  # no kernel is left behind by another's failure
        for result in ended:
            if isinstance(result, BaseException):
                raise result
        return ended  # type: ignore[return-value]

    async def one(
        number: int, notebook: Notebook, given: Mapping[str, str | None], folder: Path, room: asyncio.Semaphore
    ) -> dict[str, Any]:
        async with room:
            ran = await run_one(with_parameters(notebook, given), notebook.name, folder, number)
            done(notebook.name)
            return ran

    return in_a_thread(all_of_them)


def in_a_thread(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in a thread: in the main one its library would take the signals that stop this process.

    An interruption of this one cancels it, and waits until it has cleaned up.
    """
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = Future()

    async def whole() -> T:
        task = asyncio.ensure_future(work())
        begun.set_result((asyncio.get_running_loop(), task))
        return await task

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(asyncio.run, whole())
        try:
            return ended.result()
        except KeyboardInterrupt:
            loop, task = begun.result()
            loop.call_soon_threadsafe(task.cancel)
            raise


def short_folder(limit: int = 70) -> str:
    """A folder for temporary ones whose path leaves room for a socket's name, which may have about a hundred bytes.

    The user's own where it is short enough; raises UsageError where none is that can be written to.
    """
    own = tempfile.gettempdir()
    for folder in (own, os.environ.get("XDG_RUNTIME_DIR"), "/tmp", "/var/tmp", "/dev/shm"):
        if folder and len(os.fsencode(folder)) <= limit and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise UsageError(f"TMPDIR={own}: too long for the sockets of notebooks; give one of at most {limit} bytes")


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


async def run_one(content: dict[str, Any], name: str, folder: Path, number: int) -> dict[str, Any]:
    """One notebook in a fresh kernel of this very Python, without the user's start-up files and history."""
    import nbformat
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    class Here(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> Any:
            begin = [
                sys.executable,
                "-P",
                "-Xfrozen_modules=off",
                "-m",
                "ipykernel_launcher",
                "-f",
                "{connection_file}",
            ]
            argv = [*begin, *(f"--{setting}" for setting in ALONE)]
            return KernelSpec(argv=argv, display_name="Python 3", language="python")

    transport = {"transport": "ipc"} if sys.platform != "win32" else {}
    manager = AsyncKernelManager(
        kernel_spec_manager=Here(), connection_file=str(folder / f"{number}.json"), **transport
    )
    notebook = nbformat.reads(json.dumps(content), as_version=4)
    client = NotebookClient(notebook, km=manager, timeout=SECONDS, resources={"metadata": {"path": str(folder)}})
    try:
        await client.async_execute(env=os.environ | {"IPYTHONDIR": str(folder), "PYTHONPATH": paths()})
    except CellExecutionError as error:
        raise RuntimeError(f"{name}.ipynb: {error.ename}: {error.evalue}") from error
    except (CellTimeoutError, DeadKernelError) as error:
        raise RuntimeError(f"{name}.ipynb: {first_line(error)}") from error
    finally:
        await manager.shutdown_kernel(now=True)
    return json.loads(json.dumps(client.nb))


def paths() -> str:
    """The module path of a kernel: this package's folder first, so that it draws with the same code."""
    here = str(Path(__file__).parents[2])
    return os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
