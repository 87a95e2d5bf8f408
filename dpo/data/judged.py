"""Pairs that `dpo judge` made, beside the set that their prompts came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from dpo.build import build
from dpo.data.files import read_pairs
from dpo.data.judge import JudgedDir
from dpo.data.pair import Pair, Source, Split, distinct
from dpo.errors import UsageError
from dpo.json_files import read_json


@dataclass(frozen=True)
class Judged(Source):
    """The pairs in the folder `path`; with `append` also the training pairs of the set that was asked.

    That set, which the folder's provenance names, gives the evaluation pairs, the prompts to answer and the format
    checks; and it stays what the SFT stage learns, so that training begins where the sampled policies did.
    """

    sampled: ClassVar[bool] = True

    path: str
    append: bool

    @property
    def drops_long_prompts(self) -> bool:
        return self.asked().drops_long_prompts

    def directory(self) -> JudgedDir:
        """The folder; raises UsageError unless it is finished and its pairs are as they were written."""
        path = Path(self.path).expanduser()
        directory = JudgedDir(path.parent if path.name == "pairs.jsonl" else path)
        if not directory.path.is_dir():
            raise UsageError(f"dataset.path={self.path}: no such folder; dpo judge makes one")
        if not directory.provenance.is_file():
            raise UsageError(
                f"dataset.path={self.path}: no finished judged pairs here (no provenance.json); "
                "give the same dpo judge command again to finish them, or use dataset=files for pairs of your own"
            )
        if not directory.finished:
            raise UsageError(
                f"dataset.path={self.path}: pairs.jsonl is not the file that provenance.json speaks of; "
                "give the same dpo judge command again to restore it, or use dataset=files for changed pairs"
            )
        return directory

    def asked(self) -> Source:
        """The set whose prompts were asked."""
        node = read_json(self.directory().provenance)["config"]["dataset"]
        source: Source = build(Source, node, "dataset")[0]
        return source

    def origin(self) -> Source:
        return self.asked().origin()

    def load(self) -> Split:
        source = self.asked().load()
        directory = self.directory()
        by = f"judged by {read_json(directory.provenance)['judge']}"
        pairs = [replace(pair, source=by) for pair in read_pairs(directory.pairs)]
        earlier = source.train if self.append else []
        counts: dict[str, Any] = {"rows": len(pairs) + len(earlier) + len(source.evaluation), "judged": len(pairs)}
        return Split(distinct([*pairs, *earlier], counts), source.evaluation, source.prompts, counts)

    def check(self, answers: list[str], train: list[Pair]) -> dict[str, float]:
        """The checks of the set that was asked, against its own training pairs."""
        origin = self.origin()
        return origin.check(answers, origin.load().train)
