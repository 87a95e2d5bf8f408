"""The bench asks both sides the same, counts work by its definition, and fails on fast wrong numbers."""

import dataclasses
import json

import pytest

import bench.__main__ as bench
from bench import page
from bench.__main__ import Wrong, compare, ratios, summary
from bench.cases import CASES, GPU_CASES, by_name, growth
from bench.material import in_our_order, model_folder, pairs, word, work
from bench.ours import STACKED
from bench.ours import main as ours
from bench.stopwatch import Stopwatch

TINY = by_name("train_tiny_fp32")


def side(losses, seconds=1.0, peak=100.0):
    """What a process wrote."""
    return {"losses": losses, "step_seconds": [seconds], "peak_mb": peak, "first_step": 2.0, "process": 3.0}


def test_every_ratio_has_an_aim():
    """The page knows what each case is meant to reach."""
    assert {case.name for case in CASES} | {"peak_memory_135m_long_prompt"} == set(page.TARGETS)


def test_every_step_reads_new_pairs_in_the_same_order_on_both_sides():
    """TRL's file in order is our seeded order; no pair comes twice."""
    ours, theirs = pairs(TINY), in_our_order(TINY)
    assert len(theirs) == TINY.steps * TINY.batch
    assert sorted(row["id"] for row in ours) == sorted(row["id"] for row in theirs)
    assert [row["id"] for row in ours] != [row["id"] for row in theirs]


def test_pairs_have_the_lengths_the_case_says():
    """About 36 tokens a side with the end, two thirds of them completion."""
    rows = pairs(TINY)
    prompt = sum(len(row["prompt"].split()) for row in rows) / len(rows)
    answer = sum(len(row[side].split()) + 1 for row in rows for side in ("chosen", "rejected")) / (2 * len(rows))
    assert prompt + answer == pytest.approx(36, abs=1.5) and answer / (prompt + answer) == pytest.approx(
        2 / 3, abs=0.04
    )


def test_work_is_two_times_parameters_times_tokens(monkeypatch):
    """One pair, by hand: blocks at the tokens that are read, the head at completions, backward as much again."""
    shape = dataclasses.replace(TINY.shape, layers=1, width=4, heads=2, key_heads=1, mlp=8, vocabulary=10)
    case = dataclasses.replace(TINY, shape=shape, steps=1)
    row = {"prompt": f"{word(1)} {word(2)} ", "chosen": word(3), "rejected": f"{word(4)} {word(5)}"}
    monkeypatch.setattr("bench.material.pairs", lambda case: [row])
    queries_keys_values, rest, head = 4 * 4 + 2 * 4 * 2, 4 * 4 + 3 * 4 * 8, 10 * 4 * 5
    read, predicting = 2 + (2 - 1) + (3 - 1), 1 + (2 - 1) + (3 - 1)
    assert work(case, ours=True) == 2 * 2 * (queries_keys_values * read + rest * predicting + head)
    assert work(case, ours=False) == 2 * 2 * ((queries_keys_values + rest) * (2 * 2 + 2 + 3) + head)
    full = dataclasses.replace(case, adapter="full")
    assert work(full, ours=True) == 3 * 2 * ((queries_keys_values + rest) * read + head)


def test_a_fast_wrong_number_fails():
    """Losses that differ, stand still, or are too few are refused; equal ones that move are not."""
    case = dataclasses.replace(TINY, steps=2)
    good = [side([0.7, 0.5])]
    assert compare(case, good, [side([0.7, 0.5 + 1e-5])]) == pytest.approx(1e-5, rel=1e-3)
    for wrong in ([0.7, 0.6], [0.7], [0.7, float("nan")]):
        with pytest.raises(Wrong):
            compare(case, good, [side(wrong)])
    with pytest.raises(Wrong):  # training that changes nothing proves nothing
        compare(case, [side([0.7, 0.7])], [side([0.7, 0.7 + 1e-4])])


def test_ratios_are_their_median_over_ours():
    """Time for every case, and memory for long prompts in fp32."""
    name = "train_135m_long_prompt_fp32"
    case = by_name(name)
    a = summary(case, [side([], s, 900.0) for s in (9.0, 1.0, 6.0)])
    b = summary(case, [side([], s, 300.0) for s in (2.0, 50.0, 1.0)])
    rows = {name: {"trl": a, "ours": b, "ratio": a["seconds"] / b["seconds"]}}
    assert ratios(rows) == {name: 3.0, "peak_memory_135m_long_prompt": 3.0}


