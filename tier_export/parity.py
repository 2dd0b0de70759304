"""The gate between PyTorch and what is exported: embeddings, every heatmap cell, scores, decisions,
ranking and AUC.

`compare` measures and judges nothing; `check` raises ParityError (exit 5) and says which output of
which labels differs by how much, and what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.engine import open_session, run_encoder
from tier_infer.errors import ParityError, UsageError
from tier_infer.metrics import roc_auc

Floats = NDArray[np.float32]
MIN_RANKED = 100  # crops below which one swap of neighbours moves the rank correlation too far
MIN_PAIRS = 2000  # positive × negative pairs below which an AUC is too coarse to gate
GATES: dict[str, dict[str, float]] = {  # design section 4: largest allowed difference to PyTorch
    "fp32": {"max_dz": 1e-5, "max_dcell": 1e-4, "flips": 0},
    "fp16": {"max_dz": 2e-3, "max_dcell": 1e-2, "max_dauc": 5e-4},
    "int8": {"max_dauc": 3e-3},
}
MIN_RANK = 0.995  # where AUC can't be gated: a collapsed network has too small a Z for max_dz
WORDS = {"max_dz": "score Z", "max_dcell": "heatmap cell", "max_dauc": "AUC", "flips": "decisions"}
BLOCK = 2**23  # cells scored at once, 32 MB: all of 10,000 labels on 320 crops are 0.6 GB a side
NAMED = 5  # labels that a message names


@dataclass(frozen=True)
class Crops:
    """What parity is measured on."""

    pixels: NDArray[np.uint8]  # [N, H, W]
    truth: dict[str, NDArray[np.float32]]  # label id → [N] of 1, 0 or NaN
    source: str


Encode = Callable[[NDArray[np.uint8]], tuple[Floats, Floats]]
Score = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Outputs:
    image: Floats  # [N, D]
    patches: Floats  # [N, g, g, D]
    scores: Floats  # [N, L]
    score: Score  # what made them, and makes the cells of `patches`


def outputs(encode: Encode, score: Score, pixels: NDArray[np.uint8]) -> Outputs:
    return scored(*encode(pixels), score)


def scored(image: Floats, patches: Floats, score: Score) -> Outputs:
    return Outputs(image, patches, score(image), score)


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
    reference: Outputs,
    other: Outputs,
    labels: Sequence[str],
    crops: Crops,
    thresholds: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Observed differences, all finite: max and 99th percentile of every output, then per label.

    `thresholds` are the decisions to compare, by label id. Raises ParityError for another shape and
    for values that aren't finite. What the keys mean stands in `certificate`.
    """
    _check_shapes(reference, other)
    dz = np.abs(other.scores - reference.scores)  # [N, L]
    p99_dz = np.percentile(dz, 99, axis=0)
    max_dcell, p99_dcell = _cells(reference, other)
    each = {
        label: {
            "max_dz": float(dz[:, i].max()),
            "p99_dz": float(p99_dz[i]),
            "max_dcell": float(max_dcell[i]),
            **_decisions(reference.scores[:, i], other.scores[:, i], (thresholds or {}).get(label)),
            **_ranking(reference.scores[:, i], other.scores[:, i], crops.truth.get(label)),
        }
        for i, label in enumerate(labels)
    }
    areas = [row["dauc"] for row in each.values() if row["dauc"] is not None]
    ranks = [row["rank"] for row in each.values() if row["rank"] is not None]
    found: dict[str, Any] = {"crops": len(crops.pixels)}
    for name in ("image", "patches"):
        d = np.abs(getattr(other, name) - getattr(reference, name))
        key = {"image": "dembedding", "patches": "dpatch"}[name]
        found |= {f"max_{key}": float(d.max()), f"p99_{key}": float(np.percentile(d, 99))}
    return found | {
        "max_dz": float(dz.max()),
        "p99_dz": float(np.percentile(dz, 99)),
        "max_dcell": float(max_dcell.max()),
        "p99_dcell": p99_dcell,
        "flips": sum(row["flips"] for row in each.values()),
        "max_dauc": max(areas) if areas else None,
        "min_rank": min(ranks) if ranks else None,
        "labels": each,
    }


def _check_shapes(reference: Outputs, other: Outputs) -> None:
    for name in ("image", "patches", "scores"):
        a, b = getattr(reference, name), getattr(other, name)
        words = {"image": "image_embedding", "patches": "patch_embeddings"}.get(name, name)
        if a.shape != b.shape:
            raise ParityError(f"{words} have shape {b.shape}, the reference's {a.shape}")
        for whose, values in (("", b), (" of the reference", a)):
            count = int((~np.isfinite(values)).sum())
            if count:
                raise ParityError(
                    f"{words}{whose}: {count} of {values.size} values are not finite, allowed 0"
                )


