"""Known answers by hand, and coverage of the 95 % intervals in seeded simulation."""

import math

import numpy as np
import pytest

from dpo.results import stats
from dpo.results.estimate import Estimate, decimals


def inside(estimate: Estimate | None, truth: float) -> bool:
    """Whether the interval covers."""
    assert estimate is not None and estimate.interval is not None
    return estimate.interval[0] <= truth <= estimate.interval[1]


def test_the_mean_of_three_seeds_by_hand() -> None:
    """1, 2, 3: mean 2, sd 1, error 1/sqrt 3, t(2) = 4.302653; p of t = 3.4641 at 2 degrees is 0.0742."""
    e = stats.mean([1.0, 2.0, 3.0])
    half = 4.302652729911275 / math.sqrt(3)
    assert (e.value, e.n, e.of, e.method) == (2.0, 3, "runs", "t")
    assert e.interval == pytest.approx((2 - half, 2 + half)) and e.p == pytest.approx(0.0741799, abs=1e-6)


def test_one_run_has_a_value_and_no_interval() -> None:
    """It says so, and claims no difference."""
    e = stats.mean([0.5])
    assert e.interval is None and not e.shown
    assert str(e) == "0.500 (n=1 run; one run, no interval)"
    assert e.verdict == "no difference shown (one run, no interval)"


def test_the_text_holds_value_interval_n_and_method() -> None:
    """Digits follow the interval's width."""
    assert str(Estimate(0.9234, 0.88, 0.9668, 3, "t")) == "0.923 [0.880, 0.967] (n=3 runs, t)"
    assert Estimate(-0.0001, -0.5, 0.5, 3, "t").text(signed=True) == "+0.00 [-0.50, +0.50]"
    assert Estimate(37.7, 36.7, 38.7, 3, "t").text() == "37.7 [36.7, 38.7]"


@pytest.mark.parametrize("width", [1e-7, 1e-3, 0.02, 1.0, 30.0, 5000.0])
def test_rounding_never_hides_the_interval(width: float) -> None:
    """The half-width shows at least one figure."""
    assert round(width / 2, decimals(1.0, 1 - width / 2, 1 + width / 2)) > 0


def test_equal_values_have_no_interval_and_rounding_is_no_spread() -> None:
    """0.1 + 0.2 and 0.3 are one value; seeds that change nothing prove nothing."""
    makes = (stats.mean, lambda x: stats.clustered_mean(x, "abc"), lambda x: stats.unpaired(x, x))
    for e in (make([0.1 + 0.2, 0.3, 0.3]) for make in makes):
        assert e.interval is None and not e.shown and e.missing == "all equal, no interval"
    e = stats.paired({0: 0.1 + 0.2, 1: 0.3}, {0: 0.3, 1: 0.1 + 0.2})
    assert e is not None and (e.value, e.interval, e.shown) == (0.0, None, False)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    """Never averaged away, never silently dropped."""
    for make in (stats.mean, lambda x: stats.clustered_mean(x, "ab"), lambda x: stats.clustered_share(x, "ab")):
        with pytest.raises(ValueError, match="not all finite"):
            make([1.0, bad])


def test_paired_differences_use_the_seeds_that_both_have() -> None:
    """Seeds 0 and 1 of three: differences 1 and 3, mean 2, half-width t(1) x 1."""
    e = stats.paired({0: 2.0, 1: 5.0, 2: 9.0}, {0: 1.0, 1: 2.0, 7: 0.0})
    assert e is not None and (e.value, e.n, e.of, e.method) == (2.0, 2, "seeds", "paired t")
    assert e.interval == pytest.approx((2 - 12.706204736, 2 + 12.706204736))
    assert stats.paired({0: 1.0}, {1: 1.0}) is None


def test_clustering_by_hand() -> None:
    """Clusters (1, 3), (5, 7): deviations -3 -1 1 3, sums -4 and 4, variance 2/1 x 32 / 16, t of 1 degree."""
    e = stats.clustered_mean([1.0, 3.0, 5.0, 7.0], ["a", "a", "b", "b"])
    assert e.interval == pytest.approx((4 - 2 * 12.706204736, 4 + 2 * 12.706204736))
    assert (e.n, e.method) == (4, "cluster t over 2 prompts")


def test_clusters_of_one_are_plain_student() -> None:
    """And one cluster alone has no interval."""
    x = [0.3, 0.1, 0.7, 0.2]
    assert stats.clustered_mean(x, list("abcd")).interval == pytest.approx(stats.mean(x).interval)
    assert stats.clustered_mean(x, list("aaaa")).missing == "all pairs share one prompt, no interval"


