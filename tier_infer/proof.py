"""Every encoder passes the bundle's golden vectors before its first answer.

The export proved the graph on its own machine; a driver, a library or a GPU of this one may compute
something else. What passed is kept in TIER_CACHE under all that the numbers depend on, so that the
second run does not pay again. Without a cache that can be trusted, every run does. What did not
pass is never kept, and what passed before is forgotten then.
"""

from __future__ import annotations

import contextlib

from tier_infer.bundle import Bundle, canonical, sha256
from tier_infer.cache import Cache
from tier_infer.embeddings import Encoder
from tier_infer.errors import IntegrityError, ParityError, UsageError
from tier_infer.golden import Golden, Replay, of_usable_sets, read_golden, replay
from tier_infer.gpu import machine
from tier_infer.sessions import runtime_version

SCHEMA = "tier-proof/1"  # another number when `replay` asks for more: old proofs are void then


def prove(
    bundle: Bundle, encoder: Encoder, cache: Cache | None = None, again: bool = False
) -> Replay | None:
    """None: passed before and not asked for `again`, or a CPU and a bundle of before golden
    vectors. ParityError where it does not pass; UsageError on another device for a bundle without
    vectors."""
    golden = read_golden(bundle)
    if golden is None:
        if encoder.device == "cpu":
            return None
        raise UsageError(
            f"the bundle has no golden vectors, so nothing proves what {encoder.device} computes; "
            "export it again, or use --device cpu"
        )
    cache = cache or trusted_cache()
    if not again and remembered(bundle, encoder, cache):
        return None
    found = replay_now(bundle, encoder, of_usable_sets(bundle, golden), cache)
    if found.breaches:
        raise ParityError(
            f"{encoder.device} {encoder.precision} does not give the bundle's golden vectors on "
            f"this machine: {'; '.join(found.breaches)}; nothing was scored; tier-infer doctor "
            "tells more, --device cpu may be right"
        )
    return found


def replay_now(bundle: Bundle, encoder: Encoder, golden: Golden, cache: Cache | None) -> Replay:
    """Whatever is remembered; then remembers that it passed, or forgets that it ever did."""
    found = replay(bundle, encoder, golden)
    name, facts = _proof(bundle, encoder)
    if cache is not None:
        with contextlib.suppress(OSError, IntegrityError):  # a full disk: the next run proves again
            cache.remove(name) if found.breaches else cache.write(name, facts)
    return found


def remembered(bundle: Bundle, encoder: Encoder, cache: Cache | None) -> bool:
    name, facts = _proof(bundle, encoder)
    return cache is not None and cache.read(name) == facts


def trusted_cache() -> Cache | None:
    """None where there is none that may be believed: scoring goes on, and proves each time."""
    try:
        return Cache()
    except (OSError, IntegrityError):
        return None


def _proof(bundle: Bundle, encoder: Encoder) -> tuple[str, bytes]:
    """Name and content. Scores come from the query graphs, which onnxruntime runs on the processor
    whatever device the encoder has."""
    manifest = bundle.manifest
    facts = canonical(
        {
            "schema": SCHEMA,
            "bundle": manifest.bundle_sha256,
            "golden": manifest.golden,
            "sets": {set_id: entry["sha256"] for set_id, entry in manifest.label_sets.items()},
            "pools": {set_id: entry.get("pool") for set_id, entry in manifest.label_sets.items()},
            "encoder": encoder.identity,
            "queries": [runtime_version(), machine()],
        }
    )
    return f"proofs/{sha256(facts.encode())}.json", facts.encode()
