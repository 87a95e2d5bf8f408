"""Answers and findings as a page shows them: whose they are, side by side, and never as markup."""

import json
from pathlib import Path

import pytest

from dpo.records import RunDir
from dpo.results import answers, frames, sentences
from tests.results.small_sweep import NASTY
from tests.results.toy_runs import write_run


def with_answers(directory: RunDir, base: str, sft: str, dpo: str, prompt: str = "p") -> None:
    """compare.jsonl with one prompt in the usual template."""
    asked = f"### Instruction:\n{prompt}\n\n### Response:\n"
    directory.compare.write_text(json.dumps({"prompt": asked, "base": base, "sft": sft, "dpo": dpo}) + "\n")


def test_base_sft_dpo_and_both_stand_side_by_side(tmp_path: Path) -> None:
    """Four arms, (SFT or none) x (steps or none): one base, one SFT, DPO from the base, DPO after SFT."""
    trained, start = "dpo.models.sft.Sft", "dpo.models.sft.NoSft"
    with_answers(write_run(tmp_path, sft={"_target_": start}), "b", "b", "from base")
    with_answers(write_run(tmp_path, sft={"_target_": trained, "side": "chosen"}), "b", "s", "from sft")
    table = answers.side_by_side(frames.load(tmp_path))
    titles = [column.partition(":")[0] for column in table.columns]
    assert titles == ["prompt", "base", "SFT", "DPO", "SFT then DPO"]
    assert [cell.content for cell in table.rows[0]] == ["p", "b", "s", "from base", "from sft"]


def test_arms_that_answer_alike_share_a_column_that_names_them(tmp_path: Path) -> None:
    """And its cells name a run of each."""
    runs = [write_run(tmp_path, beta=beta) for beta in (0.1, 0.5, 1.0)]
    for run, text in zip(runs, ("x", "x", "y"), strict=True):
        with_answers(run, "b", "b", text)
    table = answers.side_by_side(frames.load(tmp_path))
    assert table.columns == ("prompt", "base", "DPO: beta 0.1 = beta 0.5", "DPO: beta 1")
    assert sorted(table.rows[0][2].runs) == sorted(run.path.name[-8:] for run in runs[:2])


def test_more_policies_than_fit_are_counted(tmp_path: Path) -> None:
    """Four stand side by side; the note says how many do not."""
    for i in range(6):
        with_answers(write_run(tmp_path, beta=0.1 * (i + 1)), "b", "b", f"answer {i}")
    table = answers.side_by_side(frames.load(tmp_path))
    assert len(table.columns) == 2 + answers.MOST and table.notes[0].startswith("2 more policies")


def test_samples_stand_beside_those_of_the_start(tmp_path: Path) -> None:
    """The first and the last evaluation's samples of the same prompt and draw."""
    run = frames.load_run(write_run(tmp_path).path)
    table = answers.samples(run, limit=5)
    rows = [row for row in map(json.loads, (run.path / "samples.jsonl").open()) if row["decoding"] == "sampled"]
    first, last = ([row["completion"] for row in rows if row["step"] == step] for step in (0, 4))
    assert [[cell.content for cell in row[1:]] for row in table.rows] == [
        list(p) for p in zip(first, last, strict=True)
    ][:5]


@pytest.mark.parametrize("form", ["_repr_html_", "_repr_markdown_"])
def test_an_answer_is_never_markup(tmp_path: Path, form: str) -> None:
    """In HTML and in Markdown, as prompt and as answer."""
    with_answers(write_run(tmp_path), NASTY, NASTY, NASTY, NASTY)
    text = getattr(answers.side_by_side(frames.load(tmp_path)), form)()
    assert "<script" not in text and "<img" not in text and text.count("&lt;script&gt;") >= 3


def test_the_two_lists_have_three_sentences_each_with_their_runs(tmp_path: Path) -> None:
    """For each arm and for one run; every sentence of an arm names its runs."""
    for beta in (0.1, 0.5):
        for seed in (0, 1, 2):
            write_run(tmp_path, seed, beta)
    runs = frames.load(tmp_path)
    for lists in (sentences.two_lists(runs), sentences.two_lists(runs.all[0])):
        for found in lists.found:
            assert len(found.did) >= 3 and len(found.did_not) >= 3
    text = sentences.two_lists(runs)._repr_html_()
    for arm in runs.arms():
        assert f'<li data-runs="{" ".join(run.id for run in arm.runs)}">' in text


def test_a_sentence_is_never_markup() -> None:
    """Whatever a label holds."""
    made = sentences.Sentences(NASTY, ((NASTY, ("0",)),))
    assert "<script" not in made._repr_html_() and "<script" not in made._repr_markdown_()


def test_flags_are_listed_raised_or_not(tmp_path: Path) -> None:
    """Each of summary.json with what it says."""
    run = frames.load_run(write_run(tmp_path).path)
    listed = [text for text, _ in sentences.flags(run).items]
    assert len(listed) == len(run.summary["flags"]) >= 3
    for text, (name, raised) in zip(listed, run.summary["flags"].items(), strict=True):
        assert text.startswith("raised: " if raised else "not raised: ") and name in text
