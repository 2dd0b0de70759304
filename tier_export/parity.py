"""The gate between PyTorch and what is exported: embeddings and their norm, every heatmap cell,
scores, decisions, ranking and AUC.

`compare` measures and judges nothing; `check` raises ParityError (exit 5) and says which output of
which labels differs by how much, and what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_export.cells import cell_differences, cell_ranks
from tier_export.heads import Floats, Score
from tier_infer.errors import ParityError, UsageError
from tier_infer.evaluation.ranking import middle_gap, rank_correlation
from tier_infer.metrics import roc_auc
from tier_infer.sessions import open_session, run_encoder

MIN_RANKED = 100  # crops below which one swap of neighbours moves the rank correlation too far
MIN_PAIRS = 2000  # positive × negative pairs below which an AUC is too coarse to gate
GATES: dict[str, dict[str, float]] = {  # design section 4: largest allowed difference to PyTorch
    "fp32": {"max_dz": 1e-5, "max_dcell": 1e-4, "flips": 0},
    "fp16": {"max_dz": 2e-3, "max_dcell": 1e-2, "max_dauc": 5e-4},
    "int8": {"max_dauc": 3e-3},
}
MIN_RANK = 0.995  # where AUC can't be gated: a collapsed network has too small a Z for max_dz
MAX_SHARE = 0.1  # of the span of a label's Z, where few crops allow neither: the same reason
MAX_DNORM = 1e-3  # every precision: |e| = 1, so that no AUC or ranking hides another scale
# INT8, whose cells no other gate holds. Six trained networks kept 0.9966 (ResNet-50) or more; maps
# moved by one cell have 0.42 to 0.61, those of other images 0.03 at most.
MIN_CELL_RANK = 0.98
WORDS = {"max_dz": "score Z", "max_dcell": "heatmap cell", "max_dauc": "AUC", "flips": "decisions"}
NAMED = 5  # labels that a message names


@dataclass(frozen=True)
class Crops:
    """What parity is measured on."""

    pixels: NDArray[np.uint8]  # [N, H, W]
    truth: dict[str, NDArray[np.float32]]  # label id → [N] of 1, 0 or NaN
    source: str


Encode = Callable[[NDArray[np.uint8]], tuple[Floats, Floats]]


@dataclass(frozen=True)
class Outputs:
    image: Floats  # [N, D]
    patches: Floats  # [N, g, g, D]
    scores: Floats  # [N, L]
    score: Score  # what made them, and makes the cells of `patches`


def outputs(encode: Encode, score: Score, pixels: NDArray[np.uint8]) -> Outputs:
    return scored(*encode(pixels), score)


def scored(image: Floats, patches: Floats, score: Score) -> Outputs:
    return Outputs(image, patches, score.images(image, patches), score)


def onnx_encoder(graph: bytes) -> Encode:
    """The session and the batches of tier_infer, on the CPU."""
    session = open_session(graph, "cpu")

    def encode(pixels: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        found = run_encoder(session, pixels)
        return found.image, found.patches

    return encode


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
    max_dcell, p99_dcell = cell_differences(reference, other)
    alike = cell_ranks(reference, other)
    each = {
        label: {
            "max_dz": float(dz[:, i].max()),
            "p99_dz": float(p99_dz[i]),
            "spread": float(np.ptp(reference.scores[:, i])),
            "max_dcell": float(max_dcell[i]),
            "cell_rank": alike[i],
            **_decisions(reference.scores[:, i], other.scores[:, i], (thresholds or {}).get(label)),
            **_ranking(reference.scores[:, i], other.scores[:, i], crops.truth.get(label)),
        }
        for i, label in enumerate(labels)
    }
    areas = [row["dauc"] for row in each.values() if row["dauc"] is not None]
    ranks, kept = (
        [row[key] for row in each.values() if row[key] is not None] for key in ("rank", "cell_rank")
    )
    found: dict[str, Any] = {"crops": len(crops.pixels), "max_dnorm": _dnorm(other)}
    for name in ("image", "patches"):
        d = np.abs(getattr(other, name) - getattr(reference, name))
        key = {"image": "dembedding", "patches": "dpatch"}[name]
        found |= {f"max_{key}": float(d.max()), f"p99_{key}": float(np.percentile(d, 99))}
    return found | {
        "max_dz": float(dz.max()),
        "p99_dz": float(np.percentile(dz, 99)),
        "max_dcell": float(max_dcell.max()),
        "p99_dcell": p99_dcell,
        "min_cell_rank": min(kept) if kept else None,
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


def _dnorm(found: Outputs) -> float:
    """Largest | |e| − 1 | of all image and patch embeddings."""
    norms = (np.linalg.norm(e, axis=-1) for e in (found.image, found.patches))
    return max(float(np.abs(norm - 1).max()) for norm in norms)


def _decisions(before: Floats, after: Floats, threshold: float | None) -> dict[str, Any]:
    """Flips of one label [N], at the threshold given, else in the widest gap between the 40th and
    the 60th percentile, which may lie away from the median; max_dz tells of other thresholds."""
    if threshold is None:
        threshold = middle_gap(before)
    if threshold is None:
        return {"threshold": None, "flips": 0}
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


def check(precision: str, proof: str, found: Mapping[str, Any]) -> None:
    """Raises ParityError naming every broken gate; `proof` is where it was measured."""
    broken = breaches(precision, found)
    if broken:
        raise ParityError(f"parity broken, {precision} ({proof}): {'; '.join(broken)}")


def breaches(precision: str, found: Mapping[str, Any]) -> list[str]:
    """One part of a sentence per broken gate: what, observed, worst labels, allowed.

    Raises UsageError where the crops can't prove anything of a label.
    """
    rows: dict[str, dict[str, Any]] = found["labels"]
    _check_provable(precision, found)
    broken = []
    if not found["max_dnorm"] <= MAX_DNORM:  # NaN is a breach, here and below
        off = f"{found['max_dnorm']:.3g}"
        broken.append(f"the norm of an embedding is off 1 by {off}, allowed {MAX_DNORM:g}")
    for key, limit in GATES[precision].items():
        if found[key] is None or found[key] <= limit:
            continue
        row_key = key.replace("max_dauc", "dauc")
        each = {label: row[row_key] for label, row in rows.items() if row[row_key] is not None}
        worst = _named({label: value for label, value in each.items() if not value <= limit}, True)
        what = f"{found[key]} decisions flip" if key == "flips" else (
            f"{WORDS[key]} differs by {found[key]:.3g}"
        )  # fmt: skip
        broken.append(f"{what} ({worst}), allowed {limit:g}")
    cells = {label: row["cell_rank"] for label, row in rows.items()} if precision == "int8" else {}
    broken += _unlike("rank correlation of heatmap cells", cells, MIN_CELL_RANK)
    blind = {label: row for label, row in rows.items() if row["auc"] is None}
    ranks = {label: row["rank"] for label, row in blind.items() if row["rank"] is not None}
    broken += _unlike("rank correlation", ranks, MIN_RANK, " where AUC is not gated")
    if precision != "int8":
        broken += _too_near(blind, GATES[precision]["max_dz"], found["crops"])
    return broken


def _unlike(what: str, found: Mapping[str, float], limit: float, where: str = "") -> Iterator[str]:
    low = {label: value for label, value in found.items() if not value >= limit}
    if low:
        yield f"{what} is {min(low.values()):.4g} ({_named(low)}), allowed {limit:g}{where}"


def _too_near(rows: Mapping[str, Mapping[str, Any]], limit: float, crops: int) -> Iterator[str]:
    """Labels whose Z spans so little on few crops that max_dz would let a constant pass."""
    shares = {
        label: row["max_dz"] / row["spread"]
        for label, row in rows.items()
        if row["rank"] is None and row["max_dz"] <= limit  # above, max_dz says it
    }
    over = {label: share for label, share in shares.items() if not share <= MAX_SHARE}
    if over:
        yield (
            f"score Z differs by {max(over.values()):.3g} of what it spans on {crops} images "
            f"({_named(over, most=True)}), allowed {MAX_SHARE:g} where neither AUC nor ranking is "
            "gated"
        )


def _named(values: Mapping[str, float], most: bool = False) -> str:
    """The worst labels, at most NAMED of them; `most`: the largest value is the worst."""
    order = sorted(values, key=lambda label: values[label], reverse=most)
    more = f" and {len(order) - NAMED} more labels" if len(order) > NAMED else ""
    return ", ".join(f"{label} {values[label]:.3g}" for label in order[:NAMED]) + more


def _check_provable(precision: str, found: Mapping[str, Any]) -> None:
    """INT8 is held by AUC and ranking alone; fp32 and fp16 by a Z that differs between images."""
    count = found["crops"]
    for label, row in found["labels"].items():
        bare = row["auc"] is None and row["rank"] is None
        why = ""
        if bare and not row["spread"] > 0:
            why = "PyTorch gives all of them one score"
        elif bare and precision == "int8":
            why = (
                f"it takes {MIN_RANKED} images, or {MIN_PAIRS} pairs of one with and one without "
                "the finding"
            )
        elif precision == "int8" and row["cell_rank"] is None:
            why = "PyTorch gives all heatmap cells one value"
        if why:
            raise UsageError(
                f"{precision} can't be proven for {label} on {count} images: {why}; name more with "
                "--dataset, or none to measure on phantoms"
            )
