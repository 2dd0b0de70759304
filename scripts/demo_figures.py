"""Every figure of the demo, computed from the files that the demo leaves on disk."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODELS = {
    "regularized": [],
    "unregularized": ["--unregularized"],
    "shuffled": ["--set", "shuffle_captions=true"],
}
THUMBNAIL = 32


def measure(folder: Path) -> dict[str, Any]:
    """Every figure of the summary, from files in `folder` alone."""
    from tier_export.crops import manifest_crops
    from tier_train.cli.process import prepare_process

    prepare_process(None)
    from tier_export.members import members_of
    from tier_train.checkpoint import load_checkpoint

    checkpoints = {name: load_checkpoint(folder / name / "ckpt.pt") for name in MODELS}
    members = members_of([checkpoints["regularized"]])
    presets = (members.geometry, members.networks[0].intensity)
    crops = manifest_crops(folder / "test.csv", *presets, limit=10**6)
    bundles = {"regularized": "bundle", "unregularized": "bundle_unregularized"}
    auc = {name: bundle_auc(folder, bundle) for name, bundle in bundles.items()}
    auc["shuffled_captions"] = torch_auc(checkpoints["shuffled"], crops)
    auc["thumbnails"] = thumbnail_auc(folder)
    return {
        "notice": "phantoms are drawings; no clinical meaning",
        "auc": auc,
        "patch_entropy": {n: patch_entropy_of(folder, checkpoints[n]) for n in bundles},
        "parity": parity(folder, members, crops),
    }


def bundle_auc(folder: Path, bundle_name: str) -> dict[str, Any]:
    """As `tier-infer evaluate demo/bundle --dataset manifest:demo/test.csv` computes it."""
    from tier_infer.bundle import load_bundle
    from tier_infer.engine import Engine
    from tier_infer.evaluation.bundle_scorer import BundleScorer
    from tier_infer.evaluation.datasets import open_cohort
    from tier_infer.evaluation.run import Plan, covered, evaluate

    bundle = load_bundle(folder / bundle_name)
    cohort = open_cohort(f"manifest:{folder / 'test.csv'}", None)
    labels = covered(cohort, bundle.manifest.label_sets[bundle.manifest.default_set]["labels"])
    scorer = BundleScorer(bundle, Engine(bundle, "cpu"), labels)
    areas = evaluate(cohort, scorer, Plan(draws=0), None).areas
    return with_mean({row.label: row.auc for row in areas.rows if row.auc is not None})


def with_mean(labels: dict[str, float]) -> dict[str, Any]:
    return {"mean": float(np.mean(list(labels.values()))), "labels": labels}


def torch_auc(checkpoint: Any, crops: Any) -> dict[str, Any]:
    from tier_infer.label_sets import load_label_set
    from tier_train.zero_shot import zero_shot_auc

    labels = load_label_set("chexpert")
    areas = zero_shot_auc(checkpoint.model, checkpoint.tokenizer, crops.pixels, crops.truth, labels)
    return with_mean(areas)


def parity(folder: Path, members: Any, crops: Any) -> dict[str, Any]:
    from tier_export.certificate import summary
    from tier_export.export import prove, prover_of
    from tier_infer.bundle import load_bundle
    from tier_infer.label_sets import load_label_set

    bundle = load_bundle(folder / "bundle")
    labels = load_label_set("chexpert")
    tables, queries = (
        {"chexpert": members.table(labels)},
        {"chexpert": bundle.query_graph("chexpert")},
    )
    prover = prover_of(members, [labels], tables, queries, crops)
    for precision in ("fp32", "fp16"):
        prove(prover, members, precision, bundle.encoder(precision))
    found = summary(prover)
    keys = ("max_dz", "max_dcell", "max_dauc")
    return {p: {k: found[p][k] for k in keys} for p in ("fp32", "fp16")}


def patch_entropy_of(folder: Path, checkpoint: Any) -> float:
    """Mean entropy over the 49 patches of every token of the held-out pairs, in nats."""
    import torch

    from tier_infer.geometry import GEOMETRIES, center_crop
    from tier_train.data.manifest import read_manifest
    from tier_train.data.pictures import load_pictures
    from tier_train.loss import entropy_sums, sim_matrix
    from tier_train.zero_shot import encode_images

    manifest = read_manifest(folder / "test.csv")
    geometry = GEOMETRIES[checkpoint.recipe.geometry]
    rows, pictures = load_pictures(manifest, manifest.split("test"), checkpoint.intensity, geometry)
    pixels = np.array([center_crop(pictures[i], geometry.crop) for i in range(len(rows))])
    _, patch_e = encode_images(checkpoint.model, pixels)
    values, tokens = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(rows), 64):
            ids, mask = checkpoint.tokenizer([r.text for r in rows[start : start + 64]])
            token_e = checkpoint.model.encode_text(ids, mask)
            sim = sim_matrix(token_e, patch_e[start : start + 64])
            values += float(entropy_sums(sim, mask.bool())[0])
            tokens += int(mask.sum())
    return values / tokens


def thumbnail_auc(folder: Path) -> dict[str, Any]:
    """The yardstick: logistic regression on 32-pixel thumbnails, with labels."""
    from sklearn.linear_model import LogisticRegression

    from tier_infer.metrics import roc_auc
    from tier_train.phantoms.phantom import FINDINGS

    train_x, train_y = thumbnails(folder / "phantoms/manifest.csv", "train")
    test_x, test_y = thumbnails(folder / "test.csv", "test")
    labels = {}
    for column, name in enumerate(FINDINGS):
        regression = LogisticRegression(C=0.01, max_iter=300).fit(train_x, train_y[:, column])
        labels[name] = roc_auc(test_y[:, column], regression.decision_function(test_x))
    return with_mean(labels)


def thumbnails(path: Path, split: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Standardised float32 [N, 1024] and truth int64 [N, 5]."""
    from tier_infer.geometry import resize_short_side
    from tier_infer.images import load_image
    from tier_train.phantoms.phantom import FINDINGS

    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    grey = [load_image(path.parent / row["image_path"], "mimic-jpg").grey for row in rows]
    x = np.stack([resize_short_side(g, THUMBNAIL).ravel() for g in grey]).astype(np.float32)
    return (x - 127.5) / 73.6, np.array([[int(row[n]) for n in FINDINGS] for row in rows])
