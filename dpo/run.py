"""The one runner: config in, a directory of plain files out. Reads in the order of the method."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dpo.accumulate import Work, drive
from dpo.audit import prepare_run, write_audit
from dpo.checked import check_room, checked
from dpo.config import Config, dump, identity
from dpo.data.ends import save_tokenizer
from dpo.data.pair import Split, check_pairs, warn_overlap
from dpo.data.tokens import TokenPair, content_hash
from dpo.disk import described
from dpo.errors import UsageError
from dpo.evaluate.calibration import table
from dpo.evaluate.change import margin_change
from dpo.evaluate.evaluator import Evaluator
from dpo.inputs import inputs, refuse_changed, refuse_moving
from dpo.interrupt import cause, check, deferred
from dpo.libraries import import_libraries
from dpo.locks import locked
from dpo.logps import Scorer
from dpo.loop import Trainee, total_steps, train
from dpo.metrics import PairRows, flags
from dpo.models.adapters import save
from dpo.models.liger import kernels_of
from dpo.models.pretrained import weights_hash
from dpo.pictures import draw, draw_missing
from dpo.progress import say
from dpo.provenance import code, provenance, scale, yardstick
from dpo.records import RunDir, write_atomically
from dpo.reference import Reference, StoredLogps
from dpo.self_check import Checked
from dpo.shared import in_one_batch
from dpo.start import base_answers, check_reference, default_threads, load, make_reference, pick_device, sft_start
from dpo.streams import guard
from dpo.tracking.environment import unused
from dpo.tracking.files import NoTracker, Recorder, Tracker
from dpo.tracking.shown import entries, short_name, shown


def run_dir(config: Config) -> RunDir:
    """The directory of this configuration: its name says what it is, its last part which settings exactly."""
    return RunDir(
        Path(config.output_root) / "runs" / f"{short_name(config.plain)}-seed{config.seed}-{identity(config.plain)}"
    )


def run(config: Config, directory: RunDir | None = None) -> tuple[RunDir, bool]:
    """Train, or finish, or find finished, the run of this configuration; (its directory, whether it was finished).

    A sweep says which `directory` is the run's.
    """
    return drive(attempt(config, directory or run_dir(config), execute))


def attempt(
    config: Config, directory: RunDir, execute: Callable[[Config, RunDir], Work[None]]
) -> Work[tuple[RunDir, bool]]:
    """`execute` in the directory unless it holds a finished run; (the directory, whether it did).

    A failure leaves state "failed" with its traceback, an interruption state "interrupted" with its cause; both are
    raised again. Wrong input leaves nothing behind.
    """
    guard()
    if directory.status()["state"] == "done":
        refuse_changed(directory, config.plain, "be the answer")
        draw_missing(directory)
        return directory, True
    directory.create()
    with locked(directory.lock):
        if directory.status()["state"] == "done":
            return directory, True
        refuse_changed(directory, config.plain, "go on")
        try:
            directory.recover()
            directory.set_status("running")
            write_atomically(directory.config, dump(config.plain))
            import_libraries(config.adapter.shares_start)
            yield from execute(config, directory)
            draw(directory)
            directory.set_status("done")
        except BaseException as error:
            if isinstance(error, UsageError) and not directory.metrics.exists():
                directory.discard()
            else:
                leave(directory, error)
            raise
    check()  # of what came while a finished run was being closed
    return directory, False


def leave(directory: RunDir, error: BaseException) -> None:
    """Write down why a run stopped before its end: interrupted, and by what, or failed; what is written stays."""
    if directory.status()["state"] != "running":
        return
    why = cause(error)
    if why is None:
        directory.set_status("failed", error=described(error), traceback=traceback.format_exc())
        return
    directory.set_status("interrupted", cause=why)
    directory.recover()
    step = directory.checkpoint_step
    say(f"{directory.path}: interrupted ({why}); " + (f"goes on from step {step}" if step else "begins again"))


def execute(config: Config, directory: RunDir) -> Work[None]:
    """The recipe: data, tokens, start, policy, reference, its log-probs, steps, and what came of them."""
    cache, device = Path(config.cache_root), pick_device(config.train.device)
    torch.set_num_threads(config.train.threads or default_threads())
    tokenizer = config.model.tokenizer(cache)
    check_reference(config, tokenizer)
    read = inputs(config.plain)
    made = prepare_run(config, load_data(config))
    split, train_pairs, eval_pairs = made.split, made.train, made.evaluation
    write_audit(directory, made)

    start = sft_start(config, config.model, tokenizer, cache, device)
    model = config.adapter.attach(load(start, config).to(device), config.seed)
    pairs = [*train_pairs, *eval_pairs]
    check_room(config, model, tokenizer, split)
    looked = checked(config, model, start, tokenizer, pairs)
    reference = make_reference(config, model, start, tokenizer, cache, device, looked.layout, pairs)
    stored_train, stored_eval, hits = reference_logps(
        config, reference, train_pairs, eval_pairs, tokenizer.pad_token_id
    )

    beta = config.beta.over(total_steps(len(train_pairs), config.train))
    if note := beta.remark(config.plain["loss"]["usual_beta"]):
        say(f"note: {note}")
    kernels = how_it_is_read(config, looked, model, device)
    trainee = Trainee(
        model, Scorer(model, looked.layout), tokenizer, train_pairs, stored_train, config.loss, beta, config.seed
    )
    facts = {
        "start": str(start),
        "start_hash": reference.hash if config.reference_is_start else weights_hash(model),
        "reference_hash": reference.hash,
        "reference_store": {"hits": sum(hits), "misses": len(hits) - sum(hits)},
        "train_data_hash": content_hash(train_pairs),
        "eval_data_hash": content_hash(eval_pairs),
        "layout": looked.layout,
        "self_check": looked.figures,
        "kernels": kernels,
        **yardstick(split.evaluation, tokenizer),
        "loss": scale(config.loss),
        "global_batch": config.train.batch_size,
        "steps": total_steps(len(train_pairs), config.train),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    together = sorted({*in_one_batch(), *facts_before(directory).get("in_one_batch", [])})
    facts |= {"in_one_batch": together} if together else {}  # such numbers are those of the run alone up to rounding
    refuse_moving(read, config.plain)
    made_by = {"code": code(), "files": read}
    directory.write("provenance", provenance(device) | facts | made_by)
    with recorded(config, directory) as recorder:
        evaluator = Evaluator(
            trainee,
            eval_pairs,
            stored_eval,
            reference,
            config.dataset,
            split,
            config.evaluate,
            config.train,
            recorder,
            config.reference_is_start,
        )
        yield from train(trainee, config.optim, config.train, recorder, evaluator)
        reference.prove_frozen()
        finish(config, directory, trainee, split, start, cache, device)


def facts_before(directory: RunDir) -> dict[str, Any]:
    """The provenance of the attempt that this one resumes; empty for a first one."""
    resumes = directory.checkpoint_step is not None and (directory.path / "provenance.json").exists()
    return dict(directory.read("provenance")) if resumes else {}


def how_it_is_read(config: Config, looked: Checked, model: Any, device: torch.device) -> str:
    """The kernels that the policy is read with; notes where they or the layout are not the ones asked for."""
    kernels, other = kernels_of(config.model, model.config.model_type, device)
    for note in filter(None, (looked.note, other)):
        say(f"note: {note}")
    return kernels


def reference_logps(
    config: Config, reference: Reference, train_pairs: list[TokenPair], eval_pairs: list[TokenPair], pad_id: int
) -> tuple[StoredLogps, StoredLogps, list[bool]]:
    """What is known of the reference on training and evaluation pairs, and which lists of them were in the store.

    Evaluation measures the distance to the reference whatever the loss; training only where the loss asks.
    """
    needs = config.loss.needs
    limits = config.train.max_length, pad_id, config.train.token_budget, Path(config.cache_root)
    stored_train, hits_train = reference.known(train_pairs, needs, *limits)
    stored_eval, hits_eval = reference.known(eval_pairs, needs | {"reference"}, *limits)
    hits = [*hits_train, *hits_eval]
    found = f"{sum(hits)} of {len(hits)} splits found, {len(hits) - sum(hits)} computed"
    say(f"reference log-probs: {'hit' if all(hits) else 'miss'} ({found})" if hits else "reference: runs live")
    return stored_train, stored_eval, hits


def load_data(config: Config) -> Split:
    """The source's pairs, perturbed and checked."""
    split = config.perturb.apply(config.dataset.load())
    check_pairs(split.train, "training pairs")
    check_pairs(split.evaluation, "evaluation pairs")
    say(f"{len(split.train)} training pairs, {len(split.evaluation)} evaluation pairs")
    if warning := warn_overlap(split):
        say(f"warning: {warning}")
    return split


