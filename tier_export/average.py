"""Weight averaging: K checkpoints of one run become one network, at the cost of one.

Where an ensemble is not worth K times the work. Weights of different runs are not aligned, and
their average is worth nothing; nothing in the files tells, so `compared` measures it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tier_export.heads import Floats
from tier_export.members import (
    BATCH,
    Members,
    check_alike,
    exact_score,
    joined,
    members_of,
    weight_bytes,
)
from tier_export.parity import MIN_PAIRS, MIN_RANKED, Crops
from tier_infer.errors import IntegrityError, ParityError, UsageError
from tier_infer.evaluation.ranking import rank_correlation
from tier_infer.label_sets import LabelSet
from tier_infer.metrics import roc_auc
from tier_train.checkpoint import Checkpoint, flat_state
from tier_train.zero_shot import encode_images, query_table

Encoded = tuple[Floats, Floats]  # images [N, D] and patches [N, g, g, D]
MAX_LOSS = 0.01  # of mean AUC against the worst member
MAX_LOSS_OF_ENSEMBLE = 0.05  # one bad member must not excuse a bad average
MIN_AGREEMENT = 0.9  # Spearman's ρ of Z with the ensemble, on labels without enough truth

SHAPES = (  # keys of the recipe that decide what its weights mean; the vocabulary does, too
    "arch",
    "patch_layer",
    "projector",
    "embed_dim",
    "text_arch",
    "text_width",
    "text_layers",
    "text_heads",
    "text_inner",
)


def average_of(checkpoints: Sequence[Checkpoint], names: Sequence[str] = ()) -> Members:
    """One network with the mean of all weights, the running statistics of BatchNorm among them.

    Stochastic weight averaging recomputes those statistics on training images (Izmailov et al.
    2018), which an export does not have. Measured on three checkpoints of a run on radiographs,
    rank correlation with their ensemble and AUC of pneumonia: mean statistics 0.985 and 0.922,
    recomputed on training images 0.987 and 0.926, on phantoms 0.942 and 0.882; on three of a run
    on phantoms all are above 0.999. So images of another kind do harm, and without any the result
    is the checkpoints' alone: `tier-export labels` and `verify` make it again bit for bit.

    Raises UsageError where there is no mean.
    """
    called = list(names) or [c.sha256[:12] for c in checkpoints]
    first = checkpoints[0]
    if len(checkpoints) < 2:
        raise UsageError(
            f"--average takes two or more checkpoints of one run, got {called[0]} alone; "
            "`tier-train run --set keep_best=3` keeps several"
        )
    check_alike(checkpoints, called)
    for name, other in zip(called, checkpoints, strict=True):
        _check_shapes(first, other, f"{called[0]} and {name}")
    model = copy.deepcopy(first.model)
    states = [flat_state(c.model) for c in checkpoints]
    with torch.no_grad():
        for key, value in flat_state(model).items():  # the copy's own storage
            value.copy_(_mean([state[key] for state in states]))
    return Members((replace(first, model=model, sha256=""),), tuple(checkpoints))


def _check_shapes(first: Checkpoint, other: Checkpoint, both: str) -> None:
    for key in SHAPES:
        a, b = getattr(first.recipe, key), getattr(other.recipe, key)
        if a != b:
            raise UsageError(
                f"{both} can't be averaged: {key} is {a} in one and {b} in the other; without "
                "--average they become an ensemble"
            )
    if first.tokenizer.state() != other.tokenizer.state():
        raise UsageError(
            f"{both} can't be averaged: their vocabularies differ, so they come from different "
            "runs; without --average they become an ensemble"
        )


def _mean(values: Sequence[Tensor]) -> Tensor:
    """In float64, so that their order hardly counts; of counters (BatchNorm's) the first."""
    if not values[0].is_floating_point():
        return values[0]
    return torch.stack(list(values)).double().mean(0).to(values[0].dtype)


def members_for(
    rows: Sequence[Mapping[str, Any]], checkpoints: Sequence[Checkpoint], names: Sequence[str] = ()
) -> Members:
    """The Members that a bundle was exported from, by its manifest's `checkpoint` rows.

    `checkpoints` in any order, `names` for messages; IntegrityError where they are not exactly the
    bundle's.
    """
    wanted = [str(row["sha256"]) for row in rows]
    given = [c.sha256 for c in checkpoints]
    if sorted(wanted) != sorted(given):
        called = names or ["" for _ in given]
        shown = [f"{name} {digest:.12}".strip() for name, digest in zip(called, given, strict=True)]
        raise IntegrityError(
            f"the bundle was exported from {', '.join(digest[:12] for digest in wanted)}, given "
            f"are {', '.join(shown)} (SHA-256 of the files); name its own checkpoints, each once"
        )
    ordered = [checkpoints[given.index(digest)] for digest in wanted]
    combined = {row.get("combined") for row in rows}
    if combined == {"average"}:
        return average_of(ordered)
    if combined != {None}:
        raise IntegrityError("manifest.json combines its checkpoints in a way unknown here")
    return members_of(ordered)


def compared(
    members: Members,
    encoded: Encoded,
    table: Floats,
    labels: LabelSet,
    crops: Crops,
    further: Sequence[tuple[LabelSet, Floats]] = (),
) -> list[dict[str, Any]]:
    """One row per member, for their ensemble, and for their average where there is one.

    `encoded` and table [L, D]: what `members` make of the crops and the labels. Empty for one
    checkpoint. Raises ParityError when `members` is an average that lost what its members know, in
    these labels or in one of the `further` sets with their tables.
    """
    sources = members.sources
    if len(sources) == 1:
        return []
    if len(members.networks) == len(sources):
        each = taken_apart(members, encoded, table, labels)
        ensemble = exact_score(table, labels).images(*encoded)
        average = _average_scores(sources, labels, crops.pixels)
        return _rows(sources, each, ensemble, average, labels, crops)
    asked = [(labels, table), *further]
    pools = any(part.pool for part, _ in asked)
    seen = [_encoded(source, crops.pixels, pools) for source in sources]
    together = _together([e[0] for e in seen]), _together([e[1] for e in seen])
    found = []
    for part, directions in asked:
        tables = [_table(source, part) for source in sources]
        each = [exact_score(t, part).images(*e) for t, e in zip(tables, seen, strict=True)]
        ensemble = exact_score(_together(tables), part).images(*together)
        average = exact_score(directions, part).images(*encoded)
        found.append(_rows(sources, each, ensemble, average, part, crops))
        check_average(found[-1], len(crops.pixels), part.id)
    return found[0]


def _rows(
    sources: Sequence[Checkpoint],
    each: Sequence[Floats],
    ensemble: Floats,
    average: Floats | None,
    labels: LabelSet,
    crops: Crops,
) -> list[dict[str, Any]]:
    """Of Z [N, L] of each member, of their ensemble and of their average."""
    names = [label.id for label in labels.labels]

    def row(what: str, scores: Floats, source: Sequence[Checkpoint]) -> dict[str, Any]:
        areas = _areas(scores, names, crops)
        return {
            "what": what,
            "checkpoints": [s.sha256 for s in source],
            "bytes": sum(weight_bytes(s.model) for s in source),
            "auc": areas,
            "mean_auc": float(np.mean(list(areas.values()))) if areas else None,
            "rank": {  # 0 where the ensemble ranks nothing
                name: rank_correlation(ensemble[:, i], scores[:, i]) or 0.0
                for i, name in enumerate(names)
            },
        }

    rows = [row("member", z, [s]) for s, z in zip(sources, each, strict=True)]
    rows.append(row("ensemble", ensemble, sources))
    if average is not None:
        rows.append(row("average", average, sources) | {"bytes": rows[0]["bytes"]})
    return rows


def _encoded(source: Checkpoint, pixels: NDArray[np.uint8], patches: bool) -> Encoded:
    """Without `patches` none are kept: of many members they would fill the memory."""
    image_e, patch_e = encode_images(source.model, pixels, BATCH)
    return image_e.numpy(), (patch_e if patches else patch_e[:0]).numpy()


def _table(source: Checkpoint, labels: LabelSet) -> Floats:
    with torch.no_grad():
        table: Floats = query_table(source.model, source.tokenizer, labels).numpy()
    return table


def _together(parts: Sequence[Floats]) -> Floats:
    return joined([torch.from_numpy(part) for part in parts]).numpy()


def taken_apart(
    members: Members, encoded: Encoded, table: Floats, labels: LabelSet
) -> list[Floats]:
    """Z of every member out of what they made together: each side was divided by √K."""
    scale = np.float32(len(members.networks) ** 0.5)
    ends = np.cumsum([network.recipe.embed_dim for network in members.networks])[:-1]
    image, patches, tables = (np.split(x * scale, ends, -1) for x in (*encoded, table))
    sides = zip(image, patches, tables, strict=True)
    return [exact_score(t, labels).images(e, p) for e, p, t in sides]


def _average_scores(
    sources: Sequence[Checkpoint], labels: LabelSet, pixels: NDArray[np.uint8]
) -> Floats | None:
    try:
        average = average_of(sources).networks[0]
    except UsageError:  # nobody asked for it, so a table without it is an answer
        return None
    encoded = _encoded(average, pixels, labels.pool is not None)
    return exact_score(_table(average, labels), labels).images(*encoded)


def _areas(scores: Floats, ids: Sequence[str], crops: Crops) -> dict[str, float]:
    """AUC of the labels that have enough pairs for the parity gate, too."""
    areas = {}
    for column, name in enumerate(ids):
        y = crops.truth.get(name, np.full(len(scores), np.nan))
        if (y == 1).sum() * (y == 0).sum() >= MIN_PAIRS:
            known = ~np.isnan(y)
            areas[name] = roc_auc(y[known], scores[known, column])
    return areas


def check_average(rows: Sequence[dict[str, Any]], n_crops: int, set_id: str = "") -> None:
    """ParityError for an average that is no substitute for its members; UsageError where the crops
    can't tell."""
    average = next(row for row in rows if row["what"] == "average")
    ranks = {name: rank for name, rank in average["rank"].items() if name not in average["auc"]}
    if ranks and n_crops < MIN_RANKED:
        raise UsageError(
            f"an average can't be judged on {n_crops} images; name {MIN_RANKED} or more with "
            "--dataset, or none to measure on phantoms"
        )
    broken = []
    if average["auc"]:
        area = {row["what"]: row["mean_auc"] for row in rows}
        worst = min(row["mean_auc"] for row in rows if row["what"] == "member")
        for whose, other, loss in (
            ("its worst member's", worst, MAX_LOSS),
            ("their ensemble's", area["ensemble"], MAX_LOSS_OF_ENSEMBLE),
        ):
            if not area["average"] >= other - loss:
                broken.append(
                    f"its mean AUC is {area['average']:.3f}, {whose} {other:.3f}, allowed loss "
                    f"{loss:g}"
                )
                break  # the second says the same
    low = min(ranks, key=lambda name: ranks[name], default="")
    if low and not ranks[low] >= MIN_AGREEMENT:
        broken.append(
            f"its rank correlation with their ensemble is {ranks[low]:.3f} on {low}, allowed "
            f"{MIN_AGREEMENT:g}"
        )
    if broken:
        where = f" in set {set_id}" if set_id else ""
        raise ParityError(
            f"the average of {len(average['checkpoints'])} checkpoints is not what they are"
            f"{where}: {'; '.join(broken)}; they are not of one run: without --average they become "
            "an ensemble"
        )
