"""From files to scores, one image after another, and where the heat lies.

Z = e·q⁺ − e·q⁻ in [−2, 2] (TIER, eq. 4) is computed by the query graph; it is not a probability.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tier_infer.bundle import Bundle
from tier_infer.embeddings import BATCH, Embeddings
from tier_infer.engine import Engine
from tier_infer.errors import IntegrityError, NotEvaluated, RefusedImage, UsageError
from tier_infer.geometry import Geometry, has_few_pixels, reduced, to_crop
from tier_infer.label_names import Names, names_of
from tier_infer.label_sets import language_code, normal_id
from tier_infer.pooling import Pool
from tier_infer.query_table import QueryTable
from tier_infer.radiograph import Radiograph
from tier_infer.reader import Reader
from tier_infer.scores import Scores

Crop = NDArray[np.uint8]  # [crop, crop]
Floats = NDArray[np.float32]


@dataclass
class ImageResult:
    path: str  # as the user gave it
    status: str = "scored"  # scored, not_evaluated, failed
    reason: str | None = None  # stable code
    message: str | None = None  # one sentence for people
    flags: list[str] = field(default_factory=list)
    view: str = "unknown"
    scores: Mapping[str, float] = field(default_factory=dict)
    heat: NDArray[np.float32] | None = None  # [L, g, g], only when asked
    display: NDArray[np.uint8] | None = None  # [H, W] as a monitor shows it, reduced, likewise
    digest: str | None = None  # of what the network saw
    study_key: str | None = None  # identifiers: they group, and are shown only when asked
    instance_key: str | None = None
    patient_key: str | None = None

    def refuse(self, status: str, reason: str, message: str) -> None:
        self.status, self.reason, self.message = status, reason, message
        self.scores, self.heat = {}, None


@dataclass(frozen=True)
class Presets:
    """What decides the pixels that a network sees, and which images it may be asked about."""

    geometry: Geometry
    intensity: str  # name of a preset of tier_infer.intensity
    views: tuple[str, ...]
    patches_trained: bool = True


def presets_of(bundle: Bundle) -> Presets:
    manifest = bundle.manifest
    trained = all(c.get("patches") != "not trained" for c in manifest.checkpoint)
    return Presets(manifest.resolved_geometry(), manifest.intensity, manifest.views, trained)


class Table(Protocol):
    """Labels and their directions: a query graph of the bundle, or a sentence asked just now."""

    labels: list[dict[str, Any]]  # id, name, positive, negative, codes of each
    pool: Pool | None  # None: the image's embedding is scored, not its patches

    def image_scores(self, found: Embeddings) -> Floats: ...  # of N images [N, L]
    def cell_scores(self, embeddings: Floats) -> Floats: ...  # [M, D] → [M, L]


@dataclass(frozen=True)
class Selection:
    """The labels asked for, in order: name shown, its table, its column."""

    names: tuple[str, ...]
    tables: Mapping[str, Table]
    columns: tuple[tuple[str, int], ...]

    def image_scores(self, found: Embeddings) -> Floats:
        """N images → float32 [N, len(names)], each table multiplied once."""
        return self._gathered(len(found.image), lambda table: table.image_scores(found))

    def cell_scores(self, embeddings: Floats) -> Floats:
        """Patches, float32 [M, D] → float32 [M, len(names)], likewise."""
        return self._gathered(len(embeddings), lambda table: table.cell_scores(embeddings))

    def _gathered(self, rows: int, score: Callable[[Table], Floats]) -> Floats:
        out = np.empty((rows, len(self.names)), np.float32)
        for set_id, (places, chosen) in self._chosen.items():
            out[:, places] = score(self.tables[set_id])[:, chosen]
        return out

    def display(self, language: str) -> dict[str, str]:
        """name → what people read in this language (BCP 47), different for every label.

        UsageError where a label has no such name; `und` (undetermined) stands in any language.
        """
        code = language_code(language)
        given = [names_of(self.tables[set_id].labels[column]) for set_id, column in self.columns]
        found = [names.get(code, names.get("und", "")) for names in given]
        missing = [name for name, text in zip(self.names, found, strict=True) if not text]
        if missing:
            known = ", ".join(sorted({code for names in given for code in names})) or "none"
            raise UsageError(
                f"{len(missing)} labels have no name in {code}, e.g. {missing[0]}; languages of "
                f"these labels: {known}; add names to its label set with `tier-export labels`"
            )
        shown = dict(zip(self.names, found, strict=True))
        for _ in self.names:  # "Effusion (left)" may be the name of a third label
            count = Counter(shown.values())
            if len(count) == len(shown):
                break
            shown = {n: t if count[t] == 1 else f"{t} ({n})" for n, t in shown.items()}
        return shown

    @property
    def pools(self) -> dict[str, Pool]:
        """set → how it pools the scores of patches; only of sets that do."""
        return {s: table.pool for s, table in self.tables.items() if table.pool}

    @cached_property
    def places(self) -> dict[str, int]:
        """name → its place among `names`."""
        return {name: place for place, name in enumerate(self.names)}

    @cached_property
    def _chosen(self) -> dict[str, tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """set → where its labels stand in `names`, and in which columns of its table."""
        found: dict[str, tuple[list[int], list[int]]] = {s: ([], []) for s in self.tables}
        for place, (set_id, column) in enumerate(self.columns):
            found[set_id][0].append(place)
            found[set_id][1].append(column)
        return {s: (np.array(a, np.intp), np.array(b, np.intp)) for s, (a, b) in found.items()}


def select_labels(bundle: Bundle, asked: Iterable[str] | None) -> Selection:
    """Ids or names in any language; bare ones are of the default set, `set:label` of another. None:
    the default set whole."""
    default, sets = bundle.manifest.default_set, bundle.manifest.label_sets
    tables: dict[str, QueryTable] = {}
    names: dict[str, Names] = {}
    columns: dict[str, tuple[str, int]] = {}  # a label asked twice counts once

    def opened(set_id: str) -> Names:
        if set_id not in tables:
            tables[set_id] = QueryTable(bundle, set_id)
            names[set_id] = Names(set_id, tables[set_id].labels)
            if tables[set_id].ids != sets[set_id]["labels"]:
                raise IntegrityError(f"label set {set_id} has other labels than the manifest says")
        return names[set_id]

    for text in map(str, sets[default]["labels"]) if asked is None else asked:
        prefix, _, bare = text.rpartition(":")
        set_id = normal_id(prefix) if prefix else default
        if set_id not in sets and text in opened(default):  # a name may hold a colon
            set_id, bare = default, text
        if set_id not in sets:
            raise UsageError(f"label set {prefix!r} is not in the bundle; it has {', '.join(sets)}")
        label = opened(set_id).find(bare)
        shown = label if set_id == default else f"{set_id}:{label}"
        columns[shown] = (set_id, names[set_id].columns[label])
    if not columns:
        raise UsageError("no label was asked for; leave --labels out to get the default set")
    used = {set_id: tables[set_id] for set_id, _ in columns.values()}
    return Selection(tuple(columns), used, tuple(columns.values()))


def score_images(
    paths: Iterable[str],
    bundle: Bundle,
    engine: Engine,
    selection: Selection,
    reader: Reader | None = None,
    keep_heat: bool = False,
) -> Iterator[ImageResult]:
    """One result per path, in order. Reads in batches; without a reader it starts its own."""
    if reader is None:
        with Reader() as own:
            yield from score_images(paths, bundle, engine, selection, own, keep_heat)
        return
    for waiting in crops_of(paths, presets_of(bundle), reader, keep_heat):
        yield from _run(waiting, engine, selection, keep_heat)


def crops_of(
    paths: Iterable[str], presets: Presets, reader: Reader, keep_picture: bool = False
) -> Iterator[list[tuple[ImageResult, Crop | None]]]:
    """Up to BATCH results at once, in order, each with what the network sees of it: a crop, or
    None where the image is refused. PyTorch and the bundle are both fed from here."""
    reader.intensity, reader.high_byte = presets.intensity, presets.geometry.high_byte
    waiting: list[tuple[ImageResult, Crop | None]] = []
    for path in paths:
        waiting.append(_prepare(path, presets, reader, keep_picture))
        if len(waiting) == BATCH:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _prepare(
    path: str, presets: Presets, reader: Reader, keep_picture: bool
) -> tuple[ImageResult, Crop | None]:
    result = ImageResult(path)
    try:
        image = reader.read(path, display=keep_picture)
        result.study_key, result.instance_key = image.study_key, image.instance_key
        result.patient_key, result.view = image.patient_key, image.view
        result.flags = _flags(image, presets, keep_picture)
        crop = to_crop(image.grey, presets.geometry)
    except RefusedImage as refusal:
        result.refuse(refusal.status, refusal.reason, str(refusal))
        result.view = refusal.view or result.view
        result.study_key = refusal.study_key or result.study_key
        return result, None
    result.digest = hashlib.sha256(crop.tobytes()).hexdigest()
    if keep_picture:
        result.display = reduced(image.grey if image.display is None else image.display)
    return result, crop


def _flags(image: Radiograph, presets: Presets, heat: bool) -> list[str]:
    """Flags for the reader; NotEvaluated for a view that the bundle's training did not have."""
    flags = list(image.flags)
    if image.view == "unknown":
        flags.append("view_unknown")
    if image.view == "oblique" or (image.view == "lateral" and "lateral" not in presets.views):
        refusal = NotEvaluated(
            "view",
            f"the image is {image.view}; this bundle scores {', '.join(presets.views)}",
        )
        refusal.study_key, refusal.view = image.study_key, image.view
        raise refusal
    height, width = image.grey.shape
    if has_few_pixels(height, width, presets.geometry):
        flags.append("enlarged")
    if heat and not presets.patches_trained:
        flags.append("patches_untrained")
    return flags


