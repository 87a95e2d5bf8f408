"""Which libraries are imported when, and that the collector's rest is over afterwards."""

import subprocess
import sys
from pathlib import Path

import pytest

from dpo.__main__ import main

from .conftest import SMALL


def in_fresh_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])


@pytest.mark.parametrize("verb", [["--help"], ["train", "--help"], ["status", "/"], ["train", "no.such.key=1"]])
def test_what_trains_nothing_imports_no_torch(verb: list[str], tmp_path: Path) -> None:
    """Helps, looking at runs, and a mistyped setting answer at once."""
    words = [str(tmp_path) if word == "/" else word for word in verb]
    code = f"import sys, dpo.__main__ as m\ntry: m.main({words!r})\nexcept SystemExit: pass\n"
    code += "print([n for n in ('torch', 'transformers', 'peft', 'wandb') if n in sys.modules])"
    assert in_fresh_process(code).stdout.strip().endswith("[]")


def test_types_of_a_configuration_need_no_transformers() -> None:
    """`dpo plan` types every job and reads no model."""
    code = "import sys, dpo.plan as p\np.show_plan('beta', [])\n"
    code += "print([n for n in ('transformers', 'peft') if n in sys.modules])"
    assert in_fresh_process(code).stdout.strip().endswith("[]")


def test_libraries_are_frozen_once_and_the_collector_works_again() -> None:
    """What a process holds when it trains a second time is not frozen."""
    code = "import gc\nfrom dpo.libraries import import_libraries as go\ngo(True)\nfirst = gc.get_freeze_count()\n"
    code += "kept = [[] for _ in range(1000)]\ngo(True)\nprint(first > 100_000, gc.get_freeze_count() == first)\n"
    code += "print(gc.isenabled())"
    assert in_fresh_process(code).stdout.split() == ["True", "True", "True"]


@pytest.mark.parametrize(("words", "code"), [(["runs", "/nowhere"], 2), (["plan", "beta"], 0)])
def test_the_exit_keeps_its_code_and_its_last_words(words: list[str], code: int) -> None:
    """Freezing at the exit drops no other handler and no output."""
    text = "import atexit, sys, torch\nfrom dpo.__main__ import main\n"
    text += f"atexit.register(print, 'last words')\nsys.exit(main({words!r}))"
    done = in_fresh_process(text)
    assert done.returncode == code and done.stdout.splitlines()[-1] == "last words"


def test_a_start_without_sft_reads_the_data_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only an SFT stage asks for the data set's own pairs beside the run's."""
    from dpo.data.twelve import Twelve

    load, loads = Twelve.load, []
    monkeypatch.setattr(Twelve, "load", lambda self: loads.append(1) or load(self))
    others = [word for word in SMALL if not word.startswith(("experiment=", "sft."))]
    command = ["train", "experiment=without_sft", "dataset=twelve", "model=tiny_byte", *others]
    assert main([*command, f"cache_root={cache}", f"output_root={tmp_path}"]) == 0
    assert len(loads) == 1