def _cells(reference: Outputs, other: Outputs) -> tuple[Floats, float]:
    """Differences of heatmap cells: the largest per label [L], and the 99th percentile of all.

    In blocks of crops; the percentile is exact because the largest 1 % are kept.
    """
    total = reference.patches[..., 0].size * reference.scores.shape[1]
    at = 0.99 * (total - 1)  # as numpy: linear between neighbours
    count = total - int(at)
    worst = np.zeros(reference.scores.shape[1], np.float32)
    top = np.empty(0, np.float32)
    for block in _cell_blocks(reference, other):  # [M, L]
        worst = np.maximum(worst, block.max(0))
        top = np.concatenate([top, block.ravel()])
        if len(top) > count:
            top = np.partition(top, len(top) - count)[-count:]
    low, high = np.sort(top)[[0, min(1, count - 1)]].astype(np.float64)
    return worst, float(low + (high - low) * (at - int(at)))


def _cell_blocks(reference: Outputs, other: Outputs) -> Iterator[Floats]:
    n, grid, _, dim = reference.patches.shape
    step = max(1, BLOCK // (grid * grid * reference.scores.shape[1]))  # crops
    for start in range(0, n, step):
        a, b = (
            x.score(np.ascontiguousarray(x.patches[start : start + step].reshape(-1, dim)))
            for x in (reference, other)
        )
        yield np.abs(b - a)


def _decisions(before: Floats, after: Floats, threshold: float | None) -> dict[str, Any]:
    """Flips of one label [N], at the threshold given, else at the widest gap around the median.

    Between two scores that are nearly tied a difference of 1e-8 would count as a flip, whatever the
    threshold of a user may be later.
    """
    if threshold is None:
        ordered = np.sort(before)
        around = ordered[len(ordered) * 2 // 5 : len(ordered) * 3 // 5 + 1]
        gaps = np.diff(around)
        if not len(gaps) or not gaps.max() > 0:
            return {"threshold": None, "flips": 0}
        at = int(gaps.argmax())
        threshold = float((around[at] + around[at + 1]) / 2)
    return {
        "threshold": threshold,
        "flips": int(((before > threshold) != (after > threshold)).sum()),
    }


def _ranking(before: Floats, after: Floats, truth: Floats | None) -> dict[str, Any]:
    """Of one label [N]: AUC on both sides where there is enough truth, and Spearman's ρ."""
    y = np.full(len(before), np.nan) if truth is None else truth
    known = ~np.isnan(y)
    pairs = int((y == 1).sum()) * int((y == 0).sum())
    auc = [roc_auc(y[known], z[known]) for z in (before, after)] if pairs >= MIN_PAIRS else None
    return {
        "pairs": pairs,
        "auc": auc,
        "dauc": abs(auc[1] - auc[0]) if auc else None,
        "rank": rank_correlation(before, after) if len(before) >= MIN_RANKED else None,
    }


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


def check(precision: str, proof: str, found: Mapping[str, Any]) -> None:
    """Raises ParityError naming every broken gate; `proof` is where it was measured."""
    broken = breaches(precision, found)
    if broken:
        raise ParityError(f"parity broken, {precision} ({proof}): {'; '.join(broken)}")


def breaches(precision: str, found: Mapping[str, Any]) -> list[str]:
    """One part of a sentence per broken gate: what, observed, worst labels, allowed.

    Raises UsageError where the crops can't prove anything of an INT8 label.
    """
    rows: dict[str, dict[str, Any]] = found["labels"]
    _check_provable(precision, found)
    broken = []
    for key, limit in GATES[precision].items():
        if found[key] is None or found[key] <= limit:  # NaN is a breach
            continue
        row_key = key.replace("max_dauc", "dauc")
        each = {label: row[row_key] for label, row in rows.items() if row[row_key] is not None}
        over = {label: value for label, value in each.items() if not value <= limit}
        worst = _named(over, sorted(over, key=lambda label: -over[label]))
        what = f"{found[key]} decisions flip" if key == "flips" else (
            f"{WORDS[key]} differs by {found[key]:.3g}"
        )  # fmt: skip
        broken.append(f"{what} ({worst}), allowed {limit:g}")
    low = {
        label: row["rank"]
        for label, row in rows.items()
        if row["auc"] is None and row["rank"] is not None and not row["rank"] >= MIN_RANK
    }
    if low:
        worst = _named(low, sorted(low, key=lambda label: low[label]))
        least = f"rank correlation is {min(low.values()):.4g}"
        broken.append(f"{least} ({worst}), allowed {MIN_RANK:g} where AUC is not gated")
    return broken


def _named(values: Mapping[str, float], order: Sequence[str]) -> str:
    more = f" and {len(order) - NAMED} more labels" if len(order) > NAMED else ""
    return ", ".join(f"{label} {values[label]:.3g}" for label in order[:NAMED]) + more


def _check_provable(precision: str, found: Mapping[str, Any]) -> None:
    """Only AUC and ranking hold INT8; fp32 and fp16 have gates that one crop can break."""
    rows = found["labels"]
    bare = [name for name, row in rows.items() if row["auc"] is None and row["rank"] is None]
    if precision == "int8" and bare:
        raise UsageError(
            f"int8 can't be proven for {bare[0]} on {found['crops']} images: it takes {MIN_RANKED} "
            f"images, or {MIN_PAIRS} pairs of one with and one without the finding; name more with "
            "--dataset, or none to measure on phantoms"
        )
