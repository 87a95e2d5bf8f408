"""Each cell recomputed from metrics.jsonl and the pair rows; everything escaped; nothing mixed that does not belong."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from dpo.errors import UsageError
from dpo.results.estimate import Estimate
from dpo.results.frames import load
from dpo.results.stats import EQUAL, clustered_mean, clustered_share
from dpo.results.tables import (
    Cell,
    Table,
    by_arm,
    calibration_table,
    differences,
    failed_table,
    length_table,
    provenance_table,
    runs_table,
)
from tests.results.toy_runs import MEAN, sweep_file, write_run


@pytest.fixture
def sweep(tmp_path):
    """Two betas of three seeds each; the larger beta with a larger effect."""
    return {
        (beta, seed): write_run(tmp_path, seed, beta, gain=gain)
        for beta, gain in ((0.1, 0.6), (0.5, 2.0))
        for seed in range(3)
    }


def logged(directory, key: str) -> float:
    """A value of the last line of metrics.jsonl."""
    return json.loads(directory.metrics.read_text().splitlines()[-1])[key]


def student(values) -> tuple[float, float, float]:
    """(mean, low, high), by scipy's own interval."""
    mean = float(np.mean(values))
    return mean, *scipy_stats.t.interval(0.95, len(values) - 1, mean, scipy_stats.sem(values))


def cells(table: Table, column: str) -> list[Cell]:
    """The cells of a column."""
    return [row[table.columns.index(column)] for row in table.rows]


def test_a_cell_is_the_mean_over_seeds_and_pairs(sweep, tmp_path) -> None:
    """Recomputed from metrics.jsonl and the pair rows; without those, or where they hold another value, over seeds."""
    table = by_arm(load(tmp_path), "beta.value", ["logratios/margins", "displacement"])
    columns = {"d": lambda f: (f.chosen_logp - f.chosen_ref_logp) - (f.rejected_logp - f.rejected_ref_logp)}
    columns["displaced"] = lambda f: (f.chosen_logp < f.chosen_ref_logp).astype(float)
    for row, beta in zip(table.rows, (0.1, 0.5), strict=True):
        frames = [pd.read_parquet(sweep[beta, seed].pairs(4)) for seed in range(3)]
        for cell, (name, read) in zip(row[2:], columns.items(), strict=True):
            values = np.stack([read(f) for f in frames])
            e = (clustered_share if name == "displaced" else clustered_mean)(values, frames[0].prompt.tolist())
            assert (cell.content.value, cell.content.interval) == (pytest.approx(e.value), pytest.approx(e.interval))
            assert cell.content.n == 40 and "3 seeds and 40 prompts" in cell.text
    logs = [logged(sweep[0.1, seed], "eval/logratios/margins") for seed in range(3)]
    for path in (sweep[0.1, seed].pairs(4) for seed in range(3)):
        path.unlink()
    bare = by_arm(load(tmp_path), "beta.value", ["logratios/margins"]).rows[0][-1].content
    assert (bare.value, bare.low, bare.high) == pytest.approx(student(logs)) and bare.n == 3


@pytest.mark.parametrize("metric", ["kl", "samples/length"])
def test_a_cell_without_rows_is_the_mean_over_seeds_with_student_s_interval(sweep, tmp_path, metric: str) -> None:
    """Recomputed from metrics.jsonl; the runs behind it are the arm's."""
    table = by_arm(load(tmp_path), "beta.value", [metric])
    for (cell,), beta in zip([row[2:] for row in table.rows], (0.1, 0.5), strict=True):
        e = cell.content
        members = [sweep[beta, seed] for seed in range(3)]
        assert (e.value, e.low, e.high) == pytest.approx(student([logged(run, f"eval/{metric}") for run in members]))
        assert e.n == 3 and list(cell.runs) == [run.path.name.rsplit("-", 1)[1] for run in members]


def test_a_difference_is_paired_by_seed(sweep, tmp_path) -> None:
    """Recomputed from metrics.jsonl; Holm's correction over the whole table."""
    table = differences(load(tmp_path), "beta.value", 0.1, ["logratios/margins", "kl", "rewards/accuracies"])
    (row,) = table.rows
    for cell, metric in zip(row[2:], ("logratios/margins", "kl", "rewards/accuracies"), strict=True):
        changes = [logged(sweep[0.5, s], f"eval/{metric}") - logged(sweep[0.1, s], f"eval/{metric}") for s in range(3)]
        assert cell.content.value == pytest.approx(np.mean(changes))
        if metric == "kl":
            assert (cell.content.low, cell.content.high) == pytest.approx(student(changes)[1:])
        assert len(cell.runs) == 6 and cell.content.family == 3
    assert row[3].content.verdict == "no difference shown" and "no difference shown" in row[3].html()
    assert row[2].content.shown and "no difference" not in row[2].text


