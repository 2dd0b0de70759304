"""Patch-level scoring: the scores of an image's patches, pooled to one score per label.

z_p = patch_p · (q⁺ − q⁻) of P patches, each in [−2, 2], and so is what becomes of them:

    log_sum_exp   τ · log(mean_p exp(z_p / τ)), a soft maximum; τ → ∞ gives the mean over the
                  patches, τ → 0 their maximum
    top_k         the mean of the k highest z_p; k = 1 gives the maximum, k = P the mean

Of one patch both give its own z, so a heatmap's cells don't depend on the pool. All patches count,
those of a black frame too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.errors import UsageError

# Below, it is the maximum; above, nearly the mean, and τ multiplies what float32 rounds.
TEMPERATURES = (0.001, 1.0)
MAX_K = 4096  # patches of the largest grid
MAX_DPOOL = 1e-5  # between a graph's pooled scores and the formula; the gate of Z
BLOCK = 2**23  # scores of patches held at once, 32 MB
KINDS = {"log_sum_exp": "temperature", "top_k": "k"}
EXAMPLES = '{ kind = "log_sum_exp", temperature = 0.1 } or { kind = "top_k", k = 5 }'


@dataclass(frozen=True)
class LogSumExp:
    temperature: float  # τ


@dataclass(frozen=True)
class TopK:
    k: int


Pool = LogSumExp | TopK


def kind_of(pool: Pool) -> str:
    return "top_k" if isinstance(pool, TopK) else "log_sum_exp"


def described(pool: Pool) -> dict[str, Any]:
    """As a manifest and a label set file write it."""
    return {"kind": kind_of(pool), **asdict(pool)}


def pool_of(table: object, whose: str) -> Pool:
    """What `described` wrote; UsageError, beginning with `whose`, for anything else."""
    kind = table.get("kind") if isinstance(table, dict) else None
    key = KINDS.get(kind) if isinstance(kind, str) else None
    if not isinstance(table, dict) or key is None or set(table) != {"kind", key}:
        raise UsageError(f"{whose}: `pool` must be {EXAMPLES}, got {table!r}")
    value = table[key]
    if key == "k":
        if type(value) is not int or not 1 <= value <= MAX_K:
            raise UsageError(f"{whose}: k must be a whole number from 1 to {MAX_K}, got {value!r}")
        return TopK(value)
    low, high = TEMPERATURES
    if type(value) not in (int, float) or not low <= value <= high:  # NaN is none either
        raise UsageError(
            f"{whose}: the temperature must be a number from {low:g} to {high:g}, got {value!r}"
        )
    return LogSumExp(float(value))


def pool_from(text: str, whose: str) -> Pool:
    """'log_sum_exp=0.1' or 'top_k=5'; UsageError, beginning with `whose`, for anything else."""
    kind, _, number = text.partition("=")
    if kind not in KINDS or not number:
        raise UsageError(f"{whose}: {text!r} is no pool; allowed: log_sum_exp=0.1 and top_k=5")
    value: int | float = math.nan
    try:
        value = int(number) if kind == "top_k" else float(number)
    except ValueError:
        raise UsageError(f"{whose}: {number!r} is no {KINDS[kind]} of {kind}") from None
    return pool_of({"kind": kind, KINDS[kind]: value}, whose)


def shown(pool: Pool) -> str:
    """What `pool_from` reads."""
    (value,) = asdict(pool).values()
    return f"{kind_of(pool)}={value:g}"


def pool_errors(
    set_id: str, pool: Pool | None, checkpoints: Sequence[Mapping[str, Any]], patches: int
) -> list[str]:
    """Patch scores of a network whose patches mean nothing, and more patches than there are.
    `checkpoints` are rows of a manifest, or what checkpoints tell of their training; `patches`
    is P."""
    if pool is None:
        return []
    if any(row.get("patches") == "not trained" for row in checkpoints):
        return [
            f"label set {set_id} pools scores of patches, which this network was not trained "
            "for; leave its pool out: the image's embedding is scored then"
        ]
    if isinstance(pool, TopK) and pool.k > patches:
        return [
            f"label set {set_id} pools the {pool.k} highest patch scores, the encoder gives "
            f"{patches}; allowed: k up to {patches}"
        ]
    return []


def pooled(z: NDArray[np.floating[Any]], pool: Pool) -> NDArray[np.floating[Any]]:
    """Scores of patches [N, P, L] → [N, L], in the precision of `z`. ValueError for fewer than k
    patches, but for one, whose score is its own."""
    if isinstance(pool, TopK):
        k = pool.k if z.shape[1] > 1 else 1
        if k > z.shape[1]:
            raise ValueError(f"the {k} highest of {z.shape[1]} patches")
        best: NDArray[np.floating[Any]] = np.sort(z, axis=1)[:, z.shape[1] - k :].mean(1)
        return best
    top = z.max(1, keepdims=True)  # so that no exponential overflows, and one patch stays exact
    rest = np.exp((z - top) / pool.temperature).mean(1)
    soft: NDArray[np.floating[Any]] = top[:, 0] + pool.temperature * np.log(rest)
    return soft


def in_blocks(
    score: Callable[[NDArray[Any]], NDArray[Any]], patches: NDArray[Any], labels: int
) -> NDArray[Any]:
    """[N, g, g, D] → [N, L]; `score` is given [n, P, D], so few that memory is bounded."""
    count, rows, columns, dim = patches.shape
    flat = patches.reshape(count, rows * columns, dim)
    step = max(1, BLOCK // (rows * columns * labels))
    return np.concatenate([score(flat[i : i + step]) for i in range(0, max(1, count), step)])
