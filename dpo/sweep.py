"""A question as jobs: its file read, its grid expanded by Hydra's grammar, every job typed before the first starts."""

from __future__ import annotations

import copy
import itertools
import os
import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo.build import arguments, nearest
from dpo.compose import conf_dir, explain, resolved
from dpo.config import identity, parse
from dpo.errors import UsageError, first_line
from dpo.naming import run_name

RESERVED = ("runs", "cache", "wandb", "multirun", "judged", "rounds", "audit")
"""Folders of an output root that are not sweeps; `multirun` belongs to `dpo train -m`."""


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
    """All jobs of a question, each once, in the order of the grid; `hydra` holds the overrides of Hydra's own keys."""

    name: str
    question: str
    jobs: list[Job]
    notices: list[str]
    rules: Rules
    hydra: tuple[str, ...]
    path: Path

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


def read(name: str | None, overrides: Sequence[str]) -> Sweep:
    """The sweep of a file in sweeps/ (or of any .yaml by its path), or of `overrides` alone where `name` is None.

    Raises UsageError, in one line and before anything is written, for whatever is wrong with any of its jobs.
    """
    path = find(name) if name is not None else conf_dir() / "config.yaml"
    title = path.stem if name is not None else "multirun"
    rules = [o for o in overrides if o.lstrip("+").startswith("sweep.")]
    hydra = [o for o in overrides if o.lstrip("+~").startswith(("hydra.", "hydra/"))]
    given = [o for o in overrides if o not in (*rules, *hydra)]
    points, swept = expand(file_grid(path, hydra), given)
    if not points or (name is not None and not swept):
        raise UsageError(f"{path}: the grid is empty; give it keys with values under hydra.sweeper.params")
    compose = composer(path)
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
    return Sweep(title, question(path) if name else "", jobs, notices, make_rules(node, rules), tuple(hydra), path)


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
        config = parse(plain)
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


def composer(path: Path) -> Callable[[Sequence[str]], dict[str, Any]]:
    """A function from overrides to the composed and resolved plain values of a sweep file.

    Hydra takes 0.1 s to compose, nearly all of it for the choice of groups; so that is done once for each choice,
    and value overrides are then applied by Hydra's own rules, as it would have done.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.overrides_parser import OverridesParser

    conf = conf_dir()
    bases: dict[tuple[str, ...], Any] = {}

    def compose(overrides: Sequence[str]) -> dict[str, Any]:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        values = [o for o in parsed if is_value(o.key_or_group, conf) and o.package is None]
        groups = tuple(str(o.input_line) for o in parsed if o not in values)
        if groups not in bases:
            bases[groups] = whole(path, groups)
        composed = copy.deepcopy(bases[groups])
        ConfigLoaderImpl._apply_overrides_to_config(values, composed)
        return resolved(composed)

    return lambda overrides: in_one_line(lambda: compose(overrides))


def whole(path: Path, overrides: Sequence[str], with_hydra: bool = False) -> Any:
    """What Hydra composes of a sweep file, with its own keys where they are asked for."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(path.parent), version_base="1.3"):
        return hydra.compose(path.stem, [*searchpath(path), *overrides], return_hydra_config=with_hydra)


def file_grid(path: Path, overrides: Sequence[str]) -> dict[str, str]:
    """hydra.sweeper.params of a sweep file: the values of each swept key, in Hydra's grammar."""
    sweeper = in_one_line(lambda: whole(path, overrides, with_hydra=True)).hydra.sweeper
    if not sweeper._target_.endswith(".BasicSweeper"):
        raise UsageError(f"hydra.sweeper={sweeper._target_}: only Hydra's basic sweeper resumes; leave it out")
    return {str(key): str(value) for key, value in (sweeper.params or {}).items()}


def searchpath(path: Path) -> list[str]:
    """The override that lets a sweep file outside conf/ name what is in it."""
    return [] if path.parent == conf_dir() else [f"hydra.searchpath=['file://{conf_dir()}']"]


def is_value(key: str, conf: Path) -> bool:
    """Whether an override of `key` sets a value, rather than choosing an option of a group."""
    return "/" not in key and ("." in key or not (conf / key).is_dir())


def in_one_line(compose: Callable[[], Any]) -> Any:
    """What `compose` returns; what Hydra and OmegaConf raise becomes one line for people."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        return compose()
    except HydraException as error:
        launcher = re.search(r"Could not find 'hydra/([^']+)'", str(error))
        if launcher:
            hint = "joblib and submitit come with `pip install 'dpo-lab[launchers]'`"
            raise UsageError(f"hydra/{launcher[1]}: no such option of Hydra here; {hint}") from error
        raise UsageError(explain(error, conf_dir(), "config")) from error
    except (OmegaConfBaseException, ValueError) as error:
        raise UsageError(first_line(error)) from error


def expand(params: dict[str, str], overrides: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """(the overrides of each grid point, the swept keys) by the rules of Hydra's basic sweeper.

    An override of the command takes the place of the file's for the same key. A key of the file's grid counts as
    swept also where the command narrows it to one value, so that the run is called the same.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    lines = [f"{key}={value}" for key, value in params.items()] + list(overrides)
    parsed = in_one_line(lambda: OverridesParser.create().parse_overrides(lines))
    points = in_one_line(lambda: BasicSweeper.split_arguments(parsed, None))[0]
    swept = [o.get_key_element() for i, o in enumerate(parsed) if i < len(params) or o.is_sweep_override()]
    return points, list(dict.fromkeys(swept))


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
    sweep: Sweep, folder: Path, numbers: Sequence[int], work: Callable[[int | None], Callable[[Any], None]]
) -> None:
    """Have Hydra's launcher call `work(threads)(settings)` for each number, as settings.job, and wait for it.

    A launcher gets only numbers: what runs, and where its files go, was decided before and is the same for all of
    them. `threads` is what a launcher that starts processes leaves to each of them; None is torch's own choice.
    """
    import hydra as hydra_package
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext, RunMode

    fixed = ["hydra.sweep.subdir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]
    where = [f"hydra.sweep.dir='{folder.resolve()}'", f"hydra.job.name={sweep.name}"]
    overrides = [*searchpath(sweep.path), *sweep.hydra, *fixed, *where]
    GlobalHydra.instance().clear()
    with hydra_package.initialize_config_dir(str(sweep.path.parent), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration(sweep.path.stem, overrides, RunMode.RUN)
        threads = threads_of(config.hydra.launcher)
        config.hydra.job.config_name = None  # a number needs no composing of the whole sweep file, for each job again
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(config_loader=loader, callbacks=hydra_package._internal.callbacks.Callbacks()),
            task_function=work(threads),
            config=config,
        )
        for done in launcher.launch([[f"+job={number}"] for number in numbers], initial_job_idx=0):
            done.return_value  # noqa: B018 (raises what a job could not record itself)


def threads_of(launcher: Any) -> int | None:
    """CPU threads of each process that a launcher starts: its share of the cores, or what it asks of a cluster."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if "n_jobs" in launcher:
        return max(1, cores // (launcher.n_jobs if launcher.n_jobs > 0 else cores))
    return launcher.get("cpus_per_task")
