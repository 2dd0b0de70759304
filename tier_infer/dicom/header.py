"""Reading tags without surprises: whatever stands in a field, the answer is a value or a refusal.

Values are repeated in a message only when they are words the standard defines: anything else could
be a name that somebody typed into the wrong field.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from tier_infer.errors import FailedImage

EMPTY = (None, "", b"")


def tag(keyword: str) -> str:
    """'(0028,0004) PhotometricInterpretation'."""
    number = tag_for_keyword(keyword) or 0
    return f"({number >> 16:04X},{number & 0xFFFF:04X}) {keyword}"


def named(ds: Dataset, keyword: str, vocabulary: Collection[str] = ()) -> str:
    """'(0028,0004) PhotometricInterpretation is RGB', the value only when it is a known word."""
    value = text(ds, keyword)
    if not value:
        return f"{tag(keyword)} is missing"
    return f"{tag(keyword)} is {value if value in vocabulary else 'another value'}"


def value_of(ds: Dataset, keyword: str) -> Any:
    """pydicom converts a value when it is asked for, and may fail on it with any exception."""
    try:
        return ds.get(keyword)
    except Exception:
        raise FailedImage("bad_value", f"{tag(keyword)} can't be read") from None


def values(ds: Dataset, keyword: str) -> list[Any]:
    """All values of a tag; a single one is a list of one, an empty one is none."""
    value = value_of(ds, keyword)
    if isinstance(value, MultiValue | Sequence | list | tuple):  # a list for US, SS, OB
        return list(value)
    return [] if value in EMPTY else [value]


def text(ds: Dataset, keyword: str) -> str:
    value = value_of(ds, keyword)
    return "" if value is None else str(value).strip().upper()


def texts(ds: Dataset, keyword: str) -> list[str]:
    return [str(value).strip().upper() for value in values(ds, keyword)]


def numbers(ds: Dataset, keyword: str) -> list[float]:
    """Finite numbers, none when the tag is absent or empty."""
    found = []
    for value in values(ds, keyword):
        try:
            found.append(float(value))
        except (TypeError, ValueError, OverflowError):
            found.append(math.nan)
    if not all(math.isfinite(value) for value in found):
        raise FailedImage("bad_number", f"{tag(keyword)} must be a finite number")
    return found


def number(ds: Dataset, keyword: str, default: float | None = None) -> float | None:
    """A numeric tag as float; `default` when absent, FailedImage when it is not one number."""
    found = numbers(ds, keyword)
    if len(found) > 1:
        raise FailedImage("bad_number", f"{tag(keyword)} must be one number")
    return found[0] if found else default


def whole(ds: Dataset, keyword: str) -> int:
    """A type 1 integer; no default is guessed."""
    result = number(ds, keyword)
    if result is None:
        raise FailedImage("pixel_module", f"{tag(keyword)} is missing, so pixels can't be read")
    if not result.is_integer():
        raise FailedImage("bad_number", f"{tag(keyword)} must be a whole number")
    return int(result)


def items(ds: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; anything else in its place is none."""
    return [item for item in values(ds, keyword) if isinstance(item, Dataset)]
