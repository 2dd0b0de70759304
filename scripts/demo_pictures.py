"""The demo's curves, and its heatmaps beside the ground truth."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from demo_figures import MODELS
from numpy.typing import NDArray


def draw_pictures(folder: Path, seed: int) -> None:
    draw_curves(folder)
    draw_heatmaps(folder, seed)


def draw_curves(folder: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for name in MODELS:
        with (folder / name / "ckpt.metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        steps = [int(row["step"]) for row in rows]
        for axis, key in zip(axes, ("clip_loss", "patch_entropy", "val_auc"), strict=True):
            axis.plot(steps, [float(row[key]) for row in rows], marker="o", label=name)
            axis.set(xlabel="step", title=key)
    axes[0].legend()
    figure.savefig(folder / "curves.png", dpi=100)
    pyplot.close(figure)


def draw_heatmaps(folder: Path, seed: int) -> None:
    """Unseen phantoms: the drawing with its ground-truth outline, beside the overlay."""
    from PIL import Image

    from tier_infer.bundle import load_bundle
    from tier_infer.engine import Engine
    from tier_infer.report.overlay import draw_overlay
    from tier_infer.scoring import score_images, select_labels
    from tier_train.phantoms.phantom import draw_phantom
    from tier_train.phantoms.phantom_data import STUDY_INDEX

    bundle = load_bundle(folder / "bundle")
    engine, geometry = Engine(bundle, "cpu"), bundle.manifest.resolved_geometry()
    selection = select_labels(bundle, None)
    (folder / "heatmaps").mkdir(exist_ok=True)
    paths = [str(folder / f"study/image-{number + 1}.dcm") for number in range(2)]
    results = score_images(paths, bundle, engine, selection, keep_heat=True)
    for number, result in enumerate(results):
        phantom = draw_phantom(seed, STUDY_INDEX + number)
        assert result.display is not None
        assert result.heat is not None
        large = np.kron(result.display, np.ones((4, 4), np.uint8))
        for name, cells in zip(result.scores, result.heat, strict=True):
            overlay = draw_overlay(large, cells, geometry)
            canvas = Image.new("RGB", (2 * large.shape[1], overlay.height), "white")
            mask = np.kron(phantom.masks.get(name, np.zeros_like(result.display)), np.ones((4, 4)))
            canvas.paste(outline(large, mask > 0), (0, 0))
            canvas.paste(overlay, (large.shape[1], 0))
            canvas.save(folder / f"heatmaps/image-{number + 1}_{name}.png")


def outline(grey: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Any:
    from PIL import Image

    inside = mask.copy()
    for axis in (0, 1):
        inside &= np.roll(mask, 2, axis) & np.roll(mask, -2, axis)
    picture = np.repeat(grey[..., None], 3, axis=2)
    picture[mask & ~inside] = (220, 40, 40)
    return Image.fromarray(picture)