def test_the_baseline_is_named_and_must_exist(sweep, tmp_path) -> None:
    """By value; without one the first arm."""
    assert "Difference from beta 0.1" in differences(load(tmp_path), "config.beta.value").caption
    assert cells(differences(load(tmp_path), "beta.value", 0.5), "beta")[0].content == 0.1
    with pytest.raises(UsageError, match=r"beta.value=0.7: no finished run has it; there are 0.1, 0.5"):
        differences(load(tmp_path), "beta.value", 0.7)


def test_differences_keep_the_other_settings_alike(tmp_path) -> None:
    """Each learning rate has its own baseline."""
    for rate in (1e-3, 1e-4):
        for beta in (0.1, 0.5):
            for seed in (0, 1):
                write_run(tmp_path, seed, beta, optim__lr=rate, gain=rate * 1e3)
    table = differences(load(tmp_path), "beta.value", 0.1, ["kl"])
    assert [(row[0].content, row[1].content) for row in table.rows] == [(0.5, 1e-4), (0.5, 1e-3)]
    assert all(len(row[-1].runs) == 4 for row in table.rows)


def test_a_missing_seed_is_left_out_of_pairs_and_said(sweep, tmp_path) -> None:
    """The mean counts what is there, the difference what both have."""
    sweep[0.5, 1].set_status("failed", error="x")
    runs = load(tmp_path)
    table = by_arm(runs, "beta.value", ["kl"])
    assert [c.content.n for c in cells(table, table.columns[-1])] == [3, 2]
    assert table.notes == ("beta 0.5: no finished run with seed 1.",)
    (row,) = differences(runs, "beta.value", 0.1, ["kl"]).rows
    assert row[-1].content.n == 2 and row[-1].note == "left out, without a partner: seed 1"


def test_arms_without_a_common_seed_are_compared_unpaired(tmp_path) -> None:
    """Welch's interval, and the cell says why."""
    for seed, beta in ((0, 0.1), (1, 0.1), (2, 0.5), (3, 0.5)):
        write_run(tmp_path, seed, beta)
    (row,) = differences(load(tmp_path), "beta.value", 0.1, ["kl"]).rows
    assert row[-1].content.method == "Welch t" and row[-1].note == "no seed in common"


def test_one_run_has_values_without_intervals(tmp_path) -> None:
    """In words, not as an interval of no width."""
    write_run(tmp_path)
    (cell,) = [row[-1] for row in by_arm(load(tmp_path), (), ["kl"]).rows]
    assert cell.content.interval is None and "one run, no interval" in cell.text and "no interval" in cell.html()


def test_a_value_that_is_missing_is_left_out_by_name(sweep, tmp_path) -> None:
    """Never averaged; a column that nobody has is blank with its reason. (A run with a NaN counts as failed.)"""
    rows = sweep[0.1, 0].metrics.read_text().splitlines()
    last = json.loads(rows[-1])
    del last["eval/kl"]
    sweep[0.1, 0].metrics.write_text("\n".join([*rows[:-1], json.dumps(last)]) + "\n")
    table = by_arm(load(tmp_path), "beta.value", ["kl", "schema_rate"])
    first, nobody = table.rows[0][-2:]
    assert first.content.n == 2 and first.note == f"no value in {sweep[0.1, 0].path.name.rsplit('-', 1)[1]}"
    assert nobody.content is None and nobody.note == "no run of this arm has a value"
    assert "nan" not in table._repr_html_().lower().replace("no", "")


def test_length_classes_are_recomputed_from_the_pair_rows(sweep, tmp_path) -> None:
    """Accuracies and the slope are means over seeds of each pair; truncation is the audit's."""
    table = length_table(load(tmp_path), "beta.value")
    frames = [pd.read_parquet(sweep[0.1, seed].pairs(4)) for seed in range(3)]
    wins, slopes = [], []
    for f in frames:
        d = (f.chosen_logp - f.chosen_ref_logp) - (f.rejected_logp - f.rejected_ref_logp)
        longer = f.chosen_tokens > f.rejected_tokens
        wins.append((d[longer] > 0).mean())
        slopes.append(np.polyfit(f.chosen_tokens - f.rejected_tokens, f.chosen_reward - f.rejected_reward, 1)[0])
    assert cells(table, "accuracy, chosen longer")[0].content.value == pytest.approx(np.mean(wins))
    slope = cells(table, "slope of margin on length (beta x nats per token)")[0].content
    assert slope.value == pytest.approx(np.mean(slopes))
    every = [logged(sweep[0.1, seed], "eval/rewards/accuracies") for seed in range(3)]
    assert cells(table, "accuracy")[0].content.value == pytest.approx(np.mean(every))
    assert cells(table, "longer wins")[0].content.value == pytest.approx(
        logged(sweep[0.1, 0], "eval/length/longer_wins")
    )
    assert [cells(table, f"truncated, {side}")[0].content.value for side in ("chosen", "rejected")] == [0, 1 / 40]


