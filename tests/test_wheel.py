"""The package as it is installed elsewhere: its conf/ and data come along."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .conftest import SMALL

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files, unpacked as an installer would."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    zipfile.ZipFile(next(folder.glob("*.whl"))).extractall(folder / "site")
    return folder / "site"


def bare(site: Path, **more: str) -> dict[str, str]:
    """The environment of somebody who has only the wheel."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DPO_", "WANDB_", "LC_", "LANG"))}
    return own | {"PYTHONPATH": str(site)} | more


@pytest.mark.slow
def test_every_option_composes_from_an_installed_wheel(site: Path, tmp_path: Path) -> None:
    """Outside the checkout, with only the wheel's files on the path."""
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
    command = [sys.executable, "-c", code.format(site=str(site))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=bare(site))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == sum(1 for path in (ROOT / "conf").glob("*/*.yaml"))


FAST = [*(setting for setting in SMALL if not setting.startswith("tracker")), "train.max_steps=2", "train.eval_every=0"]

NOT_WRITABLE = "/sys/kernel"
"""A folder in which nobody can write, not even root."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "variables"),
    [("empty", {"LANG": "C.UTF-8"}), ("mein größter Ordner (v2), it's", {"LC_ALL": "C", "LANG": "C"})],
)
def test_the_wheel_trains_sweeps_and_reports_anywhere(
    folder: str, variables: dict[str, str], site: Path, cache: Path, tmp_path: Path
) -> None:
    """From an empty folder and one with signs, in the C locale, with a HOME that cannot be written: all exit 0."""
    place = tmp_path / folder
    place.mkdir()
    (place / "q.yaml").write_text(
        "# What?\ndefaults: [config, _self_]\nhydra: {sweeper: {params: {seed: '0,1'}}}\n", encoding="utf-8"
    )
    environment = bare(site, HOME=NOT_WRITABLE, DPO_CACHE=str(cache), OMP_NUM_THREADS="1", **variables)

    def command(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dpo", *words], capture_output=True, cwd=place, env=environment, timeout=600
        )
        assert done.returncode == 0, (words, done.stderr.decode("utf-8", "replace")[-2000:])
        return done.stdout.decode("utf-8", "replace")

    assert "outputs/runs/" in command("train", *FAST).splitlines()[-1]
    command("sweep", "q.yaml", *FAST)
    assert "done" in command("status", "outputs/q")
    command("plan", "q.yaml", *FAST)
    command("report", "outputs/q")
    assert (place / "outputs" / "q" / "report.html").is_file()
