"""Checkpoints → bundle: build every graph, prove it, then let the folder appear under its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tier_export import OPSET
from tier_export.average import compared
from tier_export.certificate import Prover, certificate_file, cpu, summary
from tier_export.crops import check_apart
from tier_export.fp16 import half_facts, to_fp16
from tier_export.golden import make_golden
from tier_export.graphs import check_signature, encoder_graph
from tier_export.half import HalfEncoder
from tier_export.heads import Floats, Score
from tier_export.int8 import fit_int8
from tier_export.label_proof import check_read
from tier_export.lint import check_set, told
from tier_export.members import BATCH, Members, exact_score, joined
from tier_export.parity import Crops, Encode, onnx_encoder
from tier_export.queries import query_graph, set_entry
from tier_export.refusals import refuse, unreadable
from tier_export.text_graph import text_files
from tier_export.writing import Files, check_target, write_bundle
from tier_infer.bundle import CERTIFICATE, ENCODERS, Manifest, sha256
from tier_infer.errors import ParityError
from tier_infer.geometry import described
from tier_infer.label_sets import LabelSet
from tier_infer.pooling import pool_errors

Say = Callable[[str], None]
HALF = "torch cpu, half activations"


@dataclass(frozen=True)
class Wish:
    """What goes into the bundle beside the fp32 encoder."""

    fp16: bool = False
    int8: Crops | None = None  # the crops that it is calibrated on
    text: bool = False
    opset: int = OPSET


def export(
    members: Members, sets: Sequence[LabelSet], crops: Crops, target: Path, wish: Wish, say: Say
) -> tuple[Manifest, Prover]:
    """Writes `target`, or raises ParityError and leaves what was there."""
    check_target(target)
    try:
        manifest, prover, files = build(members, sets, crops, wish, say)
    except ParityError as error:
        raise ParityError(f"{error}; no bundle was written") from None
    write_bundle(target, manifest, files)
    return manifest, prover


def build(
    members: Members, sets: Sequence[LabelSet], crops: Crops, wish: Wish, say: Say
) -> tuple[Manifest, Prover, Files]:
    """Every file of the bundle but manifest.json, each proven; ParityError, UsageError."""
    if wish.int8 is not None:
        check_apart(wish.int8, crops)
    tables, queries = query_files(members, sets, wish.opset, say)
    say(f"building {ENCODERS['fp32']}")
    encoder = encoder_graph(members, wish.opset)
    signature = check_signature(encoder, members)
    say(f"measuring parity on {crops.source}")
    prover = prover_of(members, sets, tables, queries, crops)
    first, *rest = sets
    encoded = prover.exact[first.id].image, prover.exact[first.id].patches
    further = [(s, tables[s.id]) for s in rest]
    prover.compared = compared(members, encoded, tables[first.id], first, crops, further)
    encoders: Files = {}

    def keep(precision: str, graph: bytes) -> None:
        prove(prover, members, precision, graph)
        encoders[ENCODERS[precision]] = graph

    keep("fp32", encoder.SerializeToString())
    if wish.fp16:
        say(f"building {ENCODERS['fp16']}")
        half = to_fp16(encoder)
        check_signature(half, members)
        keep("fp16", half.SerializeToString())
        prover.facts["fp16"] = half_facts(encoders[ENCODERS["fp16"]], encoders[ENCODERS["fp32"]])
    if wish.int8 is not None:
        say(f"building {ENCODERS['int8']}")
        quantised, prover.facts["int8"] = fit_int8(
            encoder, wish.int8, lambda graph: prove(prover, members, "int8", graph), say
        )
        check_signature(quantised, members)
        encoders[ENCODERS["int8"]] = quantised.SerializeToString()
    files = {f"queries/{set_id}.onnx": data for set_id, data in queries.items()}
    text: dict[str, Any] = {"sha256": members.text_sha256}
    if wish.text:
        say("building the text tower")
        sentences = [p for s in sets for row in s.labels for p in (*row.positive, *row.negative)]
        spoken, text, prover.facts["text"] = text_files(members, sentences, wish.opset)
        files |= spoken
    scores = exact_scores(sets, tables)
    golden = make_golden(members, scores, queries, encoders.get(ENCODERS["int8"]))
    manifest = Manifest(
        **_network(members, signature),
        files={
            file: entry(encoders[file]) | {"precision": precision}
            for precision, file in ENCODERS.items()
            if file in encoders
        },
        label_sets={s.id: set_entry(s, queries[s.id]) for s in sets},
        default_set=sets[0].id,
        parity=summary(prover),
        golden={path: entry(data) for path, data in golden.items()},
        text=text,
    )
    check_read(manifest, files, tables)
    certificate = certificate_file(prover, encoders, manifest)  # it names the bundle's hash
    manifest = replace(manifest, certificate={CERTIFICATE: entry(certificate)})
    return manifest, prover, files | encoders | golden | {CERTIFICATE: certificate}


def prover_of(
    members: Members,
    sets: Sequence[LabelSet],
    tables: Mapping[str, Floats],
    queries: Mapping[str, bytes],
    crops: Crops,
) -> Prover:
    """PyTorch's answers on the crops, to hold graphs against."""
    scores = exact_scores(sets, tables)
    labels = {s.id: [label.id for label in s.labels] for s in sets}
    reference = f"PyTorch {torch.__version__} fp32"
    return Prover(reference, members.encode, scores, queries, labels, crops)


