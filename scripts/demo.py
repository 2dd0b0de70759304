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
from demo_figures import MODELS, measure
from demo_pictures import draw_pictures

BIN = Path(sys.executable).parent


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
    command = f"{BIN.parent.name}/{BIN.name}/tier-infer evaluate {folder}/bundle"
    click.echo(f"recompute: {command} --dataset manifest:{folder}/test.csv")


@main.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
def check(folder: Path) -> None:
    """Recomputes all figures from the files and compares them with summary.json."""
    stated = json.loads((folder / "summary.json").read_text())
    found = measure(folder)
    pairs = zip(numbers(found), numbers(stated, found), strict=True)
    worst = float(np.max([abs(a - b) for a, b in pairs]))  # NaN stays NaN, unlike in max()
    click.echo(f"{len(list(numbers(found)))} figures recomputed, largest difference {worst:.1e}")
    auc, entropy = found["auc"], found["patch_entropy"]
    kept = {
        "every figure is the stated one": worst <= 1e-6,
        "both models reach a mean AUC of 0.85": all(
            auc[name]["mean"] >= 0.85 for name in ("regularized", "unregularized")
        ),
        "regularization lowers the patch entropy": entropy["regularized"]
        < entropy["unregularized"],
        "shuffled captions teach nothing (0.4 to 0.6)": 0.4
        <= auc["shuffled_captions"]["mean"]
        <= 0.6,
    }
    for promise, holds in kept.items():
        click.echo(f"{'yes' if holds else 'NO '}  {promise}")
    sys.exit(0 if all(kept.values()) else 1)


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
    from tier_train.phantoms.phantom_data import write_study

    for number in range(2):
        write_study(folder / f"study/image-{number + 1}.dcm", seed, number)


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
