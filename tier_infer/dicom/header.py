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
from pydicom.dataelem import RawDataElement
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
        raw = raw_of(ds, keyword)
        if raw is not None and raw.value and len(raw.value) > _limit(keyword):
            raise FailedImage("too_large", f"{tag(keyword)} is longer than in any image")
        return ds.get(keyword)
    except FailedImage:
        raise
    except Exception:
        raise _unreadable(keyword) from None


def raw_of(ds: Dataset, keyword: str) -> RawDataElement | None:
    """A tag as it stands in the file, before pydicom converts it; None when absent or converted."""
    try:
        raw = ds.get_item(keyword) if keyword in ds else None
    except Exception:
        raise _unreadable(keyword) from None
    return raw if isinstance(raw, RawDataElement) else None


def _limit(keyword: str) -> int:
    """Bytes that are converted; pydicom would make millions of numbers of what should be one."""
    if keyword == "PixelData":
        return 2**40
    return 2**20 if keyword.endswith(("Sequence", "Data")) else 2**12


def values(ds: Dataset, keyword: str) -> list[Any]:
    """All values of a tag; a single one is a list of one, an empty one is none."""
    value = value_of(ds, keyword)
    if isinstance(value, MultiValue | Sequence | list | tuple):  # a list for US, SS, OB
        try:
            return list(value)  # items of a sequence are parsed only now
        except Exception:
            raise _unreadable(keyword) from None
    return [] if value in EMPTY else [value]


def text(ds: Dataset, keyword: str) -> str:
    value = value_of(ds, keyword)
    return "" if value is None else _words(value, keyword)


def texts(ds: Dataset, keyword: str) -> list[str]:
    return [_words(value, keyword) for value in values(ds, keyword)]


def _words(value: Any, keyword: str) -> str:
    """A sequence in the place of words is none: printing one would parse all that is below it."""
    if isinstance(value, Sequence | Dataset):
        raise _unreadable(keyword)
    try:
        return str(value).strip().upper()
    except Exception:
        raise _unreadable(keyword) from None


def _unreadable(keyword: str) -> FailedImage:
    return FailedImage("bad_value", f"{tag(keyword)} can't be read")


def numbers(ds: Dataset, keyword: str) -> list[float]:
    """Finite numbers, none when the tag is absent or empty."""
    found = []
    for value in values(ds, keyword):
        try:
            found.append(float(value))
        except Exception:
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
