"""Sentences are chosen by their intervals: known effects are named with their size, and no others."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from dpo.errors import UsageError
from dpo.results.findings import (
    compared,
    displacement_paragraph,
    findings,
    findings_by_arm,
    length_bias_verdict,
    warnings,
)
from dpo.results.frames import load, load_run
from tests.results.toy_runs import MEAN, write_run


def named(items) -> dict[str, object]:
    """Findings by name."""
    return {item.name: item for item in items}


def arm(folder, seeds: int = 3, **settings):
    """Finished runs of one configuration."""
    for seed in range(seeds):
        write_run(folder, seed, **settings)
    return load(folder).done.arms()[0]


def test_a_real_run_gets_two_lists_of_three_items_with_figures(finished) -> None:
    """Each item a sentence with a number."""
    made = findings(load_run(finished.path))
    for items in (made.did, made.did_not):
        assert len(items) >= 3
        assert all(any(ch.isdigit() for ch in item.sentence) and item.sentence.endswith(".") for item in items)
    assert any("One run" in remark for remark in made.remarks)


def test_an_item_stands_under_did_exactly_where_its_interval_leaves_out_no_effect(tmp_path) -> None:
    """Whatever the effect; shares are held against one half."""
    for i, gain in enumerate((0.0, 0.3, 3.0)):
        made = findings(arm(tmp_path / str(i), gain=gain))
        for item in (*made.did, *made.did_not):
            if item.estimate is None or item.name == "displacement":
                continue
            if item.estimate.interval is None:
                assert not item.did and "all equal, no interval" in item.sentence
                continue
            null = 0.5 if item.name in ("accuracy", "balanced") else 0.0
            low, high = item.estimate.interval
            assert item.did == (low > null or high < null), item.sentence
            assert item.did == ("no difference shown" not in item.sentence)


def test_an_untrained_policy_did_nothing_but_the_work(tmp_path) -> None:
    """No effect is claimed; what is left are facts about the training."""
    made = findings(arm(tmp_path, gain=0.0))
    assert [item.name for item in made.did if item.name not in ("work", "json_rate", "kl")] == []
    assert any(item.sentence == "It took 4 optimizer steps of 4 pairs (seed 0, 1, 2)." for item in made.did)
    assert {"margin", "d", "chosen", "rejected", "accuracy"} <= set(named(made.did_not))


def test_the_margin_s_change_is_recomputed_from_the_pair_rows(tmp_path) -> None:
    """Over seeds and pairs at once: no narrower than Student's over the pairs' means."""
    made = findings(arm(tmp_path, gain=1.0, slope=0.3))
    e = named(made.did)["margin"].estimate
    tables = [pd.read_parquet(run.path / "pairs" / "step_4.parquet") for run in load(tmp_path)]
    means = np.mean([t.chosen_reward - t.rejected_reward for t in tables], axis=0)
    low, high = scipy_stats.t.interval(0.95, len(means) - 1, means.mean(), scipy_stats.sem(means))
    assert e.value == pytest.approx(means.mean()) and e.low < low < high < e.high
    assert f"{e.text(signed=True)} (n=40 pairs, t over 3 seeds and 40 prompts)" in named(made.did)["margin"].sentence


def test_answers_are_paired_by_prompt_and_draw(tmp_path) -> None:
    """Length and JSON share of the sampled answers, recomputed from samples.jsonl; greedy ones do not count."""
    made = findings(write_and_load(tmp_path, lengths=(12.0, 20.0)))
    rows = [json.loads(line) for line in next(iter(load(tmp_path))).path.joinpath("samples.jsonl").open()]
    sampled = [row for row in rows if row["decoding"] == "sampled"]
    before, after = ([row for row in sampled if row["step"] == step] for step in (0, 4))
    e = named(made.did)["length"].estimate
    assert e.value == pytest.approx(np.mean([b["tokens"] - a["tokens"] for a, b in zip(before, after, strict=True)]))
    assert e.method == "cluster t over 4 prompts" and e.n == 20
    share = [np.mean([row["completion"] != "prose" for row in rows]) for rows in (before, after)]
    assert named([*made.did, *made.did_not])["json_rate"].estimate.value == pytest.approx(share[1] - share[0])


def write_and_load(folder, **settings):
    """One run, read."""
    return load_run(write_run(folder, **settings).path)


def test_answers_that_all_turned_into_json_are_a_change(tmp_path) -> None:
    """From none to all, over twenty prompts: no spread, and no doubt."""
    made = write_run(tmp_path)
    rows = [json.loads(line) for line in made.samples.read_text().splitlines()]
    told = [{"completion": "{}" if row["step"] else "prose", "prompt": f"p{i % 21}"} for i, row in enumerate(rows)]
    rows = [row | text for row, text in zip(rows, told, strict=True)]
    made.samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = named(findings(load_run(made.path)).did)["json_rate"]
    assert found.estimate.value == 1 and found.estimate.low > 0 and "0.000 to 1.000" in found.sentence


def test_a_falling_chosen_side_is_explained(tmp_path) -> None:
    """The flag, the item, and a paragraph with the figures."""
    made = write_run(tmp_path, gain=6.0)
    table = made.read_pairs(4)
    for side, drop in (("chosen", 8.0), ("rejected", 14.0)):
        changes = [-drop + 0.1 * (i % 2 - 0.5) for i in range(40)]
        table[f"{side}_logp"] = [x + change for x, change in zip(table[f"{side}_ref_logp"], changes, strict=True)]
        table[f"{side}_reward"] = [0.1 * change for change in changes]
    made.write_pairs(4, table)
    found = findings(load_run(made.path))
    assert "likelihood displacement" in named(found.did)["chosen"].sentence
    assert "more than half" in named(found.did)["displacement"].sentence
    paragraph = next(r for r in found.remarks if "neither list" in r)
    assert (
        "-8.000 [-8.016, -7.984] nats" in paragraph
        and "-14.000 [-14.016, -13.984] nats" in paragraph
        and "arXiv:2410.08847" in paragraph
    )
    assert displacement_paragraph([load_run(made.path)]) == paragraph


def test_a_rising_chosen_side_needs_no_paragraph(tmp_path) -> None:
    """And displacement stands among what did not happen."""
    made = findings(arm(tmp_path, gain=6.0))
    assert "It did not push" in named(made.did_not)["displacement"].sentence
    assert not any("neither list" in remark for remark in made.remarks)


def test_findings_are_of_one_finished_configuration(tmp_path) -> None:
    """Two arms, a failed run, or none: a line."""
    write_run(tmp_path, 0, 0.1)
    write_run(tmp_path, 0, 0.5)
    with pytest.raises(UsageError, match="findings are of one configuration"):
        findings(load(tmp_path).all)
    with pytest.raises(UsageError, match="findings need a finished policy"):
        findings(write_and_load(tmp_path / "x", state="failed"))
    with pytest.raises(UsageError, match="no finished run"):
        findings([])
    assert [f.title for f in findings_by_arm(load(tmp_path))] == ["beta 0.1 (1 seed)", "beta 0.5 (1 seed)"]


def test_a_run_without_answers_or_of_one_pair_still_has_its_lists(tmp_path) -> None:
    """What was not measured is not said."""
    made = write_run(tmp_path, n=1)
    made.samples.unlink()
    found = findings(load_run(made.path))
    assert not {"length", "json_rate"} & set(named([*found.did, *found.did_not]))
    assert len(found.did) >= 3 and len(found.did_not) >= 3


def policy(verdicts) -> list:
    """The verdicts on policies."""
    return [v for v in verdicts if v.about == "policy"]


@pytest.mark.parametrize("seeds", [1, 3])
def test_an_injected_length_bias_is_named_with_its_size(tmp_path, seeds: int) -> None:
    """d grows by 0.4 nats per token, the margin by beta times that."""
    arm(tmp_path, seeds, slope=0.4, gain=0.1, n=80, longer_wins=1.0)
    data, verdict = length_bias_verdict(load(tmp_path))
    assert data.about == "data" and data.shown and "favour the longer answer" in data.text
    assert verdict.shown and "a preference for length is shown" in verdict.text
    e = verdict.measures["slope"]
    assert e.value == pytest.approx(0.04, abs=0.005) and e.text(signed=True) in verdict.text
    assert verdict.measures["gap"].value > 0.5 and len(verdict.runs) == seeds


@pytest.mark.parametrize("gain", [0.0, 2.0])
def test_a_balanced_set_shows_no_length_bias(tmp_path, gain: float) -> None:
    """Neither of the data nor of the policy."""
    arm(tmp_path, 3, gain=gain, n=80)
    data, verdict = length_bias_verdict(load(tmp_path))
    assert not data.shown and data.text.startswith("no length bias is shown in the training pairs")
    assert not verdict.shown and "no preference for length is shown" in verdict.text


def test_false_alarms_are_held_at_five_percent(tmp_path) -> None:
    """Twenty-four balanced sets of pairs without any effect of length: a verdict of bias in a few at most."""
    alarms = 0
    for data in range(24):
        write_run(tmp_path / str(data), data=100 + data, gain=1.0)
        alarms += policy(length_bias_verdict(load(tmp_path / str(data))))[0].shown
    assert alarms <= 3


def test_grown_answers_count_only_where_the_data_favour_length(tmp_path) -> None:
    """Past the evaluation pairs' own chosen answers, and grown in training."""
    biased = {"lengths": (16.0, 40.0), "gain": 2.0}
    for name, share, lengths in (("yes", 1.0, (16.0, 40.0)), ("no", 0.5, (16.0, 40.0)), ("before", 1.0, (40.0, 40.0))):
        arm(tmp_path / name, longer_wins=share, **{**biased, "lengths": lengths})
    shown = {name: policy(length_bias_verdict(load(tmp_path / name)))[0] for name in ("yes", "no", "before")}
    assert {name: v.shown for name, v in shown.items()} == {"yes": True, "no": False, "before": False}
    assert "sampled answers grew from" in shown["yes"].text


