"""The contract of a preference loss, and the modifiers that many losses share.

Notation, per pair (shape B): c, r are the summed completion log-ratios policy minus reference of the
chosen and rejected answer (the policy's own log-probs where a loss reads no reference), d = c - r,
z = beta * d, n_c and n_r the completion tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo.errors import UsageError
from dpo.logps import PairLogps
from dpo.ranges import Range, Share, Strength

Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]

PAIRWISE = frozenset({"ld_alpha", "wpo", "sft_weight"})
"""Modifiers of a loss that sums over each pair alone."""
MARGIN = PAIRWISE | {"f_divergence", "f_alpha", "reference_free"}
"""Modifiers of a loss of c and r through their difference."""
EXPONENT = 40.0
"""Largest exponent of an f-divergence: its square still fits float32."""


@dataclass(frozen=True)
class LossOut:
    """Per-pair loss (with graph) and implicit rewards beta * summed log-ratio (detached), shape (B,) each.

    `own_score`: the rewards are a score of the policy alone, because the loss reads no reference.
    """

    loss_B: Tensor
    chosen_reward_B: Tensor
    rejected_reward_B: Tensor
    own_score: bool = False


@dataclass(frozen=True)
class Ratios:
    """What a formula acts on: c and r, shape (B,) each, after the modifiers; `policy` and `reference` as measured."""

    c_B: Tensor
    r_B: Tensor
    policy: PairLogps
    reference: PairLogps

    @property
    def d_B(self) -> Tensor:
        """c - r."""
        return self.c_B - self.r_B

    @property
    def mean_gap_B(self) -> Tensor:
        """c/n_c - r/n_r."""
        return self.c_B / self.policy.chosen_len_B - self.r_B / self.policy.rejected_len_B


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A pure function of (policy, reference, beta). A subclass adds its hyperparameters and its `formula`.

    Facts of the class:
    reads       what it needs beyond the policy's sums: "reference", "token_kl", "mismatched", "token_mean",
                "reward_mean" (see PairLogps)
    takes       the modifiers below that are defined for it; any other is refused by name
    reduction   "sum" if it acts on summed log-ratios, "mean" if on per-token means
    uses_beta   False where the loss has no beta: an explicit one is refused
    beta_above_zero  True where the loss divides by beta
    whole_batch True where pairs are coupled: it acts on the whole optimizer batch, and on the whole evaluation set

    Modifiers:
    label_smoothing  assumed share of wrong labels
    f_divergence     the divergence that holds the policy to the reference (Wang et al. 2023, arXiv:2309.16240):
                     c and r become f'(ratio), up to a constant; f_alpha belongs to "alpha" alone
    ld_alpha         weight of the tokens past min(n_c, n_r), 0 to 1 (LD-DPO, arXiv:2409.06411); 1 changes nothing.
                     On policy and reference alike, so that equal models still have log-ratios of 0
    wpo              weight every pair by the policy's own length-normalised probability of its answers
                     (WPO, arXiv:2406.11827, with its sampled alignment), detached
    sft_weight       weight of an added NLL of the chosen answers, a mean over all chosen tokens of the batch
                     (RPO, arXiv:2404.19733)
    reference_free   the reference's log-probs count as 0
    """

    reads: ClassVar[frozenset[str]] = frozenset({"reference"})
    takes: ClassVar[frozenset[str]] = frozenset()
    reduction: ClassVar[str] = "sum"
    uses_beta: ClassVar[bool] = True
    beta_above_zero: ClassVar[bool] = False
    whole_batch: ClassVar[bool] = False

    label_smoothing: Annotated[float, Range(0, 0.5, below=True)] = 0.0
    f_divergence: Divergence = "reverse_kl"
    f_alpha: Annotated[float, Range(-100, 100)] | None = None
    ld_alpha: Share = 1.0
    wpo: bool = False
    sft_weight: Strength = 0.0
    reference_free: bool = False

    def __post_init__(self) -> None:
        unmodified = {f.name: f.default for f in fields(Loss)}
        for name, default in unmodified.items():
            value = getattr(self, name)
            if name not in self.takes and value != default:
                kind = type(self).__name__
                raise UsageError(f"loss.{name}={text(value)}: not defined for {kind}; leave it at {text(default)}")
        if not 0 <= self.label_smoothing < 0.5:
            raise UsageError(f"loss.label_smoothing={self.label_smoothing}: must be at least 0 and below 0.5")
        if not 0 <= self.ld_alpha <= 1:
            raise UsageError(f"loss.ld_alpha={self.ld_alpha}: must be from 0 to 1")
        if not 0 <= self.sft_weight < math.inf:
            raise UsageError(f"loss.sft_weight={self.sft_weight}: must be finite and at least 0")
        self._check_divergence()
        self.check()

    def _check_divergence(self) -> None:
        if (self.f_divergence == "alpha") != (self.f_alpha is not None):
            raise UsageError(
                f"loss.f_divergence={self.f_divergence} and loss.f_alpha={text(self.f_alpha)}: "
                "f_alpha is a number with alpha and null otherwise"
            )
        if self.f_alpha is not None and (abs(self.f_alpha - 1) < 1e-9):
            raise UsageError(f"loss.f_alpha={self.f_alpha}: must not be 1, which is reverse_kl, or next to it")
        if self.reference_free and self.f_divergence != "reverse_kl":
            raise UsageError(
                f"loss.reference_free=true and loss.f_divergence={self.f_divergence}: there is no reference to "
                "diverge from; set one of them back"
            )

    def check(self) -> None:
        """Raise UsageError for hyperparameters out of range; a subclass's place for its own rules."""

    @property
    def needs(self) -> frozenset[str]:
        """What this instance needs beyond the policy's sums, its modifiers included."""
        asked = {"shared": self.ld_alpha < 1, "wpo": self.wpo, "token_mean": self.sft_weight > 0}
        needs = self.reads | {name for name, wanted in asked.items() if wanted}
        return needs - {"reference"} if self.reference_free else needs

    def __call__(self, policy: PairLogps, reference: PairLogps, beta: float) -> LossOut:
        """Per-pair loss and rewards; raises nothing: hyperparameters are checked on construction."""
        own_score = "reference" not in self.needs
        c_B, r_B = (policy.chosen_B, policy.rejected_B) if own_score else log_ratios(policy, reference)
        plain = Ratios(c_B, r_B, policy, reference)
        loss_B = self.formula(self._diverge(self._desensitise(plain, own_score)), beta)
        if self.wpo:
            loss_B = loss_B * pair_weight(policy)
        if self.sft_weight:
            loss_B = loss_B + self.sft_weight * nll(policy)
        chosen_reward_B, rejected_reward_B = self.rewards(plain, beta)
        return LossOut(loss_B, chosen_reward_B.detach(), rejected_reward_B.detach(), own_score)

    def formula(self, x: Ratios, beta: float) -> Tensor:
        """The loss of each pair, shape (B,)."""
        raise NotImplementedError

    def rewards(self, x: Ratios, beta: float) -> tuple[Tensor, Tensor]:
        """(chosen, rejected): what is logged as rewards: beta times the summed log-ratio (arXiv:2305.18290, sec. 4)."""
        return beta * x.c_B, beta * x.r_B

    def start(self, beta: float) -> float | None:
        """The formula's value at c = r = 0, or None where the loss has none."""
        raise NotImplementedError

    def at_reference(self, beta: float, reference: PairLogps | None = None) -> float | None:
        """The loss where policy and reference are the same model: what the first evaluation must show.

        None where it is not a constant, or where it depends on the pairs (lengths, likelihoods) and
        `reference`, the evaluated pairs under the reference, is not given.
        """
        start = None if self.wpo or self.reference_free else self.start(beta)
        if start is None or not self.sft_weight:
            return start
        return None if reference is None else start + self.sft_weight * float(nll(reference).mean())

    def _desensitise(self, x: Ratios, own_score: bool) -> Ratios:
        if self.ld_alpha == 1:
            return x
        c_B, r_B = shared_sums(x.policy)
        if not own_score:
            theirs = shared_sums(x.reference)
            c_B, r_B = c_B - theirs[0], r_B - theirs[1]
        a = self.ld_alpha
        return replace(x, c_B=a * x.c_B + (1 - a) * c_B, r_B=a * x.r_B + (1 - a) * r_B)

    def _diverge(self, x: Ratios) -> Ratios:
        if self.f_divergence == "reverse_kl":
            return x
        return replace(x, c_B=self._slope(x.c_B), r_B=self._slope(x.r_B))

    def _slope(self, x_B: Tensor) -> Tensor:
        """f'(exp(x)) up to a constant, 0 at x = 0; exponents are clamped at EXPONENT."""
        if self.f_divergence == "js":
            return math.log(2) + F.logsigmoid(x_B)
        power = -1.0 if self.f_alpha is None else self.f_alpha - 1  # forward KL is the alpha-divergence at 0
        return torch.expm1((power * x_B).clamp(max=EXPONENT)) / power


