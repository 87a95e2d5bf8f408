"""An explicit Bradley-Terry reward model: a start's own weights under a head with one output.

Shapes: B pairs, R = 2B rows, T tokens of a row.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpo.data.batches import PairBatch, back
from dpo.errors import UsageError, first_line
from dpo.models.adapters import Adapter
from dpo.models.pretrained import DTYPES, Pretrained, attending, load_model
from dpo.models.tiny import Tiny
from dpo.models.weights import adapted, fitted
from dpo.rotary import OwnLengths

HEAD = "score"
"""What transformers calls the head of a decoder's sequence classification form."""


def untrained(start: str, base: Pretrained | Tiny, pad_id: int) -> Any:
    """The start's body under a head of zeros: every answer scores 0, so the first loss is ln 2.

    `base` says how the weights are loaded. The body is that of the policy's start to the bit.
    """
    from transformers import AutoModelForSequenceClassification

    causal = load_model(start, base.dtype, base.attention, base.revision, base.trust_remote_code)
    config = causal.config
    config.num_labels, config.pad_token_id = 1, pad_id
    try:
        with torch.random.fork_rng():  # the head's first weights are drawn, and then set to 0
            model = AutoModelForSequenceClassification.from_config(
                config,
                dtype=DTYPES[base.dtype],
                attn_implementation=config._attn_implementation,
                trust_remote_code=base.trust_remote_code,
            )
        head = head_of(model)
    except ValueError as error:
        raise UsageError(f"model.path={start}: has no sequence classification form: {first_line(error)}") from error
    model.base_model.load_state_dict(causal.base_model.state_dict())
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
    return model.eval()


def trainable(model: Any, adapter: Adapter, seed: int) -> Any:
    """The model with the adapter's weights and, whatever the adapter, its head requiring gradients, in float32."""
    model = adapter.attach(model, seed)
    head = head_of(model)
    if not any(p.requires_grad for p in head.parameters()):
        head.requires_grad_(True)
    for parameter in head.parameters():
        parameter.data = parameter.data.float()
    return model


def trained(checkpoint: Path, start: str, base: Pretrained | Tiny, adapter: Adapter, pad_id: int) -> Any:
    """A finished reward model: its adapter and head on the start again, or its full weights."""
    from transformers import AutoModelForSequenceClassification

    if not adapter.shares_start:
        auto = AutoModelForSequenceClassification
        how = functools.partial(fitted, auto, str(checkpoint), dtype=torch.float32, local_files_only=True)
        return attending(lambda attention: how(attn_implementation=attention), str(checkpoint), base.attention)
    return adapted(untrained(start, base, pad_id), str(checkpoint))


def head_of(model: nn.Module) -> nn.Module:
    """The scoring head, an adapter's trained copy where it has one."""
    heads = [name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] == HEAD]
    if not heads:
        raise ValueError(f"{type(model).__name__} has no head called {HEAD}")
    return model.get_submodule(min(heads, key=len))


class RewardScorer(nn.Module):
    """A reward model as a scoring module: batch in, a reward for each answer out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.lengths = OwnLengths.of(model)

    def groups(self, batch: PairBatch) -> list[list[int]]:
        """The rows that one pass over the model reads."""
        return batch.groups() if self.lengths is None else self.lengths.groups(batch.mask_RT.sum(1).tolist())

    def forward(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """(chosen_B, rejected_B): the head's output at each row's last token, in float32."""
        groups = self.groups(batch)
        reward_R = torch.cat([self.rewards(batch.only(rows)) for rows in groups])
        chosen_B, rejected_B = reward_R[back(groups)].chunk(2)
        return chosen_B, rejected_B

    def rewards(self, batch: PairBatch) -> Tensor:
        """The reward of each row, from one pass over the model.

        The head's outputs are caught by a hook and picked by the mask: transformers looks for the last
        token that is not the pad token, and where padding is done with EOS that is not the last one.
        """
        if self.lengths is not None:
            self.lengths.forget()
        caught: list[Tensor] = []
        hook = head_of(self.model).register_forward_hook(lambda module, inputs, output: caught.append(output))
        try:
            self.model(input_ids=batch.ids_RT, attention_mask=batch.mask_RT, use_cache=False)
        finally:
            hook.remove()
        reward_RT = caught[0].squeeze(-1).float()
        last_R = batch.mask_RT.sum(1) - 1
        return reward_RT.gather(1, last_R[:, None]).squeeze(1)
