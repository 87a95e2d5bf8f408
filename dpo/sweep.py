"""A question as jobs: its file read, its grid expanded by Hydra's grammar, every job typed before the first starts."""

from __future__ import annotations

import itertools
import math
import os
import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo.build import arguments, nearest
from dpo.compose import Primary, composer, conf_dir, in_one_line, primary, quoted
from dpo.config import identity, in_environment, parse
from dpo.errors import UsageError
from dpo.hydra_settings import split
from dpo.naming import run_name

RESERVED = ("runs", "cache", "wandb", "multirun", "judged", "rounds", "audit")
"""Folders of an output root that are not sweeps; `multirun` belongs to `dpo train -m`."""
MOST = 10_000
"""Jobs of a sweep; all are typed before the first starts."""


@dataclass(frozen=True)
class Rules:
    """What a sweep does when a job fails; a sweep file sets it under `sweep:`, the command as sweep.on_failure=stop."""

    on_failure: typing.Literal["go_on", "stop"]


@dataclass(frozen=True)
class Job:
    """One grid point: the id of its run, a name that says what was swept, its overrides, its resolved configuration.

    `settings` are the overrides of the swept keys alone.
    """

    id: str
    name: str
    overrides: tuple[str, ...]
    settings: dict[str, str]
    plain: dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """All jobs of a question, each once, in the order of the grid, and the file that they are composed from."""

    name: str
    question: str
    jobs: list[Job]
    notices: list[str]
    rules: Rules
    source: Primary

    @property
    def folder(self) -> Path:
        """Where its runs are: <output_root>/<name>, one output root for all jobs."""
        return Path(self.jobs[0].plain["output_root"]) / self.name


def sweeps_dir() -> Path:
    """The sweeps/ folder: $DPO_SWEEPS, else in the installed package, else in the checkout."""
    package = Path(__file__).parent
    for folder in (os.environ.get("DPO_SWEEPS"), package / "sweeps", package.parent / "sweeps"):
        if folder and Path(folder).is_dir():
            return Path(folder).resolve()
    raise UsageError("no sweeps/ folder found: set DPO_SWEEPS to one, or reinstall the package")


def read(
    name: str | None, overrides: Sequence[str], config_dir: str | None = None, config_name: str = "config"
) -> Sweep:
    """The sweep of a file in sweeps/ (or of any .yaml by its path), or of `overrides` alone where `name` is None.

    Those are overrides of the configuration `config_name` in `config_dir`. Raises UsageError, in one line and before
    anything is written, for whatever is wrong with any of its jobs.
    """
    given = split(overrides, grid=True)
    if name is not None:
        source = Primary(find(name), given.searchpath, given.launcher)
    else:
        source = primary(config_dir, config_name, given.searchpath, given.launcher)
    title = source.path.stem if name is not None else "multirun"
    rules = [o for o in given.rest if o.lstrip("+").startswith("sweep.")]
    points, swept = expand(file_grid(source), [o for o in given.rest if o not in rules], source)
    if not points or (name is not None and not swept):
        raise UsageError(f"{source.path}: the grid is empty; give it keys with values under hydra.sweeper.params")
    compose = composer(source)
    configs = [
        checked(compose, point, f"job {number} of {len(points)} ({shown(point, swept)}): " if swept else "")
        for number, point in enumerate(points, 1)
    ]
    node = configs[0].pop("sweep", {})
    for config in configs[1:]:
        config.pop("sweep", None)
    if len({config["output_root"] for config in configs}) > 1:
        raise UsageError("output_root cannot be swept: a sweep is one folder")
    jobs, notices = unique(points, configs, swept)
    return Sweep(title, question(source.path) if name else "", jobs, notices, make_rules(node, rules), source)


