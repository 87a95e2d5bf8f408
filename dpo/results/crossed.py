"""How far an estimate from runs and pairs would move with other seeds and with other prompts, both at once.

Every run (seed) is measured on the same pairs, and pairs of one prompt belong together. So a value is an effect of its
seed, one of its prompt and pair, and noise of its own, and the variance of a mean or a slope has three parts. Each is
estimated by itself; what is left is to add them and to say how well the sum is known. Shapes: S seeds, J pairs, G
prompts, k columns of a design; `...` are repetitions (simulations in the tests).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from dpo.results.intervals import ROUNDING, Array


@dataclass(frozen=True)
class Design:
    """How an estimate is read off the values of J pairs, and how its variance over prompts is.

    basis     (J, k): orthonormal columns of the regression; the estimate is scale x the product with the last one
    adjusted  (J,): that column, with each prompt's part enlarged by what its own leverage took from its residuals
    codes     (J,): the prompt of each pair, 0 to G - 1
    freedom   degrees of freedom of the variance over prompts
    lone      whether one prompt alone decides the estimate, so that nothing is known of the variance
    """

    basis: Array
    adjusted: Array
    codes: NDArray[np.int64]
    scale: float
    freedom: float
    lone: bool

    def residuals(self, values: Array) -> Array:
        """values (..., J) without what the regression explains; rounding is 0."""
        left = values - (values @ self.basis) @ self.basis.T
        return np.where(np.abs(left) <= ROUNDING * np.abs(values).max(-1, keepdims=True), 0.0, left)

    def variance(self, values: Array) -> Array:
        """Variance of the estimate over prompts from the values (..., J): the CR2 sandwich of Bell and McCaffrey."""
        order = np.argsort(self.codes, kind="stable")
        starts = np.flatnonzero(np.diff(self.codes[order], prepend=-1))
        sums = np.add.reduceat((self.residuals(values) * self.adjusted)[..., order], starts, axis=-1)
        return np.square(self.scale * sums).sum(-1)


def design(codes: NDArray[np.int64], x: Array | None = None) -> Design:
    """The design of a mean, or with `x` (J,) of the least-squares slope on it, clustered by `codes` (J,).

    CR2 and its degrees of freedom: Bell and McCaffrey 2002 (Survey Methodology 28), Pustejovsky and Tipton 2018 (J.
    Business and Economic Statistics 36). For a mean over prompts of one size it is Student's, with G - 1 degrees.
    """
    n = len(codes)
    columns, scale = [np.full(n, n**-0.5)], n**-0.5
    if x is not None:
        centred = x - x.mean()
        scale = 1 / float(np.linalg.norm(centred))
        columns.append(centred * scale)
    basis = np.stack(columns, axis=1)
    k = basis.shape[1]
    gram = np.zeros((int(codes.max()) + 1, k, k))
    np.add.at(gram, codes, basis[:, :, None] * basis[:, None, :])
    kept, turn = np.linalg.eigh(np.eye(k) - gram)  # what of a prompt's noise its residuals keep, in k directions
    lone = bool((kept < 1e-9).any())
    root = (turn / np.sqrt(np.maximum(kept, 1e-9))[:, None, :]) @ np.swapaxes(turn, -1, -2)
    toward = root[:, :, -1]
    adjusted = (basis * toward[codes]).sum(1)
    # trace(P'P)^2 / |P'P|^2 of the G quadratic forms under independent errors, from their k x k products alone
    u = np.einsum("gij,gj->gi", gram, toward)
    own, shared, both = np.einsum("gi,gi->g", u, toward), np.square(u).sum(1), u.T @ u
    norm = float(np.square(own).sum() - 2 * (own * shared).sum() + np.square(both).sum())
    freedom = float((own - shared).sum()) ** 2 / norm if norm > 0 else 1.0
    return Design(basis, adjusted, codes, scale, freedom, lone)


@dataclass(frozen=True)
class Parts:
    """An estimate and the parts of its variance, each an array of any one shape (or a number).

    seeds   variance of the mean of S seeds, from how the seeds' own estimates differ: S - 1 degrees of freedom
    pairs   variance over prompts, from each pair's mean over the seeds
    cells   what both of these hold: the variance from noise of a single seed on a single pair
    """

    value: Array
    seeds: Array
    pairs: Array
    cells: Array
    seed_freedom: float
    pair_freedom: Array | float

    def errors(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """((variance, degrees of freedom) of both components together, the same of the one with fewer degrees).

        Noise of the cells is in both components and counts once: it is taken off the better known one, at most all of
        it. Degrees of freedom after Satterthwaite (1946, Biometrics Bulletin 2).
        """
        few = np.asarray(self.seed_freedom <= self.pair_freedom + 1e-6)
        worse = np.where(few, self.seeds, self.pairs)
        better = np.maximum(np.where(few, self.pairs, self.seeds) - self.cells, 0.0)
        f_worse = np.where(few, self.seed_freedom, self.pair_freedom)
        f_better = np.where(few, self.pair_freedom, self.seed_freedom)
        both = worse + better
        spent = np.square(worse) / f_worse + np.square(better) / f_better
        freedom = np.divide(np.square(both), spent, out=np.ones_like(both), where=spent > 0)
        return (both, freedom), (worse, f_worse)

    def half(self, level: float = 0.95) -> Array:
        """Half the interval: never less than that of the component with fewer degrees of freedom by itself, which
        Satterthwaite's degrees, taken from the same few values, understate where they happen to lie close."""
        return np.maximum(*(stdtrit(f, (1 + level) / 2) * np.sqrt(v) for v, f in self.errors()))

    def p(self) -> Array:
        """Two-sided p-value against 0, by the same rule; 0 or 1 where there is no spread."""
        sizes = np.abs(self.value)
        with np.errstate(divide="ignore", invalid="ignore"):
            tails = [2 * stdtr(f, -np.where(v > 0, sizes / np.sqrt(v), np.inf)) for v, f in self.errors()]
        return np.where(self.value == 0, 1.0, np.maximum(*tails))


MANY = 1e6
"""Degrees of freedom of a component that is not there."""


def parts(values: Array, made: Design) -> Parts:
    """The estimate of `made` from values (..., S, J), and the parts of its variance. With one seed there is only the
    part over prompts, with one prompt only the one over seeds."""
    seeds, together = values.shape[-2], values.mean(-2)
    of_mean = made.basis.shape[1] == 1
    each = values.mean(-1) if of_mean else made.scale * (values @ made.basis[:, -1])
    value, one_prompt = each.mean(-1), int(made.codes.max()) == 0
    nothing = np.zeros_like(value)
    pairs = nothing if one_prompt else made.variance(together)
    if seeds == 1:
        return Parts(value, nothing, pairs, nothing, MANY, made.freedom)
    apart = each - value[..., None]
    apart = np.where(np.abs(apart) <= ROUNDING * np.abs(each).max(-1, keepdims=True), 0.0, apart)
    over_seeds = np.square(apart).sum(-1) / (seeds - 1) / seeds
    own = values - together[..., None, :]
    own = np.where(np.abs(own) <= ROUNDING * np.abs(values).max((-2, -1), keepdims=True), 0.0, own)
    cells = nothing if one_prompt else made.variance(own).sum(-1) / (seeds * (seeds - 1))
    return Parts(value, over_seeds, pairs, cells, seeds - 1, MANY if one_prompt else made.freedom)
