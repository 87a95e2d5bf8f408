"""docs/metrics.md defines exactly the keys that runs write."""

import json
import re
from pathlib import Path

import pytest

from dpo.config import load
from dpo.run import run

DOCS = Path(__file__).parents[1] / "docs/metrics.md"
TINY = "model=tiny_byte model.steps=0 model.width=32 model.layers=1 sft=none tracker=disabled train.max_length=1024"
SMALL = "evaluate.samples=2 evaluate.greedy=1 evaluate.kl_samples=2 evaluate.max_new_tokens=4 train.device=cpu"


def documented() -> set[str]:
    """The keys of the table, each behind the prefixes of its second column."""
    rows = re.findall(r"^\| `([^`]+)` \| ([a-z, ]+) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    return {f"{prefix}/{key}" for key, prefixes in rows for prefix in prefixes.split(", ")}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> set[str]:
    """Every key of two runs: sampled answers checked for JSON, and pairs of all three length classes.

    The second holds a prompt with one preference three times and its opposite once, so that after a
    few steps most pairs are right, one is wrong, and a temperature exists.
    """
    root = tmp_path_factory.mktemp("runs")
    long, short = "a rather long answer", "no"
    answers = [(long, short)] * 3 + [(short, long), ("yes", "nay")]
    rows = [{"id": str(i), "prompt": "Q?", "chosen": c, "rejected": r} for i, (c, r) in enumerate(answers)]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = f"dataset=files dataset.path={root}/pairs.jsonl dataset.eval_path={root}/pairs.jsonl"
    file += " audit.stop.contradictory=1.0"
    prose = "dataset=json_over_prose dataset.train_pairs=4 dataset.eval_pairs=4"
    keys: set[str] = set()
    for data, steps in ((file, 5), (prose, 1)):
        overrides = f"{TINY} {SMALL} {data} train.max_steps={steps} optim.lr=1e-3 train.eval_every=0"
        config = load([*overrides.split(), f"output_root={root}", f"cache_root={root}/cache"])
        directory, _ = run(config)
        keys |= {key for row in directory.rows(directory.metrics) for key in row}
    return keys - {"step", "kind", "train/global_step"}


def test_every_key_that_a_run_writes_is_documented(written):
    """No number without a definition."""
    assert written - documented() == set()


def test_every_documented_key_is_written(written):
    """No definition without a number."""
    assert documented() - written == set()
