"""`make faults`: every point of every command; ONLY=train,judge chooses commands, PART=0/8 every eighth point."""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.campaign import COMMANDS, KINDS, chosen, holds, points, wrong


def main() -> int:
    """1 where any point ends otherwise than an undisturbed command; a line for each that does."""
    only = os.environ.get("ONLY") or ",".join(COMMANDS)
    part = os.environ.get("PART")
    share = tuple(map(int, part.split("/"))) if part else None
    kinds = (os.environ.get("KIND") or ",".join(KINDS)).split(",")
    bad = 0
    with tempfile.TemporaryDirectory(prefix="dpo-faults-") as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        for command in only.split(","):
            for kind in kinds:
                root = Path(folder) / command / kind
                count = points(command, root / "whole", kind)
                expected, todo = holds(root / "whole"), chosen(count, share)

                def one(at: int, command: str = command, kind: str = kind, root: Path = root, expected=expected):
                    said = wrong(command, kind, at, root / str(at), expected)
                    for line in said:
                        print(f"{command}, {kind} at {at}: {line}", flush=True)
                    return bool(said)

                differ = sum(pool.map(one, todo))
                bad += differ
                print(f"{command}, {kind}: {len(todo)} of {count} points, {differ} not as they should be", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
