"""The sentences of `claims`, up to their figures: for an effect upwards, downwards, and for none that is shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """What is said where the interval lies above no change, below it, and where it holds it (or there is none)."""

    up: str
    down: str
    neither: str


REFERENCE = "the chosen answer below its reference log-probability"
WORDS = {
    "margin": Words(
        "It raised the reward margin on the same pairs",
        "It lowered the reward margin on the same pairs",
        "It did not move the reward margin",
    ),
    "d": Words(
        "It made the chosen answers likelier against the rejected ones",
        "It made the rejected answers likelier against the chosen ones",
        "It did not move chosen and rejected answers apart",
    ),
    "rejected": Words(
        "It made the rejected answers more likely",
        "It made the rejected answers less likely",
        "It did not make the rejected answers less likely",
    ),
    "chosen": Words(
        "It made the chosen answers more likely",
        "It made the chosen answers less likely too (likelihood displacement)",
        "It did not make the chosen answers more likely",
    ),
    "displacement": Words(
        f"It pushed {REFERENCE} in more than half of the pairs",
        f"It did not push {REFERENCE} in most pairs",
        f"It did not clearly push {REFERENCE} in more, or in fewer, than half of the pairs",
    ),
    "accuracy": Words(
        "It came to prefer the chosen answer in more than half of the evaluation pairs",
        "It came to prefer the rejected answer in more than half of the evaluation pairs",
        "It did not come to prefer the chosen answers more often than a coin",
    ),
    "calibration": Words(
        "It left margins that are too timid as probabilities: more pairs are right than S(margin) says",
        "It left margins that are too sure as probabilities: fewer pairs are right than S(margin) says",
        "It did not leave margins that are too sure, or too timid, on average",
    ),
    "longer_wins": Words(
        "It beats the rule that the longer answer wins",
        "It is worse than the rule that the longer answer wins",
        "It does not beat the rule that the longer answer wins",
    ),
    "balanced": Words(
        "It prefers the chosen answer on the length-balanced pairs too, so not by length alone",
        "It prefers the rejected answer on the length-balanced pairs",
        "It does not prefer the chosen answer on the length-balanced pairs more often than a coin",
    ),
    "length_slope": Words(
        "Its margin grows with the length of the chosen answer against the rejected one",
        "Its margin shrinks with the length of the chosen answer against the rejected one",
        "Its margin does not follow the length difference",
    ),
    "length": Words(
        "It made sampled answers longer",
        "It made sampled answers shorter",
        "It did not change the length of sampled answers",
    ),
    "json_rate": Words(
        "It made sampled answers JSON objects more often",
        "It made sampled answers JSON objects less often",
        "It did not change how often sampled answers are JSON objects",
    ),
    "eos_rate": Words(
        "It made sampled answers end themselves more often",
        "It made sampled answers end themselves less often",
        "It did not change how often sampled answers end themselves",
    ),
    "repetition": Words(
        "It made sampled answers repeat themselves more",
        "It made sampled answers repeat themselves less",
        "It did not change how much sampled answers repeat themselves",
    ),
    "kl": Words(
        "It moved away from its reference",
        "It came nearer to its reference",
        "It did not measurably move away from its reference",
    ),
    "entropy": Words(
        "It made the policy less certain of its tokens",
        "It made the policy more certain of its tokens",
        "It did not change how certain the policy is of its tokens",
    ),
    "mean_token_accuracy": Words(
        "It made the chosen answers' tokens more often the policy's first choice",
        "It made the chosen answers' tokens less often the policy's first choice",
        "It did not change how often the chosen answers' tokens are the policy's first choice",
    ),
}
