"""The data report: every count on a set made to have it, its limits, and the command."""

import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from dpo.__main__ import main
from dpo.config import load
from dpo.data.audit import SHARES, Audit, contradictions, report
from dpo.data.duplicates import near_duplicates
from dpo.data.pair import Pair, Split
from dpo.data.prepare import prepare
from dpo.data.tokens import TokenPair, tokenise
from dpo.errors import UsageError
from dpo.models.corpus import documents
from dpo.run import run
from tests import toys
from tests.conftest import SMALL

NO_LIMITS = Audit({}, {}, {})


def split_of(train: list[Pair], evaluation: list[Pair] | None = None, **counts: int) -> Split:
    held = evaluation or [Pair("e", "held out", "yes", "no", "toy")]
    return Split(train, held, [p.prompt for p in held], counts)


def audit(split: Split, max_length: int = 99) -> dict:
    """The report of a split over bytes."""
    parts = [tokenise(part, toys.tokenizer("byte"), max_length) for part in (split.train, split.evaluation)]
    return report(split, split, parts[0][0], parts[1][0], (parts[0][1], parts[1][1]))


def pair(name: str, prompt: str = "q", chosen: str = "yes", rejected: str = "no") -> Pair:
    return Pair(name, prompt, chosen, rejected, "toy")


def test_longer_chosen_answers_are_counted_in_characters_and_tokens() -> None:
    """One longer, one shorter, one equal: 1/3 by characters (a tie is no win), 1/2 by tokens (a tie is half a one)."""
    split = split_of([pair("a", "1", "xx", "y"), pair("b", "2", "x", "yy"), pair("c", "3", "x", "y")])
    split = replace(split, evaluation=[pair("e", "4", "x", "yy")])
    found = audit(split)
    assert found["chosen_longer_characters"] == 0.25 and found["chosen_longer_characters_pairs"] == 1
    assert found["train"]["longer_wins"] == 0.5
    low, high = found["train"]["longer_wins_interval"]
    assert low < 0.5 < high


def test_pairs_that_are_equal_in_tokens_alone_count_as_identical() -> None:
    """A cut removes the difference; what is trained are two equal answers."""
    split = split_of([pair("a", "q", "yes, and so on", "yes, and so what"), pair("b", "r", "yes", "no")])
    assert audit(split, max_length=12)["identical"] == 1 and audit(split)["identical"] == 0


def test_prompts_inside_answers_are_counted() -> None:
    """One of three pairs; the share has limits like the others."""
    split = split_of([pair("a", "Where is Bo?", "Where is Bo? There.", "no"), pair("b", "Where is Ba?")])
    found = audit(split)
    assert found["prompt_in_answer"] == 1 and found["shares"]["prompt_in_answer"] == pytest.approx(1 / 3)


def test_identical_contradictory_repeated_and_overlapping_pairs_are_counted() -> None:
    """A pair of equal answers; the same answers both ways round (two pairs); a copy under another id; a seen prompt."""
    train = [
        pair("a", chosen="same", rejected="same"),
        pair("b", "r", "x", "y"),
        pair("c", "r", "y", "x"),
        pair("d", "s", "x", "y"),
        pair("e", "s", "x", "y"),
    ]
    found = audit(split_of(train, [pair("f", "s", "u", "v"), pair("g", "t", "u", "v")]))
    names = ("identical", "contradictory", "duplicate_exact", "overlap")
    assert {name: found[name] for name in names} == {
        "identical": 1,
        "contradictory": 2,
        "duplicate_exact": 1,
        "overlap": 1,
    }
    assert found["shares"]["overlap"] == 0.5


def test_a_pair_with_equal_answers_does_not_contradict_itself() -> None:
    """Swapping it changes nothing."""
    assert contradictions([pair("a", chosen="x", rejected="x")]) == 0


def test_truncation_and_lost_eos_reach_the_report() -> None:
    """Prompt of 1, room for 3: the longer side is cut, and the gap between the sides is a share of its own."""
    found = audit(split_of([pair("a", "1", "xxxx", "y"), pair("b", "2", "x", "y")], [pair("e", "3", "x", "y")]), 4)
    assert (found["truncated_chosen"], found["truncated_rejected"], found["eos_lost"]) == (1, 0, 1)
    assert found["shares"]["truncation_gap"] == pytest.approx(1 / 3)


def test_what_the_source_counted_travels_into_the_report() -> None:
    """Nothing is silently dropped."""
    found = audit(split_of([pair("a")], rows=10, dropped=8, prompt_differs=5))
    assert (found["rows"], found["dropped"], found["prompt_differs"], found["empty_chosen"]) == (10, 8, 5, 0)
    assert found["shares"]["dropped"] == 0.8