def find(name: str) -> Path:
    """The file of a sweep: a path that ends in .yaml, or a name in sweeps/."""
    path = Path(name).resolve() if name.endswith(".yaml") else sweeps_dir() / f"{name}.yaml"
    if not path.is_file():
        known = names()
        raise UsageError(f"no sweep {name}{nearest(name, known)}; one of {', '.join(known)}, or the path of a .yaml")
    if path.stem in RESERVED:
        raise UsageError(f"{path}: a sweep cannot be called {path.stem}, which is a folder of every output root")
    return path


def names() -> list[str]:
    """The sweeps that ship."""
    return sorted(path.stem for path in sweeps_dir().glob("*.yaml"))


def question(path: Path) -> str:
    """The comment at the head of a sweep file: its question, then its budget."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").split("\n"))
    return " ".join(line.lstrip("# ") for line in lines)


def make_rules(node: Any, overrides: Sequence[str]) -> Rules:
    """The file's `sweep:` keys with the command's `sweep.` overrides over them, typed."""
    if not isinstance(node, dict):
        raise UsageError(f"sweep={node!r}: must be like sweep: {{on_failure: stop}}")
    given = dict(override.lstrip("+").removeprefix("sweep.").partition("=")[::2] for override in overrides)
    values, _ = arguments(Rules, {"on_failure": "go_on"} | node | given, "sweep.")
    return Rules(**values)


def checked(compose: Callable[[Sequence[str]], dict[str, Any]], point: list[str], title: str) -> dict[str, Any]:
    """The composed values of a grid point, typed once to see that they are right."""
    try:
        plain = compose(point)
        rules = {"sweep": plain.pop("sweep")} if "sweep" in plain else {}
        config = parse(in_environment(plain))
        if not config.one_run:
            raise UsageError(
                f"rounds={config.rounds}, judge.from_start={str(config.judge.from_start).lower()}: a sweep trains "
                "single runs; give rounds to dpo train without -m"
            )
        return config.plain | rules
    except UsageError as error:
        raise UsageError(f"{title}{error}") from error


def shown(point: Sequence[str], swept: Sequence[str]) -> str:
    """What makes a grid point differ from the others."""
    return " ".join(override for override in point if override.partition("=")[0] in swept)


def file_grid(source: Primary) -> dict[str, str]:
    """hydra.sweeper.params of a sweep file: the values of each swept key, in Hydra's grammar."""
    sweeper = in_one_line(source, lambda: hydra_of(source, [])).hydra.sweeper
    if not sweeper._target_.endswith(".BasicSweeper"):
        raise UsageError(f"hydra.sweeper={sweeper._target_}: only Hydra's basic sweeper resumes; leave it out")
    return {str(key): str(value) for key, value in (sweeper.params or {}).items()}


def hydra_of(source: Primary, overrides: Sequence[str]) -> Any:
    """The composed configuration with Hydra's own keys; a run's own file, which has none, takes the shipped ones."""
    if source.settled:
        shipped = Primary(conf_dir() / "config.yaml", source.searchpath, source.launcher)
        return shipped.composed([o for o in overrides if o.startswith("hydra")], with_hydra=True)
    return source.composed(overrides, with_hydra=True)


def expand(
    params: dict[str, str], overrides: Sequence[str], source: Primary | None = None
) -> tuple[list[list[str]], list[str]]:
    """(the overrides of each grid point, the swept keys) by the rules of Hydra's basic sweeper.

    An override of the command takes the place of the file's for the same key. A key of the file's grid counts as
    swept also where the command narrows it to one value, so that the run is called the same.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    source = source or Primary(conf_dir() / "config.yaml")
    lines = [f"{key}={value}" for key, value in params.items()] + list(overrides)
    parsed = in_one_line(source, lambda: OverridesParser.create(groups_in(source)).parse_overrides(lines))
    choices: dict[str, list[str]] = {}
    for override in parsed:
        key = override.get_key_element()
        if not override.is_sweep_override():
            value = "" if override.is_delete() else in_one_line(source, override.get_value_element_as_str)
            choices[key] = [f"{key}={value}" if value else override.input_line]
        elif override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in in_one_line(source, lambda o=override: several(o))]  # type: ignore[misc]
        else:
            raise UsageError(f"{override.input_line}: an interval has no values of its own; give them, or range(a,b)")
    if (size := math.prod(map(len, choices.values()))) > MOST:
        raise UsageError(f"{size:,} grid points: a sweep has at most {MOST:,}; take values out")
    swept = [o.get_key_element() for i, o in enumerate(parsed) if i < len(params) or o.is_sweep_override()]
    return [list(point) for point in itertools.product(*choices.values())], list(dict.fromkeys(swept))


def several(override: Any) -> list[str]:
    """The values of a sweep over one key, as text; no more than a sweep can have."""
    return list(itertools.islice(override.sweep_string_iterator(), MOST + 1))


def groups_in(source: Primary) -> Any:
    """What glob(...) finds the options of a group with."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_search_path_impl import ConfigSearchPathImpl

    folders = ConfigSearchPathImpl()
    for folder in source.sources:
        folders.append("dpo", f"file://{folder}")
    return ConfigLoaderImpl(folders)


