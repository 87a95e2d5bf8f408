"""A decoder block of the Llama kind along token trees, forward and backward in one piece.

The parts of `dpo.kernels` one after the other as one operation of the graph: a small model's step is a good part
dispatch, and so are thirty layers' in bf16. Frozen weights, LoRA on any of the seven linear layers, on a CPU.

Shapes: N tokens, M of them kept, D width in, E width out, R rank, H query heads, K key heads, W head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo.attention import attended, attended_backward
from dpo.tree import Plans


@dataclass(frozen=True)
class Line:
    """x W^T + bias + scale (x A^T) B^T; `adapter` is (A, B) or empty."""

    weight_ED: Tensor
    bias_E: Tensor | None = None
    adapter: tuple[Tensor, ...] = ()
    scale: float = 1.0

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor | None]:
        """The output, and x A^T for the backward."""
        out_NE = F.linear(x_ND, self.weight_ED, self.bias_E)
        if not self.adapter:
            return out_NE, None
        a_RD, b_ER = self.adapter
        thin_NR = x_ND @ a_RD.t().to(x_ND.dtype)
        return out_NE.addmm_(thin_NR, b_ER.t().to(x_ND.dtype), alpha=self.scale), thin_NR

    def backward(
        self, grad_NE: Tensor, x_ND: Tensor | None, thin_NR: Tensor | None, by_x: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """(gradient by x, added to `by_x` where one is given; those by A and B); x is read only for an adapter."""
        by_x = grad_NE @ self.weight_ED if by_x is None else by_x.addmm_(grad_NE, self.weight_ED)
        if not self.adapter:
            return by_x, []
        by_thin, by_adapter = self.adapter_backward(grad_NE, x_ND, thin_NR)
        return by_x.addmm_(by_thin, self.adapter[0].to(grad_NE.dtype)), by_adapter

    def adapter_backward(
        self, grad_NE: Tensor, x_ND: Tensor | None, thin_NR: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """(gradient by x A^T, [by A, by B])."""
        assert x_ND is not None and thin_NR is not None
        a_RD, b_ER = self.adapter
        by_thin = (grad_NE @ b_ER.to(grad_NE.dtype)).mul_(self.scale)
        by_b = (grad_NE.t() @ thin_NR).to(b_ER.dtype).mul_(self.scale)
        return by_thin, [(by_thin.t() @ x_ND).to(a_RD.dtype), by_b]


class Lines(NamedTuple):
    """The linear layers of a block, in the order of their adapters' gradients."""

    q: Line
    k: Line
    v: Line
    o: Line
    gate: Line
    up: Line
    down: Line


@dataclass(frozen=True)
class Layer:
    """What a block computes with: weights, and how this batch attends.

    plans      the tree's attention for this block's heads, with `scaling` of the scores
    cos_NW, sin_NW  rotary positions, the sines `signed`
    kept_M     the rows that go on behind the attention, or None: all
    """

    lines: Lines
    norm_D: Tensor
    mlp_norm_D: Tensor
    eps: tuple[float, float]
    plans: Plans
    scaling: float
    cos_NW: Tensor
    sin_NW: Tensor
    kept_M: Tensor | None


