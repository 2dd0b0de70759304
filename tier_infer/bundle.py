"""The bundle: a folder with manifest, encoder graphs and label sets, and the proof that nothing
in it changed. This file is the only definition of the format; `tier_export` writes through it.

Hashes with lifetimes of their own. `bundle_sha256` covers what makes a score: schema, presets and
encoders. Each label set, golden file (see `golden`), text tower (see `sentences`) and the
certificate has its own, so they can change without touching the encoder. The text of manifest.json
must be its own canonical form and carry its own digest, so that no byte of it can change unnoticed
either.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tier_infer.errors import IntegrityError, UsageError
from tier_infer.geometry import GEOMETRIES, Geometry, described
from tier_infer.intensity import PRESETS
from tier_infer.label_sets import ID
from tier_infer.pooling import Pool, TopK, pool_of

SCHEMA_VERSION = 1
NOTICE = "Research use only, not for diagnostic use."
MAX_MANIFEST_BYTES = 2**23  # two sets of 10,000 labels have one
ENCODERS = {
    "fp32": "image_encoder.onnx",
    "fp16": "image_encoder.fp16.onnx",
    "int8": "image_encoder.int8.onnx",
}
EXPORTED_BY = {"fp32": "", "fp16": " --fp16", "int8": " --int8 IMAGES"}
CERTIFICATE = "parity.json"
MAX_CELLS = 64  # patches per side; imported encoders have 7 to 16
LATER_KEYS = {"golden", "text", "certificate"}  # older bundles are without, and still load


@dataclass(frozen=True)
class Manifest:
    """What a bundle is. Field for field the keys of manifest.json, plus its two digests."""

    name: str
    embed_dim: int  # D
    grid: tuple[int, int]  # rows and columns of patches; equal, see `cells`
    geometry: dict[str, Any]
    intensity: str
    global_pool: str
    graph: dict[str, Any]  # inputs and outputs by name: dtype and shape
    views: tuple[str, ...]  # "frontal", and "lateral" where the training data had them
    files: dict[str, dict[str, Any]]  # encoder file → sha256, bytes, precision
    label_sets: dict[str, dict[str, Any]]  # set id → path, sha256, bytes, labels; of patches, pool
    default_set: str
    checkpoint: list[dict[str, Any]]  # sha256 and recipe of each
    training_data: str
    parity: dict[str, Any]
    golden: dict[str, dict[str, Any]] = field(default_factory=dict)  # path → sha256, bytes
    text: dict[str, Any] = field(default_factory=dict)  # sha256, and of exported towers files
    certificate: dict[str, dict[str, Any]] = field(default_factory=dict)  # path → sha256, bytes
    notice: str = NOTICE
    schema_version: int = SCHEMA_VERSION

    @property
    def bundle_sha256(self) -> str:
        """Over schema, presets and encoders: the identity of the numbers."""
        scope = ("schema_version", "embed_dim", "grid", "geometry", "intensity", "global_pool")
        identity = {key: getattr(self, key) for key in (*scope, "graph", "views", "files")}
        return sha256(canonical(identity).encode())

    @property
    def cells(self) -> int:
        """Patches per side. P = cells ** 2."""
        return self.grid[0]

    @property
    def text_sha256(self) -> str:
        """Identity of the text tower that every label set of this bundle must come from."""
        return str(self.text.get("sha256") or self.checkpoint[0]["text_sha256"])

    @property
    def text_files(self) -> dict[str, dict[str, Any]]:
        """path → sha256, bytes of the exported text towers; empty where there are none."""
        files: dict[str, dict[str, Any]] = self.text.get("files", {})
        return files

    def pool(self, set_id: str) -> Pool | None:
        """How a set pools patch scores; None: it scores the image's embedding. IntegrityError where
        that can't be; the other sets can be used, and this one made again."""
        entry = self.label_sets[set_id]
        if "pool" not in entry:
            return None
        try:
            pool = pool_of(entry["pool"], f"label set {set_id}")
        except UsageError as error:
            raise IntegrityError(
                f"manifest.json, {error}; make it again with `tier-export labels --queries`, or "
                f"take it out with --remove {set_id}"
            ) from None
        if isinstance(pool, TopK) and pool.k > self.cells**2:
            raise IntegrityError(
                f"label set {set_id} pools {pool.k} patches, the encoder gives {self.cells**2}; "
                "make it again with `tier-export labels`"
            )
        return pool

    def listed(self) -> list[tuple[str, dict[str, Any]]]:
        """Every file of the bundle beside manifest.json, with sha256 and bytes."""
        sets = [(entry["path"], entry) for entry in self.label_sets.values()]
        tables = (self.files, self.golden, self.text_files, self.certificate)
        return sets + [item for table in tables for item in table.items()]

    def to_json(self) -> str:
        table = asdict(self) | {"bundle_sha256": self.bundle_sha256}
        table["manifest_sha256"] = sha256(canonical(table).encode())
        return canonical(table)

    def resolved_geometry(self) -> Geometry:
        known = GEOMETRIES.get(str(self.geometry.get("name")))
        if known is None or canonical(described(known)) != canonical(self.geometry):
            raise IntegrityError(
                f"the bundle's geometry {self.geometry.get('name')!r} is not one of this version: "
                f"{', '.join(GEOMETRIES)}; install the tier-cxr that wrote it"
            )
        return known


