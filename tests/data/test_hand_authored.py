"""The hand-written preference pairs: enough of them, all distinct, and no length tell."""

import json
from collections import Counter
from pathlib import Path

PATH = Path(__file__).parents[2] / "dpo/data/hand_authored.jsonl"
ROWS = [json.loads(line) for line in PATH.read_text(encoding="utf-8").splitlines()]


def test_there_are_at_least_120_rows():
    """The set is large enough to be split and probed."""
    assert len(ROWS) >= 120


def test_at_least_eight_behaviours_have_ten_rows_or_more():
    """Each behaviour that counts has rows enough to be looked at by itself."""
    counts = Counter(row["behaviour"] for row in ROWS)
    assert sum(count >= 10 for count in counts.values()) >= 8


def test_ids_are_unique():
    """No id names two rows."""
    assert len({row["id"] for row in ROWS}) == len(ROWS)


def test_prompts_are_unique():
    """No prompt is asked twice."""
    assert len({row["prompt"] for row in ROWS}) == len(ROWS)


def test_the_longer_answer_is_chosen_about_half_the_time():
    """Picking the longer answer (in characters, a tie is half) wins 45 to 55 %."""
    wins = 0.0
    for row in ROWS:
        chosen, rejected = len(row["chosen"]), len(row["rejected"])
        wins += 0.5 if chosen == rejected else float(chosen > rejected)
    assert 0.45 <= wins / len(ROWS) <= 0.55


def test_mean_lengths_of_the_two_sides_are_within_five_per_cent():
    """Chosen and rejected answers are equally long on average, in characters."""
    chosen = sum(len(row["chosen"]) for row in ROWS)
    rejected = sum(len(row["rejected"]) for row in ROWS)
    assert abs(chosen - rejected) <= 0.05 * rejected


def test_no_pair_has_identical_answers():
    """Every pair holds a preference: its two answers differ."""
    assert [row["id"] for row in ROWS if row["chosen"] == row["rejected"]] == []
