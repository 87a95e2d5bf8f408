"""Liger's fused kernels (Hsu et al. 2024, arXiv:2410.10989) in place of a model's norms and gated blocks, on a GPU."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dpo.errors import UsageError
from dpo.models.pretrained import Pretrained


@dataclass(frozen=True)
class Liger(Pretrained):
    """A `Pretrained` model that computes with Liger's kernels on a GPU, and with its own anywhere else."""


def kernels_of(base: Any, model_type: str, device: torch.device) -> tuple[str, str | None]:
    """(whose kernels a model computes with, "liger" or "torch"; a note for people where they are not those asked for).

    Raises UsageError where they could be had and are not installed.
    """
    if not isinstance(base, Liger):
        return "torch", None
    if device.type != "cuda":
        return "torch", "model=hf_liger: Liger's kernels need a GPU; the model's own are used"
    if importlib.util.find_spec("liger_kernel") is None:
        raise UsageError("model=hf_liger: liger-kernel is not installed; pip install 'dpo-lab[liger]' or use model=hf")
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    if model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        return "torch", f"model=hf_liger: Liger has no kernels for model type {model_type}; the model's own are used"
    return "liger", None


def fuse(model: Any) -> Any:
    """The model with Liger's norms and gated blocks in its modules; weights, names and states stay as they are.

    Liger's function also puts its classes in the place of transformers' own, where every later model of the process
    would find them: that is undone. Its rotary positions can be had in no other way and are left out, its losses are
    not needed (`dpo.head`).
    """
    from liger_kernel.transformers import _apply_liger_kernel_to_instance as apply

    names = vars(sys.modules[type(model).__module__])
    before = dict(names)
    try:
        apply(model=model, rope=False, cross_entropy=False, fused_linear_cross_entropy=False)
    finally:
        names.update(before)
    return model


def fused(model: nn.Module) -> bool:
    """Whether a module of the model computes with Liger's kernels."""
    forwards = (vars(module).get("forward") for module in model.modules())
    return any(getattr(forward, "__module__", "").startswith("liger_kernel") for forward in forwards)