@dataclass(frozen=True)
class Bundle:
    folder: Path
    manifest: Manifest
    _verified: dict[str, bytes] = field(default_factory=dict, repr=False)

    def encoder(self, precision: str) -> bytes:
        """The graph's bytes, exactly those whose hash was checked."""
        name = ENCODERS[precision]
        if name not in self.manifest.files:
            raise UsageError(
                f"the bundle has no {precision} encoder; export it again with "
                f"tier-export{EXPORTED_BY[precision]}"
            )
        return self._checked(name, self.manifest.files[name])

    def query_graph(self, set_id: str) -> bytes:
        entry = self.manifest.label_sets[set_id]
        return self._checked(entry["path"], entry)

    def golden_file(self, name: str) -> bytes:
        return self._checked(name, self.manifest.golden[name])

    def text_file(self, name: str) -> bytes:
        return self._checked(name, self.manifest.text_files[name])

    def certificate(self) -> bytes:
        if CERTIFICATE not in self.manifest.certificate:
            raise UsageError(f"the bundle has no {CERTIFICATE}; export it again with tier-export")
        return self._checked(CERTIFICATE, self.manifest.certificate[CERTIFICATE])

    def _checked(self, name: str, entry: dict[str, Any]) -> bytes:
        if name not in self._verified:
            self._verified[name] = read_verified(self.folder / name, entry)
        return self._verified[name]


def load_bundle(folder: Path, unused: bool = False) -> Bundle:
    """Reads the manifest and checks the hash of every file it lists before anything is used.

    Most runs ask no sentence, and a CXR-BERT has 436 MB: text towers are hashed when one is used,
    and here only with `unused`. That they are there, with the right length, is always checked.
    """
    path = folder / "manifest.json"
    if not folder.is_dir():
        raise UsageError(
            f"no bundle folder at {folder} (by --bundle, else TIER_BUNDLE, else ./bundle); "
            "name the folder that you were given, or write one with `tier-export ckpt.pt`"
        )
    if not path.is_file():
        raise IntegrityError(f"{folder} holds no manifest.json, so it is no bundle")
    with path.open("rb") as file:
        manifest = parse_manifest(file.read(MAX_MANIFEST_BYTES + 1))
    bundle = Bundle(folder, manifest)
    for name, entry in manifest.listed():
        if name in manifest.text_files and not unused:
            check_size(folder / name, entry)
        else:
            data = read_verified(folder / name, entry)
            if name not in manifest.files | manifest.text_files:  # `labels` may replace the others
                bundle._verified[name] = data
    return bundle


