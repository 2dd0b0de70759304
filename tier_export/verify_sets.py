"""Label sets held against the text towers that their directions come from, and towers against
PyTorch. Without checkpoints and without towers nothing holds a set: then that is said.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tier_export.heads import Floats, table_score
from tier_infer.bundle import Bundle
from tier_infer.embeddings import Embeddings
from tier_infer.errors import IntegrityError, ParityError, UsageError
from tier_infer.golden import Golden
from tier_infer.label_sets import Label, LabelSet
from tier_infer.query_table import QueryTable
from tier_infer.sentences import Words

if TYPE_CHECKING:
    from tier_export.members import Members

GATE = 1e-4  # per component of a direction, as of the towers' embeddings


def label_set(bundle: Bundle, set_id: str) -> LabelSet:
    """The set as its graph carries it; IntegrityError where the manifest says otherwise."""
    query = QueryTable(bundle, set_id)
    if query.ids != bundle.manifest.label_sets[set_id].get("labels"):
        raise IntegrityError(f"label set {set_id} has other labels than manifest.json says")
    try:
        labels = tuple(_label(row) for row in query.labels)
    except (KeyError, TypeError):
        raise IntegrityError(f"label set {set_id} does not carry its sentences") from None
    return LabelSet(set_id, labels, query.pool)


def _label(row: Mapping[str, Any]) -> Label:
    sides = row["positive"], row["negative"]
    texts = [row["id"], row["name"], *sides[0], *sides[1]]
    lists = all(isinstance(side, list) for side in sides)
    if not sides[0] or not lists or not all(isinstance(text, str) for text in texts):
        raise TypeError
    return Label(row["id"], row["name"], tuple(sides[0]), tuple(sides[1]))


def prove_sets(
    bundle: Bundle, sets: Mapping[str, LabelSet], golden: Golden
) -> tuple[list[str], list[str]]:
    """What is broken, and what can't be proven here: every set's scores, of the axes themselves and
    of the golden embeddings, against directions made anew by the bundle's own text towers."""
    if not bundle.manifest.text_files:
        return [], [
            "label sets not proven: the bundle holds no text tower; --against ckpt.pt proves them"
        ]
    axes = np.eye(bundle.manifest.embed_dim, dtype=np.float32)
    rows = np.concatenate([axes, golden.image])  # the axes alone would show only a table
    try:
        words = Words(bundle)
    except UsageError as error:  # nothing is installed that splits sentences
        return [], [f"label sets not proven: {error}"]
    broken, remarks = [], []
    for set_id, labels in sets.items():
        try:
            table = _directions(words, labels)  # [L, D]
        except UsageError as error:
            remarks.append(f"label set {set_id} not proven: {error}")
            continue
        query, exact = QueryTable(bundle, set_id), table_score(table, labels)
        apart = np.abs(query.cell_scores(rows) - exact(rows)).max(0)  # [L]
        found = query.image_scores(Embeddings(golden.image, golden.patches))
        pooled = np.abs(found - exact.images(golden.image, golden.patches)).max(0)
        apart = np.maximum(apart, pooled)  # hands NaN on
        if not apart.max() <= GATE:  # NaN is a breach
            worst = labels.labels[int(apart.argmax())].id
            broken.append(
                f"label set {set_id}: its directions differ from those of the bundle's text tower "
                f"by {apart.max():.1e} ({worst}), allowed {GATE:g}"
            )
    return broken, remarks


def _directions(words: Words, labels: LabelSet) -> Floats:
    """float32 [L, D], q⁺ − q⁻ of every label; sentences that labels share are embedded once."""
    mean = functools.cache(lambda group: words.query(group, ()))
    rows = [
        mean(label.positive) - (mean(label.negative) if label.negative else np.float32(0))
        for label in labels.labels
    ]
    return np.stack(rows)


def prove_towers(bundle: Bundle, members: Members, sets: Mapping[str, LabelSet]) -> list[str]:
    """What is broken of the bundle's text towers against PyTorch; IntegrityError for sets whose
    sentences PyTorch can't read."""
    from tier_export.refusals import refuse, unreadable
    from tier_export.text_graph import gate_sentences, prove_text

    readers = [network.tokenizer for network in members.networks]
    for labels in sets.values():
        try:
            refuse([*unreadable(labels, readers).values()])
        except UsageError as error:
            raise IntegrityError(f"label set {labels.id}: {error}") from None
    if not bundle.manifest.text_files:
        return []
    towers = Words(bundle).towers
    if len(towers) != len(members.networks):
        raise IntegrityError(
            f"the bundle has {len(towers)} text towers, its checkpoints {len(members.networks)}"
        )
    asked = [p for s in sets.values() for row in s.labels for p in (*row.positive, *row.negative)]
    broken = []
    for network, tower in zip(members.networks, towers, strict=True):
        try:
            prove_text(network, tower, gate_sentences(network.tokenizer, asked))
        except ParityError as error:
            broken.append(str(error))
    return broken