def test_histograms_hold_every_pair() -> None:
    """The paired difference has negative bins, and outliers count in the outer bins."""
    split = split_of([pair(f"{i}", str(i), "x" * (1 + i), "y" * 20) for i in range(60)])
    found = audit(split, 999)["train"]
    for side in ("prompt", "chosen", "rejected", "difference"):
        assert sum(found[f"{side}_tokens"]["histogram"]) == 60, side
    assert found["difference_tokens"]["edges"][0] < 0 and found["difference_tokens"]["p5"] < 0


def shingled(ids: range | list[int]) -> TokenPair:
    return TokenPair("x", (0,), tuple(ids), (1,))


def test_near_duplicates_are_found_and_copies_and_strangers_are_not() -> None:
    """One token of 100 changed: near. The same ids: exact, counted elsewhere. Half changed: another pair."""
    base = list(range(100, 200))
    near, far = [*base[:50], 7, *base[51:]], [*base[:50], *range(300, 350)]
    assert near_duplicates([shingled(base), shingled(near)]) == 1
    assert near_duplicates([shingled(base), shingled(base)]) == 0
    assert near_duplicates([shingled(base), shingled(far)]) == 0


@pytest.mark.parametrize(("share", "level"), [(0.1, None), (0.2, "note"), (0.4, "warn"), (0.6, "stop")])
def test_limits_decide_note_warning_or_stop(share: float, level: str | None) -> None:
    """Above a limit and not at it; the gravest level counts."""
    limits = Audit({"identical": 0.1}, {"identical": 0.3}, {"identical": 0.5})
    assert [f["level"] for f in limits.findings({"identical": share})] == ([level] if level else [])


def test_unknown_limits_and_a_stop_for_overlap_are_refused() -> None:
    """The nearest name is offered; overlapping prompts never stop a run."""
    with pytest.raises(UsageError, match=r"audit\.warn\.identicl.*identical"):
        Audit({}, {"identicl": 0.1}, {})
    with pytest.raises(UsageError, match=r"audit\.stop\.overlap"):
        Audit({}, {}, {"overlap": 0.1})


def test_every_share_of_the_report_can_be_limited() -> None:
    """The names of shares and of limits are one list."""
    assert set(audit(split_of([pair("a")]))["shares"]) == set(SHARES)


def test_a_stop_ends_a_run_before_it_starts(small) -> None:
    """One line with the key, and no directory is left behind."""
    config = small("+audit.stop.dropped=0", "audit.stop.identical=0.01", "dataset=files", "dataset.path=x.jsonl")
    path = Path(config.output_root).parent / "x.jsonl"
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "a"} for i in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = replace(config, dataset=replace(config.dataset, path=str(path)))
    with pytest.raises(UsageError, match=r"two equal answers.*audit\.stop\.identical=0\.01"):
        run(config)
    assert list(Path(config.output_root).rglob("run.yaml")) == []


def test_limits_do_not_change_which_run_it_is(small) -> None:
    """The audit looks and never touches."""
    from dpo.config import identity

    assert identity(small().plain) == identity(small("audit.warn.tells=0.5").plain)


def test_every_run_holds_its_audit(finished) -> None:
    """At the head of a run: counts, both parts, the probe."""
    found = finished.read("audit")
    assert found["rows"] == 24 and found["overlap"] == 12
    assert found["train"]["pairs"] == 12 and 0 <= found["probe"]["words"]["accuracy"] <= 1


def test_the_command_prints_the_path_of_its_report(cache: Path, tmp_path: Path, capsys) -> None:
    """Last on stdout, below the table, and no model is built."""
    kept = set((cache / "models").glob("tiny-*"))
    assert main(["audit", *SMALL, "model.seed=5", f"cache_root={cache}", f"output_root={tmp_path}"]) == 0
    printed = capsys.readouterr()
    assert json.loads(Path(printed.out.splitlines()[-1]).read_text())["pairs"] == 24
    assert "longer wins" in printed.out and "bag of words" in printed.out
    assert set((cache / "models").glob("tiny-*")) == kept


def long_pairs(count: int) -> list[Pair]:
    """Pairs of about 500 tokens a side."""
    texts = documents(400, 3)
    return [
        pair(
            f"{i}",
            f"Question {i}.\n",
            " ".join(texts[(i + k) % 400] for k in range(10)),
            " ".join(texts[i % 390 : i % 390 + 10]),
        )
        for i in range(count)
    ]


