"""python -m pytest tests/infer/trt/test_sidecar.py -- what a plan was made for, and is refused for.

Sidecars are sealed; these are the checks of one whose seal held: of another version of this
software, of another machine that shares the cache, or of a mistake.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from tier_infer.errors import IntegrityError
from tier_infer.gpu import Gpu
from tier_infer.trt.build import PROFILES, Built, Wish
from tier_infer.trt.library import Library
from tier_infer.trt.sidecar import Sidecar, mismatch, parse_sidecar, sidecar_of

ONNX, OTHER = "a" * 64, "b" * 64
A40 = Gpu("NVIDIA A40", "GPU-0", "sm86", "570.10", "12.8")
A10 = Gpu("NVIDIA A10", "GPU-1", "sm86", "570.10", "12.8")
A100 = Gpu("NVIDIA A100", "GPU-2", "sm80", "570.10", "12.8")
L4 = Gpu("NVIDIA L4", "GPU-3", "sm89", "570.10", "12.8")
T4 = Gpu("NVIDIA T4", "GPU-4", "sm75", "570.10", "12.8")
BUILT = Built(b"plan", b"", 1.0, {"network": {"HALF": 10}, "inspector": {"half": 9}})


def lib(version: str, name: str = "tensorrt") -> Library:
    return Library(name, version, ModuleType(name))


HERE = lib("10.16.1.11")
RTX = lib("1.7.1.116", "tensorrt_rtx")


def made(wish: Wish, library: Library = HERE, gpu: Gpu | None = A40) -> Sidecar:
    return sidecar_of(library, gpu, wish, BUILT, ONNX)


def refused(sidecar: Sidecar, library: Library = HERE, gpu: Gpu = A40) -> str | None:
    return mismatch(sidecar, library, gpu, ONNX, sidecar.precision)


def test_it_says_what_was_built_and_where() -> None:
    sidecar = made(Wish("fp16", "same-cc", version_compatible=True))
    table = json.loads(sidecar.to_json())
    assert table["plan_sha256"] == hashlib.sha256(b"plan").hexdigest()
    assert {key: table[key] for key in ("plan_bytes", "gpu", "sm", "cuda", "driver")} == {
        "plan_bytes": 4, "gpu": "NVIDIA A40", "sm": "sm86", "cuda": "12.8", "driver": "570.10",
    }  # fmt: skip
    assert (table["library"], table["version"]) == ("tensorrt", "10.16.1.11")
    assert (table["hardware_compatibility"], table["version_compatible"]) == ("same-cc", True)
    assert table["profiles"] == [[1, 1, 1], [1, 8, 32]]
    assert table["tf32"] is False
    assert table["notice"] == "Research use only, not for diagnostic use."
    assert "GPU-0" not in sidecar.to_json()  # a board's serial number is nobody's business
    assert parse_sidecar(sidecar.to_json().encode()) == sidecar


def test_a_plan_for_gpus_that_are_not_here() -> None:
    sidecar = made(Wish("fp16", capabilities=("sm86", "sm89")), RTX, None)
    assert (sidecar.sm, sidecar.gpu, sidecar.cuda) == ("sm86,sm89", "", "")
    assert parse_sidecar(sidecar.to_json().encode()) == sidecar
    assert refused(sidecar, RTX, L4) is None
    assert refused(sidecar, RTX, A10) is None
    assert refused(sidecar, RTX, T4) == (
        "built for sm86,sm89, here are sm75; run tier-infer warmup"
    )


@pytest.mark.parametrize(
    ("wish", "gpu", "said"),
    [
        (Wish("fp16"), A40, None),
        (Wish("fp16"), A10, "built for NVIDIA A40, here are NVIDIA A10; run tier-infer warmup"),
        (Wish("fp16"), L4, "built for sm86, here are sm89; run tier-infer warmup"),
        (Wish("fp16", "same-cc"), A10, None),
        (Wish("fp16", "same-cc"), A100, "built for sm86, here are sm80; run tier-infer warmup"),
        (Wish("fp16", "ampere+"), A10, None),
        (Wish("fp16", "ampere+"), A100, None),
        (Wish("fp16", "ampere+"), L4, None),
        (Wish("fp16", "ampere+"), T4, "built for sm86, here are sm75; run tier-infer warmup"),
    ],
)
def test_gpus(wish: Wish, gpu: Gpu, said: str | None) -> None:
    assert refused(made(wish), gpu=gpu) == said


def test_ampere_plus_of_a_turing_is_for_turing() -> None:
    assert refused(made(Wish("fp16", "ampere+"), gpu=T4), gpu=A40)


def test_rtx_compiles_on_the_board_itself() -> None:
    assert refused(made(Wish("fp16"), RTX), RTX, A10) is None


@pytest.mark.parametrize(
    ("compatible", "library", "fits"),
    [
        (False, lib("10.16.1.11"), True),
        (False, lib("10.16.1.12"), False),
        (False, lib("11.4.0.106"), False),
        (True, lib("10.16.1.12"), True),
        (True, lib("10.100.0.1"), True),  # a number, not a text
        (True, lib("10.9.0.1"), False),  # an older one than built it
        (True, lib("11.4.0.106"), False),
        (True, lib("10.16.1.11", "tensorrt_rtx"), False),
    ],
)
def test_versions(compatible: bool, library: Library, fits: bool) -> None:
    said = refused(made(Wish("fp16", "same-cc", version_compatible=compatible)), library)
    if fits:
        assert said is None
    else:
        assert said == (f"built for TensorRT 10.16.1.11, here are {library}; run tier-infer warmup")


def test_everything_that_differs_is_in_one_sentence() -> None:
    sidecar = made(Wish("fp16"))
    assert mismatch(sidecar, lib("11.4.0.106"), L4, OTHER, "fp32") == (
        "built for sm86 and TensorRT 10.16.1.11 and fp16 and encoder aaaaaaaaaaaa, here are sm89 "
        "and TensorRT 11.4.0.106 and fp32 and encoder bbbbbbbbbbbb; run tier-infer warmup"
    )


def test_an_older_driver_is_refused_a_newer_one_is_not() -> None:
    sidecar = made(Wish("fp16"))
    older, newer = replace(A40, cuda="12.4"), replace(A40, cuda="13.0", driver="580.65.06")
    assert refused(sidecar, gpu=newer) is None
    assert refused(sidecar, gpu=older) == (
        "built for CUDA 12.8, here are CUDA 12.4; run tier-infer warmup"
    )


def test_of_another_version_of_this_software() -> None:
    sidecar = made(Wish("fp32"))
    assert refused(replace(sidecar, profiles=PROFILES[1:]))
    assert refused(replace(sidecar, tf32=True))


def changed(**values: Any) -> bytes:
    """Written as a sidecar is, so that the values alone are wrong."""
    table = json.loads(made(Wish("fp16")).to_json()) | values
    return (json.dumps(table, indent=1, sort_keys=True) + "\n").encode()


def test_the_helper_writes_as_a_sidecar_is_written() -> None:
    assert parse_sidecar(changed()) == made(Wish("fp16"))


@pytest.mark.parametrize(
    "values",
    [
        {"plan_bytes": True},
        {"plan_bytes": 4.0},
        {"plan_bytes": -1},
        {"plan_bytes": 2**60},
        {"plan_bytes": "4"},
        {"plan_sha256": "A" * 64},
        {"plan_sha256": "a" * 63},
        {"plan_sha256": ONNX + "\n"},
        {"onnx_sha256": None},
        {"library": "os"},
        {"version": "11.4.0.106; rm"},
        {"version": "١.٢"},  # digits, but not ours
        {"cuda": "new"},
        {"driver": "../../x"},
        {"gpu": "\x1b[2J"},
        {"gpu": "x" * 201},
        {"sm": "90"},
        {"sm": ""},
        {"sm": "sm86," * 20 + "sm86"},
        {"precision": "fp8"},
        {"hardware_compatibility": ["none"]},
        {"hardware_compatibility": "ampereX"},
        {"version_compatible": 1},
        {"tf32": "false"},
        {"profiles": [[1, 1]]},
        {"profiles": [[1, 8, 4]]},
        {"profiles": [[1, 1, True]]},
        {"profiles": "abc"},
        {"profiles": 3},
        {"precision_proof": []},
        {"notice": ""},
        {"schema": "tier-engine/2"},
        {"extra": 1},
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="not a table of tier-engine/1; run tier-infer warmup"):
        parse_sidecar(changed(**values))


GOOD = made(Wish("fp16")).to_json().encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"3",
        b'"tier-engine/1"',
        b"\xff\xfe",
        b"[" * 100_000,
        GOOD[:-1],
        GOOD + b" ",
        GOOD.replace(b'"gpu": ', b'"gpu": "other", "gpu": '),  # which of two, a reader chooses
        GOOD.replace(b"NVIDIA", b"\\u004eVIDIA"),  # another spelling
        GOOD.replace(b"10\n", b"NaN\n"),
        GOOD.replace(b"10\n", b"9" * 5000 + b"\n"),  # digits that Python refuses to read
        GOOD.replace(b'"notice"', b'"notices"'),
        changed(precision_proof={"x": "y" * 70_000}),
    ],
)
def test_anything_else_is_refused(raw: bytes) -> None:
    assert raw != GOOD
    with pytest.raises(IntegrityError, match="not a table of tier-engine/1; run tier-infer warmup"):
        parse_sidecar(raw)
