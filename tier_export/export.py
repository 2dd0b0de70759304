"""ckpt.pt → bundle: build every graph, prove it, then let the folder appear under its name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from tier_export.fp16 import HalfEncoder, half_share, to_fp16
from tier_export.golden import make_golden
from tier_export.graphs import check_signature, encoder_graph, query_graph
from tier_export.parity import (
    Crops,
    Encode,
    Floats,
    Score,
    check,
    compare,
    onnx_encoder,
    onnx_query,
    scored,
)
from tier_infer.bundle import ENCODERS, Manifest, load_bundle, sha256
from tier_infer.errors import UsageError
from tier_infer.files import sync_folder, write_atomic
from tier_infer.geometry import GEOMETRIES, described
from tier_infer.label_sets import LabelSet
from tier_train.checkpoint import Checkpoint
from tier_train.recipe import grid_side
from tier_train.zero_shot import encode_images, query_table

Files = dict[str, bytes]


def export(
    checkpoint: Checkpoint,
    label_sets: list[LabelSet],
    crops: Crops,
    target: Path,
    fp16: bool,
    name: str,
    say: Callable[[str], None],
) -> Manifest:
    """Writes `target`, or raises ParityError and leaves what was there."""
    check_target(target)
    recipe = checkpoint.recipe
    say("building image_encoder.onnx")
    encoder = encoder_graph(checkpoint.model, recipe)
    signature = check_signature(encoder, recipe)
    graphs = {"fp32": encoder}
    if fp16:
        graphs["fp16"] = to_fp16(encoder)
        check_signature(graphs["fp16"], recipe)
        if half_share(graphs["fp16"]) < 0.95:
            raise RuntimeError(f"only {half_share(graphs['fp16']):.0%} of the FP16 twin is half")
    files = {ENCODERS[p]: graph.SerializeToString() for p, graph in graphs.items()}
    queries = {s.id: query_graph(checkpoint, s).SerializeToString() for s in label_sets}
    say(f"measuring parity on {crops.source}")
    parity = measure(checkpoint, files, queries, label_sets, crops)
    tables = torch_tables(checkpoint, label_sets)
    scores = {set_id: (queries[set_id], torch_score(table)) for set_id, table in tables.items()}
    golden = make_golden(checkpoint, torch_encoder(checkpoint), scores)
    manifest = describe(checkpoint, files, queries, label_sets, signature, parity, name, golden)
    written = files | {f"queries/{set_id}.onnx": data for set_id, data in queries.items()} | golden
    write_bundle(target, manifest, written)
    return manifest


def measure(
    checkpoint: Checkpoint, files: Files, queries: Files, sets: list[LabelSet], crops: Crops
) -> dict[str, dict[str, Any]]:
    """parity: precision → worst figures and, under `proofs`, each machine's proof."""
    tables = torch_tables(checkpoint, sets)
    exact = torch_encoder(checkpoint)(crops.pixels)
    reference = {s.id: scored(*exact, torch_score(tables[s.id])) for s in sets}
    report: dict[str, dict[str, Any]] = {
        "crops": {"source": crops.source, "sha256": sha256(crops.pixels.tobytes())}
    }
    for precision, file in ENCODERS.items():
        if file not in files:
            continue
        proofs: dict[str, dict[str, Any]] = {}
        encoders = {f"onnxruntime {_version()} cpu": onnx_encoder(files[file])}
        if precision == "fp16":
            encoders["torch cpu, half activations"] = half_encoder(checkpoint)
        for proof, encode in encoders.items():
            encoded = encode(crops.pixels)
            for s in sets:
                after = scored(*encoded, onnx_query(queries[s.id]))
                found = compare(reference[s.id], after, s, crops)
                check(precision, proof, found)
                proofs[proof if len(sets) == 1 else f"{proof}, {s.id}"] = found
        report[precision] = {"proofs": proofs} | _worst(list(proofs.values()))
    return report


def _worst(rows: list[dict[str, Any]]) -> dict[str, Any]:
    areas = [row["max_dauc"] for row in rows if row["max_dauc"] is not None]
    worst = {key: max(row[key] for row in rows) for key in ("max_dz", "max_dcell", "flips")}
    return worst | {"max_dauc": max(areas) if areas else None}


