"""Liger's kernels: the same numbers on a GPU, the model's own anywhere else, and nothing left behind in the process."""

import importlib.util
import os
import sys

import pytest
import torch

from dpo.__main__ import main
from dpo.data.batches import collate
from dpo.errors import UsageError
from dpo.logps import Scorer
from dpo.models.adapters import Full
from dpo.models.liger import Liger, fuse, fused, kernels_of
from dpo.models.tiny import Tiny
from dpo.records import RunDir
from dpo.reference import Reference
from dpo.reproduce import rows
from dpo.run_folders import find_runs
from tests import toys

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HERE = importlib.util.find_spec("liger_kernel") is not None and (torch.cuda.is_available() or INTERPRETED)
NEEDED = pytest.mark.skipif(not HERE, reason="needs liger-kernel and a GPU (or TRITON_INTERPRET=1)")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GPU, CPU = torch.device("cuda"), torch.device("cpu")
FAMILIES = ("llama", "mistral", "qwen2", "gemma2")
PAIRS = toys.random_pairs(5, seed=3)


def liger(path) -> Liger:
    """The settings of conf/model/hf_liger.yaml."""
    return Liger(str(path), None, "float32", "sdpa", False)


def test_without_a_gpu_a_model_computes_with_its_own_kernels(tmp_path):
    """And a note says so; model=hf has nothing to say."""
    kernels, note = kernels_of(liger(tmp_path), "llama", CPU)
    assert kernels == "torch" and "model=hf_liger" in note and "GPU" in note
    tiny = Tiny("byte", 259, 32, 2, 0, 8, 128, 0.003, 0, "float32", "sdpa")
    assert kernels_of(tiny, "llama", GPU) == ("torch", None)


def test_a_gpu_without_the_package_is_refused_with_what_to_install(tmp_path, monkeypatch):
    """One line that names the extra and the way without it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"liger.*pip install.*model=hf"):
        kernels_of(liger(tmp_path), "llama", GPU)


def test_a_run_without_a_gpu_is_the_run_of_the_models_own_kernels(small, tmp_path, capsys):
    """The same rows to the bit, a note, and the kernels in its provenance."""
    folder = small().model.folder(tmp_path / "cache")
    for model in ("hf", "hf_liger"):
        given = [f"model={model}", f"model.path={folder}", "dataset=twelve", "train.max_steps=2", "train.device=cpu"]
        given += ["evaluate.samples=0", "evaluate.kl_samples=0", "evaluate.greedy=1", "tracker=disabled"]
        assert main(["train", *given, f"cache_root={tmp_path / 'cache'}", f"output_root={tmp_path / model}"]) == 0
        assert ("Liger's kernels need a GPU" in capsys.readouterr().err) == (model == "hf_liger")
    [plain], [asked] = (find_runs(tmp_path / model) for model in ("hf", "hf_liger"))
    assert rows(plain) == rows(asked) and RunDir(asked.path).read("provenance")["kernels"] == "torch"


def test_the_store_keeps_what_other_kernels_computed_apart(tmp_path):
    """They round elsewhere; each finds its own again."""
    for other in (False, True):
        net = toys.model()
        if other:
            norm, honest = net.model.norm, net.model.norm.forward

            def forward(x, honest=honest):
                return honest(x)

            forward.__module__ = "liger_kernel.transformers.rms_norm"
            norm.forward = forward
        assert fused(net) == other
        assert [Reference(net).stored(PAIRS, 0, 9999, tmp_path)[1] for _ in range(2)] == [False, True]


@NEEDED
@pytest.mark.parametrize("layout", ("padded", "shared_prompt"))
@pytest.mark.parametrize("adapter", (toys.LORA, Full()), ids=["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_ligers_kernels_give_the_models_own_numbers(family, adapter, layout):
    """Log-probs to 1e-4 nats a token and gradients to 1e-4 of their norm, in float32."""
    batch, found = collate(PAIRS, range(len(PAIRS)), 0).to(DEVICE), []
    for with_liger in (False, True):
        net = fuse(toys.model(family)) if with_liger else toys.model(family)
        model = adapter.attach(net, 0).to(DEVICE)
        scored = Scorer(toys.moved(model), layout)(batch)
        scored.sum().backward()
        found.append((scored.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])))
        assert fused(model) == with_liger
    (plain, gradient), (quick, other) = found
    assert torch.allclose(quick, plain, rtol=0, atol=1e-4)
    assert float((other - gradient).norm()) < 1e-4 * float(gradient.norm())


@NEEDED
@pytest.mark.parametrize("family", FAMILIES)
def test_a_later_model_of_the_process_is_transformers_own(family):
    """No class and no function of its file is another one after a model was fused."""
    names = vars(sys.modules[type(toys.model(family)).__module__])
    before = dict(names)
    assert fused(fuse(toys.model(family)))
    assert names == before and not fused(toys.model(family))


@NEEDED
def test_a_family_without_kernels_keeps_its_own(tmp_path):
    """With a note that names it."""
    kernels, note = kernels_of(liger(tmp_path), "gpt_neox", GPU)
    assert kernels == "torch" and "gpt_neox" in note
    assert kernels_of(liger(tmp_path), "llama", GPU) == ("liger", None)
