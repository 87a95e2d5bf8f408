"""What is recorded of the code is the package's own, whatever repository it happens to lie in."""

import shutil
import subprocess
from pathlib import Path

import pytest

import dpo.provenance as made


def git(folder: Path, *arguments: str) -> str:
    """Output of a git command in a folder."""
    who = ["-c", "user.email=a@b", "-c", "user.name=x"]
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of somebody else's with the package in its .venv, ignored."""
    git(tmp_path, "init", "-q")
    (tmp_path / "secrets.txt").write_text("before\n")
    (tmp_path / ".gitignore").write_text(".venv\n")
    package = tmp_path / ".venv" / "dpo"
    package.mkdir(parents=True)
    shutil.copy(made.__file__, package)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "mine")
    (tmp_path / "secrets.txt").write_text("password\n")
    monkeypatch.setattr(made, "__file__", str(package / "provenance.py"))
    return tmp_path


def recorded() -> tuple[str | None, str | None]:
    """(commit, hash of the diff) as a run records them."""
    import torch

    facts = made.provenance(torch.device("cpu"))
    return facts["commit"], facts["diff_hash"]


def test_a_repository_around_the_package_is_not_the_packages(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignored or merely untracked, and also where a hook's variables name the repository."""
    assert recorded() == (None, None)
    (project / ".gitignore").unlink()
    assert recorded() == (None, None)
    monkeypatch.setenv("GIT_DIR", str(Path(made.__file__).parents[2] / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(project))
    assert recorded() == (None, None)


def test_the_packages_own_repository_counts_with_the_diff_of_the_package_alone(project: Path) -> None:
    """What else was changed there is nobody's business."""
    git(project, "add", "-f", ".venv")
    git(project, "commit", "-qm", "ours", "--", ".venv")
    assert recorded() == (git(project, "rev-parse", "HEAD"), None)
    with Path(made.__file__).open("a") as file:
        file.write("# changed\n")
    changed = recorded()[1]
    (project / "secrets.txt").write_text("another password\n")
    assert changed and recorded()[1] == changed
