"""From files to scores: which images count, what a study's score is, where the heat lies.

Z = e·q⁺ − e·q⁻ in [−2, 2] (TIER, eq. 4) is computed by the query graph; it is not a probability.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tier_infer.bundle import Bundle
from tier_infer.engine import BATCH, Embeddings, Engine, QueryTable
from tier_infer.errors import NotEvaluated, RefusedImage, UsageError
from tier_infer.geometry import GRID, Geometry, crop_box, to_crop
from tier_infer.images import Radiograph, load_image
from tier_infer.label_sets import normal_id


@dataclass
class ImageResult:
    path: str  # as the user gave it
    status: str = "scored"  # scored, not_evaluated, failed
    reason: str | None = None  # stable code
    message: str | None = None  # one sentence for people
    flags: list[str] = field(default_factory=list)
    view: str = "unknown"
    scores: dict[str, float] = field(default_factory=dict)
    instance_key: str | None = None  # SOPInstanceUID; never shown
    heat: NDArray[np.float32] | None = None  # [L, 7, 7], only when asked
    grey: NDArray[np.uint8] | None = None  # [H, W] for the overlay, only when asked


@dataclass
class StudyResult:
    id: str  # a pseudonym: order of appearance in this run
    images: list[ImageResult]
    scores: dict[str, float]


@dataclass(frozen=True)
class Selection:
    """The labels asked for, in order: name shown, its table, its column."""

    names: tuple[str, ...]
    tables: dict[str, QueryTable]
    columns: tuple[tuple[str, int], ...]

    def scores(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [M, D] → float32 [M, len(names)], each table multiplied once."""
        by_set = {set_id: table.scores(embeddings) for set_id, table in self.tables.items()}
        return np.stack([by_set[set_id][:, col] for set_id, col in self.columns], axis=1)


def select_labels(bundle: Bundle, asked: Iterable[str] | None) -> Selection:
    """A bare label is of the default set, `set:label` of another; None: the default set whole."""
    default = bundle.manifest.default_set
    sets = bundle.manifest.label_sets
    wanted = [str(i) for i in sets[default]["labels"]] if asked is None else list(asked)
    names: list[str] = []
    pairs: list[tuple[str, str]] = []
    for text in wanted:
        prefix, _, bare = text.rpartition(":")
        set_id, label = normal_id(prefix) if prefix else default, normal_id(bare)
        if set_id not in sets:
            raise UsageError(f"label set {prefix!r} is not in the bundle; it has {', '.join(sets)}")
        if label not in sets[set_id]["labels"]:
            raise UsageError(_unknown_label(text, set_id, bundle))
        name = label if set_id == default else f"{set_id}:{label}"
        if name not in names:
            names.append(name)
            pairs.append((set_id, label))
    if not names:
        raise UsageError("no label was asked for; leave --labels out to get the default set")
    tables = {set_id: QueryTable(bundle, set_id) for set_id, _ in pairs}
    columns = tuple((set_id, tables[set_id].ids.index(label)) for set_id, label in pairs)
    return Selection(tuple(names), tables, columns)


def _unknown_label(text: str, set_id: str, bundle: Bundle) -> str:
    label = normal_id(text.rpartition(":")[2])
    known = bundle.manifest.label_sets[set_id]["labels"]
    near = difflib.get_close_matches(label, known, n=3, cutoff=0.4)
    hint = f"nearest: {', '.join(near)}" if near else f"it has {', '.join(known)}"
    return f"label {text!r} is not in set {set_id}; {hint}"


def score_images(
    paths: Iterable[str],
    bundle: Bundle,
    engine: Engine,
    selection: Selection,
    keep_heat: bool = False,
) -> Iterator[tuple[ImageResult, str | None]]:
    """One result per path, in order, each with its study key (or None). Reads in batches."""
    waiting: list[tuple[ImageResult, str | None, NDArray[np.uint8] | None]] = []
    for path in paths:
        waiting.append(_prepare(path, bundle, keep_heat))
        if len(waiting) == BATCH:
            yield from _run(waiting, engine, selection, keep_heat)
            waiting = []
    yield from _run(waiting, engine, selection, keep_heat)


def _prepare(
    path: str, bundle: Bundle, keep_grey: bool
) -> tuple[ImageResult, str | None, NDArray[np.uint8] | None]:
    result = ImageResult(path)
    key: str | None = None
    try:
        image = load_image(Path(path), bundle.manifest.intensity)
        key, result.instance_key = image.study_key, image.instance_key
        result.view, result.flags = image.view, _flags(image, bundle)
        crop = to_crop(image.grey, bundle.manifest.resolved_geometry())
    except RefusedImage as refusal:
        result.status, result.reason = refusal.status, refusal.reason
        result.message, result.view = str(refusal), refusal.view or result.view
        return result, refusal.study_key or key, None
    if keep_grey:
        result.grey = image.grey
    return result, key, crop


