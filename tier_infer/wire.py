"""What passes between the reader and its child: one JSON line, then the pixels it announces.

Both sides of the pipe use this file. The parent believes nothing: sizes are checked before memory
is taken, and whatever does not parse is an error of the child.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tier_infer.errors import FailedImage, NotEvaluated, RefusedImage

if TYPE_CHECKING:  # the child is started before the parent needs numpy
    from tier_infer.radiograph import Radiograph

MAX_LINE = 2**22  # bytes; 10,000 names of an archive's members need most of it
MAX_PIXELS = 2**28  # a 64 Mpixel film with pixels 1:4, made square
KEYS = ("study_key", "instance_key", "patient_key")


def request(**fields: Any) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def answer(result: Radiograph | RefusedImage | list[str]) -> list[bytes | memoryview]:
    """The parts to write: the line, then grey, then display when it differs from grey."""
    if isinstance(result, list):
        return [request(members=result)]
    if isinstance(result, RefusedImage):
        table = {"refused": type(result).__name__, "reason": result.reason, "words": str(result)}
        return [request(**table, view=result.view, study_key=result.study_key)]
    import numpy as np

    grey, display = result.grey, result.display
    parts = [grey] if display is None or display is grey else [grey, display]
    table = {key: getattr(result, key) for key in KEYS}
    line = request(
        **table,
        shape=grey.shape,
        pictures=len(parts),
        has_display=display is not None,
        view=result.view,
        flags=result.flags,
    )
    return [line, *(np.ascontiguousarray(p).data.cast("B") for p in parts)]


def pixels_announced(line: dict[str, Any]) -> int:
    """Bytes that follow the line. ValueError when it says nonsense."""
    if "shape" not in line:
        return 0
    height, width = (int(n) for n in line["shape"])
    if height < 1 or width < 1 or height * width > MAX_PIXELS or line["pictures"] not in (1, 2):
        raise ValueError("sizes")
    return height * width * int(line["pictures"])


def members(line: dict[str, Any], pixels: bytes | bytearray) -> list[str]:
    if "refused" in line:
        raise _refusal(line)
    return [str(name) for name in line["members"]]


def radiograph(line: dict[str, Any], pixels: bytes | bytearray) -> Radiograph:
    """The radiograph of an answer; raises the refusal that it is instead."""
    import numpy as np

    from tier_infer.radiograph import Radiograph

    if "refused" in line:
        raise _refusal(line)
    shape = (-1, *(int(n) for n in line["shape"]))
    pictures = np.frombuffer(pixels, np.uint8).reshape(shape)
    keys = {key: _text(line[key]) for key in KEYS}
    view, flags = str(line["view"]), tuple(str(flag) for flag in line["flags"])
    display = pictures[-1] if line["has_display"] else None
    return Radiograph(pictures[0], view, flags, **keys, display=display)


def _refusal(line: dict[str, Any]) -> RefusedImage:
    kind = NotEvaluated if line["refused"] == "NotEvaluated" else FailedImage
    refusal = kind(str(line["reason"]), str(line["words"]))
    refusal.study_key, refusal.view = _text(line["study_key"]), _text(line["view"])
    return refusal


def _text(value: object) -> str | None:
    return None if value is None else str(value)
