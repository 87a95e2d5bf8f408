"""What each verb of the `dpo` command does: heavy imports inside, results on stdout, the exit code returned."""

from __future__ import annotations

import argparse
from pathlib import Path

from dpo.terminal import path_line, tell


def train(args: argparse.Namespace) -> int:
    """One run, or with -m one for each grid point."""
    if args.multirun:
        return run_grid(None, args)
    from dpo.config import load

    config = load(args.overrides, args.config_dir, args.config_name)  # what is wrong with it is said before the rest
    from dpo.console import summary
    from dpo.run import run

    if not config.one_run:
        from dpo.rounds import rounds

        path_line(rounds(config).path)
        return 0
    directory, finished = run(config)
    if finished:
        tell(f"already finished, not repeated: {directory.path}")
    else:
        summary(directory)
    path_line(directory.path)
    return 0


def trust() -> None:
    """Let code run that came with a model: what --trust-remote-code says."""
    from dpo.past import TRUSTED

    TRUSTED.set(True)


def reward(args: argparse.Namespace) -> int:
    """A reward model on a run's pairs, and how far it agrees with policies' implicit rewards."""
    from dpo.config import load
    from dpo.console import show_agreement, show_curves
    from dpo.past import refuse_code
    from dpo.records import RunDir
    from dpo.reward import against, refuse_unread, run
    from dpo.saved_config import read_saved

    refuse_unread(args.overrides)
    policies = [RunDir(Path(path)) for path in args.against or []]
    folder, name = args.config_dir, args.config_name
    if policies and folder is None:
        folder, name = str(policies[0].path), "run"
        refuse_code(read_saved(policies[0].config), policies[0])
    config = load(args.overrides, folder, name)
    directory, finished = run(config)
    if finished:
        tell(f"already finished, not repeated: {directory.path}")
    else:
        show_curves(directory)
    for policy in policies:
        show_agreement(policy, against(directory, policy, config.train.precision))
    path_line(directory.path)
    return 0


def sweep(args: argparse.Namespace) -> int:
    """All jobs of a question."""
    return run_grid(args.name, args)


def run_grid(name: str | None, args: argparse.Namespace) -> int:
    """What is missing of a grid; its directory is the last line on stdout whatever came of it."""
    from dpo.launch import run_sweep
    from dpo.sweep import read

    where = (args.config_dir, args.config_name) if name is None else ()
    grid = read(name, args.overrides, *where)
    code = run_sweep(grid, args.rerun_changed)
    path_line(grid.folder)
    return code


def plan(args: argparse.Namespace) -> int:
    """The jobs of a question, without running any."""
    from dpo.plan import show_plan

    folder = show_plan(args.name, args.overrides, args.json)
    if not args.json:
        path_line(folder)
    return 0


def status(args: argparse.Namespace) -> int:
    """How the jobs of a directory stand."""
    from dpo.status import show_status

    show_status(Path(args.directory), args.watch, args.json)
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

    path_line(audit(load(args.overrides)))
    return 0


def judge(args: argparse.Namespace) -> int:
    """Pairs from a policy's own answers."""
    from dpo.judge import from_overrides, make

    path_line(make(from_overrides(args.overrides)).pairs)
    return 0


def runs(args: argparse.Namespace) -> int:
    """A line for each run."""
    from dpo.listing import list_runs

    list_runs(Path(args.directory), args.json)
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

    show_answers([Path(run) for run in args.runs], args.prompt, json=args.json)
    return 0


def reproduce(args: argparse.Namespace) -> int:
    """Run again and compare the rows."""
    from dpo.reproduce import reproduce

    return reproduce(Path(args.run), Path(args.into) if args.into else None)


def push(args: argparse.Namespace) -> int:
    """Runs to W&B; the project's address is the last line."""
    from dpo.tracking.push import push

    path_line(push(Path(args.directory), args.project, args.entity))
    return 0


def dashboard(args: argparse.Namespace) -> int:
    """The W&B workspace and report; where they are is printed."""
    from dpo.tracking.dashboard import build

    for place in build(Path(args.directory), args.project, args.entity, args.online):
        path_line(place)
    return 0


def report(args: argparse.Namespace) -> int:
    """The page of a directory of runs, or with --check whether it is up to date."""
    from dpo.results.report import report, stale
    from dpo.results.written import places

    directory, out = Path(args.directory), Path(args.out) if args.out else None
    page, _ = places(directory, out)
    if args.check:
        changed = stale(directory, out)
        if changed:
            tell(f"stale: {', '.join(changed)}; `dpo report {directory}` makes it anew")
    else:
        changed = []
        report(directory, out)
    path_line(page)
    return 1 if changed else 0