class Block(torch.autograd.Function):
    """hidden_ND -> hidden_MD. `factors` are the lines' adapters one after the other, so that they get gradients."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, layer: Layer, *factors: Tensor) -> Tensor:
        middle_MD, attention = attention_forward(layer, hidden_ND)
        out_MD, mlp = mlp_forward(layer, middle_MD)
        ctx.layer, ctx.split = layer, len(attention)
        ctx.save_for_backward(*attention, *mlp)
        return out_MD

    @staticmethod
    def backward(ctx: Any, grad_MD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        attention, mlp = ctx.saved_tensors[: ctx.split], ctx.saved_tensors[ctx.split :]
        by_middle_MD, by_late = mlp_backward(ctx.layer, grad_MD, mlp)
        by_hidden_ND, by_early = attention_backward(ctx.layer, by_middle_MD, attention, ctx.needs_input_grad[0])
        return by_hidden_ND, None, *by_early, *by_late


def attention_forward(layer: Layer, hidden_ND: Tensor) -> tuple[Tensor, list[Any]]:
    """(hidden + attention of it, at the kept rows; what the backward reads)."""
    lines, size, width = layer.lines, len(hidden_ND), layer.cos_NW.shape[-1]
    x_ND, root_N1 = normed(hidden_ND, layer.norm_D, layer.eps[0], lines_dtype(layer))
    (q, q_thin), (k, k_thin), (v, v_thin) = (line.forward(x_ND) for line in lines[:3])
    q, k = (rotated(y.view(size, -1, width), layer.cos_NW, layer.sin_NW).view(-1, width) for y in (q, k))
    mixed, scores = attended(q, k, v.view(-1, width), layer.plans, layer.scaling, None)
    mixed = mixed.view(size, -1)
    mixed = mixed if layer.kept_M is None else mixed.index_select(0, layer.kept_M)
    kept_MD = hidden_ND if layer.kept_M is None else hidden_ND.index_select(0, layer.kept_M)
    out, o_thin = lines.o.forward(mixed)
    saved = [hidden_ND, root_N1, mixed if lines.o.adapter else None, q_thin, k_thin, v_thin, o_thin, *scores]
    return kept_MD + out, saved


def attention_backward(
    layer: Layer, by_middle_MD: Tensor, saved: Sequence[Any], wants_hidden: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """(gradient by hidden where it is wanted, by the adapters of q, k, v and o)."""
    hidden_ND, root_N1, mixed, *thins = saved[:7]
    lines, size, width, dtype = layer.lines, len(hidden_ND), layer.cos_NW.shape[-1], lines_dtype(layer)
    by_mixed, by_o = lines.o.backward(by_middle_MD.to(dtype), mixed, thins[3])
    by_mixed, by_hidden = (spread(x, layer.kept_M, size) for x in (by_mixed, by_middle_MD))
    by_q, by_k, by_v = attended_backward(by_mixed.view(-1, width), saved[7:], layer.plans, layer.scaling, None)
    by_q, by_k = (rotated_backward(g.view(size, -1, width), layer.cos_NW, layer.sin_NW) for g in (by_q, by_k))
    unit_ND = hidden_ND.float() * root_N1
    x_ND = (unit_ND * layer.norm_D).to(dtype) if any(line.adapter for line in lines[:3]) else None
    by_x, by_adapters = None, []
    for line, grad, thin in zip(lines[:3], (by_q, by_k, by_v), thins, strict=False):
        if wants_hidden:
            by_x, by_adapter = line.backward(grad.view(size, -1), x_ND, thin, by_x)
        else:
            by_adapter = line.adapter_backward(grad.view(size, -1), x_ND, thin)[1] if line.adapter else []
        by_adapters += by_adapter
    if by_x is None:
        return None, by_adapters + by_o
    by_hidden = by_norm(by_x, unit_ND, layer.norm_D, root_N1).add_(by_hidden)
    return by_hidden.to(hidden_ND.dtype), by_adapters + by_o


def mlp_forward(layer: Layer, middle_MD: Tensor) -> tuple[Tensor, list[Any]]:
    """(middle + MLP of it, what the backward reads)."""
    lines = layer.lines
    y_MD, root_M1 = normed(middle_MD, layer.mlp_norm_D, layer.eps[1], lines_dtype(layer))
    (gate, gate_thin), (up, up_thin) = lines.gate.forward(y_MD), lines.up.forward(y_MD)
    out, down_thin = lines.down.forward(F.silu(gate).mul_(up))
    return middle_MD + out, [middle_MD, root_M1, gate, up, gate_thin, up_thin, down_thin]


def mlp_backward(layer: Layer, grad_MD: Tensor, saved: Sequence[Any]) -> tuple[Tensor, list[Tensor]]:
    """(gradient by middle, by the adapters of gate, up and down)."""
    middle_MD, root_M1, gate, up, gate_thin, up_thin, down_thin = saved
    lines, opened = layer.lines, F.silu(gate)
    inner = opened * up if lines.down.adapter else None
    by_inner, by_down = lines.down.backward(grad_MD.to(gate.dtype), inner, down_thin)
    by_up = opened.mul_(by_inner)
    by_gate = torch.ops.aten.silu_backward(by_inner.mul_(up), gate)
    unit_MD = middle_MD.float() * root_M1
    y_MD = (unit_MD * layer.mlp_norm_D).to(gate.dtype) if lines.gate.adapter or lines.up.adapter else None
    by_y, by_gates = lines.gate.backward(by_gate, y_MD, gate_thin)
    by_y, by_ups = lines.up.backward(by_up, y_MD, up_thin, by_y)
    by_middle = by_norm(by_y, unit_MD, layer.mlp_norm_D, root_M1).add_(grad_MD)
    return by_middle.to(middle_MD.dtype), [*by_gates, *by_ups, *by_down]


def lines_dtype(layer: Layer) -> torch.dtype:
    """What the products are computed in."""
    return layer.lines.q.weight_ED.dtype


def spread(x_MD: Tensor, kept_M: Tensor | None, size: int) -> Tensor:
    """(N, D) with x at the kept rows and 0 elsewhere."""
    return x_MD if kept_M is None else x_MD.new_zeros(size, x_MD.shape[1]).index_copy_(0, kept_M, x_MD)


def normed(x_ND: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(weight * x / sqrt(mean(x^2) + eps), computed in float32 and put out in `dtype`; 1 / that root).

    A mean that overflows makes NaN, not the zeros of 1 / inf: a run that diverged is to be told, not to go on.
    """
    wide_ND = x_ND.float()
    mean_N1 = torch.linalg.vector_norm(wide_ND, dim=-1, keepdim=True).square_().div_(x_ND.shape[-1])
    root_N1 = (mean_N1 + eps).rsqrt_().add_(mean_N1.sub_(mean_N1))
    return (wide_ND * root_N1).mul_(weight_D).to(dtype), root_N1


def by_norm(grad_ND: Tensor, unit_ND: Tensor, weight_D: Tensor, root_N1: Tensor) -> Tensor:
    """The gradient by x of a norm whose x / root is `unit_ND`, in float32."""
    by_unit = grad_ND.float() * weight_D.float()
    along_N1 = (by_unit * unit_ND).mean(-1, keepdim=True)
    return by_unit.addcmul_(unit_ND, along_N1, value=-1).mul_(root_N1)


def rotated(x_NHW: Tensor, cos_NW: Tensor, sin_NW: Tensor) -> Tensor:
    """Rotary positions; `sin_NW` is `signed`."""
    half = x_NHW.shape[-1] // 2
    return (x_NHW * cos_NW[:, None]).addcmul_(x_NHW.roll(half, -1), sin_NW[:, None])


def rotated_backward(grad_NHW: Tensor, cos_NW: Tensor, sin_NW: Tensor) -> Tensor:
    """The gradient of `rotated` by x: its transpose."""
    return rotated(grad_NHW, cos_NW, sin_NW.roll(sin_NW.shape[-1] // 2, -1))


def signed(sin_NW: Tensor) -> Tensor:
    """With the first half negated, as the first half of x takes the second one's."""
    first, second = sin_NW.chunk(2, -1)
    return torch.cat((-first, second), -1)
