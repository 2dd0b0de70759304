"""Every encoder passes the bundle's golden vectors before its first answer.

The export proved the graph on its own machine; a driver, a library or a GPU of this one may compute
something else. What passed is kept in TIER_CACHE under all that the numbers depend on, so that the
second run does not pay again. Without a cache that can be trusted, every run does.
"""

from __future__ import annotations

import contextlib

from tier_infer.bundle import Bundle, canonical, sha256
from tier_infer.cache import Cache
from tier_infer.embeddings import Encoder
from tier_infer.errors import IntegrityError, ParityError, UsageError
from tier_infer.golden import Replay, read_golden, replay

SCHEMA = "tier-proof/1"


def prove(bundle: Bundle, encoder: Encoder, cache: Cache | None = None) -> Replay | None:
    """None: passed before, or a CPU and a bundle of before golden vectors. ParityError."""
    golden = read_golden(bundle)
    if golden is None:
        if encoder.device == "cpu":
            return None
        raise UsageError(
            f"the bundle has no golden vectors, so nothing proves what {encoder.device} computes; "
            "export it again, or use --device cpu"
        )
    cache = cache or _trusted()
    facts = canonical({"schema": SCHEMA, "bundle": _identity(bundle), "encoder": encoder.identity})
    name = f"proofs/{sha256(facts.encode())}.json"
    if cache is not None and cache.read(name) == facts.encode():
        return None
    found = replay(bundle, encoder, golden)
    if found.breaches:
        raise ParityError(
            f"{encoder.device} {encoder.precision} does not give the bundle's golden vectors on "
            f"this machine: {'; '.join(found.breaches)}; nothing was scored; tier-infer doctor "
            "tells more, --device cpu may be right"
        )
    if cache is not None:
        with contextlib.suppress(OSError):  # a full disk: the next run proves it again
            cache.write(name, facts.encode())
    return found


def _identity(bundle: Bundle) -> dict[str, object]:
    """Encoders, vectors, and the label sets that the vectors have scores of."""
    manifest = bundle.manifest
    sets = {set_id: entry["sha256"] for set_id, entry in manifest.label_sets.items()}
    return {"sha256": manifest.bundle_sha256, "golden": manifest.golden, "sets": sets}


def _trusted() -> Cache | None:
    try:
        return Cache()
    except (OSError, IntegrityError):
        return None
