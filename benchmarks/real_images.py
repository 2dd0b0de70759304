"""Zero-shot AUC of a checkpoint in PyTorch and of its bundle, on a manifest's test split.

    python benchmarks/real_images.py MANIFEST.csv CKPT.pt BUNDLE LABEL

Per folder of images, with 95 % bootstrap intervals over patients; the last column is the difference
between the two sides.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tier_train.cli.process import prepare_process


def main(manifest_csv: str, ckpt: str, folder: str, label: str) -> None:
    prepare_process(None)
    import numpy as np

    from tier_export.crops import manifest_crops
    from tier_infer.bundle import load_bundle
    from tier_infer.engine import Engine
    from tier_infer.evaluate import evaluate, read_labels
    from tier_infer.geometry import GEOMETRIES
    from tier_infer.label_sets import LabelSet, load_label_set
    from tier_infer.metrics import roc_auc
    from tier_train.checkpoint import load_checkpoint
    from tier_train.data.manifest import read_manifest
    from tier_train.zero_shot import encode_images, query_table

    path = Path(manifest_csv)
    checkpoint, bundle = load_checkpoint(Path(ckpt)), load_bundle(Path(folder))
    set_id = bundle.manifest.default_set
    labels = LabelSet(set_id, tuple(x for x in load_label_set(set_id).labels if x.id == label))
    geometry = GEOMETRIES[checkpoint.recipe.geometry]
    crops = manifest_crops(path, geometry, checkpoint.intensity, limit=10**6)
    image_e, _ = encode_images(checkpoint.model, crops.pixels)
    table = query_table(checkpoint.model, checkpoint.tokenizer, labels).detach()
    scores = (image_e @ table.T).numpy()[:, 0]
    folders = np.array([Path(r.image_path).parent.name for r in read_manifest(path).split("test")])
    truth = crops.truth[label]
    rows, _ = evaluate(read_labels(path, "test"), bundle, Engine(bundle, "cpu"), [label], "folder")
    print(f"{'images':<22} {'pos/neg':>9} {'PyTorch':>8} {'bundle':>8}  95 % interval   |diff|")
    for row in rows:
        chosen = (folders == row.group) | (row.group == "(all)")
        chosen &= ~np.isnan(truth)
        area = roc_auc(truth[chosen], scores[chosen])
        counts, interval = f"{row.positives}/{row.negatives}", f"{row.low:.3f} - {row.high:.3f}"
        print(
            f"{row.group:<22} {counts:>9} {area:8.4f} {row.auc:8.4f}  {interval}   "
            f"{abs(area - row.auc):.1e}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
