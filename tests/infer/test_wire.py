"""python -m pytest tests/infer/test_wire.py -- what passes between the reader and its child."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tier_infer import wire
from tier_infer.errors import FailedImage, NotEvaluated, RefusedImage
from tier_infer.radiograph import Radiograph

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)


def sent(result: Any) -> tuple[dict[str, Any], bytes]:
    """The line and the pixels as the parent finds them in the pipe."""
    line, *parts = wire.answer(result)
    assert bytes(line).count(b"\n") == 1
    assert bytes(line).endswith(b"\n")
    pixels = b"".join(bytes(part) for part in parts)
    read = json.loads(bytes(line))
    assert wire.pixels_announced(read) == len(pixels)
    return read, pixels


@pytest.mark.parametrize("display", [None, 255 - GREY], ids=["grey", "both"])
def test_a_radiograph_there_and_back(display: Any) -> None:
    keys = {"study_key": "1.2.3", "instance_key": None, "patient_key": "ab" * 32}
    image = Radiograph(GREY, "AP", ("lossy", "oriented"), **keys, display=display)
    back = wire.radiograph(*sent(image))
    assert back.grey.dtype == np.uint8
    assert np.array_equal(back.grey, GREY)
    assert (back.view, back.flags) == ("AP", ("lossy", "oriented"))
    assert {key: getattr(back, key) for key in keys} == keys
    if display is None:
        assert back.display is None
    else:
        assert back.display is not None
        assert np.array_equal(back.display, display)


def test_a_picture_that_is_its_own_display_travels_once() -> None:
    line, pixels = sent(Radiograph(GREY, "unknown", (), display=GREY))
    assert len(pixels) == GREY.size
    back = wire.radiograph(line, pixels)
    assert back.display is not None
    assert np.array_equal(back.display, GREY)


def test_a_picture_that_is_no_plain_block_of_memory() -> None:
    image = Radiograph(GREY.T[::-1], "PA", (), display=GREY.T)
    back = wire.radiograph(*sent(image))
    assert np.array_equal(back.grey, GREY.T[::-1])
    assert back.display is not None
    assert np.array_equal(back.display, GREY.T)


@pytest.mark.parametrize("kind", [NotEvaluated, FailedImage])
def test_a_refusal_there_and_back(kind: type[RefusedImage]) -> None:
    refusal = kind("modality", 'words with "quotes", a\nline and ü')
    refusal.study_key, refusal.view = "1.2.3", "lateral"
    with pytest.raises(kind) as caught:
        wire.radiograph(*sent(refusal))
    found = caught.value
    assert type(found) is kind
    assert (found.reason, str(found)) == ("modality", str(refusal))
    assert (found.study_key, found.view) == ("1.2.3", "lateral")


@pytest.mark.parametrize(
    "path", ["a.dcm", "new\nline.dcm", "caf\udce9.dcm", "\x1b[31m", "ü/日本.dcm"]
)
def test_any_file_name_there_and_back(path: str) -> None:
    """Names of bytes that are no UTF-8 come as surrogates; a line is a line all the same."""
    asked = wire.request(path=path, display=False)
    assert asked.count(b"\n") == 1
    assert json.loads(asked)["path"] == path
    line, pixels = sent([path, "b"])
    assert wire.members(line, pixels) == [path, "b"]
    assert pixels == b""


def test_a_refused_archive_raises_its_refusal() -> None:
    with pytest.raises(FailedImage, match="encrypted") as caught:
        wire.members(*sent(FailedImage("archive", "it is encrypted")))
    assert caught.value.reason == "archive"


WRONG: list[dict[str, Any]] = [
    {"shape": [0, 4], "pictures": 1},
    {"shape": [-3, -4], "pictures": 1},
    {"shape": [2**20, 2**20], "pictures": 1},  # memory would be taken for a word
    {"shape": [3, 4], "pictures": 3},
    {"shape": [3, 4], "pictures": -1},
    {"shape": [3, 4], "pictures": 10**9},
    {"shape": [3, 4]},
    {"shape": [3], "pictures": 1},
    {"shape": [3, 4, 5], "pictures": 1},
    {"shape": "34", "pictures": "2"},
    {"shape": None, "pictures": 1},
    {"shape": [None, 4], "pictures": 1},
]


@pytest.mark.parametrize("line", WRONG, ids=json.dumps)
def test_sizes_are_not_believed(line: dict[str, Any]) -> None:
    """The errors that the reader takes for a broken child."""
    with pytest.raises((ValueError, KeyError, TypeError)):
        wire.pixels_announced(line)


NONSENSE: list[dict[str, Any]] = [
    {},
    {"shape": [3, 4], "pictures": 1},
    {"refused": "SystemExit"},
    {"refused": "NotEvaluated", "reason": "modality"},
    {"shape": [3, 4], "pictures": 1, "view": "PA", "flags": 7, "has_display": False},
    {"shape": [5, 5], "pictures": 1, "view": "PA", "flags": [], "has_display": False},
    {"members": 7},
]


@pytest.mark.parametrize("line", NONSENSE, ids=json.dumps)
def test_nonsense_is_one_of_the_errors_that_cost_the_child(line: dict[str, Any]) -> None:
    keys = dict.fromkeys(wire.KEYS) if "flags" in line else {}
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        wire.radiograph(keys | line, bytes(12))
    if "shape" not in line:
        with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
            wire.members(line, b"")


def test_a_child_can_raise_nothing_but_refusals() -> None:
    line = {"refused": "SystemExit", "reason": 7, "words": None, "study_key": 5, "view": []}
    with pytest.raises(FailedImage) as caught:
        wire.radiograph(line, b"")
    assert all(isinstance(v, str) for v in (caught.value.reason, caught.value.study_key))


def test_the_largest_film_passes_and_no_larger() -> None:
    assert wire.pixels_announced({"shape": [2**14, 2**14], "pictures": 2}) == 2**29
    with pytest.raises(ValueError, match="sizes"):
        wire.pixels_announced({"shape": [2**14, 2**14 + 1], "pictures": 1})
