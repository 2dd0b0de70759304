"""The gate between PyTorch and what is exported: embeddings, every heatmap cell, scores, decisions
and AUC. A broken gate is exit 5 and no bundle; the message says by how much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.engine import open_session, run_encoder
from tier_infer.errors import ParityError
from tier_infer.metrics import roc_auc

Floats = NDArray[np.float32]
MIN_RANKED = 100  # crops below which one swap of neighbours moves the rank correlation too far
MIN_PAIRS = 2000  # positive × negative pairs below which an AUC is too coarse to gate
GATES = {  # design section 4: largest allowed difference to PyTorch fp32
    "fp32": {"max_dz": 1e-5, "max_dcell": 1e-4, "flips": 0},
    "fp16": {"max_dz": 2e-3, "max_dcell": 1e-2, "max_dauc": 5e-4},
}
MIN_RANK = 0.995  # where AUC can't be gated: a collapsed network has too small a Z for max_dz
WORDS = {
    "max_dz": "score Z",
    "max_dcell": "heatmap cell",
    "flips": "decisions near each label's median",
    "max_dauc": "AUC",
}


@dataclass(frozen=True)
class Crops:
    """What parity is measured on."""

    pixels: NDArray[np.uint8]  # [N, H, W]
    truth: dict[str, NDArray[np.float32]]  # label id → [N] of 1, 0 or NaN
    source: str


@dataclass(frozen=True)
class Outputs:
    image: Floats  # [N, D]
    patches: Floats  # [N, g, g, D]
    scores: Floats  # [N, L]
    cells: Floats  # [N, L, g, g]


Encode = Callable[[NDArray[np.uint8]], tuple[Floats, Floats]]
Score = Callable[[Floats], Floats]


def outputs(encode: Encode, score: Score, pixels: NDArray[np.uint8]) -> Outputs:
    return scored(*encode(pixels), score)


def scored(image: Floats, patches: Floats, score: Score) -> Outputs:
    n, grid, _, dim = patches.shape
    cells = score(np.ascontiguousarray(patches.reshape(-1, dim))).reshape(n, grid, grid, -1)
    return Outputs(image, patches, score(image), cells.transpose(0, 3, 1, 2))


def onnx_encoder(graph: bytes) -> Encode:
    """The session and the batches of tier_infer, on the CPU."""
    session = open_session(graph, "cpu")

    def encode(pixels: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        found = run_encoder(session, pixels)
        return found.image, found.patches

    return encode


def numpy_score(table: Floats) -> Score:
    """eq. 4 of the reference: float32 [M, D] → [M, L]."""

    def score(embeddings: Floats) -> Floats:
        result: Floats = embeddings @ table.T
        return result

    return score


def onnx_query(graph: bytes) -> Score:
    session = open_session(graph, "cpu")

    def score(embeddings: Floats) -> Floats:
        result: Floats = session.run(["scores"], {"embeddings": embeddings})[0]
        return result

    return score


def compare(
    reference: Outputs, other: Outputs, labels: Sequence[str], crops: Crops
) -> dict[str, Any]:
    """Observed differences; another shape or a value that isn't finite is a breach at once."""
    for name in ("image", "patches", "scores", "cells"):
        a, b = getattr(reference, name), getattr(other, name)
        if a.shape != b.shape or not np.isfinite(b).all():
            raise ParityError(
                f"{name}: shape {b.shape} for {a.shape}, or values that are not finite"
            )
    dz = np.abs(other.scores - reference.scores)  # [N, L]
    dcell = np.abs(other.cells - reference.cells)  # [N, L, g, g]
    return {
        "max_dembedding": float(np.abs(other.image - reference.image).max()),
        "max_dpatch": float(np.abs(other.patches - reference.patches).max()),
        "max_dz": float(dz.max()),
        "p99_dz": float(np.percentile(dz, 99)),
        "max_dcell": float(dcell.max()),
        "flips": int(_flips(reference.scores, other.scores)),
        "worst_label": labels[int(dz.max(0).argmax())],
        **_auc_difference(reference.scores, other.scores, labels, crops),
    }


def _flips(reference: Floats, other: Floats) -> int:
    """Decisions that change, each label at the widest gap among the scores around its median.

    Between two scores that are nearly tied a difference of 1e-8 would count as a flip, whatever the
    threshold of a user may be later.
    """
    flips = 0
    for before, after in zip(reference.T, other.T, strict=True):
        ordered = np.sort(before)
        around = ordered[len(ordered) * 2 // 5 : len(ordered) * 3 // 5 + 1]
        gaps = np.diff(around)
        if len(gaps) and gaps.max() > 0:
            at = int(gaps.argmax())
            threshold = (around[at] + around[at + 1]) / 2
            flips += int(((before > threshold) != (after > threshold)).sum())
    return flips


def rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's ρ of two [N] arrays, ties by mid-rank; 1 when `a` is constant."""
    ranks = [_mid_ranks(x) for x in (a, b)]
    if np.ptp(ranks[0]) == 0:
        return 1.0
    if np.ptp(ranks[1]) == 0:
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _mid_ranks(values: Floats) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks


def _auc_difference(
    reference: Floats, other: Floats, labels: Sequence[str], crops: Crops
) -> dict[str, Any]:
    differences: dict[str, float] = {}
    not_gated: dict[str, int] = {}
    for column, label in enumerate(labels):
        y = crops.truth.get(label, np.full(len(crops.pixels), np.nan))
        known = ~np.isnan(y)
        pairs = int((y == 1).sum() * (y == 0).sum())
        if pairs < MIN_PAIRS:
            not_gated[label] = pairs
            continue
        before = roc_auc(y[known], reference[known, column])
        differences[label] = abs(roc_auc(y[known], other[known, column]) - before)
    ranks = [
        rank_correlation(reference[:, column], other[:, column])
        for column, label in enumerate(labels)
        if label in not_gated and len(reference) >= MIN_RANKED
    ]
    return {
        "max_dauc": max(differences.values()) if differences else None,
        "dauc": differences,
        "auc_not_gated": not_gated,
        "min_rank": min(ranks) if ranks else None,
    }


def check(precision: str, proof: str, found: dict[str, Any]) -> None:
    """Raises ParityError naming every broken gate, observed against allowed."""
    broken = [
        f"{WORDS[key]} differs by {found[key]:.3g}, allowed {limit:g}"
        if key != "flips"
        else f"{found[key]} {WORDS[key]} flip, allowed {limit:g}"
        for key, limit in GATES[precision].items()
        if found[key] is not None and not found[key] <= limit  # NaN is a breach
    ]
    if found["min_rank"] is not None and not found["min_rank"] >= MIN_RANK:
        broken.append(f"rank correlation is {found['min_rank']:.4f}, allowed {MIN_RANK:g}")
    if broken:
        raise ParityError(
            f"parity broken, {precision} ({proof}), worst label {found['worst_label']}: "
            + "; ".join(broken)
            + "; no bundle was written"
        )
