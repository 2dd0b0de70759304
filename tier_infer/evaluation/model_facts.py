"""What the identity of a scorer says of a model, for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tier_infer.errors import UsageError
from tier_infer.pooling import pool_of, shown

DIGEST = 12  # digits of a hash that are shown; the JSON has all
WHOLE = "whole images"


def model_facts(model: Any) -> Iterator[tuple[str, str]]:
    """Of a plan; another program's may say anything."""
    if not isinstance(model, dict):
        yield "model", "unknown: no plan.json beside the scores"
        return
    yield "model", _network(model)
    yield "trained on", _trained_on(model)
    if "bundle_sha256" in model:
        yield "bundle", str(model["bundle_sha256"])[:DIGEST]
    checkpoints = _list(model, "checkpoints")
    if checkpoints:
        yield "checkpoints", ", ".join(str(sha)[:DIGEST] for sha in checkpoints)
    sets = model.get("label_sets")
    pools: list[str] = []
    for name, row in sets.items() if isinstance(sets, dict) else ():
        known = row if isinstance(row, dict) else {}
        yield "prompts", f"{name}, {str(known.get('prompts_sha256'))[:DIGEST]}"
        pools.append(_pool(known.get("pool")))
    exported = "" if model.get("exported", True) else "; not exported: runs in PyTorch only"
    pooled = f", {' and '.join(dict.fromkeys(pools))}" if set(pools) - {WHOLE} else ""
    yield "scoring", f"{model.get('scoring')}{pooled}{exported}"
    yield "runs on", ", ".join(str(model.get(k)) for k in ("engine", "device", "precision"))


def _network(model: dict[str, Any]) -> str:
    """Recipe, penalty and number: what tells a network from its twin."""
    recipes = [str(recipe) for recipe in _list(model, "recipes") if recipe]
    parts = recipes or [str(model.get("name"))]
    for row in _list(model, "lambdas"):
        if isinstance(row, list) and len(row) == 2:
            parts.append(f"λ patch {row[0]}, token {row[1]}")
    count = len(_list(model, "checkpoints"))
    if count:
        parts.append(f"{count} checkpoint{'s' * (count > 1)}")
    return f"{', '.join(dict.fromkeys(parts))} ({model.get('side')})"


def _trained_on(model: dict[str, Any]) -> str:
    rows = _list(model, "training")
    names = [str(row.get("data")) if isinstance(row, dict) else str(row) for row in rows]
    return ", ".join(dict.fromkeys(names)) or "unknown"


def _pool(pool: Any) -> str:
    """How scores of patches become one; the whole image where there is none."""
    if pool is None:
        return WHOLE
    try:
        return f"patches pooled by {shown(pool_of(pool, 'pool'))}"
    except UsageError:
        return "patches pooled in another way"


def _list(model: dict[str, Any], key: str) -> list[Any]:
    found = model.get(key)
    return found if isinstance(found, list) else []
