"""What tables and figures call a metric. Definitions are in docs/metrics.md."""

from __future__ import annotations

LABELS = {
    "loss": "loss",
    "rewards/chosen": "chosen reward (beta x nats)",
    "rewards/rejected": "rejected reward (beta x nats)",
    "rewards/margins": "reward margin (beta x nats)",
    "rewards/accuracies": "accuracy",
    "gradient_weight": "gradient weight",
    "logps/chosen_change": "change of chosen log-prob (nats)",
    "logps/rejected_change": "change of rejected log-prob (nats)",
    "logps/chosen_change_per_token": "change of chosen log-prob (nats per token)",
    "logps/rejected_change_per_token": "change of rejected log-prob (nats per token)",
    "logratios/chosen": "chosen log-ratio (nats)",
    "logratios/rejected": "rejected log-ratio (nats)",
    "logratios/margins": "log-ratio difference d (nats)",
    "displacement": "displaced pairs (share)",
    "kl": "KL to the reference (nats per answer)",
    "kl_per_token": "KL to the reference (nats per token)",
    "samples/length": "length of sampled answers (tokens)",
    "samples/eos_rate": "answers that end (share)",
    "samples/repetition": "repetition (share of 4-grams)",
    "json_rate": "JSON answers (share)",
    "schema_rate": "answers of the training schema (share)",
    "novel_value_rate": "answers with a new value (share)",
    "entropy": "entropy (nats per token)",
    "length/longer_wins": "longer wins (baseline accuracy)",
    "length/accuracy_chosen_longer": "accuracy, chosen longer",
    "length/accuracy_equal": "accuracy, equal lengths",
    "length/accuracy_chosen_shorter": "accuracy, chosen shorter",
    "length/accuracy_balanced": "accuracy, length-balanced",
    "length/slope": "slope of margin on length (beta x nats per token)",
    "calibration/ece": "ECE",
    "calibration/ece_mass": "ECE, equal-mass bins",
    "calibration/brier": "Brier score",
    "calibration/nll": "NLL (nats)",
    "calibration/temperature": "fitted temperature",
    "calibration/beta": "fitted beta",
}
DEFAULT = (
    "logratios/margins",
    "rewards/margins",
    "rewards/accuracies",
    "displacement",
    "logps/chosen_change",
    "kl",
    "samples/length",
)
"""What a table of arms shows unless told otherwise; d comes before the margin, because margins grow with beta."""


def label(metric: str) -> str:
    """A metric's name for people; the key itself where it has none."""
    key = metric.removeprefix("eval/")
    return LABELS.get(key, key)
