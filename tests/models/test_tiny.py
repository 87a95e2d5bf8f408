"""The embedded models and their cache."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from dpo.cache import build_once
from dpo.config import load
from dpo.models.pretrained import load_model, load_tokenizer, weights_hash
from dpo.models.tiny import Tiny, byte_tokenizer


@pytest.fixture(scope="module")
def toy() -> Tiny:
    """tiny_byte with a pretraining of two steps."""
    return replace(load(["experiment=capstone"]).model, steps=2, width=32, layers=1)


def test_a_base_is_built_once_and_then_found(toy: Tiny, tmp_path: Path) -> None:
    """Same folder, same bytes, nothing written again."""
    first = Path(toy.folder(tmp_path)) / "model.safetensors"
    before = first.stat().st_mtime_ns
    assert Path(toy.folder(tmp_path)) == first.parent and first.stat().st_mtime_ns == before


def test_a_base_is_a_function_of_its_recipe(toy: Tiny, tmp_path: Path) -> None:
    """Built twice in two caches the weights are equal; another seed gives others."""
    hashes = [
        weights_hash(load_model(model.folder(tmp_path / name)))
        for model, name in ((toy, "a"), (toy, "b"), (replace(toy, seed=1), "a"))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_run_seed_is_no_part_of_the_base() -> None:
    """Every arm of a sweep starts from the same base."""
    assert load(["seed=7"]).model == load([]).model


def test_two_builders_at_once_build_once(tmp_path: Path) -> None:
    """The second waits for the first and finds its result."""
    built: list[int] = []

    def build(path: Path) -> None:
        built.append(1)
        path.write_text("x")

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: build_once(tmp_path / "thing", build), range(4)))
    assert sorted(made) == [False, False, False, True] and built == [1]


def test_a_build_that_dies_leaves_nothing_that_counts(tmp_path: Path) -> None:
    """The next one builds again."""

    def dies(path: Path) -> None:
        path.mkdir()
        (path / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once(tmp_path / "thing", dies)
    assert not (tmp_path / "thing").exists()
    assert build_once(tmp_path / "thing", lambda path: path.mkdir())
    assert [path.name for path in (tmp_path / "thing").iterdir()] == [".checksums.json"]


def test_the_byte_tokenizer_has_its_specials_as_single_tokens() -> None:
    """Instruction, response and end are one id each; every other byte is itself."""
    tokenizer = byte_tokenizer()
    ids = tokenizer("<|instruction|>é<|response|>", add_special_tokens=False).input_ids
    assert len(ids) == 4 and len(tokenizer) == 259
    assert tokenizer.decode(ids) == "<|instruction|>é<|response|>"


def test_the_small_sibling_shares_the_tokenizer(tmp_path: Path) -> None:
    """As a reference it must read the same token ids."""
    big = replace(load([]).model, steps=0)
    small = replace(big, width=64, layers=2)
    assert load_tokenizer(big.folder(tmp_path)).get_vocab() == load_tokenizer(small.folder(tmp_path)).get_vocab()