def parse_manifest(raw: bytes) -> Manifest:
    try:
        table = json.loads(raw.decode("utf-8"))
        canonical(table)  # no NaN, no number of 5,000 digits
    except (ValueError, RecursionError):
        raise IntegrityError("manifest.json is not valid JSON; export the bundle again") from None
    if not isinstance(table, dict) or table.get("schema_version") != SCHEMA_VERSION:
        found = table.get("schema_version") if isinstance(table, dict) else None
        raise IntegrityError(
            f"manifest.json has schema_version {found!r}, this version reads {SCHEMA_VERSION}"
        )
    digest = table.pop("manifest_sha256", None)
    sealed = table | {"manifest_sha256": sha256(canonical(table).encode())}
    if digest is None or canonical(sealed).encode() != raw:
        raise IntegrityError("manifest.json was changed after the export; export the bundle again")
    bundle_digest = table.pop("bundle_sha256", None)
    names = {f.name for f in fields(Manifest)}
    wrong = ", ".join(sorted((set(table) ^ names) - (LATER_KEYS - set(table))))
    if wrong:
        raise IntegrityError(f"manifest.json has wrong keys: {wrong}")
    try:
        return _checked_manifest(table, bundle_digest)
    except (TypeError, KeyError, AttributeError, ValueError):  # sealed, but not by tier-export
        raise IntegrityError("manifest.json has a field of another type than its schema") from None


def _checked_manifest(table: dict[str, Any], bundle_digest: object) -> Manifest:
    lists = {"grid": tuple(table["grid"]), "views": tuple(table["views"])}
    manifest = Manifest(**(table | lists))
    if manifest.bundle_sha256 != bundle_digest:
        raise IntegrityError("manifest.json does not have the bundle's SHA-256")
    if manifest.intensity not in PRESETS:
        raise IntegrityError(f"the bundle's intensity preset {manifest.intensity!r} is unknown")
    if manifest.default_set not in manifest.label_sets:
        raise IntegrityError(f"the bundle's default set {manifest.default_set!r} is not in it")
    for set_id in manifest.label_sets:
        if not ID.fullmatch(set_id):
            raise IntegrityError(f"manifest.json has a label set called {set_id!r}, which is no id")
    for name, entry in manifest.listed():
        if not (isinstance(entry["sha256"], str) and isinstance(entry["bytes"], int)):
            raise TypeError
        if not re.fullmatch(r"(?:(?:queries|golden|text)/)?[A-Za-z0-9_][A-Za-z0-9_.]*", name):
            raise IntegrityError(f"manifest.json names a file outside the bundle: {name}")
    manifest.resolved_geometry()
    _check_grid(manifest.grid)
    return manifest


def _check_grid(grid: tuple[int, ...]) -> None:
    if not all(type(n) is int for n in grid):
        raise TypeError
    rows, columns = grid
    if rows != columns or not 1 <= rows <= MAX_CELLS:
        raise IntegrityError(
            f"the bundle's grid is {rows} x {columns} patches; this version takes squares of 1 to "
            f"{MAX_CELLS}; export the bundle again"
        )


def read_verified(path: Path, entry: dict[str, Any]) -> bytes:
    """The bytes of a bundle file, or IntegrityError: missing, of another length or changed."""
    check_size(path, entry)
    data = path.read_bytes()
    if sha256(data) != entry["sha256"]:
        raise IntegrityError(f"{path.name} was changed after the export: its SHA-256 differs")
    return data


def check_size(path: Path, entry: dict[str, Any]) -> None:
    if path.is_symlink() or not path.is_file():
        raise IntegrityError(f"{path.name} is missing from the bundle; export it again")
    if path.stat().st_size != entry["bytes"]:
        raise IntegrityError(
            f"{path.name} has {path.stat().st_size} bytes, the manifest says "
            f"{entry['bytes']}; copy the bundle again, or export it again"
        )


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical(table: object) -> str:
    """One spelling per value, so that equal manifests are equal bytes."""
    return json.dumps(table, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=True) + "\n"
