"""What is trained: every weight, the last blocks, or low-rank adapters through peft."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import nn

from dpo.errors import UsageError, first_line
from dpo.models.targets import blocks_of, targets
from dpo.models.weights import refuse_unfilled
from dpo.progress import remark
from dpo.ranges import Part, Range, Rank, Weight


class Adapter:
    """How the policy's trainable weights are made from the start. Full copies; LoRA shares the start."""

    shares_start = False

    def attach(self, model: Any, seed: int) -> Any:
        """The model with exactly its trainable weights requiring gradients; `seed` draws new weights."""
        raise NotImplementedError

    def disabled(self, model: Any) -> AbstractContextManager[Any]:
        """Within it the model is the start again (only where `shares_start`)."""
        return nullcontext()


@dataclass(frozen=True)
class Full(Adapter):
    """Every weight is trained, in float32."""

    def attach(self, model: Any, seed: int) -> Any:
        return model.float().requires_grad_(True)


@dataclass(frozen=True)
class Partial(Adapter):
    """Only the last `blocks` transformer blocks are trained, in float32."""

    blocks: Annotated[int, Range(1, 10_000)]

    def attach(self, model: Any, seed: int) -> Any:
        layers = blocks_of(model)
        if not 1 <= self.blocks <= len(layers):
            raise UsageError(f"adapter.blocks={self.blocks}: the model has {len(layers)} blocks; choose 1 to that many")
        model.requires_grad_(False)
        for block in layers[-self.blocks :]:
            block.float().requires_grad_(True)
        return model


@dataclass(frozen=True)
class Lora(Adapter):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685), or DoRA (arXiv:2402.09353) with `dora`.

    target  a role (qv, qkvo, all_linear) or names of modules or of experts' weights, comma-separated
    layers  "all", or "last_half" for the later half of the blocks
    """

    r: Rank
    alpha: Weight
    dropout: Part
    target: str
    layers: Literal["all", "last_half"]
    dora: bool

    shares_start = True

    def __post_init__(self) -> None:
        if not all(re.fullmatch(r"[\w.]+", name.strip()) for name in self.target.split(",")):
            raise UsageError(f"adapter.target={self.target!r}: must be qv, qkvo, all_linear, or module names")

    def attach(self, model: Any, seed: int) -> Any:
        from peft import LoraConfig, get_peft_model

        plain = not self.dropout and not self.dora
        chosen = targets(model, self.target, self.layers == "last_half", plain)
        for text in chosen.remarks:
            remark(text)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            config = LoraConfig(
                r=self.r,
                lora_alpha=self.alpha,  # type: ignore[arg-type]
                lora_dropout=self.dropout,
                target_modules=chosen.modules,
                target_parameters=chosen.parameters or None,
                layers_to_transform=chosen.layers,
                use_dora=self.dora,
                # a reward model has no language-model head; peft trains and saves the head it has instead
                task_type="CAUSAL_LM" if model.get_output_embeddings() is not None else "SEQ_CLS",
            )
            try:
                return get_peft_model(model, config)
            except ValueError as error:
                raise UsageError(f"adapter.target={self.target}: {first_line(error)}") from error

    def disabled(self, model: Any) -> AbstractContextManager[Any]:
        return model.disable_adapter()


def train_mode(model: nn.Module) -> None:
    """Evaluation mode but for the adapters' own dropout: a model's built-in dropout would add noise to log-ratios."""
    model.eval()
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] == "lora_dropout" or ".lora_dropout." in name:
            module.train()


def save(model: Any, folder: Path, start: str, revision: str | None) -> None:
    """Write the trained weights; an adapter's configuration names the very weights that it belongs on."""
    for config in getattr(model, "peft_config", {}).values():
        config.base_model_name_or_path = start
        config.revision = None if Path(start).is_dir() else revision
    model.save_pretrained(folder)


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The trained tensors by name, on the CPU."""
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}


def restore(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Put a `trainable_state` back in place; raises UsageError where it is another model's."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    shapes = [
        (name, tuple(state[name].shape), tuple(p.shape))
        for name, p in parameters.items()
        if name in state and state[name].shape != p.shape
    ]
    where, kind = "the checkpoint to resume from", "the weights that this run trains"
    refuse_unfilled(where, kind, parameters.keys() - state.keys(), state.keys() - parameters.keys(), shapes)
    with torch.no_grad():
        for name, tensor in state.items():
            parameters[name].copy_(tensor)
