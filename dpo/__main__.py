"""The `dpo` command: verbs only. Everything heavy is imported inside them, so that --help is instant."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from dpo.errors import UsageError


def train(args: argparse.Namespace) -> int:
    """One run, or with -m one for each grid point."""
    if args.multirun:
        if args.config_dir:
            raise UsageError("--config-dir and -m do not go together: give a run's settings as overrides instead")
        return run_grid(None, args)
    from dpo.config import load
    from dpo.console import summary
    from dpo.results.figures import save_reward_curves
    from dpo.run import run

    config = load(args.overrides, args.config_dir, args.config_name)
    if not config.one_run:
        from dpo.rounds import rounds

        print(rounds(config).path)
        return 0
    directory, finished = run(config)
    if finished:
        print(f"already finished, not repeated: {directory.path}", file=sys.stderr)
    else:
        save_reward_curves(directory)
        summary(directory)
    print(directory.path)
    return 0


def reward(args: argparse.Namespace) -> int:
    """A reward model on a run's pairs, and how far it agrees with policies' implicit rewards."""
    from dpo.config import load
    from dpo.console import show_agreement, show_curves
    from dpo.records import RunDir
    from dpo.reward import against, refuse_unread, run

    refuse_unread(args.overrides)
    policies = [RunDir(Path(path)) for path in args.against or []]
    folder, name = args.config_dir, args.config_name
    if policies and folder is None:
        folder, name = str(policies[0].path), "run"
    config = load(args.overrides, folder, name)
    directory, finished = run(config)
    if finished:
        print(f"already finished, not repeated: {directory.path}", file=sys.stderr)
    else:
        show_curves(directory)
    for policy in policies:
        show_agreement(policy, against(directory, policy, config.train.precision))
    print(directory.path)
    return 0


def sweep(args: argparse.Namespace) -> int:
    """All jobs of a question."""
    return run_grid(args.name, args)


def run_grid(name: str | None, args: argparse.Namespace) -> int:
    """What is missing of a grid; its directory is the last line on stdout whatever came of it."""
    from dpo.launch import run_sweep
    from dpo.sweep import read

    grid = read(name, args.overrides)
    code = run_sweep(grid, args.rerun_changed)
    print(grid.folder)
    return code


def plan(args: argparse.Namespace) -> int:
    """The jobs of a question, without running any."""
    from dpo.plan import show_plan

    print(show_plan(args.name, args.overrides))
    return 0


def status(args: argparse.Namespace) -> int:
    """How the jobs of a directory stand."""
    from dpo.status import show_status

    show_status(Path(args.directory), args.watch)
    return 0


def preview(args: argparse.Namespace) -> int:
    """Tokens and masks of a few pairs."""
    from dpo.config import load
    from dpo.console import show_tokens

    show_tokens(load(args.overrides), args.pairs)
    return 0


def audit(args: argparse.Namespace) -> int:
    """The data report before any training."""
    from dpo.audit import audit
    from dpo.config import load

    print(audit(load(args.overrides)))
    return 0


def judge(args: argparse.Namespace) -> int:
    """Pairs from a policy's own answers."""
    from dpo.judge import from_overrides, make

    print(make(from_overrides(args.overrides)).pairs)
    return 0


def runs(args: argparse.Namespace) -> int:
    """A line for each run."""
    from dpo.console import list_runs

    list_runs(Path(args.directory))
    return 0


def score(args: argparse.Namespace) -> int:
    """Rewards and margins of a pairs file, or of a run's own evaluation under any loss."""
    from dpo.score import score

    pairs, out = (Path(name) if name else None for name in (args.pairs, args.out))
    score(Path(args.run), pairs, out, args.loss, args.beta, args.set, args.step)
    return 0


def compare(args: argparse.Namespace) -> int:
    """Answers side by side."""
    from dpo.console import show_answers

    show_answers([Path(run) for run in args.runs], args.prompt)
    return 0


def reproduce(args: argparse.Namespace) -> int:
    """Run again and compare the rows."""
    from dpo.reproduce import reproduce

    return reproduce(Path(args.run), Path(args.into) if args.into else None)


def report(args: argparse.Namespace) -> int:
    """The page of a directory of runs, or with --check whether it is up to date."""
    from dpo.results.report import report, stale

    directory, out = Path(args.directory), Path(args.out) if args.out else None
    page = out or directory / "report.html"
    if args.check:
        changed = stale(directory, out)
        if changed:
            print(f"stale: {', '.join(changed)}; `dpo report {directory}` makes it anew", file=sys.stderr)
    else:
        changed = []
        report(directory, out)
    print(page)
    return 1 if changed else 0


OVERRIDES = "settings as group=option or key=value, such as beta.value=0.3 (see conf/)"
CHANGED = "with -m or a sweep: set aside runs made by other code or data than there is now, and run them again"


