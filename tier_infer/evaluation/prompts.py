"""The identity of a set of sentences, whichever side asks them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

KINDS = ("positive", "negative")


def prompts_sha256(labels: Iterable[Mapping[str, Any]]) -> str:
    """Of ids and sentences in order, the same for a query graph and for the file it came from."""
    rows = [[str(row["id"]), *(list(row.get(k) or ()) for k in KINDS)] for row in labels]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()
