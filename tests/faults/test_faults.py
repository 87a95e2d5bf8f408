"""A sample of the campaign (`make faults` has every point)."""

import random
import time
from pathlib import Path

import pytest

from tests.faults.campaign import holds, points, wrong


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "kind"), [("train", "kill"), ("train", "full"), ("stacked", "kill"), ("judge", "kill")]
)
def test_a_fault_at_any_file_operation_changes_nothing_in_the_end(command: str, kind: str, tmp_path: Path) -> None:
    """The same command again ends like an undisturbed one, and leaves nothing more; points are drawn anew each time."""
    count = points(command, tmp_path / "whole", kind)
    expected = holds(tmp_path / "whole")
    for at in random.Random(time.time_ns()).sample(range(1, count + 1), 2):
        assert not wrong(command, kind, at, tmp_path / str(at), expected), f"at {at} of {count}"
