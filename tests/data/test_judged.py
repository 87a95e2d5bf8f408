"""dataset=judged: training pairs of a judged folder, everything else of the set that was asked."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from dpo.config import load
from dpo.data.judge import JudgedDir, write
from dpo.data.judged import Judged
from dpo.data.mixture import Mixture
from dpo.data.pair import Pair
from dpo.errors import UsageError
from tests.toys import text_pair

TWELVE = {"_target_": "dpo.data.twelve.Twelve"}


def folder(path: Path, pairs: list[Pair], dataset: dict | None = None) -> Path:
    """A finished judged folder."""
    path.mkdir()
    write(
        JudgedDir(path),
        [asdict(pair) | {"made_by": {}} for pair in pairs],
        {"judge": "toy", "config": {"dataset": dataset or TWELVE}},
    )
    return path


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """Two pairs on prompts of the twelve."""
    return folder(tmp_path / "one", [text_pair("p", "a", "b", "1"), text_pair("q", "c", "d", "2")])


def test_training_pairs_are_the_judged_ones_and_the_rest_is_the_asked_sets(judged: Path) -> None:
    """By the option on the command line; the folder or its pairs.jsonl."""
    twelve = load(["dataset=twelve"]).dataset.load()
    for path in (judged, judged / "pairs.jsonl"):
        split = load(["dataset=judged", f"dataset.path={path}"]).dataset.load()
        assert [pair.chosen for pair in split.train] == ["a", "c"]
        assert (split.evaluation, split.prompts) == (twelve.evaluation, twelve.prompts)
        assert split.counts["judged"] == 2 and split.counts["dropped"] == 0


def test_append_adds_the_training_pairs_of_the_set_that_was_asked(judged: Path, tmp_path: Path) -> None:
    """Also where that is a judged set itself; a pair that came twice is there once, and counted."""
    node = {"_target_": "dpo.data.judged.Judged", "path": str(judged), "append": True}
    second = folder(tmp_path / "two", [text_pair("p", "a", "b", "1"), text_pair("p", "e", "f", "3")], node)
    split = Judged(str(second), append=True).load()
    assert [pair.id for pair in split.train[:3]] == ["1", "3", "2"] and len(split.train) == 3 + 12
    assert split.counts["duplicate_rows"] == 1


def test_the_origin_is_the_set_that_no_policy_answered(judged: Path, tmp_path: Path) -> None:
    """What the SFT stage learns and whose prompts are asked, through any number of rounds, and within a mixture."""
    twelve = load(["dataset=twelve"]).dataset
    node = {"_target_": "dpo.data.judged.Judged", "path": str(judged), "append": False}
    second = Judged(str(folder(tmp_path / "two", [text_pair("p")], node)), append=False)
    assert second.origin() == twelve and twelve.origin() == twelve
    assert Mixture({"a": second}, {}, {}, None, 0).origin() == Mixture({"a": twelve}, {}, {}, None, 0)


def test_format_checks_are_the_asked_sets_own(tmp_path: Path) -> None:
    """Also what counts as a novel value: new to its training answers, not to the judged ones."""
    node = load(["dataset=json_over_prose"]).plain["dataset"]
    source = load(["dataset=json_over_prose"]).dataset
    judged = Judged(str(folder(tmp_path / "j", [text_pair("p", "nothing", "like it")], node)), append=False)
    answers = ["no", str(source.load().train[0].chosen)]
    assert judged.check(answers, judged.load().train) == source.check(answers, source.load().train)
    assert judged.check(answers, [])["novel_value_rate"] == 0


def test_the_start_is_that_of_the_asked_set(judged: Path, cache: Path, tmp_path: Path) -> None:
    """The SFT stage reads the twelve, not the judged answers."""
    from dpo.start import pick_device, sft_start

    tiny = ["model=tiny_byte", "model.steps=5", "model.width=32", "sft.epochs=4", f"cache_root={cache}"]
    starts = []
    for data in (["dataset=twelve"], ["dataset=judged", f"dataset.path={judged}"]):
        config = load([*tiny, *data])
        starts.append(sft_start(config, config.model, config.model.tokenizer(cache), cache, pick_device("cpu")))
    assert starts[0] == starts[1]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: (path / "provenance.json").unlink(), "no finished judged pairs here"),
        (lambda path: (path / "pairs.jsonl").unlink(), "pairs.jsonl is not the file that provenance.json speaks of"),
        (lambda path: (path / "pairs.jsonl").write_text(json.dumps({"prompt": "p"})), "pairs.jsonl is not the file"),
        (lambda path: [f.unlink() for f in path.iterdir()] and path.rmdir(), "no such folder; dpo judge makes one"),
    ],
)
def test_an_unfinished_or_changed_folder_is_refused(harm, said, judged: Path) -> None:
    """One line that names the command that mends it."""
    harm(judged)
    with pytest.raises(UsageError) as caught:
        Judged(str(judged), append=False).load()
    assert said in str(caught.value) and f"dataset.path={judged}" in str(caught.value) and "\n" not in str(caught.value)
