"""Golden vectors: a few phantom crops in the bundle, and what PyTorch made of them at the export.

`tier-export` measures parity on the machine that exports. Replaying these pictures carries the
proof to the machine that scores: another processor, another onnxruntime, a GPU.

golden/crops.npy               uint8   [N, H, W], the geometry's crops of drawn phantoms, no patient
golden/image_embeddings.npy    float32 [N, D]
golden/patch_embeddings.npy    float32 [N, g, g, D], g = manifest.cells
golden/golden.json             gates, source, and per label set its SHA-256 and the scores [N, L]

The gates of fp32 and fp16 are fixed, here and not in the bundle; that of int8 is what its graph
showed at the export, and a quarter more, below a ceiling.

Scores belong to one version of a label set. Where a set was replaced since, only embeddings count.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.bundle import ENCODERS, Bundle, canonical
from tier_infer.embeddings import Encoder
from tier_infer.errors import IntegrityError
from tier_infer.query_table import QueryTable

SCHEMA = "tier-golden/1"
CROPS, IMAGE, PATCHES = (
    f"golden/{name}.npy" for name in ("crops", "image_embeddings", "patch_embeddings")
)
TABLE = "golden/golden.json"
MAX_CROPS = 64  # a replay takes a second, also when the bundle is not ours
GOLDEN_GATES = {  # those of `tier_export.parity`; a bundle must not choose what it is judged by
    "fp32": {"max_dz": 1e-5, "max_dcell": 1e-4},
    "fp16": {"max_dz": 2e-3, "max_dcell": 1e-2},
}
INT8_CEILING = {"max_dz": 0.1, "max_dcell": 0.5}  # trained networks showed up to 0.013 and 0.058
NPY = b"\x93NUMPY\x01\x00"
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SetScores:
    sha256: str  # of the query graph that these scores belong to
    z: Floats  # [N, L]


@dataclass(frozen=True)
class Golden:
    crops: NDArray[np.uint8]  # [N, H, W]
    image: Floats  # [N, D]
    patches: Floats  # [N, g, g, D]
    scores: dict[str, SetScores]
    gates: dict[str, dict[str, float]]  # precision → max_dz, max_dcell, of the bundle's own
    source: str  # what was drawn, and what computed the numbers


@dataclass(frozen=True)
class Replay:
    """The largest differences found. NaN, where the encoder gave one, is a breach."""

    crops: int
    max_dembedding: float
    max_dpatch: float
    max_dz: float | None  # None: every label set was replaced since the export
    replaced: tuple[str, ...]  # the sets whose scores could not be compared
    allowed_dz: float  # for scores and image embeddings
    allowed_dcell: float  # for patch embeddings

    @property
    def breaches(self) -> list[str]:
        rows = (
            ("image embedding", self.max_dembedding, self.allowed_dz),
            ("patch embedding", self.max_dpatch, self.allowed_dcell),
            ("score Z", self.max_dz, self.allowed_dz),
        )
        return [
            f"{name} differs by {found:.1e}, allowed {allowed:g}"
            for name, found, allowed in rows
            if found is not None and not found <= allowed
        ]


def golden_files(golden: Golden) -> dict[str, bytes]:
    """path in the bundle → bytes. Equal vectors are equal bytes."""
    table = {
        "schema": SCHEMA,
        "source": golden.source,
        "gates": golden.gates,
        "scores": {
            set_id: {"sha256": s.sha256, "z": s.z.astype(np.float64).tolist()}
            for set_id, s in golden.scores.items()
        },
    }
    return {
        CROPS: _npy(golden.crops),
        IMAGE: _npy(golden.image),
        PATCHES: _npy(golden.patches),
        TABLE: canonical(table).encode(),
    }


def read_golden(bundle: Bundle) -> Golden | None:
    """None for a bundle without; IntegrityError for vectors that don't fit the bundle."""
    manifest = bundle.manifest
    if not manifest.golden:
        return None
    missing = {CROPS, IMAGE, PATCHES, TABLE} - set(manifest.golden)
    if missing:
        raise IntegrityError(f"the golden vectors are incomplete: {min(missing)} is not listed")
    side, cells, dim = manifest.resolved_geometry().crop, manifest.cells, manifest.embed_dim
    crops = _array(bundle, CROPS, "|u1", (side, side))
    image = _array(bundle, IMAGE, "<f4", (dim,))
    patches = _array(bundle, PATCHES, "<f4", (cells, cells, dim))
    if not 0 < len(crops) <= MAX_CROPS or len(image) != len(crops) or len(patches) != len(crops):
        raise IntegrityError(
            f"{CROPS} and its embeddings need the same number of rows, 1 to {MAX_CROPS}"
        )
    try:
        table = json.loads(bundle.golden_file(TABLE))
        if table["schema"] != SCHEMA:
            raise ValueError
        gates = {
            precision: {key: float(gate[key]) for key in ("max_dz", "max_dcell")}
            for precision, gate in table["gates"].items()
        }
        scores = {
            set_id: SetScores(str(row["sha256"]), np.array(row["z"], np.float32))
            for set_id, row in table["scores"].items()
        }
        source = str(table["source"])
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError):
        raise IntegrityError(f"{TABLE} is not a table of {SCHEMA}") from None
    _check_gates(gates, [p for p, file in ENCODERS.items() if file in manifest.files])
    return Golden(crops, image, patches, scores, gates, source)