def _run(
    waiting: list[tuple[ImageResult, Crop | None]],
    engine: Engine,
    selection: Selection,
    keep_heat: bool,
) -> Iterator[ImageResult]:
    crops = [crop for _, crop in waiting if crop is not None]
    heat = None
    if crops:
        embeddings = engine.encode(np.stack(crops))
        scores = selection.image_scores(embeddings)
        heat = heatmaps(embeddings, selection) if keep_heat else None
    row = 0
    for result, crop in waiting:
        finite = crop is not None and np.isfinite(scores[row]).all()
        if finite and heat is not None:
            finite = np.isfinite(heat[row]).all()
        if crop is not None and not finite:
            words = "the encoder's output for this image is not finite"
            result.refuse("failed", "not_finite", words)
            row += 1
        elif crop is not None:
            result.scores = Scores(selection.places, scores[row])
            result.heat = heat[row] if heat is not None else None
            row += 1
        yield result


def heatmaps(embeddings: Embeddings, selection: Selection) -> NDArray[np.float32]:
    """float32 [N, L, g, g]: Z of every patch, the same query graph fed N g² rows."""
    n, side, _, dim = embeddings.patches.shape
    cells = selection.cell_scores(embeddings.patches.reshape(-1, dim))
    return np.ascontiguousarray(cells.reshape(n, side, side, -1).transpose(0, 3, 1, 2))