def test_the_slope_by_hand() -> None:
    """x -1 0 1, y 0 0 3: slope 1.5, residuals 0.5 -1 0.5. The outer points keep 1/6 of their noise in their residuals
    (leverage 1/3 + 1/2), so each counts 0.25 x 6 / 4; the freedom, from leverages alone, is 1.2.
    """
    e = stats.clustered_slope([-1.0, 0.0, 1.0], [0.0, 0.0, 3.0], list("abc"))
    assert e is not None and e.value == pytest.approx(1.5) and e.interval is not None
    error = math.sqrt(2 * 0.25 * 6 / 4)
    assert (e.interval[1] - 1.5) / error == pytest.approx(stats.t_quantile(1.0), rel=0.3)
    assert stats.clustered_slope([1.0, 1.0, 1.0], [0.0, 0.0, 3.0], list("abc")) is None
    assert stats.clustered_slope([1.0, 2.0], [0.0, 3.0], list("ab")) is None


def test_wilson_from_its_paper_s_formula() -> None:
    """Newcombe 1998, table I: 81 of 263 has the score interval 0.2553 to 0.3662; at 1 the upper end is 1."""
    assert stats.wilson(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=5e-5)
    low, high = stats.wilson(10, 10).interval or (0, 0)
    assert high == 1 and low == pytest.approx(10 / (10 + 1.959964**2), abs=1e-6)


def test_the_difference_of_shares_from_newcombe_s_table() -> None:
    """Newcombe 1998 (II), method 10: 56/70 - 48/80 = 0.2 with 0.0524 to 0.3339."""
    e = stats.difference(stats.wilson(56, 70), stats.wilson(48, 80))
    assert e.value == pytest.approx(0.2) and e.interval == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert e.method == "Newcombe"


def test_holm_by_hand() -> None:
    """p 0.01, 0.04, 0.03: 3 x 0.01, then 2 x 0.03, then no less than that; the one without an interval is no test."""
    made = [Estimate(1.0, 0.5, 1.5, 3, "t", p=p) for p in (0.01, 0.04, 0.03)]
    first, last, middle, untested = stats.holm([*made, stats.none(1.0, 1, "runs", "one run")])
    assert [e.adjusted for e in (first, middle, last)] == pytest.approx([0.03, 0.06, 0.06])
    assert [e.shown for e in (first, middle, last)] == [True, False, False]
    assert last.verdict == "no difference shown (after Holm's correction over 3 comparisons)"
    assert untested.adjusted is None and {first.family, last.family} == {3}


def test_a_difference_is_shown_exactly_where_its_interval_leaves_out_zero() -> None:
    """An end at 0 is inside."""
    assert [Estimate(1.0, low, 2.0, 3, "t").shown for low in (-0.1, 0.0, 0.1)] == [False, False, True]
    assert Estimate(-1.0, -2.0, -0.1, 3, "t").shown
    assert Estimate(1.0, -0.1, 2.0, 3, "t").verdict == "no difference shown"


def test_the_bootstrap_is_the_generator_s_alone() -> None:
    """The same generator state gives the same interval; whole clusters are drawn."""
    x, of = [1.0, 2.0, 3.0, 10.0], list("aabb")
    first, again = (stats.bootstrap(x, np.random.default_rng(1), of) for _ in range(2))
    assert first == again and first.method == "bootstrap over 2 clusters"
    assert first.interval == (1.5, 6.5)
    assert stats.bootstrap([1.0], np.random.default_rng(1)).interval is None


def coverage(draw, truth: float, times: int = 4000) -> float:
    """Share of intervals that cover; 4,000 draws put 95 % within 1 % (three standard errors)."""
    generator = np.random.default_rng(0)
    return sum(inside(draw(generator), truth) for _ in range(times)) / times


@pytest.mark.parametrize("n", [3, 5, 10])
def test_coverage_over_seeds(n: int) -> None:
    """Student's t for normal values."""
    assert 0.93 < coverage(lambda g: stats.mean(g.normal(1.0, 2.0, n)), 1.0) < 0.97


def test_coverage_of_paired_differences() -> None:
    """Seeds move both arms together; the difference has its own noise."""

    def draw(g: np.random.Generator):
        shared = g.normal(0, 5, 4)
        a, b = (dict(enumerate(shared + mean + g.normal(0, 1, 4))) for mean in (0.7, 0.0))
        return stats.paired(a, b)

    assert 0.93 < coverage(draw, 0.7) < 0.97


