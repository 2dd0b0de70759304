"""Checkpoints as a scorer: Z of eq. 4, the mean over an ensemble. What the export is held to."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tier_infer.label_sets import LabelSet
from tier_train.checkpoint import Checkpoint
from tier_train.evaluation.members import EnsembleScorer, Rule, check_prompts
from tier_train.zero_shot import query_table


def margin_table(checkpoint: Checkpoint, labels: LabelSet) -> Tensor:
    """float32 [L, D] on the CPU: q⁺ − q⁻; UsageError for a sentence that is not read whole."""
    for label in labels.labels:
        check_prompts(checkpoint.tokenizer, [*label.positive, *label.negative])
    return query_table(checkpoint.model, checkpoint.tokenizer, labels)


def _margin(checkpoint: Checkpoint, labels: LabelSet) -> Rule:
    table = margin_table(checkpoint, labels)
    if labels.pool:
        return lambda image_e, patch_e: patch_e @ table.T
    return lambda image_e, patch_e: image_e @ table.T


class MarginScorer(EnsembleScorer):
    """The mean Z of K checkpoints."""

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        names: Sequence[str],
        labels: LabelSet,
        asked: Sequence[str],
        device: str,
    ) -> None:
        super().__init__(checkpoints, names, labels, asked, device, "margin", _margin)
