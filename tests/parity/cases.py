"""What is compared: our settings beside those of the TRL trainer that claims the same loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MPO = "loss.components=[{loss: sigmoid, weight: 0.8}, {loss: bco_pair, weight: 0.2}, {loss: sft, weight: 1}]"


@dataclass(frozen=True)
class Case:
    """Our overrides, TRL's arguments, and what differs by definition.

    trainer        "dpo", "cpo" or "orpo"
    loss_only      TRL's rewards or log-probs mean something else here: the note says what
    one_token_prompts  prompts of a single token, where a trainer counts prompt tokens too
    """

    name: str
    ours: tuple[str, ...]
    theirs: dict[str, Any]
    trainer: str = "dpo"
    loss_only: bool = False
    one_token_prompts: bool = False
    note: str = ""
    beta: float = field(default=0.1)


def dpo(name: str, *ours: str, note: str = "", loss_only: bool = False, beta: float = 0.1, **theirs: Any) -> Case:
    """A case of TRL's DPOTrainer; our loss and theirs have one name unless `theirs` says otherwise."""
    loss = theirs.pop("loss", name)
    settings = {"loss_type": loss if isinstance(loss, list) else [loss], "beta": beta} | theirs
    group = next((o for o in ours if o.startswith("loss=")), f"loss={name}")
    rest = tuple(o for o in ours if not o.startswith("loss="))
    fixed = () if name in ("sft",) else (f"beta.value={beta}",)
    return Case(name, (group, *fixed, *rest), settings, loss_only=loss_only, note=note)


CASES = (
    dpo("sigmoid"),
    dpo("hinge"),
    dpo("ipo", note="both per-token means"),
    dpo("exo_pair", "loss.label_smoothing=0.001", label_smoothing=0.001),
    dpo("nca_pair"),
    dpo("robust", "loss.label_smoothing=0.1", label_smoothing=0.1),
    dpo("bco_pair", note="running_mean=false; TRL's DPOTrainer has no shift either"),
    dpo("sppo_hard", beta=0.001),
    dpo("aot", "loss.label_smoothing=0.1", label_smoothing=0.1, note="one micro-batch: TRL sorts within each"),
    dpo("aot_unpaired", note="one micro-batch: TRL sorts within each"),
    dpo("apo_zero"),
    dpo("apo_down"),
    dpo("discopop", "loss.tau=0.05", discopop_tau=0.05),
    dpo("sft", beta=1.0, note="TRL's rewards take its beta, here 1; ours has none"),
    dpo("sigmoid_norm", beta=2.0),
    dpo(
        "sum (MPO)",
        "loss=sum",
        MPO,
        loss=["sigmoid", "bco_pair", "sft"],
        loss_weights=[0.8, 0.2, 1.0],
    ),
    dpo(
        "sigmoid, forward_kl",
        "loss=sigmoid",
        "loss.f_divergence=forward_kl",
        loss="sigmoid",
        f_divergence_type="forward_kl",
    ),
    dpo("sigmoid, js", "loss=sigmoid", "loss.f_divergence=js", loss="sigmoid", f_divergence_type="js_divergence"),
    dpo(
        "sigmoid, alpha 0.5",
        "loss=sigmoid",
        "loss.f_divergence=alpha",
        "loss.f_alpha=0.5",
        loss="sigmoid",
        f_divergence_type="alpha_divergence",
        f_alpha_divergence_coef=0.5,
    ),
    dpo("ipo, js", "loss=ipo", "loss.f_divergence=js", loss="ipo", f_divergence_type="js_divergence"),
    dpo(
        "sigmoid, LD 0.5",
        "loss=sigmoid",
        "loss.ld_alpha=0.5",
        loss="sigmoid",
        ld_alpha=0.5,
        loss_only=True,
        note="TRL logs rewards and log-probs with the down-weighted tail; ours are plain sums",
    ),
    dpo("sigmoid, WPO", "loss=sigmoid", "loss.wpo=true", loss="sigmoid", use_weighting=True),
    dpo("apo_zero, WPO", "loss=apo_zero", "loss.wpo=true", loss="apo_zero", use_weighting=True),
    Case("cpo", ("loss=cpo", "beta.value=0.1"), {"loss_type": "sigmoid", "beta": 0.1, "cpo_alpha": 1.0}, "cpo"),
    Case(
        "cpo, smoothed",
        ("loss=cpo", "beta.value=0.1", "loss.label_smoothing=0.2"),
        {"loss_type": "sigmoid", "beta": 0.1, "cpo_alpha": 1.0, "label_smoothing": 0.2},
        "cpo",
    ),
    Case(
        "simpo",
        ("loss=simpo", "beta.value=2", "loss.gamma=0.5"),
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.5, "cpo_alpha": 0.0},
        "cpo",
        note="TRL's logps are token means; its rewards are ours",
    ),
    Case(
        "orpo",
        ("loss=orpo", "loss.lambda_=0.1"),
        {"beta": 0.1},
        "orpo",
        one_token_prompts=True,
        note="TRL's NLL also counts prompt tokens but the first: compared on one-token prompts",
    ),
)

CURVES = (CASES[0], CASES[2], CASES[8])
"""sigmoid, ipo and aot: compared over 20 steps of training."""
