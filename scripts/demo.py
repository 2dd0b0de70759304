"""make demo: train the regularized model and its twin on phantoms, export, score, judge.

    python scripts/demo.py run --seed 0 demo      trains and writes demo/summary.json
    python scripts/demo.py check demo             recomputes every figure of it from the files

Phantoms are drawings. Nothing here says anything about patients, and on phantoms the penalties
lower the patch entropy but need not raise the AUC.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

BIN = Path(sys.executable).parent
MODELS = {
    "regularized": [],
    "unregularized": ["--unregularized"],
    "shuffled": ["--set", "shuffle_captions=true"],
}
THUMBNAIL = 32


@click.group()
def main() -> None:
    """The phantom demo."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seed", default=0)
def run(folder: Path, seed: int) -> None:
    if folder.exists() and any(folder.iterdir()):
        if not (folder / "phantoms").is_dir():
            raise click.UsageError(f"{folder} exists and is not from an earlier demo")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    seconds = {}
    start = time.monotonic()
    tier(["tier-train", "data", "phantoms", "-o", f"{folder}/phantoms", "--seed", str(seed)])
    write_test_csv(folder)
    write_study(folder, seed)
    seconds["phantoms"] = time.monotonic() - start
    # One thread each, all at once: two threads on one model would wait for each other.
    at = time.monotonic()
    jobs = {name: start_training(folder, name, seed) for name in MODELS}
    click.echo(f"training three models side by side, some minutes; logs in {folder}/*/log.txt")
    finish(folder, jobs)
    seconds["training"] = time.monotonic() - at
    at = time.monotonic()
    for name, bundle in (("regularized", "bundle"), ("unregularized", "bundle_unregularized")):
        tier(["tier-export", "--fp16", f"{folder}/{name}/ckpt.pt", "-o", f"{folder}/{bundle}"])
    command = ["tier-infer", f"{folder}/study", "--labels", "cardiomegaly,edema"]
    tier([*command, "--bundle", f"{folder}/bundle"])
    seconds["export"] = time.monotonic() - at
    at = time.monotonic()
    summary = measure(folder)
    draw_pictures(folder, seed)
    seconds["evaluation"] = time.monotonic() - at
    seconds["wall"] = time.monotonic() - start
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds["cpu"] = sum(u.ru_utime + u.ru_stime for u in used)
    summary["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    summary["seed"] = seed
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    click.echo(table(summary))
    click.echo(f"\nleft in {folder}/: summary.json, bundle, study, test.csv, curves.png, heatmaps")
    click.echo(
        f"recompute: {BIN.name}/tier-infer evaluate {folder}/test.csv --bundle {folder}/bundle"
    )


@main.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
def check(folder: Path) -> None:
    """Recomputes all figures from the files and compares them with summary.json."""
    stated = json.loads((folder / "summary.json").read_text())
    found = measure(folder)
    pairs = zip(numbers(found), numbers(stated, found), strict=True)
    worst = float(np.max([abs(a - b) for a, b in pairs]))  # NaN stays NaN, unlike in max()
    click.echo(f"{len(list(numbers(found)))} figures recomputed, largest difference {worst:.1e}")
    sys.exit(0 if worst <= 1e-6 else 1)


def tier(command: list[str]) -> None:
    """Runs one of the three commands, shown as a user would type it."""
    click.echo("$ " + " ".join(command))
    done = subprocess.run([str(BIN / command[0]), *command[1:]], check=False)
    if done.returncode:
        raise click.ClickException(f"{command[0]} ended with exit code {done.returncode}")


def start_training(folder: Path, name: str, seed: int) -> subprocess.Popen[bytes]:
    (folder / name).mkdir()
    data = f"manifest:{folder}/phantoms/manifest.csv"
    command = ["tier-train", "run", "--data", data, "--recipe", "demo", "--set", f"seed={seed}"]
    command += [*MODELS[name], "--threads", "1", "-o", f"{folder}/{name}/ckpt.pt"]
    click.echo("$ " + " ".join(command))
    log = (folder / name / "log.txt").open("wb")
    return subprocess.Popen([str(BIN / command[0]), *command[1:]], stdout=log, stderr=log)


def finish(folder: Path, jobs: dict[str, subprocess.Popen[bytes]]) -> None:
    for name, job in jobs.items():
        log = folder / name / "log.txt"
        if job.wait():
            raise click.ClickException(f"training {name} failed, see {log}")
        last = [line for line in log.read_text().splitlines() if line.startswith("step")][-1]
        click.echo(f"{name}: {last}")


def write_test_csv(folder: Path) -> None:
    with (folder / "phantoms/manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    with (folder / "test.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"image_path": f"phantoms/{row['image_path']}"} for row in rows)