@contextmanager
def recorded(config: Config, directory: RunDir) -> Iterator[Recorder]:
    """Around a run's steps: where its rows go. The state of a run that stops is on disk before its mirror is closed."""
    tracker = make_tracker(config, directory)
    try:
        yield Recorder(directory, tracker)
    except BaseException as error:
        leave(directory, error)
        tracker.finish({}, directory.status()["state"])
        raise
    with deferred():
        tracker.finish(directory.read("summary")["last"], "done")


def make_tracker(config: Config, directory: RunDir) -> Tracker:
    """The mirror the config asks for, fed with the rows that a resumed run keeps."""
    t = config.tracker
    if t.mode == "disabled":
        return NoTracker()
    from dpo.tracking.wandb import WandbTracker

    for line in unused(config.plain["tracker"]):
        say(f"note: {line}")
    kept, attempts = directory.kept_rows(), directory.attempts()
    root, look = Path(config.output_root), shown(directory, config.plain)
    tracker = WandbTracker(t.mode, t.project, t.entity, t.timeout, root, look, attempts)
    directory.write("tracker", {"attempts": [*attempts, tracker.id]})
    tracker.replay(entries(directory, kept))
    return tracker


def finish(
    config: Config, directory: RunDir, trainee: Trainee, split: Split, start: str, cache: Path, device: torch.device
) -> None:
    """The finished checkpoint, the answers side by side, and the summary with its flags."""
    with directory.new_checkpoint() as folder:
        save(trainee.model, folder, start, config.model.revision)
        save_tokenizer(trainee.tokenizer, folder)

    answers = {
        (row["step"], row["prompt"]): row["completion"]
        for row in directory.rows(directory.samples)
        if row["decoding"] == "greedy"
    }
    last_step = max((step for step, _ in answers), default=0)
    base = base_answers(config, split, trainee.tokenizer, cache, device)
    rows = [
        {"prompt": prompt, "base": base[prompt], "sft": answers[0, prompt], "dpo": answers[last_step, prompt]}
        for step, prompt in answers
        if step == last_step
    ]
    directory.write_rows(directory.compare, rows)

    evaluations = [row for row in directory.rows(directory.metrics) if row["kind"] == "eval"]
    first, last = evaluations[0], evaluations[-1]
    start_pairs, end_pairs = (directory.read_pairs(row["step"]) for row in (first, last))
    result = {
        "steps": last["step"],
        "flags": flags(first, last),
        "margin_change": margin_change(start_pairs, end_pairs),
        "reliability": table(PairRows.read(end_pairs), last["eval/tie"]),
    }
    directory.write("summary", result | {"first": first, "last": last})