def test_a_second_preparation_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens and report come from the cache: the tokenizer's batches and the counting are not called again."""
    split = split_of(long_pairs(20))
    arguments = (toys.tokenizer("bpe"), 4096, 1.0, False, NO_LIMITS, tmp_path)
    first = prepare(split, *arguments)

    def never(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("dpo.data.tokens.encode_pairs", never)
    monkeypatch.setattr("dpo.data.prepare.report", never)
    assert prepare(split, *arguments) == first


@pytest.mark.parametrize("change", ("text", "tokenizer", "max_length", "order"))
def test_stored_tokens_are_those_of_this_very_input(change: str, tmp_path: Path) -> None:
    """Another text, tokenizer, limit or order is another key."""
    pairs, tokenizer, limit = long_pairs(4), toys.tokenizer("bpe"), 4096
    tokenise(pairs, tokenizer, limit, cache=tmp_path)
    if change == "text":
        pairs = [replace(pairs[0], chosen="new"), *pairs[1:]]
    elif change == "order":
        pairs = pairs[::-1]
    elif change == "tokenizer":
        tokenizer = toys.tokenizer("byte")
    else:
        limit = 60
    assert tokenise(pairs, tokenizer, limit, cache=tmp_path) == tokenise(pairs, tokenizer, limit)


def test_renamed_pairs_find_their_tokens_under_the_new_names(tmp_path: Path) -> None:
    """What a pair is called decides no id."""
    pairs = long_pairs(3)
    tokenise(pairs, toys.tokenizer("bpe"), 4096, cache=tmp_path)
    made, _ = tokenise([replace(p, id=f"new-{p.id}") for p in pairs], toys.tokenizer("bpe"), 4096, cache=tmp_path)
    assert [p.id for p in made] == ["new-0", "new-1", "new-2"] and len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_long_prompts_are_dropped_and_counted_where_the_set_says_so(tmp_path: Path) -> None:
    """Their pairs and prompts leave the split as well, and the counts say how many."""
    split = split_of([pair("a", "short"), pair("b", "long " * 30)], [pair("e", "held"), pair("f", "also " * 30)])
    made = prepare(split, toys.tokenizer("byte"), 40, 1.0, True, NO_LIMITS, tmp_path)
    assert [p.id for p in made.split.train] == [p.id for p in made.train] == ["a"]
    assert made.split.prompts == ["held"] and made.audit["prompt_too_long"] == 2
    assert made.audit["shares"]["prompt_too_long"] == 0.5


def test_where_every_prompt_is_too_long_the_key_is_named(tmp_path: Path) -> None:
    """There is nothing left to train on."""
    with pytest.raises(UsageError, match=r"all 1 training pairs.*train\.max_length=2"):
        prepare(split_of([pair("a", "abc")]), toys.tokenizer("byte"), 2, 1.0, True, NO_LIMITS, tmp_path)


def test_thousand_long_pairs_take_seconds(tmp_path: Path) -> None:
    """A tenth of ten thousand pairs of 500 tokens, in less than a tenth of a minute's CPU time on one core."""
    begin = time.process_time()
    prepare(split_of(long_pairs(1000)), toys.tokenizer("bpe"), 4096, 1.0, False, NO_LIMITS, tmp_path)
    assert time.process_time() - begin < 12  # two cores for a minute are 120 s of CPU time, a tenth of them 12


def test_preparing_again_takes_no_more_memory(tmp_path: Path) -> None:
    """Nothing is kept between repetitions but what the first one kept."""
    import tracemalloc

    split = split_of(long_pairs(50))
    arguments = (split, toys.tokenizer("bpe"), 4096, 1.0, False, NO_LIMITS, tmp_path)
    prepare(*arguments)
    tracemalloc.start()
    prepare(*arguments)
    after_one = tracemalloc.get_traced_memory()[0]
    for _ in range(5):
        prepare(*arguments)
    grown = tracemalloc.get_traced_memory()[0] - after_one
    tracemalloc.stop()
    assert grown < 100_000


def test_hh_rows_are_counted_as_known(hh_rlhf: Path, tmp_path: Path, cache: Path, capsys) -> None:
    """The real file: 2,312 rows, 5 differing prompts, 4 empty chosen answers, chosen longer in 44 %."""
    command = ["audit", "dataset=hh_rlhf", f"dataset.path={hh_rlhf}", f"cache_root={cache}", f"output_root={tmp_path}"]
    assert main(command) == 0
    found = json.loads(Path(capsys.readouterr().out.splitlines()[-1]).read_text())
    expected = {"rows": 2312, "prompt_differs": 5, "empty_chosen": 4, "empty_rejected": 0, "dropped": 9}
    assert {name: found[name] for name in expected} == expected
    assert round(found["chosen_longer_characters"], 2) == 0.44


def test_hh_rows_can_be_trained_on(hh_rlhf: Path, small) -> None:
    """The first rows, read as written, under a byte model; what has no room is left out and counted."""
    config = small("dataset=hh_rlhf", f"dataset.path={hh_rlhf}", "dataset.max_rows=60", "train.max_length=400")
    made = run(config)[0]
    found = made.read("audit")
    assert made.status()["state"] == "done" and found["used"] + found["prompt_too_long"] == found["pairs"]
    assert Counter(row["kind"] for row in made.rows(made.metrics))["train"] == 6


def test_options_without_an_audit_limit_still_compose() -> None:
    """Limits can be taken away on the command line."""
    assert "tells" not in load(["~audit.warn.tells"]).audit.warn