def _flags(image: Radiograph, bundle: Bundle) -> list[str]:
    """Flags for the reader; NotEvaluated for a view that the bundle's training did not have."""
    flags = list(image.flags)
    if image.view == "unknown":
        flags.append("view_unknown")
    if image.view == "oblique" or (
        image.view == "lateral" and "lateral" not in bundle.manifest.views
    ):
        refusal = NotEvaluated(
            "view",
            f"the image is {image.view}; this bundle scores {', '.join(bundle.manifest.views)}",
        )
        refusal.study_key, refusal.view = image.study_key, image.view
        raise refusal
    if min(image.grey.shape) < bundle.manifest.resolved_geometry().crop:
        flags.append("enlarged")  # fewer pixels than the network looks at
    return flags


def _run(
    waiting: list[tuple[ImageResult, str | None, NDArray[np.uint8] | None]],
    engine: Engine,
    selection: Selection,
    keep_heat: bool,
) -> Iterator[tuple[ImageResult, str | None]]:
    crops = [crop for _, _, crop in waiting if crop is not None]
    if crops:
        embeddings = engine.encode(np.stack(crops))
        scores = selection.scores(embeddings.image)
        heat = heatmaps(embeddings, selection) if keep_heat else None
    row = 0
    for result, key, crop in waiting:
        if crop is not None and not np.isfinite(scores[row]).all():
            result.status, result.reason = "failed", "not_finite"
            result.message = "the encoder's output for this image is not finite"
            row += 1
        elif crop is not None:
            result.scores = {n: float(z) for n, z in zip(selection.names, scores[row], strict=True)}
            result.heat = heat[row] if heat is not None else None
            row += 1
        yield result, key


def heatmaps(embeddings: Embeddings, selection: Selection) -> NDArray[np.float32]:
    """float32 [N, L, 7, 7]: Z of every patch, the same query graph fed 49 N rows."""
    n = len(embeddings.patches)
    cells = selection.scores(embeddings.patches.reshape(n * GRID * GRID, -1))
    return np.ascontiguousarray(cells.reshape(n, GRID, GRID, -1).transpose(0, 3, 1, 2))


def group_studies(results: Iterable[tuple[ImageResult, str | None]]) -> list[StudyResult]:
    """By StudyInstanceUID; a file without one is a study of its own."""
    groups: dict[str, list[ImageResult]] = {}
    for number, (result, key) in enumerate(results):
        groups.setdefault(key if key else f"file {number}", []).append(result)
    return [
        StudyResult(f"study-{number}", images, study_scores(images))
        for number, images in enumerate(groups.values(), start=1)
    ]


def study_scores(images: list[ImageResult]) -> dict[str, float]:
    """Mean of Z over the scored frontal images; an unknown view counts as frontal, flagged.

    A copy (same SOPInstanceUID, same scores) counts once. Different pictures under one UID are all
    counted: which of them is right can't be known, so they carry a flag.
    """
    counted: list[ImageResult] = []
    for image in images:
        if image.status != "scored" or image.view == "lateral":
            continue
        same = [c for c in counted if image.instance_key and c.instance_key == image.instance_key]
        if any(_same_scores(c, image) for c in same):
            image.flags.append("duplicate")
            continue
        for twin in (*same, image) if same else ():
            if "uid_not_unique" not in twin.flags:
                twin.flags.append("uid_not_unique")
        counted.append(image)
    if not counted:
        return {}
    return {
        name: float(np.mean([image.scores[name] for image in counted]))
        for name in counted[0].scores
    }


def _same_scores(a: ImageResult, b: ImageResult) -> bool:
    """Up to what another place in the batch changes."""
    return all(abs(z - b.scores[name]) <= 1e-6 for name, z in a.scores.items())


def cell_boxes(height: int, width: int, geometry: Geometry) -> NDArray[np.float64]:
    """float64 [7, 7, 4]: (left, top, right, bottom) of each cell, in original pixels."""
    left, top, right, bottom = crop_box(height, width, geometry)
    xs, ys = np.linspace(left, right, GRID + 1), np.linspace(top, bottom, GRID + 1)
    boxes = np.empty((GRID, GRID, 4))
    boxes[..., 0], boxes[..., 2] = xs[:-1], xs[1:]
    boxes[..., 1], boxes[..., 3] = ys[:-1, None], ys[1:, None]
    return boxes
