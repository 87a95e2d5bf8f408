"""The picture of a run."""

from dpo.console import spark
from dpo.records import RunDir
from dpo.results.figures import TITLES, reward_curves, save_reward_curves


def test_the_curves_show_exactly_the_logged_points(finished: RunDir) -> None:
    """Four panels, each a training line and evaluation dots read from metrics.jsonl."""
    rows = list(finished.rows(finished.metrics))
    for axis, title in zip(reward_curves(finished).axes, TITLES.values(), strict=True):
        lines = {line.get_label(): line for line in axis.lines}
        for kind in ("train", "eval"):
            drawn = list(zip(lines[kind].get_xdata(), lines[kind].get_ydata(), strict=True))
            assert drawn == [(row["step"], row[f"{kind}/{title}"]) for row in rows if row["kind"] == kind]


def test_the_same_rows_give_the_same_picture_bytes(finished: RunDir, tmp_path) -> None:
    """No date, no random ids."""
    import shutil

    copy = RunDir(tmp_path / finished.path.name)
    shutil.copytree(finished.path, copy.path)
    save_reward_curves(copy)
    first = copy.curves.read_bytes()
    save_reward_curves(copy)
    assert copy.curves.read_bytes() == first


def test_a_spark_runs_from_the_lowest_to_the_highest_block() -> None:
    """Also for a constant curve and for one longer than its width."""
    assert spark([0.0, 1.0]) == "▁█"
    assert spark([2.0, 2.0]) == "▁▁"
    assert len(spark([float(i) for i in range(1000)], width=40)) == 40
