"""The `dpo` command: verbs only. Everything heavy is imported inside them, so that --help is instant."""

from __future__ import annotations

from dpo.safe_path import leave_out_working_directory

leave_out_working_directory()  # before any module that a file there could be called like

# ruff: noqa: E402
# isort: split
import argparse
import atexit
import gc
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dpo import terminal, verbs
from dpo.disk import PLACES, described, is_wrong_place
from dpo.errors import UsageError
from dpo.interrupt import came, cause, exit_code, handled
from dpo.streams import GONE, guard, lost

JSON = "print JSON for scripts instead of a table"
OVERRIDES = "settings as group=option or key=value, such as beta.value=0.3 (see conf/)"
TRUST = "let Python code run that comes with a model, where the run's settings ask for it (model.trust_remote_code)"
CHANGED = "with -m or a sweep: set aside runs made by other code or data than there is now, and run them again"


Verb = Callable[[str, object, str, str], argparse.ArgumentParser]
"""Adds a verb by its name, action, help text and example."""


def training(verb: Verb) -> None:
    """What trains: runs, sweeps, reward models, judged pairs."""
    sub = verb("train", verbs.train, "Train one run; prints its directory.", "dpo train beta.value=0.3 seed=1")
    sub.add_argument("overrides", nargs="*", help=OVERRIDES)
    sub.add_argument("--config-dir", help="folder to take the configuration from, such as a run directory")
    sub.add_argument("--config-name", default="config", help="its name there: `run` for a run directory")
    sub.add_argument("-m", "--multirun", action="store_true", help="sweep over values with commas: beta.value=0.1,0.3")
    sub.add_argument("--rerun-changed", action="store_true", help=CHANGED)

    sub = verb("sweep", verbs.sweep, "Run what is missing of a question in sweeps/.", "dpo sweep beta seed=0,1,2,3")
    sub.add_argument("name", help="a file in sweeps/ without .yaml, or the path of a .yaml of your own")
    sub.add_argument("overrides", nargs="*", help=OVERRIDES)
    sub.add_argument("--rerun-changed", action="store_true", help=CHANGED)

    sub = verb("plan", verbs.plan, "List a question's jobs, what is done, time and disk; run nothing.", "dpo plan beta")
    sub.add_argument("name", help="a file in sweeps/ without .yaml, or the path of a .yaml of your own")
    sub.add_argument("overrides", nargs="*", help=OVERRIDES)
    sub.add_argument("--json", action="store_true", help=JSON)

    sub = verb(
        "reward",
        verbs.reward,
        "Train a Bradley-Terry reward model on the pairs; compare it with implicit rewards.",
        "dpo reward --against outputs/runs/X",
    )
    sub.add_argument("overrides", nargs="*", help=OVERRIDES)
    sub.add_argument(
        "--against",
        action="append",
        metavar="RUN",
        help="finished run to compare with on its held-out pairs; the first one's settings are taken",
    )
    sub.add_argument("--trust-remote-code", action="store_true", help=TRUST)
    sub.add_argument("--config-dir", help="folder to take the configuration from, such as a run directory")
    sub.add_argument("--config-name", default="config", help="its name there: `run` for a run directory")

    sub = verb(
        "judge",
        verbs.judge,
        "Sample answers, let a judge pick, write pairs with their provenance; killed, the same command goes on.",
        "dpo judge judge=rules_json judge.run=outputs/runs/X, then dpo train dataset=judged dataset.path=<its folder>",
    )
    sub.add_argument("overrides", nargs="*", help=OVERRIDES)
    sub.add_argument("--trust-remote-code", action="store_true", help=TRUST)


def data_and_runs(verb: Verb) -> None:
    """What looks at data before a run, and at runs."""
    sub = verb(
        "preview", verbs.preview, "Show tokens and masks of a few pairs.", "dpo preview dataset=twelve --pairs 2"
    )
    sub.add_argument("overrides", nargs="*", help=OVERRIDES)
    sub.add_argument("--pairs", type=int, default=3, help="how many training pairs (default 3)")

    sub = verb("audit", verbs.audit, "Report on the data before any training.", "dpo audit dataset=hand_authored")
    sub.add_argument("overrides", nargs="*", help=OVERRIDES)

    sub = verb("status", verbs.status, "Show how the jobs of a sweep stand.", "dpo status outputs/beta --watch")
    sub.add_argument("directory", help="directory of a sweep, or any directory of runs")
    sub.add_argument("--watch", action="store_true", help="keep the table up to date until every run has ended")
    sub.add_argument("--json", action="store_true", help=JSON)

    sub = verb("runs", verbs.runs, "List the runs below a directory.", "dpo runs outputs")
    sub.add_argument("directory", nargs="?", default="outputs")
    sub.add_argument("--json", action="store_true", help=JSON)

    sub = verb(
        "score",
        verbs.score,
        "Rewards, margins and loss of a pairs file, or of a run's own evaluation pairs, under a finished run.",
        "dpo score outputs/runs/X pairs.jsonl; what would IPO score there: dpo score outputs/runs/X --loss ipo",
    )
    sub.add_argument("run", help="run directory")
    sub.add_argument("pairs", nargs="?", help=".jsonl or .parquet file; without it the run's own evaluation pairs")
    sub.add_argument("--loss", help="score with this loss (an option of conf/loss) instead of the run's")
    sub.add_argument("--beta", type=float, help="with this beta instead of the run's, or of the loss's usual one")
    sub.add_argument("--set", action="append", default=[], metavar="loss.KEY=VALUE", help="a setting of --loss")
    sub.add_argument("--step", type=int, help="the run's evaluation at this step instead of its last")
    sub.add_argument("--out", help="write a row per pair to this .jsonl file")
    sub.add_argument("--trust-remote-code", action="store_true", help=TRUST)

    sub = verb("compare", verbs.compare, "Base, SFT and DPO answers side by side.", "dpo compare outputs/runs/X")
    sub.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    sub.add_argument("--prompt", help="answer this prompt instead of the recorded ones")
    sub.add_argument("--json", action="store_true", help=JSON)
    sub.add_argument("--trust-remote-code", action="store_true", help=TRUST)

    sub = verb(
        "reproduce",
        verbs.reproduce,
        "Run again from run.yaml and compare every metric row.",
        "dpo reproduce outputs/runs/X",
    )
    sub.add_argument("run", help="run directory")
    sub.add_argument("--into", help="output root of the repetition (default: a temporary folder)")
    sub.add_argument("--trust-remote-code", action="store_true", help=TRUST)


