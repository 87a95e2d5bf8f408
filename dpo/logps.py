"""Log-probabilities of completions: the only place logits exist.

Shapes: B pairs, R = 2B rows (chosen first, then rejected), T tokens, C completion tokens, N completion
tokens of the whole batch, V vocabulary. Log-probs are in nats, float32 whatever the weights' dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from dpo.attention import reading
from dpo.data.batches import PairBatch, in_order
from dpo.distributions import entropy_and_top, kl_from, log_collision, pad_rows, token_logps
from dpo.head import head_logps
from dpo.head_look import bare, hooked, linear_head, narrows
from dpo.kernels import quicken
from dpo.rotary import OwnLengths
from dpo.tree import as_trees, refusal

NO_NEEDS: frozenset[str] = frozenset()
Scores = Callable[..., Tensor]
"""What reads a batch as a `Scorer` does."""


@dataclass(frozen=True)
class PairLogps:
    """Summed completion log-probs of B pairs in nats, EOS included, and the completions' token counts.

    What a loss asks for beyond sums (`Loss.needs`) is a field of its own, None where nobody asked:
    *_shared_B       "shared": sums over the first min(n_c, n_r) tokens of each answer
    *_alignment_B    "wpo": means over tokens of log p(token) - log sum_v p(v)^2, without graph
    *_kl_B           "token_kl": sums over tokens of KL(reference || policy) over the whole vocabulary
    *_entropy_B      "token_facts": sums over tokens of the policy's entropy in nats, without graph
    *_top_B          "token_facts": how many tokens are the policy's most likely ones, without graph
    mismatched_B     "mismatched": mean log-prob of the two answers of another pair, without graph
    mean_chosen_len  "token_mean": chosen tokens per pair in the whole batch; None: these pairs are the whole batch
    reward_mean      "reward_mean": running mean of the rewards before this batch; None: 0
    """

    chosen_B: Tensor
    rejected_B: Tensor
    chosen_len_B: Tensor
    rejected_len_B: Tensor
    chosen_shared_B: Tensor | None = None
    rejected_shared_B: Tensor | None = None
    chosen_alignment_B: Tensor | None = None
    rejected_alignment_B: Tensor | None = None
    chosen_kl_B: Tensor | None = None
    rejected_kl_B: Tensor | None = None
    chosen_entropy_B: Tensor | None = None
    rejected_entropy_B: Tensor | None = None
    chosen_top_B: Tensor | None = None
    rejected_top_B: Tensor | None = None
    mismatched_B: Tensor | None = None
    mean_chosen_len: Tensor | None = None
    reward_mean: Tensor | None = None

    @staticmethod
    def from_tokens(logp_RC: Tensor, length_R: Tensor, needs: frozenset[str] = NO_NEEDS) -> PairLogps:
        """Sum token log-probs (zero past a row's length) over the rows of both sides."""
        chosen_B, rejected_B = logp_RC.sum(1).chunk(2)
        chosen_len_B, rejected_len_B = length_R.chunk(2)
        sums = PairLogps(chosen_B, rejected_B, chosen_len_B, rejected_len_B)
        if "shared" not in needs:
            return sums
        shared_R = torch.minimum(chosen_len_B, rejected_len_B).repeat(2)
        within_RC = torch.arange(logp_RC.shape[1], device=logp_RC.device) < shared_R[:, None]
        chosen_shared_B, rejected_shared_B = (logp_RC * within_RC).sum(1).chunk(2)
        return replace(sums, chosen_shared_B=chosen_shared_B, rejected_shared_B=rejected_shared_B)

    @staticmethod
    def concat(parts: Sequence[PairLogps]) -> PairLogps:
        """The pairs of several batches in one, in their order; facts of the whole batch are the first part's."""
        merged: dict[str, Tensor | None] = {}
        for f in fields(PairLogps):
            column = [getattr(part, f.name) for part in parts]
            merged[f.name] = torch.cat(column) if column[0] is not None and column[0].dim() else column[0]
        return PairLogps(**merged)  # type: ignore[arg-type]

    def detach(self) -> PairLogps:
        """The same numbers without their graph."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: t.detach() for name, t in tensors.items() if t is not None})

    def double(self) -> PairLogps:
        """The same numbers in float64 on the CPU, so that what is computed from them can be repeated exactly."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: t.double().cpu() for name, t in tensors.items() if isinstance(t, Tensor)})


class Scorer(nn.Module):
    """A causal language model as a scoring module: batch in, completion token log-probs out.

    One forward per batch, so that a wrapper for many devices can sit around it. `layout` is how the batch's pairs
    are laid out for the model: "padded" rows, or the "shared_prompt" once with both answers behind it
    (`dpo.tree`). Log-probs come from the hidden states a few positions at a time (`dpo.head`) where the head is
    known to be linear and nothing else. `lengths` says which rows may be read together, where not all may.
    """

    def __init__(self, model: Any, layout: str = "padded") -> None:
        super().__init__()
        self.model = model
        self.lengths = OwnLengths.of(model)
        self.layout = layout if self.lengths is None else "padded"
        if self.layout == "shared_prompt":
            quicken(model)
        # padded rows of a family that has trees are what trees are held against
        by_hidden = self.layout == "shared_prompt" or refusal(model.config) is not None
        self.narrows = narrows(self)
        self.by_chunks, self.cap = linear_head(self) if by_hidden else (False, None)

    def forward(self, batch: PairBatch, needs: frozenset[str] = NO_NEEDS, reference_NV: Tensor | None = None) -> Tensor:
        """logp_RC: log-prob of each completion token given all before it, zero past a row's length.

        With `needs` a stack (K, R, C): the log-probs first, then for "wpo" log sum_v p(v)^2 (no graph), then
        for "token_kl" KL(reference || policy), where reference_NV are the reference's logits, then for
        "token_facts" the distribution's entropy, and 1 where the token is its argmax (no graph).
        """
        groups = self.groups(batch)
        parts = []
        for rows in groups:
            theirs_NV = reference_NV
            if reference_NV is not None and len(groups) > 1:
                theirs_NV = reference_NV[batch.tokens_of(rows)]
            parts.append(self.read(batch.only(rows), needs, theirs_NV))
        return in_order(parts, groups)

    def groups(self, batch: PairBatch) -> list[list[int]]:
        """The rows that one pass over the model reads: all of them as trees, else those of similar length."""
        if self.lengths is not None:
            return self.lengths.groups(batch.mask_RT.sum(1).tolist())
        return batch.groups() if self.layout == "padded" else [list(range(len(batch.ids_RT)))]

    def read(self, batch: PairBatch, needs: frozenset[str] = NO_NEEDS, reference_NV: Tensor | None = None) -> Tensor:
        """What `forward` returns, from one pass over the model: trees, or rows padded to the longest."""
        head = self.plain_head() if self.by_chunks and "token_kl" not in needs else None
        if head is not None and self.layout == "shared_prompt":
            return self.from_trees(batch, head, needs)
        if head is not None:
            return self.from_hidden(self.one_pass(batch, few=1)[0], head, batch, needs)
        _, logits_NV = self.one_pass(batch)
        logp_RC = token_logps(logits_NV, batch)
        more = []
        if "wpo" in needs:
            more.append(log_collision(logits_NV))
        if "token_kl" in needs:
            assert reference_NV is not None, "token_kl needs the reference's logits"
            more.append(kl_from(reference_NV, logits_NV))
        if "token_facts" in needs:
            more += entropy_and_top(logits_NV, batch.ids_RT[batch.completion_RT])
        return torch.stack([logp_RC, *(pad_rows(x_N, batch.length_R) for x_N in more)]) if more else logp_RC

    def logits(self, batch: PairBatch) -> Tensor:
        """logits_NV at the positions that predict a completion token, in the model's own dtype."""
        groups = self.groups(batch)
        parts = [self.one_pass(batch.only(rows))[1] for rows in groups]
        tokens_N = torch.cat([batch.tokens_of(rows) for rows in groups])
        return parts[0] if len(parts) == 1 else torch.cat(parts)[tokens_N.argsort()]

    def one_pass(self, batch: PairBatch, few: int | None = None) -> tuple[Tensor, Tensor]:
        """(hidden_ND that the head is given where a completion token is predicted, logits_NV), all N or the first few.

        A hook narrows the head's input to those positions, so logits have shape (1, N, V) and the
        architecture's own scaling or soft-capping still applies.
        """
        hidden: list[Tensor] = []

        def narrow(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden.append(args[0][chosen])
            return hidden[0][:few].unsqueeze(0), *args[1:]

        chosen: Any
        context: AbstractContextManager[None]
        if self.layout == "shared_prompt":
            packed = as_trees(batch)
            chosen, inputs, context = (0, packed.predicts_M), packed.inputs, reading(packed.tree, self.model.config)
        else:
            chosen, context = batch.predicts_RT(), nullcontext()
            inputs = {"input_ids": batch.ids_RT, "attention_mask": batch.mask_RT}
        if self.lengths is not None:
            self.lengths.forget()
        head = self.model.get_output_embeddings()
        narrowed = head is not None and self.narrows
        hook = hooked(head.register_forward_pre_hook(narrow)) if narrowed else nullcontext()
        with hook, context:
            logits = self.model(**inputs, use_cache=False).logits
        # without a head of its own that it calls a model has made all logits
        return (hidden[0], logits[0]) if hidden else (logits[:0, 0], logits[chosen][:few])

    def from_trees(self, batch: PairBatch, head: nn.Linear, needs: frozenset[str]) -> Tensor:
        """What `forward` returns of token trees, without the logits of all completion tokens at once."""
        packed, base = as_trees(batch), bare(self.model)
        kept_K, place_M = packed.predicts_M.unique(return_inverse=True)  # a prompt's end predicts both answers
        with reading(packed.tree, base.config, kept_K):
            hidden_ND = base.base_model(**packed.inputs, use_cache=False).last_hidden_state[0]
        places = place_M if len(hidden_ND) == len(kept_K) else packed.predicts_M
        return self.from_hidden(hidden_ND.index_select(0, places), head, batch, needs)

    def from_hidden(self, hidden_ND: Tensor, head: nn.Linear, batch: PairBatch, needs: frozenset[str]) -> Tensor:
        """What `forward` returns, from the hidden states that predict completion tokens, a few of them at a time."""
        wants = tuple(want for want in ("wpo", "token_facts") if want in needs)
        ids_N = batch.ids_RT[batch.completion_RT]
        logp_N, facts_KN = head_logps(hidden_ND, head.weight, head.bias, ids_N, self.cap, wants)
        logp_RC = pad_rows(logp_N, batch.length_R)
        return torch.stack([logp_RC, *(pad_rows(x_N, batch.length_R) for x_N in facts_KN)]) if wants else logp_RC

    def plain_head(self) -> nn.Linear | None:
        """The head where it is one linear layer and nothing else: no adapter on it."""
        head = bare(self.model).get_output_embeddings()
        return head if type(head) is nn.Linear else None


def score(
    scorer: Scores, batch: PairBatch, needs: frozenset[str] = NO_NEEDS, reference_NV: Tensor | None = None
) -> PairLogps:
    """Log-probs of a batch under the module, with their graph when grad is on, and what `needs` asks of one model."""
    wanted = needs & {"wpo", "token_kl", "token_facts"}
    if not wanted:
        return PairLogps.from_tokens(scorer(batch), batch.length_R, needs)
    logp_RC, *more = scorer(batch, wanted, reference_NV)
    policy = PairLogps.from_tokens(logp_RC, batch.length_R, needs)
    if "wpo" in wanted:
        mean_R = (logp_RC - more.pop(0)).detach().sum(1) / batch.length_R
        chosen_B, rejected_B = mean_R.chunk(2)
        policy = replace(policy, chosen_alignment_B=chosen_B, rejected_alignment_B=rejected_B)
    if "token_kl" in wanted:
        chosen_B, rejected_B = more.pop(0).sum(1).chunk(2)
        policy = replace(policy, chosen_kl_B=chosen_B, rejected_kl_B=rejected_B)
    if "token_facts" in wanted:
        for name in ("entropy", "top"):
            chosen_B, rejected_B = more.pop(0).sum(1).chunk(2)
            policy = replace(policy, **{f"chosen_{name}_B": chosen_B, f"rejected_{name}_B": rejected_B})
    return policy