def test_a_dose_response_is_named_with_its_size(tmp_path) -> None:
    """Paired by seed: answers of 12, 20 and 30 tokens at doses 0, 0.5 and 1."""
    for dose, length in ((0.0, 12.0), (0.5, 20.0), (1.0, 30.0)):
        for seed in range(3):
            write_run(tmp_path, seed, lengths=(12.0, length), perturb__dose=dose)
    verdict = next(v for v in length_bias_verdict(load(tmp_path)) if v.about == "dose")
    assert verdict.shown and verdict.text.startswith("dose 0 to 1: the policy took up the injected length bias")
    assert verdict.measures["dose answers"].value == pytest.approx(18, abs=1)
    assert len(verdict.runs) == 9


def test_a_dose_without_effect_is_said_to_show_none(tmp_path) -> None:
    """The same answers at every dose."""
    for dose in (0.0, 1.0):
        for seed in range(3):
            write_run(tmp_path, seed, perturb__dose=dose)
    verdict = next(v for v in length_bias_verdict(load(tmp_path)) if v.about == "dose")
    assert not verdict.shown and "no uptake of the injected length bias is shown" in verdict.text


def test_runs_that_were_measured_differently_get_no_verdict_together(tmp_path) -> None:
    """Refused in a line; a folder of failures gets none."""
    write_run(tmp_path / "a", 0)
    write_run(tmp_path / "a", 1, data=8)
    with pytest.raises(UsageError, match="do not belong in one table"):
        length_bias_verdict(load(tmp_path / "a"))
    write_run(tmp_path / "b", state="failed")
    assert length_bias_verdict(load(tmp_path / "b")) == []


