"""A reference that is not the start: smaller, of another family, by path; and one that reads other tokens."""

import pytest

from dpo.errors import UsageError
from dpo.records import RunDir
from dpo.reference import check_embeddings
from dpo.run import run
from tests import toys


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """folder(family, kind, vocabulary) -> a saved random model with its tokenizer."""

    def save(family, kind="byte", vocabulary=None):
        path = tmp_path_factory.mktemp("model")
        tokenizer = toys.tokenizer(kind)
        toys.model(family, vocabulary or len(tokenizer), seed=3).save_pretrained(path)
        tokenizer.save_pretrained(path)
        return path

    return save


def first_and_last(directory: RunDir):
    rows = [row for row in directory.rows(directory.metrics) if row["kind"] == "eval"]
    return rows[0], rows[-1]


@pytest.mark.parametrize("family", ("llama", "gpt2"))
@pytest.mark.parametrize("adapter", ("full", "lora_all_linear"))
def test_any_model_with_the_same_tokens_can_be_the_reference(small, folder, family, adapter):
    """Another width and family: log-ratios are not 0 at the start, and the policy learns against it."""
    directory, _ = run(small(f"reference.path={folder(family)}", f"adapter={adapter}"))
    first, last = first_and_last(directory)
    assert abs(first["eval/logratios/chosen"]) > 1e-2 and last["eval/loss"] < first["eval/loss"]
    assert directory.read("provenance")["reference_hash"] != directory.read("provenance")["start_hash"]


def test_a_token_loss_reads_the_distributions_of_another_reference(small, folder):
    """tdpo against a model whose head is padded further than the policy's."""
    path = folder("llama", vocabulary=len(toys.tokenizer("byte")) + 5)
    directory, _ = run(small(f"reference.path={path}", "loss=tdpo"))
    first, last = first_and_last(directory)
    assert last["eval/loss"] < first["eval/loss"] and first["eval/kl"] > 0


def test_a_single_block_still_has_a_smaller_sibling(small):
    """Half of one block is one block, not none."""
    directory, _ = run(small("reference=tiny_small", "model.width=64", "model.layers=1"))
    assert first_and_last(directory)[0]["eval/logratios/chosen"] != 0


def test_another_vocabulary_is_refused_before_anything_is_built(small, folder, tmp_path):
    """One line with the key, the path and both sizes; no run directory is left."""
    config = small(f"reference.path={folder('llama', 'bpe')}", f"cache_root={tmp_path / 'empty'}")
    with pytest.raises(UsageError, match=r"reference\.path=.*vocabulary differs") as caught:
        run(config)
    assert "\n" not in str(caught.value) and not list((tmp_path / "out" / "runs").iterdir())
    assert not list((tmp_path / "empty").rglob("*.safetensors"))


def test_too_few_embeddings_are_refused():
    """A head cut below the tokenizer's ids would read past its table."""
    tokenizer = toys.tokenizer("byte")
    with pytest.raises(UsageError, match=r"reference\.path=there: 40 embeddings"):
        check_embeddings(toys.model(vocabulary=40), tokenizer, "there")
    check_embeddings(toys.model(vocabulary=len(tokenizer)), tokenizer, "here")