def test_an_interval_over_pairs_counts_prompts_not_pairs(tmp_path) -> None:
    """Forty pairs of four prompts are no forty independent ones."""
    for n, folder in ((40, "free"), (4, "shared")):
        write_run(tmp_path / folder, prompts=n)
    free, shared = (cells(length_table(load(tmp_path / f)), "accuracy")[0].content for f in ("free", "shared"))
    assert free.value == shared.value and free.method == "Wilson" and shared.method == "Wilson, 4 prompts"


def test_seeds_that_agree_do_not_make_pairs_certain(tmp_path) -> None:
    """Three equal seeds: the interval is the one over pairs, not of no width."""
    for seed in range(3):
        write_run(tmp_path, seed, gain=30.0)
    e = cells(length_table(load(tmp_path)), "accuracy")[0].content
    assert e.value == 1 and e.high == 1 and e.low == pytest.approx(40 / (40 + 1.959964**2), abs=1e-6)


def test_seeds_that_change_nothing_are_no_evidence(tmp_path) -> None:
    """Equal in every seed: intervals over pairs where there are pairs, none elsewhere; nothing is shown by n = 3."""
    for beta, hit in ((0.1, 0.55), (0.5, 0.6)):
        for seed in range(3):
            made = write_run(tmp_path, seed, beta, gain=30.0)
            rows = [json.loads(line) for line in made.metrics.read_text().splitlines()]
            rows[-1] |= {"eval/rewards/accuracies": 1.0, "eval/kl": hit}
            made.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs = load(tmp_path)
    accuracy, kl = by_arm(runs, "beta.value", ["rewards/accuracies", "kl"]).rows[0][-2:]
    assert accuracy.content.interval == pytest.approx((40 / (40 + 1.959964**2), 1.0), abs=1e-6)
    assert "over pairs" in accuracy.note and accuracy.content.of == "pairs"
    assert kl.content.interval is None and "all equal, no interval" in kl.text
    (row,) = differences(runs, "beta.value", 0.1, ["kl"]).rows
    assert row[-1].content.value == pytest.approx(0.05) and "no difference shown" in row[-1].text


def test_calibration_is_as_logged(sweep, tmp_path) -> None:
    """ECE, Brier and NLL of each arm."""
    table = calibration_table(load(tmp_path), "beta.value")
    for column, key in (("ECE", "ece"), ("Brier score", "brier"), ("NLL (nats)", "nll")):
        values = [logged(sweep[0.5, seed], f"eval/calibration/{key}") for seed in range(3)]
        assert cells(table, column)[1].content.value == pytest.approx(np.mean(values))


def test_every_row_of_a_results_table_has_intervals_n_and_runs(sweep, tmp_path) -> None:
    """Whatever is an estimate."""
    runs = load(tmp_path)
    for table in (by_arm(runs), differences(runs, "beta.value"), length_table(runs), calibration_table(runs)):
        for row in table.rows:
            estimates = [cell for cell in row if isinstance(cell.content, Estimate)]
            assert any(cell.content.interval for cell in estimates)
            assert all(cell.content.interval or cell.content.missing == EQUAL for cell in estimates)
            assert all(cell.content.n and cell.runs and f"n={cell.content.n}" in cell.text for cell in estimates)
            assert all(cell.content is not None or cell.note for cell in row)
            assert all(f'data-runs="{" ".join(cell.runs)}"' in cell.html() for cell in row)


def test_every_run_stands_in_the_tables_of_runs(sweep, tmp_path) -> None:
    """Finished or not, and jobs that have not begun."""
    sweep[0.5, 2].set_status("failed", error="FloatingPointError: the loss is nan")
    ids = [run.path.name.rsplit("-", 1)[1] for run in sweep.values()]
    sweep_file(tmp_path, [(run_id, "x") for run_id in ids] + [("0123abcd", "beta0.9-seed0")])
    runs = load(tmp_path)
    assert sorted(c.content for c in cells(runs_table(runs), "id")) == sorted(ids)
    assert sorted(c.content for c in cells(provenance_table(runs), "id")) == sorted(ids)
    failed = failed_table(runs)
    assert [c.content for c in cells(failed, "id")] == [ids[-1], "0123abcd"]
    assert cells(failed, "reason")[0].content == "FloatingPointError: the loss is nan"