def write_study(folder: Path, seed: int) -> None:
    from tier_train.phantom_data import write_study

    for number in range(2):
        write_study(folder / f"study/image-{number + 1}.dcm", seed, number)


def measure(folder: Path) -> dict[str, Any]:
    """Every figure of the summary, from files in `folder` alone."""
    from tier_export.crops import manifest_crops
    from tier_train.cli import prepare_process

    prepare_process(None)
    from tier_train.checkpoint import load_checkpoint

    checkpoints = {name: load_checkpoint(folder / name / "ckpt.pt") for name in MODELS}
    crops = manifest_crops(folder / "test.csv", checkpoints["regularized"], limit=10**6)
    bundles = {"regularized": "bundle", "unregularized": "bundle_unregularized"}
    auc = {name: bundle_auc(folder, bundle) for name, bundle in bundles.items()}
    auc["shuffled_captions"] = torch_auc(checkpoints["shuffled"], crops)
    auc["thumbnails"] = thumbnail_auc(folder)
    return {
        "notice": "phantoms are drawings; no clinical meaning",
        "auc": auc,
        "patch_entropy": {n: patch_entropy_of(folder, checkpoints[n]) for n in bundles},
        "parity": parity(folder, checkpoints["regularized"], crops),
    }


def bundle_auc(folder: Path, bundle_name: str) -> dict[str, Any]:
    """As `tier-infer evaluate demo/test.csv` computes it."""
    from tier_infer.bundle import load_bundle
    from tier_infer.engine import Engine
    from tier_infer.evaluate import evaluate, read_labels

    bundle = load_bundle(folder / bundle_name)
    engine = Engine(bundle, "cpu")
    rows, _ = evaluate(read_labels(folder / "test.csv", None), bundle, engine, None, draws=2)
    return with_mean({row.label: row.auc for row in rows})


def with_mean(labels: dict[str, float]) -> dict[str, Any]:
    return {"mean": float(np.mean(list(labels.values()))), "labels": labels}


def torch_auc(checkpoint: Any, crops: Any) -> dict[str, Any]:
    from tier_infer.label_sets import load_label_set
    from tier_train.zero_shot import zero_shot_auc

    labels = load_label_set("chexpert")
    areas = zero_shot_auc(checkpoint.model, checkpoint.tokenizer, crops.pixels, crops.truth, labels)
    return with_mean(areas)


def parity(folder: Path, checkpoint: Any, crops: Any) -> dict[str, Any]:
    from tier_export.export import measure as measure_parity
    from tier_infer.bundle import ENCODERS, load_bundle
    from tier_infer.label_sets import load_label_set

    bundle = load_bundle(folder / "bundle")
    files = {file: bundle.encoder(precision) for precision, file in ENCODERS.items()}
    labels = load_label_set("chexpert")
    queries = {"chexpert": bundle.query_graph("chexpert")}
    report = measure_parity(checkpoint, files, queries, [labels], crops)
    return {p: {k: report[p][k] for k in ("max_dz", "max_dcell", "max_dauc")} for p in ENCODERS}


def patch_entropy_of(folder: Path, checkpoint: Any) -> float:
    """Mean entropy over the 49 patches of every token of the held-out pairs, in nats."""
    import torch

    from tier_infer.geometry import GEOMETRIES, center_crop
    from tier_train.loss import patch_entropy, sim_matrix
    from tier_train.manifest import load_squares, read_manifest
    from tier_train.zero_shot import encode_images

    manifest = read_manifest(folder / "test.csv")
    geometry = GEOMETRIES[checkpoint.recipe.geometry]
    rows, squares = load_squares(manifest, manifest.split("test"), checkpoint.intensity, geometry)
    pixels = np.array([center_crop(square, geometry.crop) for square in squares])
    _, patch_e = encode_images(checkpoint.model, pixels)
    values, tokens = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(rows), 64):
            ids, mask = checkpoint.tokenizer([r.text for r in rows[start : start + 64]])
            token_e = checkpoint.model.encode_text(ids, mask)
            sim = sim_matrix(token_e, patch_e[start : start + 64])
            values += float(patch_entropy(sim, mask.bool())) * int(mask.sum())
            tokens += int(mask.sum())
    return values / tokens