def test_coverage_of_unpaired_differences() -> None:
    """Welch's for unequal variances."""
    assert 0.93 < coverage(lambda g: stats.unpaired(g.normal(1, 1, 5), g.normal(0, 3, 8)), 1.0) < 0.97


def clustered(g: np.random.Generator, prompts: int = 40, each: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """(values, prompts): a prompt's own effect is as large as a pair's noise."""
    of = np.repeat(np.arange(prompts), each)
    return g.normal(0, 1, prompts)[of] + g.normal(0, 1, prompts * each), of


def test_coverage_of_clustered_means_where_the_naive_interval_fails() -> None:
    """Cluster-robust t covers; treating the pairs of a prompt as independent does not."""
    assert 0.93 < coverage(lambda g: stats.clustered_mean(*clustered(g)), 0.0) < 0.97
    assert coverage(lambda g: stats.mean(clustered(g)[0]), 0.0, 1000) < 0.85


def test_coverage_of_the_clustered_bootstrap() -> None:
    """Whole prompts drawn."""

    def draw(g: np.random.Generator):
        return stats.bootstrap(*(lambda x, of: (x, g, list(of)))(*clustered(g)), draws=200)

    assert 0.925 < coverage(draw, 0.0, 500) < 0.975


def test_coverage_of_clustered_slopes() -> None:
    """The length difference is partly the prompt's, as is the noise; its size grows with the difference."""

    def draw(g: np.random.Generator):
        of = np.repeat(np.arange(60), 4)
        x = g.normal(0, 1, 60)[of] + g.normal(0, 1, 240)
        noise = g.normal(0, 1, 60)[of] + g.normal(0, 1, 240) * (1 + 0.3 * np.abs(x))
        return stats.clustered_slope(x, 0.5 * x + noise, of.tolist())

    assert 0.93 < coverage(draw, 0.5, 2000) < 0.97


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_coverage_of_wilson(share: float) -> None:
    """At n = 100."""
    assert 0.93 < coverage(lambda g: stats.wilson(float(g.binomial(100, share)), 100), share) < 0.97


def test_coverage_of_newcombe() -> None:
    """Two independent shares."""

    def draw(g: np.random.Generator):
        return stats.difference(stats.wilson(g.binomial(60, 0.8), 60), stats.wilson(g.binomial(80, 0.6), 80))

    assert 0.93 < coverage(draw, 0.2) < 0.97


def test_coverage_of_clustered_shares() -> None:
    """Each prompt has its own rate around 0.7."""

    def draw(g: np.random.Generator):
        of = np.repeat(np.arange(50), 4)
        return stats.clustered_share(g.random(200) < g.beta(2.1, 0.9, 50)[of], of.tolist())

    assert 0.93 < coverage(draw, 0.7, 2000) < 0.97


def test_clustered_shares_at_the_edge_count_prompts() -> None:
    """Every pair right: as sure as 10 prompts can make it, not 100 pairs; for clusters of one it is Wilson's."""
    of = [i // 10 for i in range(100)]
    edge = stats.clustered_share([1.0] * 100, of)
    assert edge.low is not None and edge.low < (stats.wilson(10, 10).low or 0) and edge.high == 1
    hits = [1.0, 0.0, 1.0, 1.0]
    assert stats.clustered_share(hits, list("abcd")).interval == stats.wilson(3, 4).interval


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_changes_of_shares_that_are_all_equal_have_an_interval(value: float) -> None:
    """Twenty answers that all turned round show it; twenty that stayed do not show that none would turn."""
    e = stats.clustered_change([value] * 20, list(range(20)))
    low, high = stats.wilson(10 + 10 * value, 20).interval or (0, 0)
    assert (e.value, e.low, e.high) == (value, pytest.approx(2 * low - 1), pytest.approx(2 * high - 1))
    assert e.shown == (value != 0)
    mixed = [1.0, 0.0, 1.0, -1.0]
    assert stats.clustered_change(mixed, list("abcd")) == stats.clustered_mean(mixed, list("abcd"))


def test_holm_keeps_the_family_s_error_at_five_percent() -> None:
    """Ten true null differences of five seeds: at least one shown in 5 % of the families at most."""
    g = np.random.default_rng(0)
    families = [[stats.mean(g.normal(0, 1, 5)) for _ in range(10)] for _ in range(1000)]
    naive = np.mean([any(e.shown for e in family) for family in families])
    held = np.mean([any(e.shown for e in stats.holm(family)) for family in families])
    assert naive > 0.3 and held < 0.07
