"""docs/leet.svg: `wandb leet` on a folder of offline runs, as it looks in a terminal; needs tmux.

dpo train -m experiment=capstone beta.value=0.05,0.5 seed=0,1
python docs/leet.py outputs/wandb
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH, HEIGHT = 180, 26
KEYS = ["Down", "Space", "Down", "Space", "Down", "Space", "]", "/", "eval/rewards", "Enter"]
"""Choose all four runs, hide the pane on the right, and show the charts of one name."""


def tmux(*arguments: str) -> str:
    """The output of a tmux command on a server of its own."""
    call = ["tmux", "-L", "dpo-leet", *arguments]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout


def main(folder: Path) -> None:
    """Start leet, press the keys, and draw what stands on the screen then."""
    settings = tempfile.mkdtemp()  # leet keeps what was pressed
    (folder / ".wandb-leet.json").unlink(missing_ok=True)  # and in the folder what was chosen
    colours = "TERM=xterm-256color COLORTERM=truecolor"
    leet = f"WANDB_CONFIG_DIR={settings} {colours} '{sys.executable}' -m wandb leet '{folder}'"
    tmux("new-session", "-d", "-s", "leet", "-x", str(WIDTH), "-y", str(HEIGHT), leet)
    try:
        time.sleep(6)
        for key in KEYS:
            tmux("send-keys", "-t", "leet", key)
            time.sleep(0.5)
        time.sleep(5)
        screen = tmux("capture-pane", "-p", "-e", "-t", "leet")
    finally:
        tmux("kill-server")
    lines = [line for line in screen.splitlines() if str(folder) not in line]
    console = Console(record=True, width=WIDTH, file=sys.stderr)
    console.print(Text.from_ansi("\n".join(lines)))
    svg = console.export_svg(title="wandb leet outputs/wandb", unique_id="leet")
    (Path(__file__).parent / "leet.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/wandb").resolve())
