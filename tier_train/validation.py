"""How far training is: zero-shot AUC and the loss itself, on pictures cut as at inference.

The released code validates on pictures that are augmented as in training, and so sees another loss
for the same weights; here nothing is left to chance. Always float32, whatever training uses,
because float32 is what is exported. Several processes share the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tier_infer.errors import UsageError
from tier_infer.geometry import GEOMETRIES, center_crop
from tier_infer.label_sets import load_label_set
from tier_train.data.dataset import Dataset, Row, truth_table, validation_labels
from tier_train.loss import tier_loss
from tier_train.model import DualEncoder
from tier_train.parallel import same_buffers
from tier_train.recipe import Recipe
from tier_train.sampler import Pairs
from tier_train.towers.text_encoder import Tokenizer
from tier_train.zero_shot import encode_images, label_areas, query_table

if TYPE_CHECKING:
    from lightning_fabric import Fabric

SAMPLES = 4  # pictures whose heatmaps are logged


class Diverged(UsageError):
    """The loss or the embeddings are no numbers any more."""


class Result(NamedTuple):
    areas: dict[str, float]  # AUC per label id
    loss: float  # mean over whole batches; NaN when the rows with text fill none

    @property
    def auc(self) -> float:
        return float(np.mean(list(self.areas.values()))) if self.areas else float("nan")


def refuse_shared_patients(
    dataset: Dataset,
    rows: Sequence[Row],
    other: Dataset,
    others: Sequence[Row],
    say: Callable[[str], None],
) -> None:
    """Raises UsageError when a patient of the training `rows` is validated on, too.

    Two manifests, or two copies of one public dataset, name patients alike; else nobody can tell.
    """
    known = {row.patient for row in rows} - {""}
    if dataset.kind != other.kind or not known or not any(row.patient for row in others):
        say(f"whether {other.name} shares patients with {dataset.name} can't be checked")
        return
    shared = [row for row in others if row.patient in known]
    if shared:
        count = len({row.patient for row in shared})
        raise UsageError(
            f"{count} patients of the training rows stand in val rows of {other.name}, too, the "
            f"first in line {shared[0].number}; leave them out of one, or give them another "
            "patient_id if they are other people"
        )


class Validation:
    block = 64  # pictures at once

    def __init__(
        self, dataset: Dataset, pairs: Pairs, recipe: Recipe, say: Callable[[str], None]
    ) -> None:
        """Raises UsageError when the recipe selects by what these rows can't tell."""
        self.pairs = pairs
        self.labels, columns = validation_labels(dataset, recipe.prompts)
        known = {label.id for label in load_label_set(recipe.prompts).labels}
        plain = [label.id for label in self.labels.labels if label.id not in known]
        if plain:
            say(f"set {recipe.prompts} has no prompts for {', '.join(plain)}: 'X is present.' asks")
        self.truth = truth_table(pairs.rows, columns)
        silent = [name for name, y in self.truth.items() if not {0.0, 1.0} <= set(y.tolist())]
        if silent:
            say(f"no validation AUC for {', '.join(silent)}: val rows hold one class only, or none")
        self.scored = [label.id for label in self.labels.labels if label.id not in silent]
        texts = np.array([i for i, row in enumerate(pairs.rows) if row.text], np.int64)
        # shuffled, because neighbours may be images of one study: the same text twice in a batch
        order = np.random.default_rng(0).permutation(texts)
        self.batches = order[: len(order) - len(order) % recipe.batch_size]
        self.batches = self.batches.reshape(-1, recipe.batch_size)
        self._recipe = recipe
        self._crop = GEOMETRIES[recipe.geometry].crop
        if recipe.keep_best and recipe.select_by == "auc" and not self.scored:
            raise UsageError(
                "select_by auc needs validation rows with labels of both classes; add them, name "
                "others with --validate-on, or --set select_by=val_loss, which needs text alone"
            )
        if recipe.keep_best and recipe.select_by == "val_loss" and not len(self.batches):
            raise UsageError(
                f"select_by val_loss needs batch_size {recipe.batch_size} validation rows with "
                f"text, there are {len(texts)}; add rows, or --set select_by=auc"
            )

    def __call__(self, model: DualEncoder, tokenizer: Tokenizer, fabric: Fabric) -> Result:
        was_training = model.training
        model.eval()
        with torch.no_grad():
            same_buffers(fabric, model)
            areas = self._areas(model, tokenizer, fabric) if self.scored else {}
            losses = torch.zeros(len(self.batches), dtype=torch.float64, device=fabric.device)
            for i in range(fabric.global_rank, len(self.batches), fabric.world_size):
                losses[i] = self._loss(model, tokenizer, self.batches[i])
        model.train(was_training)
        summed: Any = fabric.all_reduce(losses, reduce_op="sum")
        if not torch.isfinite(summed).all():
            raise Diverged("training diverged in the last step; lower lr or logit_scale_init")
        return Result(areas, float(summed.mean()))  # of no batch: NaN

    def heatmaps(
        self, model: DualEncoder, tokenizer: Tokenizer
    ) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """Of the first pictures: label id → crops uint8 [n, S, S] and cells float32 [n, g, g]."""
        crops = self._crops(np.arange(min(SAMPLES, len(self.pairs.rows))))
        if not len(crops) or not self.labels.labels:
            return {}
        was_training = model.training
        model.eval()
        cells = encode_images(model, crops)[1] @ query_table(model, tokenizer, self.labels).T
        model.train(was_training)
        names = [label.id for label in self.labels.labels]
        return {name: (crops, cells[..., i].numpy()) for i, name in enumerate(names)}

    def _areas(self, model: DualEncoder, tokenizer: Tokenizer, fabric: Fabric) -> dict[str, float]:
        count, width = len(self.pairs.rows), self._recipe.embed_dim
        own = torch.zeros(count, width, device=fabric.device)
        block = self.block
        for start in range(block * fabric.global_rank, count, block * fabric.world_size):
            crops = self._crops(np.arange(start, min(start + block, count)))
            own[start : start + block] = encode_images(model, crops, block)[0].to(own)
        image_e: Any = fabric.all_reduce(own, reduce_op="sum")  # the others' rows are zero
        table = query_table(model, tokenizer, self.labels)
        if not torch.isfinite(image_e).all() or not torch.isfinite(table).all():
            raise Diverged("training diverged in the last step; lower lr or logit_scale_init")
        return label_areas(image_e.cpu(), table, self.truth, self.labels)

    def _loss(self, model: DualEncoder, tokenizer: Tokenizer, batch: NDArray[np.int64]) -> Tensor:
        device = model.logit_scale.device
        ids, mask = (v.to(device) for v in tokenizer([self.pairs.rows[i].text for i in batch]))
        size = self._recipe.micro_batch or len(batch)
        parts = []
        for start in range(0, len(batch), size):
            chunk = slice(start, start + size)
            crops = torch.from_numpy(self._crops(batch[chunk])).to(device)
            parts.append((*model.encode_image(crops), model.encode_text(ids[chunk], mask[chunk])))
        image_e, patch_e, token_e = (torch.cat(column) for column in zip(*parts, strict=True))
        counted = mask.bool() if self._recipe.mask_padding else torch.ones_like(mask).bool()
        return tier_loss(
            image_e, token_e[:, 0], patch_e, token_e, counted, model.logit_scale, self._recipe
        ).total

    def _crops(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        crops = [center_crop(self.pairs.pictures[int(i)], self._crop) for i in rows]
        return np.stack(crops) if crops else np.empty((0, self._crop, self._crop), np.uint8)
