"""The supervised network as a scorer: the logits of its head. It has no words, so no bundle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from tier_infer.embeddings import BATCH
from tier_infer.errors import UsageError
from tier_infer.label_sets import normal_id
from tier_train.evaluation.members import check_device, identity_of, presets_of
from tier_train.supervised_cnn import Supervised


class HeadScorer:
    def __init__(self, trained: Supervised, asked: Sequence[str], device: str) -> None:
        """`asked`: ids among its outputs, L of them; UsageError for another."""
        check_device(device)
        ids = list(dict.fromkeys(normal_id(name) for name in asked))
        for label in ids:
            if label not in trained.labels:
                raise UsageError(
                    f"label {label!r} is no output of this supervised network; it has "
                    f"{', '.join(trained.labels)}"
                )
        self.labels = tuple(ids)
        self.presets = presets_of(trained)
        self.identity = identity_of([trained], "head", device)
        self._columns = [trained.labels.index(label) for label in ids]
        self._model = trained.model.to(device).eval()
        self._device = device

    @torch.no_grad()
    def scores(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N, H, W] → logits float32 [N, L]."""
        model, parts = self._model, []
        for i in range(0, len(pixels), BATCH):
            crops = torch.from_numpy(np.ascontiguousarray(pixels[i : i + BATCH])).to(self._device)
            parts.append(model(model.network_input(crops)).cpu())
        result: NDArray[np.float32] = torch.cat(parts)[:, self._columns].numpy()
        return result