def exact_scores(sets: Sequence[LabelSet], tables: Mapping[str, Floats]) -> dict[str, Score]:
    """set → what scores in PyTorch."""
    return {s.id: exact_score(tables[s.id], s) for s in sets}


def prove(prover: Prover, members: Members, precision: str, graph: bytes) -> None:
    """Every machine at hand that can say something about this precision; ParityError."""
    prover.prove(precision, cpu(), onnx_encoder(graph))
    if precision == "fp16":  # onnxruntime computes it in float32 on a CPU
        prover.prove(precision, HALF, half_encoder(members))


def query_files(
    members: Members, sets: Sequence[LabelSet], opset: int, say: Say
) -> tuple[dict[str, Floats], Files]:
    """set → its table float32 [L, D], and its graph."""
    tables: dict[str, Floats] = {}
    queries: Files = {}
    rows, patches = members.described(), members.cells**2
    refuse([e for s in sets for e in pool_errors(s.id, s.pool, rows, patches)])
    readers = [network.tokenizer for network in members.networks]
    for place, labels in enumerate(sets):
        twin = next((s.id for s in sets[:place] if s.labels == labels.labels), None)
        if twin is None:  # else only its pool is another
            refuse([*unreadable(labels, readers).values()])
            tables[labels.id] = members.table(labels)
            for line in told(check_set(labels, tables[labels.id], readers)):
                say(f"{labels.id}: {line}")
        table = tables[labels.id] = tables[twin or labels.id]
        graph = query_graph(table, labels, members.text_sha256, opset)
        queries[labels.id] = graph.SerializeToString()
    return tables, queries


def half_encoder(members: Members) -> Encode:
    halves = [HalfEncoder(network.model) for network in members.networks]

    def encode(pixels: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        parts = [_half(half, torch.from_numpy(pixels)) for half in halves]
        image_e, patch_e = joined([p[0] for p in parts]), joined([p[1] for p in parts])
        return image_e.numpy(), patch_e.numpy()

    return encode


def _half(half: HalfEncoder, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [half(part) for part in torch.split(pixels, BATCH)]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _network(members: Members, signature: dict[str, Any]) -> dict[str, Any]:
    """The manifest's fields that say what the encoder is and whose images it takes."""
    first = members.networks[0]
    count = len(members.sources)
    how = ", average of" if len(members.networks) < count else " x"
    query = {
        "inputs": {"embeddings": ["M", members.embed_dim]},
        "outputs": {"scores": ["M", "L"]},
    }
    return {
        "name": f"{members.data} {first.recipe.name}" + (f"{how} {count}" if count > 1 else ""),
        "embed_dim": members.embed_dim,
        "grid": (members.cells, members.cells),
        "geometry": described(members.geometry),
        "intensity": first.intensity,
        "global_pool": first.recipe.global_pool,
        "graph": {"encoder": signature, "query": query},
        "views": first.views,
        "checkpoint": members.described(),
        "training_data": members.data,
    }


def entry(data: bytes) -> dict[str, Any]:
    return {"sha256": sha256(data), "bytes": len(data)}