def test_a_beta_sweep_at_one_learning_rate_is_warned_of(tmp_path) -> None:
    """And told to compare d; with two rates only the latter."""
    for beta in (0.1, 0.5):
        write_run(tmp_path, 0, beta)
    said = warnings(load(tmp_path))
    assert any("beta was swept at one learning rate (0.0001)" in text for text in said)
    assert any("compared on log-ratio difference d" in text for text in said)
    assert any("Fewer than three seeds in beta 0.1; beta 0.5" in text for text in said)
    write_run(tmp_path, 0, 0.1, optim__lr=1e-3)
    assert not any("one learning rate" in text for text in warnings(load(tmp_path)))


def test_a_comparison_in_words_says_the_difference_or_that_none_is_shown(tmp_path) -> None:
    """d differs, accuracy is named only with its verdict; reward columns of other scales are left out."""
    for beta, gain in ((0.1, 0.6), (0.5, 2.0)):
        for seed in range(3):
            write_run(tmp_path, seed, beta, gain=gain)
    d, kl = compared(load(tmp_path), "beta.value", 0.1, ["logratios/margins", "kl"])
    assert d.startswith("beta 0.5: log-ratio difference d (nats) differs by +") and "n=40 pairs, t over 3 seeds" in d
    assert kl.startswith("beta 0.5: KL to the reference (nats per answer): no difference shown, ")


def test_losses_of_another_scale_are_compared_on_what_they_share(tmp_path) -> None:
    """No sentence about margins."""
    ipo = {"_target_": "dpo.losses.ipo.Ipo", "usual_beta": 0.1}
    for seed in range(2):
        write_run(tmp_path, seed)
        write_run(tmp_path, seed, facts=MEAN, loss=ipo)
    said = compared(load(tmp_path), "loss._target_", "dpo.losses.sigmoid.Sigmoid", ["rewards/margins", "kl"])
    assert len(said) == 1 and "KL" in said[0] and said[0].startswith("loss Ipo: ")
