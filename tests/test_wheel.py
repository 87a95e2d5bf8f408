"""The package as it is installed elsewhere: its conf/ and data come along."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_option_composes_from_an_installed_wheel(tmp_path: Path) -> None:
    """Outside the checkout, with only the wheel's files on the path."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    site = tmp_path / "site"
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(site)
    code = """
import dpo, dpo.config as door
from dpo.data.hand_authored import HandAuthored
assert str(door.conf_dir()).startswith({site!r}), door.conf_dir()
n = 0
for folder in sorted(p for p in door.conf_dir().iterdir() if p.is_dir()):
    for path in sorted(folder.glob("*.yaml")):
        extra = [f"{{folder.name}}.path=/tmp"] if "???" in path.read_text() else []
        door.load([f"{{folder.name}}={{path.stem}}", *extra])
        n += 1
from dpo.sweep import names, read
assert len(names()) >= 12 and len(read("beta", []).jobs) == 15
assert len(HandAuthored(0.2).load().train) > 90
from dpo.results import notebooks, page
assert str(notebooks.analysis_dir()).startswith({site!r}) and len(notebooks.notebooks()) >= 7
assert (page.HERE / "page.css").is_file() and (page.HERE / "page.js").is_file()
print(n)
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-c", code.format(site=str(site))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == sum(1 for path in (ROOT / "conf").glob("*/*.yaml"))
