"""Files of a report on disk: only what a report wrote, and nobody changed since, is ever replaced or removed.

A manifest beside the files says by hash what was written. It is written before the files and after them, the first time
with the old hashes beside the new ones, so that a kill in between leaves no file that it does not know.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from dpo.disk import make_folder, write_atomically
from dpo.errors import UsageError
from dpo.json_files import Damaged, read_object

MANIFEST = ".report.json"
Known = dict[str, list[str]]
"""Name of a file -> hashes of the contents that a report gave it."""


def places(directory: Path, out: Path | None) -> tuple[Path, Path]:
    """(the page, the folder of its parts): FILE.html and FILE, DIR/report.html and DIR/report for a folder.

    Raises UsageError for a name that is neither.
    """
    target = out or directory / "report.html"
    if target.suffix in (".html", ".htm") and not target.is_dir():
        return target, target.with_suffix("")
    if target.is_dir() or (not target.suffix and not target.exists()):
        return target / "report.html", target / "report"
    raise UsageError(f"--out {target}: must be a page such as paper.html, or a folder")


def write(page: Path, folder: Path, files: Mapping[str, bytes], ours: bytes) -> list[Path]:
    """Write `files` (report.html is the page), remove what an older report left; paths of what was left alone.

    `ours` stands in every page of ours, also of those from before there was a manifest. Raises UsageError, before
    anything is written, where a file is in the way that no report wrote, or that was changed since.
    """
    paths = {name: page if name == "report.html" else folder / name for name in files}
    known = read(folder, page)
    if not known and page.is_file() and ours in page.read_bytes():
        known = {name: [digest(path.read_bytes())] for name, path in paths.items() if path.is_file()}
    foreign = [path for name, path in paths.items() if not free(path, known.get(name, []), files[name])]
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UsageError(
            f"{foreign[0]}{more}: not written by dpo report, or changed since; move it away, or choose another page "
            "with --out"
        )
    new = {name: [digest(content)] for name, content in files.items()}
    left = {name: hashes for name, hashes in known.items() if name not in files}
    make_folder(folder)
    keep(folder, page, left | {name: [*known.get(name, []), *hashes] for name, hashes in new.items()})
    for name, content in files.items():
        write_atomically(paths[name], content)
    kept = [folder / name for name, hashes in left.items() if not removed(folder / name, hashes)]
    keep(folder, page, new)
    return kept


def read(folder: Path, page: Path) -> Known:
    """What the manifest in a folder says of this page's report; nothing where there is none that can be read."""
    try:
        value = read_object(folder / MANIFEST)
    except (Damaged, FileNotFoundError):
        return {}
    files = value.get("files")
    if value.get("page") != page.name or not isinstance(files, dict):
        return {}
    plain = {name: hashes for name, hashes in files.items() if Path(name).name == name not in ("", "..")}
    return {name: [str(one) for one in hashes] for name, hashes in plain.items() if isinstance(hashes, list)}


def keep(folder: Path, page: Path, known: Known) -> None:
    """Write the manifest."""
    text = json.dumps({"page": page.name, "files": dict(sorted(known.items()))}, indent=2) + "\n"
    write_atomically(folder / MANIFEST, text)


def free(path: Path, hashes: list[str], content: bytes) -> bool:
    """Whether a content may be put at a path: nothing is there, or what a report wrote, or this very content."""
    if not os.path.lexists(path):
        return True
    if not path.is_file():
        return False
    there = path.read_bytes()
    return there == content or digest(there) in hashes


def removed(path: Path, hashes: list[str]) -> bool:
    """Whether a file of an older report is gone now; one that was changed since stays."""
    if path.is_file() and digest(path.read_bytes()) in hashes:
        path.unlink()
    return not os.path.lexists(path)


def digest(content: bytes) -> str:
    """Its SHA-256."""
    return hashlib.sha256(content).hexdigest()