def results(verb: Verb) -> None:
    """What shows runs to others."""
    sub = verb(
        "report",
        verbs.report,
        "Make one page (HTML, and Markdown with figures beside it) of all runs below a directory.",
        "dpo report outputs/beta",
    )
    sub.add_argument("directory", help="a run, a sweep, or any directory above runs that were measured alike")
    sub.add_argument(
        "--out",
        metavar="PAGE",
        help="the page (default DIR/report.html), its parts in a folder beside it; or a folder",
    )
    sub.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 where the page is not what the runs give now"
    )

    sub = verb("push", verbs.push, "Send finished and unfinished runs to W&B, each once.", "dpo push outputs/beta")
    sub.add_argument("directory", nargs="?", default="outputs", help="run directory, or any directory above runs")

    text = "Build the W&B workspace and report: to files below DIR/wandb, with --online to the project as well."
    board = verb("dashboard", verbs.dashboard, text, "dpo dashboard outputs --online")
    board.add_argument("directory", nargs="?", default="outputs", metavar="DIR", help="output root, or a sweep in it")
    board.add_argument("--online", action="store_true", help="save both to the project; again: over the earlier ones")
    for command in (sub, board):
        command.add_argument("--project", help="W&B project (default: the one the runs name, tracker.project)")
        command.add_argument("--entity", help="W&B user or team (default: yours)")


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command in one line, as everything else that is wrong is said."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (`{self.prog} --help` lists what there is)")


def parser() -> argparse.ArgumentParser:
    """All verbs with their help and an example each."""
    top = Parser(
        prog="dpo",
        description="Ask questions of Direct Preference Optimization: one run, one directory of plain files.",
        epilog="Try: dpo train experiment=capstone",
    )
    added = top.add_subparsers(metavar="VERB", required=True)

    def verb(name: str, action: object, text: str, example: str) -> argparse.ArgumentParser:
        sub = added.add_parser(name, help=text, description=text, epilog=f"Example: {example}")
        sub.set_defaults(action=action)
        return sub

    for add in (training, data_and_runs, results):
        add(verb)
    return top


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The verb and its arguments; overrides may stand on both sides of an option: seed=1 -m beta.value=0.1,0.3."""
    top = parser()
    args, rest = top.parse_known_args(arguments)
    if any(word.startswith("-") for word in rest) or (rest and "overrides" not in args):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides += rest
    return args


RESUMED = (verbs.train, verbs.sweep, verbs.reward, verbs.judge, verbs.push)
"""Verbs that keep what they have done: the same command goes on from there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 something failed, 2 wrong usage or configuration, 128 + its number for a signal."""
    guard()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # torch's threads otherwise spin while they wait: on a shared machine that costs up to ten times the time
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)  # between libraries, nothing a user can act on
    warnings.filterwarnings("ignore", message="fan_in_fan_out")
    # the interpreter otherwise looks for garbage among all modules before it ends: a second after torch and the rest
    atexit.register(gc.freeze)
    terminal.prepare_streams()
    action: Any = None
    with handled():
        try:
            args = parse(arguments)
            if getattr(args, "trust_remote_code", False):
                verbs.trust()
            options = {"--out": "out", "--into": "into", "DIR": "directory", "RUN": "run"}
            PLACES.update({said: Path(path) for said, name in options.items() if (path := getattr(args, name, None))})
            action = args.action
            code = int(action(args))
        except BaseException as error:
            if not (came() or isinstance(error, Exception | KeyboardInterrupt)):  # argparse's --help
                raise
            code = ended(error, action in RESUMED)
    unwritten = lost(sys.stdout)
    if unwritten is not None and unwritten.errno not in GONE and code == 0 and action not in RESUMED:
        terminal.fault(f"standard output did not take all of the answer: {unwritten.strerror}")
        return 1
    return code


def ended(error: BaseException, resumed: bool) -> int:
    """Say in one line why a command ends, and give its exit code."""
    if why := cause(error):
        terminal.fault(f"interrupted ({why})" + ("; the same command goes on" if resumed else ""))
        return exit_code()
    if isinstance(error, UsageError):
        terminal.fault(error)
        return 2
    terminal.fault(described(error))
    return 2 if is_wrong_place(error) else 1


if __name__ == "__main__":
    sys.exit(main())