def parser() -> argparse.ArgumentParser:
    """All verbs with their help and an example each."""
    top = argparse.ArgumentParser(
        prog="dpo",
        description="Ask questions of Direct Preference Optimization: one run, one directory of plain files.",
        epilog="Try: dpo train experiment=capstone",
    )
    verbs = top.add_subparsers(metavar="VERB", required=True)

    def verb(name: str, action: object, text: str, example: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text, epilog=f"Example: {example}")
        sub.set_defaults(action=action)
        return sub

    sub = verb("train", train, "Train one run; prints its directory.", "dpo train beta.value=0.3 seed=1")
    sub.add_argument("overrides", nargs="*", help=OVERRIDES)
    sub.add_argument("--config-dir", help="folder to take the configuration from, such as a run directory")
    sub.add_argument("--config-name", default="config", help="its name there: `run` for a run directory")
    sub.add_argument("-m", "--multirun", action="store_true", help="sweep over values with commas: beta.value=0.1,0.3")
    sub.add_argument("--rerun-changed", action="store_true", help=CHANGED)

    sub = verb("sweep", sweep, "Run what is missing of a question in sweeps/.", "dpo sweep beta seed=0,1,2,3")
    sub.add_argument("name", help="a file in sweeps/ without .yaml, or the path of a .yaml of your own")
    sub.add_argument("overrides", nargs="*", help=OVERRIDES)
    sub.add_argument("--rerun-changed", action="store_true", help=CHANGED)

    sub = verb("plan", plan, "List a question's jobs, what is done, time and disk; run nothing.", "dpo plan beta")
    sub.add_argument("name", help="a file in sweeps/ without .yaml, or the path of a .yaml of your own")
    sub.add_argument("overrides", nargs="*", help=OVERRIDES)

    sub = verb("status", status, "Show how the jobs of a sweep stand.", "dpo status outputs/beta --watch")
    sub.add_argument("directory", help="directory of a sweep, or any directory of runs")
    sub.add_argument("--watch", action="store_true", help="keep the table up to date until every run has ended")

    sub = verb(
        "reward",
        reward,
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
    sub.add_argument("--config-dir", help="folder to take the configuration from, such as a run directory")
    sub.add_argument("--config-name", default="config", help="its name there: `run` for a run directory")

    sub = verb("preview", preview, "Show tokens and masks of a few pairs.", "dpo preview dataset=twelve --pairs 2")
    sub.add_argument("overrides", nargs="*", help=OVERRIDES)
    sub.add_argument("--pairs", type=int, default=3, help="how many training pairs (default 3)")

    sub = verb("audit", audit, "Report on the data before any training.", "dpo audit dataset=hand_authored")
    sub.add_argument("overrides", nargs="*", help=OVERRIDES)

    sub = verb(
        "report",
        report,
        "Make one page (HTML, and Markdown with figures beside it) of all runs below a directory.",
        "dpo report outputs/beta",
    )
    sub.add_argument("directory", help="a run, a sweep, or any directory above runs that were measured alike")
    sub.add_argument(
        "--out", metavar="FILE", help="the page (default DIR/report.html); its parts go into FILE's name without .html"
    )
    sub.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 where the page is not what the runs give now"
    )

    sub = verb(
        "judge",
        judge,
        "Sample answers, let a judge pick, write pairs with their provenance; killed, the same command goes on.",
        "dpo judge judge=rules_json judge.run=outputs/runs/X, then dpo train dataset=judged dataset.path=<its folder>",
    )
    sub.add_argument("overrides", nargs="*", help=OVERRIDES)

    sub = verb("runs", runs, "List the runs below a directory.", "dpo runs outputs")
    sub.add_argument("directory", nargs="?", default="outputs")

    sub = verb(
        "score",
        score,
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

    sub = verb("compare", compare, "Base, SFT and DPO answers side by side.", "dpo compare outputs/runs/X")
    sub.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    sub.add_argument("--prompt", help="answer this prompt instead of the recorded ones")

    sub = verb(
        "reproduce", reproduce, "Run again from run.yaml and compare every metric row.", "dpo reproduce outputs/runs/X"
    )
    sub.add_argument("run", help="run directory")
    sub.add_argument("--into", help="output root of the repetition (default: a temporary folder)")
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 something failed, 2 wrong usage or configuration."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # torch's threads otherwise spin while they wait: on a shared machine that costs up to ten times the time
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)  # between libraries, nothing a user can act on
    warnings.filterwarnings("ignore", message="fan_in_fan_out")
    args = parse(arguments)
    try:
        return int(args.action(args))
    except UsageError as error:
        print(f"dpo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dpo: interrupted; the same command continues", file=sys.stderr)
        return 1
    except Exception as error:
        print(f"dpo: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