def _check_gates(gates: Mapping[str, Mapping[str, float]], precisions: list[str]) -> None:
    for precision in precisions:
        gate, fixed = gates.get(precision), GOLDEN_GATES.get(precision)
        if gate is None:
            raise IntegrityError(f"{TABLE} names no gate for {precision}; export the bundle again")
        kept = gate == fixed if fixed else all(
            0 <= gate[key] <= most for key, most in INT8_CEILING.items()
        )  # fmt: skip
        if not kept:
            allowed = f"they are {fixed}" if fixed else f"at most {INT8_CEILING} is"
            raise IntegrityError(
                f"{TABLE} has gates for {precision} that this version does not allow, {allowed}; "
                "export the bundle again"
            )


def replay(bundle: Bundle, engine: Encoder, golden: Golden) -> Replay:
    """Runs the crops on `engine`, at the gates of its precision: all of them at once, and one alone
    as most studies come, for which a GPU takes other kernels."""
    if engine.precision not in golden.gates:
        raise IntegrityError(f"{TABLE} names no gate for {engine.precision}")
    found, alone = engine.encode(golden.crops), engine.encode(golden.crops[:1])
    differences: list[float] = []
    replaced = []
    for set_id, entry in bundle.manifest.label_sets.items():
        expected = golden.scores.get(set_id)
        if expected is None or expected.sha256 != entry["sha256"]:
            replaced.append(set_id)
            continue
        table = QueryTable(bundle, set_id)
        z = table.image_scores(found)
        if z.shape != expected.z.shape:
            raise IntegrityError(f"{TABLE} has another number of scores than set {set_id}")
        differences.append(_furthest(z, expected.z, table.image_scores(alone)))
    gate = golden.gates[engine.precision]
    return Replay(
        crops=len(golden.crops),
        max_dembedding=_furthest(found.image, golden.image, alone.image),
        max_dpatch=_furthest(found.patches, golden.patches, alone.patches),
        max_dz=float(np.max(differences)) if differences else None,
        replaced=tuple(replaced),
        allowed_dz=gate["max_dz"],
        allowed_dcell=gate["max_dcell"],
    )


def of_usable_sets(bundle: Bundle, golden: Golden) -> Golden:
    """Without the scores of label sets that no query table opens: whoever asks for one is told so,
    and the others can be used."""
    kept = {}
    for set_id in golden.scores.keys() & bundle.manifest.label_sets.keys():
        with contextlib.suppress(IntegrityError):
            QueryTable(bundle, set_id)
            kept[set_id] = golden.scores[set_id]
    return replace(golden, scores=kept)


def _furthest(found: Floats, expected: Floats, alone: Floats) -> float:
    """`alone` is of the first row. NaN stays NaN: numpy's max hands it on."""
    rows = ((found, expected), (alone, expected[:1]))
    return float(np.max([np.abs(a.astype(np.float64) - b).max() for a, b in rows]))


def _npy(array: NDArray[Any]) -> bytes:
    """NumPy's own file format, version 1.0 (NEP 1): any tool opens it, nothing is pickled."""
    buffer = io.BytesIO()
    np.lib.format.write_array(
        buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False
    )
    return buffer.getvalue()


def _array(bundle: Bundle, name: str, dtype: str, row: tuple[int, ...]) -> NDArray[Any]:
    """[N, *row]; the header must say exactly that, so that no header decides what is allocated."""
    data = bundle.golden_file(name)
    size = np.dtype(dtype).itemsize * int(np.prod(row))
    start = len(NPY) + 2 + int.from_bytes(data[len(NPY) : len(NPY) + 2], "little")
    count, rest = divmod(len(data) - start, size)
    wanted = {"descr": dtype, "fortran_order": False, "shape": (count, *row)}
    try:
        header = ast.literal_eval(data[len(NPY) + 2 : min(start, 1024)].decode("latin-1").strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        header = None
    if not data.startswith(NPY) or rest or header != wanted:
        words = " x ".join(("N", *map(str, row)))
        raise IntegrityError(f"{name} is not an array {words} of {np.dtype(dtype).name}")
    return np.frombuffer(data, dtype, offset=start).reshape(count, *row)