def thumbnail_auc(folder: Path) -> dict[str, Any]:
    """The yardstick: logistic regression on 32-pixel thumbnails, with labels."""
    from sklearn.linear_model import LogisticRegression

    from tier_infer.metrics import roc_auc
    from tier_train.phantom import FINDINGS

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
    from tier_train.phantom import FINDINGS

    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    grey = [load_image(path.parent / row["image_path"], "mimic-jpg").grey for row in rows]
    x = np.stack([resize_short_side(g, THUMBNAIL).ravel() for g in grey]).astype(np.float32)
    return (x - 127.5) / 73.6, np.array([[int(row[n]) for n in FINDINGS] for row in rows])


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
    from tier_infer.overlay import draw_overlay
    from tier_infer.scoring import score_images, select_labels
    from tier_train.phantom import draw_phantom
    from tier_train.phantom_data import STUDY_INDEX

    bundle = load_bundle(folder / "bundle")
    engine, geometry = Engine(bundle, "cpu"), bundle.manifest.resolved_geometry()
    selection = select_labels(bundle, None)
    (folder / "heatmaps").mkdir(exist_ok=True)
    paths = [str(folder / f"study/image-{number + 1}.dcm") for number in range(2)]
    results = score_images(paths, bundle, engine, selection, keep_heat=True)
    for number, (result, _) in enumerate(results):
        phantom = draw_phantom(seed, STUDY_INDEX + number)
        assert result.grey is not None
        assert result.heat is not None
        large = np.kron(result.grey, np.ones((4, 4), np.uint8))
        for name, cells in zip(result.scores, result.heat, strict=True):
            overlay = draw_overlay(large, cells, geometry)
            canvas = Image.new("RGB", (2 * large.shape[1], overlay.height), "white")
            mask = np.kron(phantom.masks.get(name, np.zeros_like(result.grey)), np.ones((4, 4)))
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


def table(summary: dict[str, Any]) -> str:
    auc, entropy, found = summary["auc"], summary["patch_entropy"], summary["parity"]
    names = ("regularized", "unregularized", "thumbnails", "shuffled_captions")
    lines = ["", f"{'AUC, held-out phantoms':<24}" + "".join(f"{n:>19}" for n in names)]
    for label in [*auc["regularized"]["labels"], "mean"]:
        values = [auc[n]["mean"] if label == "mean" else auc[n]["labels"][label] for n in names]
        lines.append(f"{label:<24}" + "".join(f"{v:19.3f}" for v in values))
    pair = f"{entropy['regularized']:19.4f}{entropy['unregularized']:19.4f}"
    lines += [f"{'patch entropy, nats':<24}{pair}   (ln 49 = 3.8918)", ""]
    lines.append(f"{'against PyTorch fp32':<24}{'max |dZ|':>19}{'max cell':>19}{'max |dAUC|':>19}")
    for precision, row in found.items():
        figures = "".join(f"{row[k]:19.1e}" for k in ("max_dz", "max_dcell", "max_dauc"))
        lines.append(f"{'ONNX ' + precision:<24}{figures}")
    lines += [
        "",
        "Phantoms are drawings: no clinical meaning. Regularization lowers the patch entropy; on",
        "phantoms it need not raise the AUC. `thumbnails` is a regression with labels, 32 pixels;",
        "`shuffled_captions` the same training with pairs torn apart: about 0.5 means no leak.",
        f"{summary['seconds']['wall']:.0f} s wall, {summary['seconds']['cpu']:.0f} s CPU",
    ]
    return "\n".join(lines)


def numbers(found: Any, like: Any = None) -> list[float]:
    """All numbers of a nested dict; with `like`, only at the places where `like` has them."""
    if isinstance(found, dict):
        keys = sorted(found if like is None else like)
        return [x for k in keys for x in numbers(found[k], None if like is None else like[k])]
    return [float(found)] if isinstance(found, int | float) else []


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    main()
