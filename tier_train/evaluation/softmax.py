"""CheXzero's score: p = exp(c⁺) / (exp(c⁺) + exp(c⁻)) of raw cosines, the mean of p over networks.

The logit scale is left out, as `zero_shot.py` of rajpurkarlab/CheXzero does. p = sigmoid(Z): one
network ranks images as its margin does, a mean over networks need not. Members count in the order
of their paths; prompts of one side are averaged and renormalised, its `zeroshot_classifier`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tier_infer.errors import UsageError
from tier_infer.label_sets import LabelSet
from tier_train.checkpoint import Checkpoint
from tier_train.evaluation.margin import margin_table
from tier_train.evaluation.members import EnsembleScorer, Rule, chosen


def _softmax(checkpoint: Checkpoint, labels: LabelSet) -> Rule:
    table = margin_table(checkpoint, labels)
    return lambda image_e, patch_e: torch.sigmoid(image_e @ table.T)


class SoftmaxScorer(EnsembleScorer):
    """The mean p of K checkpoints, in [0.119, 0.881]; UsageError for a label without negatives."""

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        names: Sequence[str],
        labels: LabelSet,
        asked: Sequence[str],
        device: str,
    ) -> None:
        for label in chosen(labels, asked).labels:
            if not label.negative:
                raise UsageError(
                    f"--scoring softmax: label {label.id} of set {labels.id} has no negative "
                    "prompt to be held against; --scoring prompt-mean needs none"
                )
        order = sorted(range(len(names)), key=lambda i: names[i])
        super().__init__(
            [checkpoints[i] for i in order],
            [names[i] for i in order],
            labels,
            asked,
            device,
            "softmax",
            _softmax,
        )
