"""Stanford Human Preferences (Ethayarajh et al. 2022, ICML): two comments on a post, ranked by their votes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from dpo.data.published import Draft, Published, column, score
from dpo.errors import UsageError
from dpo.ranges import Range


@dataclass(frozen=True)
class Shp(Published):
    """Rows with columns history, human_ref_A, human_ref_B, labels (1: A is preferred, 0: B) and score_ratio.

    The prompt is the post as the user's turn. Rows whose better comment has less than `min_score_ratio` times the
    score of the other are dropped, and counted as ratio_too_small; so are those with empty texts.
    """

    min_score_ratio: Annotated[float, Range(1, 1e12)]

    def hub_options(self) -> dict[str, Any]:
        return {} if self.subset is None else {"data_dir": self.subset}

    def draft(self, row: dict[str, Any], where: str) -> Draft:
        post, a, b = (column(row, name, where) for name in ("history", "human_ref_A", "human_ref_B"))
        label = column(row, "labels", where, int)
        if label not in (0, 1):
            raise UsageError(f"{where}: labels={label}; must be 1 (A is preferred) or 0 (B)")
        ratio = score(row, "score_ratio", where)
        chosen, rejected = (a, b) if label else (b, a)
        faults = ("ratio_too_small",) if ratio < self.min_score_ratio else ()
        return Draft([{"role": "user", "content": post}], chosen, rejected, faults)
