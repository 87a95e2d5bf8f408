"""Our side of a case, in a process of its own: python -m bench.ours CASE MODEL CACHE OUT [OVERRIDE...]

The runner's own parts in its own order (configuration, tokens, model, reference, loop, metric rows), without
evaluation, samples and tracker. A sweep is its jobs in one process, as `dpo sweep` runs them: one after the other, or
with hydra/launcher=stacked among the overrides in one batch.
"""

from __future__ import annotations

import atexit
import gc
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpo.accumulate import Work

STACKED = "hydra/launcher=stacked"
GRID = """# Which beta?
defaults:
  - config
  - _self_
hydra:
  searchpath: ["file://{conf}"]
  sweeper:
    params:
      beta.value: {betas}
"""


def main(name: str, model: str, cache: str, out: str, *overrides: str) -> None:
    """Train the case and write what the stopwatch saw."""
    from bench.cases import BETAS, by_name
    from bench.material import SEED, pairs_file
    from bench.stopwatch import Stopwatch
    from dpo.config import conf_dir, parse
    from dpo.sweep import read

    case = by_name(name)
    watch = Stopwatch(case.device)
    with tempfile.TemporaryDirectory() as folder:
        file = pairs_file(case, Path(folder))
        grid = Path(folder) / "bench_sweep.yaml"
        betas = BETAS[: case.betas] if case.betas > 1 else (0.1,)
        grid.write_text(GRID.format(conf=conf_dir(), betas=",".join(map(str, betas))))
        settings = [
            *(f"model.path={model}", "dataset=files", f"dataset.path={file}", f"dataset.eval_path={file}"),
            *(f"adapter={case.adapter}", f"seed={SEED}", f"cache_root={cache}", f"output_root={folder}/outputs"),
            *(f"train.batch_size={case.batch}", f"train.max_steps={case.steps}", f"train.precision={case.precision}"),
            *(
                "train.eval_every=0",
                "train.checkpoint_every=0",
                f"train.device={case.device}",
                "optim.schedule=constant",
            ),
            *("optim.warmup_fraction=0", f"optim.lr={case.lr}", "tracker=disabled"),
            *([] if any(override.startswith("model=") for override in overrides) else ["model=hf"]),
            *(override for override in overrides if not override.startswith("hydra")),
        ]
        jobs = read(str(grid), settings).jobs
        works = [training(parse(job.plain), Path(folder), n, watch) for n, job in enumerate(jobs)]
        misses = sum(done(works, STACKED in overrides))
    watch.write(Path(out), misses=misses, layout_settings=list(overrides))


def done(works: list[Work[int]], stacked: bool) -> list[int]:
    """What each work returns."""
    from dpo.accumulate import drive
    from dpo.shared import one_base
    from dpo.stacked import drive_together

    if not stacked:
        return [drive(work) for work in works]
    with one_base():
        ends = drive_together(works)
    failed = [end for end in ends if isinstance(end, Exception)]
    if failed:
        raise failed[0]
    return [end for end in ends if isinstance(end, int)]


def training(config: Any, folder: Path, number: int, watch: Any) -> Work[int]:
    """One run without evaluation; returns how many reference passes it made."""
    import torch

    from bench.material import set_adapter
    from dpo import start as begin
    from dpo.libraries import import_libraries
    from dpo.logps import Scorer
    from dpo.loop import Trainee, total_steps, train
    from dpo.metrics import FP32_TIE
    from dpo.records import RunDir
    from dpo.tracking.files import NoTracker, Recorder
    from dpo.tree import layout_of

    class Timed(Recorder):
        def log(self, step: int, kind: str, values: dict[str, float], timing: dict[str, float]) -> None:
            super().log(step, kind, values, timing)
            if kind == "train":
                watch.step()
                watch.loss(values["loss"], number)

    import_libraries(config.adapter.shares_start)
    cache, device = Path(config.cache_root), begin.pick_device(config.train.device)
    torch.set_num_threads(config.train.threads or begin.default_threads())
    tokenizer = config.model.tokenizer(cache)
    pairs, _ = begin.tokens(config.dataset.load().train, tokenizer, config)
    start = config.model.folder(cache)
    model = config.adapter.attach(begin.load(start, config).to(device), config.seed)
    set_adapter(model)
    reference = begin.make_reference(config, model, start, tokenizer, cache, device)
    limits = config.train.max_length, tokenizer.pad_token_id, config.train.token_budget, cache
    known, hits = reference.known(pairs, config.loss.needs, *limits)
    scorer = Scorer(model, layout_of(model.config, config.train.layout)[0])
    beta = config.beta.over(total_steps(len(pairs), config.train))
    trainee = Trainee(model, scorer, tokenizer, pairs, known, config.loss, beta, config.seed)
    directory = RunDir(folder / str(number))
    directory.create()
    recorder = Timed(directory, NoTracker())

    def no_evaluation(step: int, steps: int) -> None:
        if step == 0:  # the loop reads from it what counts as a tie
            recorder.log(0, "eval", {"tie": FP32_TIE}, {})

    yield from train(trainee, config.optim, config.train, recorder, no_evaluation)
    return hits.count(False)


if __name__ == "__main__":
    atexit.register(gc.freeze)  # as the command does
    main(*sys.argv[1:5], *sys.argv[5:])
