"""Checkpoints as a scorer: Z of eq. 4, the mean over an ensemble. What the export is held to."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tier_infer.errors import UsageError
from tier_infer.label_sets import LabelSet
from tier_infer.pooling import pool_errors
from tier_train.checkpoint import Checkpoint
from tier_train.evaluation.members import EnsembleScorer, Rule, check_prompts
from tier_train.recipe import grid_side
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
    """The mean Z of K checkpoints. UsageError for patch scores that they can't give."""

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        names: Sequence[str],
        labels: LabelSet,
        asked: Sequence[str],
        device: str,
    ) -> None:
        sides = {grid_side(checkpoint.recipe) for checkpoint in checkpoints}
        if labels.pool and len(sides) > 1:
            raise UsageError(
                "the checkpoints have grids of different sides, so their patch scores have no "
                "mean; evaluate them one by one"
            )
        told = [checkpoint.training for checkpoint in checkpoints]
        for error in pool_errors(labels.id, labels.pool, told, min(sides) ** 2):
            raise UsageError(error)
        super().__init__(checkpoints, names, labels, asked, device, "margin", _margin)
