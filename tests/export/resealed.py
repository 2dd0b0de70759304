"""Bundles whose content was exchanged and whose every hash is right again, and `verify` on them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from click.testing import CliRunner, Result

import tier_export.verify
from tests.conftest import DATA
from tier_export.certificate import text_hashes
from tier_export.cli import main
from tier_export.crops import phantom_crops
from tier_export.parity import Crops
from tier_export.verify_facts import facts_of
from tier_infer.bundle import CERTIFICATE, ENCODERS, Bundle, load_bundle, sha256
from tier_infer.golden import TABLE

DRAWN: Callable[..., Crops] = functools.cache(phantom_crops)  # the same for every verification


def verify(*args: object, drawn: Callable[..., Crops] = DRAWN, **env: str) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tier_export.verify, "phantom_crops", drawn)
        result = CliRunner().invoke(main, ["verify", *map(str, args)], env=env)
    assert "Traceback" not in result.output
    assert "no bundle was written" not in result.output
    return result


def films(folder: Path, count: int) -> Path:
    paths = sorted((DATA / "nih").glob("*.jpg"))
    rows = [f"{paths[n % len(paths)]},{n},test,{n % 2}\n" for n in range(count)]
    (folder / "films.csv").write_text("image_path,patient_id,split,edema\n" + "".join(rows))
    return folder / "films.csv"


def entry(data: bytes) -> dict[str, Any]:
    return {"sha256": sha256(data), "bytes": len(data)}


def reseal(
    folder: Path, change: Any = None, golden: Any = None, drop: str = "",
    files: Mapping[str, bytes] = MappingProxyType({}), **encoders: bytes,
) -> None:  # fmt: skip
    """Other encoders, text towers, label sets, certificate or golden table in a bundle whose every
    hash and every fact about a file is right again."""
    bundle = load_bundle(folder)
    manifest, certificate = bundle.manifest, json.loads(bundle.certificate())
    sealed, vectors = dict(manifest.files), dict(manifest.golden)
    if drop:
        del sealed[ENCODERS[drop]], manifest.parity[drop], certificate["precisions"][drop]
    for precision, data in encoders.items():
        (folder / ENCODERS[precision]).write_bytes(data)
        sealed[ENCODERS[precision]] = entry(data) | {"precision": precision}
        like = certificate["precisions"].get(precision, certificate["precisions"]["fp16"])
        certificate["precisions"][precision] = like | entry(data) | {"file": ENCODERS[precision]}
        manifest.parity.setdefault(precision, manifest.parity["fp16"])
    for path, data in files.items():
        (folder / path).write_bytes(data)
        rows = {row["path"]: row for row in manifest.label_sets.values()} | manifest.text_files
        rows[path].update(entry(data))
    if golden:
        table = json.loads(bundle.golden_file(TABLE))
        golden(table)
        (folder / TABLE).write_text(json.dumps(table))
        vectors[TABLE] = entry((folder / TABLE).read_bytes())
    manifest = replace(manifest, files=sealed, golden=vectors)
    certificate["bundle_sha256"] = manifest.bundle_sha256
    certificate["text"] |= text_hashes(manifest)
    certificate["label_sets"] = {s: row["sha256"] for s, row in manifest.label_sets.items()}
    for precision in {"fp16", "int8"} & set(certificate["precisions"]) if encoders else ():
        row = certificate["precisions"][precision]
        row["facts"] = row["facts"] | facts_of(Bundle(folder, manifest), precision)
    if change:
        change(certificate, manifest)
    data = json.dumps(certificate).encode()
    (folder / CERTIFICATE).write_bytes(data)
    manifest = replace(manifest, certificate={CERTIFICATE: entry(data)})
    (folder / "manifest.json").write_text(manifest.to_json())
