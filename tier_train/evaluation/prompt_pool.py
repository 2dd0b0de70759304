"""MedCLIP's score: the mean or the maximum over a class's prompts of cosine · exp(logit_scale).

PromptClassifier of medclip 0.0.3: the logit scale is clamped to [0, 4.6052], there are no
negatives, the prompts of a class are embedded together, so that the padding of the shorter ones
counts in their embedding, and each class has ten prompts drawn at random. medclip draws them
unseeded. Here one generator draws label by label in the order of the set, which gives what medclip
draws after `random.seed(seed)`, whichever labels are asked.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor

from tier_infer.errors import UsageError
from tier_infer.evaluation.prompts import prompts_sha256
from tier_infer.label_sets import LabelSet
from tier_train.checkpoint import Checkpoint
from tier_train.evaluation.members import EnsembleScorer, Rule, check_prompts
from tier_train.towers.text_encoder import embed_prompts

POOLS = ("prompt-mean", "prompt-max")
LARGEST_SCALE = 4.6052  # medclip 0.0.3, compute_logits
PROMPTS, SEED = 10, 0


def draw_prompts(labels: LabelSet, count: int, seed: int) -> LabelSet:
    """`count` positive sentences of each label, drawn without replacement; all where it has no
    more than that. Negatives are dropped."""
    generator = random.Random(seed)
    drawn = []
    for label in labels.labels:
        enough = count < len(label.positive)
        prompts = generator.sample(label.positive, count) if enough else label.positive
        drawn.append(replace(label, positive=tuple(prompts), negative=()))
    return LabelSet(labels.id, tuple(drawn))


def _pooled(checkpoint: Checkpoint, labels: LabelSet, scoring: str) -> Rule:
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    scale = model.logit_scale.clamp(0, LARGEST_SCALE).exp().cpu()
    tables = []  # L of [prompts, D]
    for label in labels.labels:
        check_prompts(tokenizer, label.positive)
        tables.append(embed_prompts(model.words, tokenizer, label.positive).cpu())

    def rule(image_e: Tensor, patch_e: Tensor) -> Tensor:
        logits = [image_e @ table.T * scale for table in tables]  # L of [N, prompts]
        pooled = [z.mean(1) if scoring == "prompt-mean" else z.amax(1) for z in logits]
        return torch.stack(pooled, dim=1)

    return rule


class PromptPoolScorer(EnsembleScorer):
    """The mean over K checkpoints of pooled logits; MedCLIP itself has one network."""

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        names: Sequence[str],
        labels: LabelSet,
        asked: Sequence[str],
        device: str,
        scoring: str,
        count: int = PROMPTS,
        seed: int = SEED,
    ) -> None:
        """`scoring`: prompt-mean or prompt-max."""
        if scoring not in POOLS or count < 1:
            raise UsageError(f"prompts are pooled by {' or '.join(POOLS)}, at least one per label")
        drawn = draw_prompts(labels, count, seed)
        super().__init__(
            checkpoints,
            names,
            drawn,
            asked,
            device,
            scoring,
            lambda checkpoint, used: _pooled(checkpoint, used, scoring),
        )
        self.identity["prompts"] = {
            "per_label": count,
            "seed": seed,
            "drawn_from_sha256": prompts_sha256(asdict(label) for label in labels.labels),
        }