def torch_tables(checkpoint: Checkpoint, sets: list[LabelSet]) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return {s.id: query_table(checkpoint.model, checkpoint.tokenizer, s) for s in sets}


def torch_encoder(checkpoint: Checkpoint) -> Encode:
    def encode(pixels: NDArray[Any]) -> tuple[Floats, Floats]:
        image_e, patch_e = encode_images(checkpoint.model, pixels, batch=16)
        return image_e.numpy(), patch_e.numpy()

    return encode


def half_encoder(checkpoint: Checkpoint) -> Encode:
    half = HalfEncoder(checkpoint.model)

    def encode(pixels: NDArray[Any]) -> tuple[Floats, Floats]:
        parts = [half(part) for part in torch.split(torch.from_numpy(pixels), 16)]
        return torch.cat([p[0] for p in parts]).numpy(), torch.cat([p[1] for p in parts]).numpy()

    return encode


def torch_score(table: torch.Tensor) -> Score:
    def score(embeddings: Floats) -> Floats:
        return (torch.from_numpy(embeddings) @ table.T).numpy()

    return score


def describe(
    checkpoint: Checkpoint,
    files: Files,
    queries: Files,
    sets: list[LabelSet],
    signature: dict[str, Any],
    parity: dict[str, Any],
    name: str,
    golden: Files,
) -> Manifest:
    recipe = checkpoint.recipe
    precision = {file: p for p, file in ENCODERS.items()}
    query_io = {
        "inputs": {"embeddings": ["M", recipe.embed_dim]},
        "outputs": {"scores": ["M", "L"]},
    }
    source = {
        "sha256": checkpoint.sha256,
        "recipe": asdict(recipe),
        "text_sha256": checkpoint.text_sha256,
        "alarm": checkpoint.alarm,
    }
    for key in ("patches", "notes"):  # of imported weights; patches "not trained": no evidence
        if key in checkpoint.training:
            source[key] = checkpoint.training[key]
    cells = grid_side(recipe)
    return Manifest(
        name=name,
        embed_dim=recipe.embed_dim,
        grid=(cells, cells),
        geometry=described(GEOMETRIES[recipe.geometry]),
        intensity=checkpoint.intensity,
        global_pool=recipe.global_pool,
        graph={"encoder": signature, "query": query_io},
        views=checkpoint.views,
        files={
            file: {"sha256": sha256(data), "bytes": len(data), "precision": precision[file]}
            for file, data in files.items()
        },
        label_sets={
            s.id: {
                "path": f"queries/{s.id}.onnx",
                "sha256": sha256(queries[s.id]),
                "bytes": len(queries[s.id]),
                "labels": [label.id for label in s.labels],
            }
            for s in sets
        },
        default_set=sets[0].id,
        checkpoint=[source],
        training_data=str(checkpoint.training.get("data", "unknown")),
        parity=parity,
        golden={p: {"sha256": sha256(data), "bytes": len(data)} for p, data in golden.items()},
    )


def check_target(target: Path) -> None:
    """Only a bundle is ever replaced: -o must not delete somebody's folder."""
    if not target.name or target.is_symlink():
        raise UsageError(f"-o {target} has no name of its own; choose one like -o bundle")
    is_bundle = (target / "manifest.json").is_file()
    if target.exists() and not is_bundle and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists and is no bundle; choose another name with -o")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(target.parent, os.W_OK):
        raise UsageError(f"-o {target}: its folder can't be written")


def write_bundle(target: Path, manifest: Manifest, files: Files) -> None:
    """Everything into a folder beside the target, read back, then renamed: the old one or none."""
    fresh = target.with_name(f".{target.name}.new")
    old = target.with_name(f".{target.name}.old")
    if old.exists() and not target.exists():  # an export was killed between its two renames
        old.rename(target)
    for left_over in (fresh, old):
        shutil.rmtree(left_over, ignore_errors=True)
    try:
        for name, data in files.items():
            write_atomic(fresh / name, data)
        write_atomic(fresh / "manifest.json", manifest.to_json().encode())
        load_bundle(fresh)
        if target.exists():
            target.rename(old)
        try:
            fresh.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    sync_folder(target.parent)


def _version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)