MEASURED = json.loads(bench.RESULTS.read_text())


def test_what_no_gpu_has_measured_is_open_in_the_table():
    """Every case of a GPU has its row; measured ones their figures."""
    row = MEASURED["cases"]["train_135m_bf16"]
    some = {"machine": {"gpu": "Some GPU"}, "versions": {}, "peak_gflops": {"bfloat16": 9e5}, "failed": {}}
    none, one = (page.text(MEASURED | {"gpu": gpu}) for gpu in (None, some | {"cases": {"train_1b_bf16": row}}))
    assert none.count("| open | open |") == len(GPU_CASES) == 3 and "Some GPU" not in none
    assert one.count("| open | open |") == 2 and "Some GPU: matrix products at most 900 TFLOP/s" in one
    assert f"| train_1b_bf16 | {row['trl']['seconds']:.3f} |" in one


def test_the_page_of_the_docs_is_that_of_the_results():
    """docs/bench.md is written from latest.json and from nothing else."""
    assert (bench.RESULTS.parents[2] / "docs" / "bench.md").read_text() == page.text(MEASURED)


def test_what_a_gpu_measured_stays_until_a_gpu_measures_it_again(monkeypatch, tmp_path):
    """And a GPU's machine leaves what another one's processor measured."""
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "latest.json")
    assert bench.start(False, None)["cases"] == {} and "gpu" not in bench.start(False, "gpu")
    gpu = bench.empty({"gpu": "Some GPU"}) | {"cases": {"train_1b_bf16": {}}}
    bench.RESULTS.write_text(
        json.dumps(bench.empty({"cpu": "another"}) | {"cases": {"train_tiny_fp32": {}}, "gpu": gpu})
    )
    anew = bench.start(False, None)
    assert anew["cases"] == {} and anew["gpu"] == gpu
    assert bench.start(False, "train_1b_bf16")["cases"] == {"train_tiny_fp32": {}}
    assert bench.part_of_gpu(dict(anew), None, True) is None
    same, other = {"name": "Some GPU", "bfloat16": 1.0}, {"name": "Another GPU", "bfloat16": 1.0}
    kept = [bench.part_of_gpu(dict(anew), found, True)["cases"] for found in (same, other)]
    assert kept == [{"train_1b_bf16": {}}, {}] and bench.part_of_gpu(dict(anew), same, False)["cases"] == {}


def test_growth_exponents():
    """Linear is 1, flat is 0; every growth case has its base."""
    assert page.exponent(2.0, 20.0, 10) == pytest.approx(1) and page.exponent(5.0, 5.0, 4) == 0
    names = [case.name.rsplit("/", 1)[0] for case in growth()]
    assert all(names.count(name) == 2 for name in names)


def test_losses_are_told_run_by_run(tmp_path):
    """Two runs whose steps took turns: all losses of the first, then all of the second, as `compare` reads them."""
    watch = Stopwatch()
    for value, run in ((0.7, 0), (0.8, 1), (0.5, 0), (0.6, 1)):
        watch.step()
        watch.loss(value, run)
    watch.write(tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["losses"] == [0.7, 0.5, 0.8, 0.6]


def test_a_sweep_in_one_batch_loses_what_it_loses_one_by_one(monkeypatch, tmp_path):
    """Our side of a small sweep in both ways: the same losses in the same order, one reference pass."""
    sweep = by_name("sweep8_tiny")
    shape = dataclasses.replace(sweep.shape, layers=1, width=16, heads=2, key_heads=2, mlp=16, vocabulary=64)
    case = dataclasses.replace(sweep, shape=shape, steps=3, betas=3, lr=0.1)
    monkeypatch.setattr("bench.cases.by_name", lambda name: case)
    model, written = str(model_folder(case, tmp_path)), []
    for number, settings in enumerate(([], [STACKED])):
        out = tmp_path / f"{number}.json"
        ours(case.name, model, str(tmp_path / str(number)), str(out), "train.threads=1", *settings)
        written.append(json.loads(out.read_text()))
    one_by_one, together = written
    assert len(together["losses"]) == case.steps * case.betas and together["misses"] == one_by_one["misses"] == 1
    assert together["losses"] == pytest.approx(one_by_one["losses"], abs=1e-4)
    assert together["losses"] != pytest.approx(together["losses"][::-1], abs=1e-4)