def test_nothing_failed_is_said(sweep, tmp_path) -> None:
    """An empty table with its sentence."""
    table = failed_table(load(tmp_path))
    assert table.rows == () and table.caption == "Every run is finished."


def test_runs_of_two_data_sets_are_refused_in_words(tmp_path) -> None:
    """By every table of results, not by the lists of runs."""
    write_run(tmp_path, 0)
    write_run(tmp_path, 1, data=8)
    runs = load(tmp_path)
    for make in (by_arm, length_table, calibration_table):
        with pytest.raises(UsageError, match=r"do not belong in one table: evaluation pairs differ"):
            make(runs)
    assert len(runs_table(runs).rows) == len(provenance_table(runs).rows) == 2


def test_a_folder_of_failures_is_said_in_a_line(tmp_path) -> None:
    """No table of nothing."""
    write_run(tmp_path, state="failed")
    with pytest.raises(UsageError, match="no finished run; `dpo status"):
        by_arm(load(tmp_path))
    assert len(failed_table(load(tmp_path)).rows) == 1


def test_reward_columns_stay_blank_across_losses_of_another_scale(tmp_path) -> None:
    """With the reason on the cell and below the table; d and accuracy stay."""
    write_run(tmp_path, 0)
    write_run(tmp_path, 0, facts=MEAN, loss={"_target_": "dpo.losses.ipo.Ipo", "usual_beta": 0.1})
    table = by_arm(load(tmp_path), (), ["rewards/margins", "logratios/margins"])
    assert [c.content for c in cells(table, "reward margin (beta x nats)")] == [None, None]
    assert all("losses of different scale" in c.note for c in cells(table, "reward margin (beta x nats)"))
    assert all(c.content is not None for c in cells(table, "log-ratio difference d (nats)"))
    assert table.notes[0].startswith("reward margin (beta x nats) is blank: losses of different scale")
    slopes = cells(length_table(load(tmp_path)), "slope of margin on length (beta x nats per token)")
    assert [c.content for c in slopes] == [None, None]


HOSTILE = '<script>alert("x")</script>|`a`_b_\n[l](javascript:1)&amp;'


@pytest.mark.parametrize("where", ["caption", "column", "cell", "note", "runs", "cell note", "name"])
def test_everything_is_escaped(where: str) -> None:
    """Angle brackets, quotes, pipes and links from data show as text, in HTML and in Markdown."""
    place = {
        key: HOSTILE if key == where else "x"
        for key in ("caption", "column", "cell", "note", "runs", "cell note", "name")
    }
    cell = Cell(place["cell"], (place["runs"],), place["cell note"])
    table = Table(place["name"], place["caption"], (place["column"],), ((cell,),), (place["note"],))
    page, markdown = table._repr_html_(), table._repr_markdown_()
    assert "<script" not in page and 'alert("' not in page and "&amp;amp;" in page
    assert "<script" not in markdown and "[l](" not in markdown
    assert all(
        re.fullmatch(r"\|.*\|", line) and len(re.findall(r"(?<!\\)\|", line)) == 2
        for line in markdown.splitlines()
        if line.startswith("|")
    )


def test_a_run_s_hostile_name_and_error_are_text_on_the_page(tmp_path) -> None:
    """As read from disk."""
    made = write_run(tmp_path, name='<img src=x onerror="1">-seed0-0123abcd')
    made.set_status("failed", error="<script>boom</script>")
    for table in (runs_table(load(tmp_path)), failed_table(load(tmp_path))):
        assert "<script" not in table._repr_html_() and "<img" not in table._repr_html_()
    assert "&lt;script&gt;boom" in failed_table(load(tmp_path))._repr_html_()


def test_cells_sort_by_their_value() -> None:
    """Numbers as numbers, texts without case, blanks as nothing."""
    e = Estimate(-0.5, -1.0, 0.0, 3, "t")
    assert [Cell(x).sort for x in (e, 10, 2.5, "B", None, math.nan)] == ["-0.5", "10.0", "2.5", "b", "", ""]


def test_the_frame_of_a_table_holds_value_ends_and_n(sweep, tmp_path) -> None:
    """Full precision, for CSV files beside a page."""
    frame = by_arm(load(tmp_path), "beta.value", ["kl"]).to_frame()
    column = "KL to the reference (nats per answer)"
    assert list(frame.columns) == ["beta", "seeds", column, f"{column} low", f"{column} high", f"{column} n", "runs"]
    assert frame[column][0] == pytest.approx(np.mean([logged(sweep[0.1, seed], "eval/kl") for seed in range(3)]))


def test_the_same_runs_give_the_same_bytes(sweep, tmp_path) -> None:
    """Twice read, twice written."""
    first, again = (length_table(load(tmp_path))._repr_html_() for _ in range(2))
    assert first == again