def text(value: object) -> str:
    """A value as it is written in yaml."""
    words = {"None": "null", "True": "true", "False": "false"}
    return f"{value:g}" if isinstance(value, float) else words.get(str(value), str(value))


def log_ratios(policy: PairLogps, reference: PairLogps) -> tuple[Tensor, Tensor]:
    """(c, r): summed log-ratios of the chosen and rejected answers, shape (B,)."""
    return policy.chosen_B - reference.chosen_B, policy.rejected_B - reference.rejected_B


def shared_sums(logps: PairLogps) -> tuple[Tensor, Tensor]:
    """Log-probs of both answers up to min(n_c, n_r) tokens."""
    assert logps.chosen_shared_B is not None and logps.rejected_shared_B is not None, 'asked for by "shared"'
    return logps.chosen_shared_B, logps.rejected_shared_B


def pair_weight(policy: PairLogps) -> Tensor:
    """WPO's weight of each pair, shape (B,), in (0, ...): product of both answers' length-normalised alignments."""
    assert policy.chosen_alignment_B is not None and policy.rejected_alignment_B is not None, 'asked for by "wpo"'
    return (policy.chosen_alignment_B + policy.rejected_alignment_B).exp().detach()


def smoothed(z_B: Tensor, e: float) -> Tensor:
    """(1 - e) softplus(-z) + e softplus(z): the logistic loss with labels that are wrong with probability e."""
    return (1 - e) * F.softplus(-z_B) + e * F.softplus(z_B)


def nll(policy: PairLogps) -> Tensor:
    """Shape (B,), with a mean over the whole batch that is minus the mean log-prob of all its chosen tokens."""
    mean = policy.mean_chosen_len
    return -policy.chosen_B / (policy.chosen_len_B.to(policy.chosen_B.dtype).mean() if mean is None else mean)
