"""What `tier-export verify` says: lines for the screen, one object for programs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from tier_export.certificate import crops_identity, machine, table
from tier_export.verify import Verified
from tier_export.verify_areas import area_lines
from tier_infer.bundle import Bundle

REPORT = "tier-verify/1"


def to_lines(bundle: Bundle, found: Verified) -> list[str]:
    """What was found, and whether it is what the certificate says."""
    manifest, crops = bundle.manifest, found.prover.crops
    lines = [f"bundle {manifest.bundle_sha256[:12]}: {len(manifest.listed())} files are unchanged"]
    for precision, row in found.golden.items():
        scores = "" if row.max_dz is None else f", max |dZ| {row.max_dz:.1e}"
        lines.append(
            f"golden vectors, {precision}: {row.crops} phantoms, max |d embedding| "
            f"{row.max_dembedding:.1e}{scores}, allowed {row.allowed_dz:.2g}"
        )
    lines += [table(found.prover)] if found.prover.proofs else []
    lines += area_lines(found.areas)
    lines += [f"measured on {crops.source}", *(f"note: {words}" for words in found.remarks)]
    if not found.prover.proofs:
        lines.append(
            "no more than the golden vectors was measured; --against ckpt.pt measures more"
        )
    elif found.differences is None:
        lines.append("the figures are not compared with the certificate's: other crops")
    elif found.differences:
        lines.append(f"not the certificate's figures: {'; '.join(found.differences)}")
    elif not found.compared:
        lines.append("none of these figures is in the certificate: nothing was compared")
    else:
        lines.append(f"{found.compared} figures agree with the certificate's")
    return lines + [f"BROKEN: {words}" for words in found.broken]


def to_json(bundle: Bundle, found: Verified) -> str:
    """One object, schema tier-verify/1; figures as in parity.json (see `certificate`)."""
    prover = found.prover
    report = {
        "schema": REPORT,
        "bundle_sha256": bundle.manifest.bundle_sha256,
        "machine": machine(),
        "reference": prover.reference,
        "crops": crops_identity(prover.crops) | {"count": len(prover.crops.pixels)},
        "certificate_crops": found.differences is not None,
        "golden": {precision: asdict(row) for precision, row in found.golden.items()},
        "proofs": prover.proofs,
        "auc": found.areas,
        "broken": found.broken,
        "differences": found.differences,
        "compared": found.compared,
        "notes": found.remarks,
    }
    return json.dumps(_finite(report), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    """NaN and infinity, which `broken` tells of, are no JSON."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