def unique(points: list[list[str]], configs: list[dict[str, Any]], swept: list[str]) -> tuple[list[Job], list[str]]:
    """Each run once, in order, and a notice for each grid point that is another one spelt differently."""
    jobs: dict[str, Job] = {}
    notices = []
    for point, plain in zip(points, configs, strict=True):
        run_id = identity(plain)
        if run_id in jobs:
            first = shown(jobs[run_id].overrides, swept)
            notices.append(f"dropped, because it is the same run as {first}: {shown(point, swept)}")
        else:
            values = dict(override.partition("=")[::2] for override in point)
            settings = {key: values[key] for key in swept if key in values}
            jobs[run_id] = Job(run_id, run_name(settings, plain), tuple(point), settings, plain)
    return list(jobs.values()), notices


def launch(
    sweep: Sweep, folder: Path, numbers: Sequence[int], work: Callable[[int | None, bool], Callable[[Any], None]]
) -> None:
    """Have Hydra's launcher call `work(threads, here)(settings)` for each number, as settings.job, and wait for it.

    A launcher gets only numbers: what runs, and where its files go, was decided before and is the same for all of
    them. `threads` is what a launcher that starts processes leaves to each of them; None is torch's own choice.
    `here` is False where the jobs belong to a cluster (Slurm): they go on when this process ends.
    """
    import hydra as hydra_package
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext
    from omegaconf import open_dict

    silent = ["hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]
    config = in_one_line(sweep.source, lambda: hydra_of(sweep.source, [*silent, *sweep.jobs[0].overrides]))
    where, name = as_text(folder.resolve()), as_text(sweep.name)
    with open_dict(config):
        config.hydra.sweep.update(dir=where, subdir=".")
        # a launcher composes the configuration of a number from these alone, not the whole sweep file for each again
        config.hydra.job.update(name=name, config_name=None)
        own = [*silent, "hydra.sweep.subdir=.", f"hydra.sweep.dir={quoted(where)}", f"hydra.job.name={quoted(name)}"]
        config.hydra.overrides.hydra = own
    threads = threads_of(config.hydra.launcher)
    here = not config.hydra.launcher._target_.endswith(".SlurmLauncher")
    GlobalHydra.instance().clear()
    with hydra_package.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(config_loader=loader, callbacks=hydra_package._internal.callbacks.Callbacks()),
            task_function=work(threads, here),
            config=config,
        )
        for done in launcher.launch([[f"+job={number}"] for number in numbers], initial_job_idx=0):
            done.return_value  # noqa: B018 (raises what a job could not record itself)


def as_text(value: object) -> str:
    """A value that OmegaConf leaves as it is, whatever signs are in it."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", str(value))


def threads_of(launcher: Any) -> int | None:
    """CPU threads of each process that a launcher starts: its share of the cores, or what it asks of a cluster."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if "n_jobs" in launcher:
        return max(1, cores // (launcher.n_jobs if launcher.n_jobs > 0 else cores))
    return launcher.get("cpus_per_task")
