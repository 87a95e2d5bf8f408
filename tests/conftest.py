"""One thread, one cache and no tracker account for every test; a small finished run that many tests read."""

import os
import signal

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", WANDB_SILENT="true")
os.environ.pop("WANDB_API_KEY", None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it for what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

from pathlib import Path

import pytest
import torch

from dpo import compose as composing
from dpo.config import Config, load
from dpo.records import RunDir
from dpo.run import run
from dpo.run_folders import find_runs

from .sharing import once, shared_root

torch.set_num_threads(1)


def compose_once() -> None:
    """Let all tests of a process share Hydra's work on the shipped conf/, which no test changes: one composition for
    each choice of groups, as in a sweep (`composer`). Files of a test's own are composed anew each time."""
    honest, shipped = composing.composer, composing.Primary(Path(__file__).parents[1] / "conf" / "config.yaml")
    shared = honest(shipped)
    composing.composer = lambda source: shared if source == shipped else honest(source)


compose_once()

SMALL = [
    "experiment=capstone",
    "model.steps=5",
    "model.width=32",
    "sft.epochs=4",
    "optim.lr=0.001",
    "beta.value=0.1",
    "train.max_steps=6",
    "train.eval_every=3",
    "train.checkpoint_every=2",
    "train.print_every=0",
    "evaluate.max_new_tokens=12",
    "evaluate.kl_samples=6",
    "evaluate.samples=6",
    "evaluate.greedy=2",
    "tracker=disabled",
]
"""A whole run of a second: two small blocks over bytes, twelve triples, six steps."""

LONG = ("test_cases.py", "test_experiments.py", "test_launch.py", "test_agent.py", "test_wheel.py", "test_stacked.py")
"""Files that take a minute and more, the longest first: two workers that begin with them end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first; the others keep their order."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embedded models and reference log-probs, shared by all tests of a session, in all of its processes."""
    folder = shared_root(tmp_path_factory) / "cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def small(cache: Path, tmp_path: Path):
    """small(*overrides) -> Config of a run of a second below this test's own output root."""

    def make(*overrides: str) -> Config:
        return load([*SMALL, f"cache_root={cache}", f"output_root={tmp_path / 'out'}", *overrides])

    return make


@pytest.fixture(scope="session")
def finished(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished small run with LoRA, to be read only."""
    settings = [*SMALL, "adapter=lora_qv", f"cache_root={cache}"]
    root = once(shared_root(tmp_path_factory) / "finished", lambda root: run(load([*settings, f"output_root={root}"])))
    return find_runs(root)[0]


@pytest.fixture
def hh_rlhf() -> Path:
    """The real HH-RLHF file of the test data, where $DPO_TEST_DATA says that it lies; tests skip without."""
    folder = os.environ.get("DPO_TEST_DATA")
    if not folder:
        pytest.skip("DPO_TEST_DATA is not set: the real HH-RLHF rows are not here")
    return Path(folder) / "hh-rlhf" / "harmless-base-test.jsonl.gz"
