"""Only finite numbers are results: what is not ends the run, is no file's content, and no judge's order."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from dpo.data.judges.base import Given, Question, by_score
from dpo.finite import broken, check_values, check_weights
from dpo.json_files import to_json
from dpo.models.fit import fit
from dpo.records import RunDir
from dpo.run import run
from dpo.run_folders import find_runs
from dpo.tracking.files import NoTracker, Recorder

from . import toys

ODD = [math.nan, math.inf, -math.inf]


def strict(text: str):
    """Parsed as other languages' readers do."""

    def refuse(name: str):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_one_number_among_all_trained_weights_is_found(odd: float, dtype: torch.dtype, layer: int) -> None:
    """By name, wherever it is; a frozen weight's is its loader's affair; the largest finite numbers are fine."""
    model = nn.Sequential(*(nn.Linear(7, 7) for _ in range(3))).to(dtype)
    with torch.no_grad():
        model[layer].weight[6, 6] = torch.finfo(dtype).max
        check_weights(model.named_parameters(), 3)
        model[layer].weight[3, 6] = odd
    with pytest.raises(FloatingPointError, match=f"the weight {layer}.weight is no longer finite at step 3; lower opt"):
        check_weights(model.named_parameters(), 3)
    model.requires_grad_(False)
    check_weights(model.named_parameters(), 3)


@pytest.mark.parametrize("odd", ODD)
def test_a_row_with_a_number_that_is_none_is_refused_and_not_written(odd: float, tmp_path) -> None:
    """The line names metric, value, step and the key to change; before the first step, another."""
    directory = RunDir(tmp_path / "run")
    directory.create()
    recorder = Recorder(directory, NoTracker())
    with pytest.raises(FloatingPointError, match=rf"^eval/kl is {odd} at step 4; lower optim\.lr"):
        recorder.log(4, "eval", {"loss": 0.5, "kl": odd}, {})
    assert not directory.metrics.exists()
    with pytest.raises(FloatingPointError, match="nothing is trained yet"):
        check_values({"loss": odd}, 0, "eval")


@pytest.mark.parametrize("odd", ODD)
def test_other_files_have_null_for_it(odd: float) -> None:
    """At any depth."""
    value = {"a": odd, "b": [1, {"c": odd, "d": "ü"}], "e": 0.5}
    assert strict(to_json(value)) == {"a": None, "b": [1, {"c": None, "d": "ü"}], "e": 0.5}


@pytest.mark.parametrize("odd", ODD)
def test_a_judge_whose_score_is_none_gives_no_verdict(odd: float) -> None:
    """Sorting by it would choose an answer by its place."""
    answers = tuple(Given(k, k, text, True) for k, text in enumerate("abc"))
    verdict = by_score(Question("q", "?", (), answers), [0.1, odd, 0.3])
    assert (verdict.outcome, verdict.chosen) == ("no_verdict", None)
    strict(to_json(verdict.detail))


@pytest.mark.parametrize("start", ODD)
def test_a_start_that_broke_is_never_kept(start: float) -> None:
    """Supervised fine-tuning ends with an error, so that nothing of it reaches the cache."""
    model = toys.model()
    sound = copy.deepcopy(model.state_dict())
    next(model.parameters()).data[2] = start
    with pytest.raises(FloatingPointError, match=r"sft\.lr"):
        fit(model, [([1], [2, 3])], 2, 1, 1e-3, 0, 0, "supervised fine-tuning")
    model.load_state_dict(sound)
    fit(model, [([1], [2, 3])], 2, 1, 1e-3, 0, 0, "supervised fine-tuning")
    assert broken(model.named_parameters()) is None


def test_a_last_step_that_breaks_the_weights_makes_a_failed_run(small) -> None:
    """Its evaluation sees it, its files are JSON, and the good checkpoint before it stays."""
    from safetensors.torch import load_file

    import dpo.loop

    honest = dpo.loop.optimizer_step

    def breaking(trainee, optimizer, parameters, indices, step, *rest):
        values = yield from honest(trainee, optimizer, parameters, indices, step, *rest)
        if step == 6:
            parameters[-1].data.view(-1)[0] = math.inf
        return values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dpo.loop, "optimizer_step", breaking)
        with pytest.raises(FloatingPointError, match="is no longer finite at step 6"):
            run(small("evaluate.samples=0", "evaluate.greedy=0", "evaluate.kl_samples=0"))
    [directory] = find_runs(Path(small().output_root))
    assert directory.status()["state"] == "failed" and directory.checkpoint_step == 4
    assert all(bool(t.isfinite().all()) for t in load_file(directory.checkpoint / "policy.safetensors").values())
    for line in directory.metrics.read_text().splitlines():
        strict(line)
