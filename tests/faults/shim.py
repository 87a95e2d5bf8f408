"""Counts a process's file operations below a folder; at a given one kills it, or lets the disk be full from then on.

Python's own operations are patched where everybody finds them (os, open); what Rust writes, at the functions that call
it. A write that is hit leaves half of what it was to write, as a real one may.
"""

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAKING = ("open", "mkdir", "write", "fsync", "link")
"""What takes room: a full disk still renames and removes."""
KILLED = 137


class Shim:
    """The fault of this process: "kill" at operation `at`, or "full" from it on; 0 only counts."""

    def __init__(self, root: Path, kind: str, at: int) -> None:
        self.root, self.kind, self.at, self.count = str(root), kind, at, 0

    def hit(self, what: str, path: Any) -> bool:
        """Count an operation on a path; whether it is to go wrong."""
        if not self.mine(path) or (self.kind == "full" and what not in MAKING):
            return False
        self.count += 1
        if not self.at:
            return False
        return self.count == self.at if self.kind == "kill" else self.count >= self.at

    def mine(self, path: Any) -> bool:
        """Whether a path, or the file of a descriptor, lies below the folder."""
        try:
            name = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.path.abspath(os.fspath(path))
        except (OSError, TypeError, ValueError):
            return False
        return str(name).startswith(self.root)

    def end(self, path: Any) -> None:
        """What a hit does."""
        if self.kind == "kill":
            os._exit(KILLED)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path if isinstance(path, str) else None)


class Half:
    """A file whose writes are counted; one that is hit writes half."""

    def __init__(self, shim: Shim, file: Any) -> None:
        self.__dict__.update(shim=shim, file=file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "Half":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __iter__(self) -> Any:
        return iter(self.file)

    def write(self, data: Any) -> int:
        if self.shim.hit("write", self.file.name):
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            self.shim.end(None)
        return self.file.write(data)


def plant(root: Path, kind: str, at: int) -> Shim:
    """Patch this process; it is never mended, so plant only in one that ends."""
    shim = Shim(root, kind, at)
    for name in ("mkdir", "unlink", "remove", "rmdir", "fsync", "truncate"):
        patch(shim, os, name, lambda path, *_, dir_fd=None, **__: (path, dir_fd))
    for name in ("replace", "rename", "link"):
        patch(shim, os, name, lambda _, path, *__, dst_dir_fd=None, **___: (path, dst_dir_fd))
    plant_open(shim)
    plant_rust(shim)
    return shim


def patch(shim: Shim, module: Any, name: str, where: Callable[..., tuple[Any, Any]]) -> None:
    """Count a function of a module; `where` finds (path, folder's descriptor or None) among its arguments."""
    honest = getattr(module, name)

    def counted(*args: Any, **options: Any) -> Any:
        path, folder = where(*args, **options)
        if folder is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        if shim.hit(name, path):
            shim.end(str(path))
        return honest(*args, **options)

    setattr(module, name, counted)


def plant_open(shim: Shim) -> None:
    """Files opened for writing, by open and by os.open."""
    honest, low = io.open, os.open

    def opened(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        writes = not isinstance(path, int) and set(mode) & set("wax+") and shim.mine(path)
        if writes and shim.hit("open", path):
            shim.end(str(path))
        file = honest(path, mode, *args, **options)
        return Half(shim, file) if writes else file

    def opened_low(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_CREAT and shim.hit("open", path):
            shim.end(str(path))
        return low(path, flags, *args, **options)

    builtins.open = io.open = opened  # type: ignore[assignment]
    os.open = opened_low  # type: ignore[assignment]


def plant_rust(shim: Shim) -> None:
    """What safetensors and tokenizers write by themselves."""
    import safetensors.numpy
    import safetensors.torch
    import transformers
    from safetensors import SafetensorError

    def serialize(honest: Callable[..., None]) -> Callable[..., None]:
        def counted(tensors: Any, path: Any, **options: Any) -> None:
            if not shim.hit("write", path):
                return honest(tensors, path, **options)
            honest(tensors, path, **options)
            os.truncate(path, os.path.getsize(path) // 2)
            if shim.kind == "kill":
                os._exit(KILLED)
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

        return counted

    for module in (safetensors.torch, safetensors.numpy):
        module.serialize_file = serialize(module.serialize_file)  # type: ignore[attr-defined]
    fast: Any = transformers.PreTrainedTokenizerFast
    patch(shim, fast, "_save_pretrained", lambda *args, save_directory=None, **_: (save_directory or args[1], None))
