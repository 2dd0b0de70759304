"""python -m pytest tests/infer/test_dicom_bombs.py -- files that claim what they do not hold."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from tests.infer.dicom_files import codestream, dx, in_syntax, outcome, picture, write
from tier_infer import images
from tier_infer.dicom import read
from tier_infer.errors import FailedImage

# A codestream says itself how large and deep its picture is. Where the header says otherwise the
# decoder's bytes would be cut into rows of the wrong length, or wrap around.
CONTRADICTIONS = [
    (JPEGLSLossless, {"Rows": 36, "Columns": 40}),
    (JPEG2000Lossless, {"Rows": 36, "Columns": 40}),
    (JPEGBaseline8Bit, {"Rows": 36, "Columns": 40}),
    (JPEGLSLossless, {"Rows": 20, "Columns": 72}),
    (JPEGLSLossless, {"Rows": 41}),
    (JPEG2000Lossless, {"Columns": 35}),
    (RLELossless, {"Rows": 41}),
    (JPEGLSLossless, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}),
    (JPEG2000Lossless, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}),
    (RLELossless, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}),
    (JPEG2000Lossless, {"PixelRepresentation": 1}),
]


@pytest.mark.parametrize(("syntax", "tags"), CONTRADICTIONS)
def test_a_header_that_contradicts_its_codestream_is_refused(
    syntax: str, tags: dict[str, int], tmp_path: Path
) -> None:
    ds = in_syntax(
        dx((picture() >> 4).astype(np.uint8), bits=8) if syntax == JPEGBaseline8Bit else dx(),
        syntax,
    )
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    with pytest.raises(FailedImage) as caught:
        read.read_dicom(write(ds, tmp_path / "image.dcm").read_bytes())
    assert caught.value.reason in ("decode", "pixel_module")


def test_a_codestream_that_claims_more_pixels_is_not_allocated(tmp_path: Path) -> None:
    """3 kB that claim 8192 x 8192 16-bit pixels; 65,000 a side would be 8 GB."""
    data = in_syntax(dx(), JPEGLSLossless).PixelData
    data = data[data.index(b"\xff\xd8") :]
    sof = data.index(b"\xff\xf7") + 5
    claimed = data[:sof] + (8192).to_bytes(2, "big") * 2 + data[sof + 4 :]
    path = write(codestream(dx(), claimed, JPEGLSLossless), tmp_path / "bomb.dcm")
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from tier_infer.dicom.read import read_dicom; from tier_infer.errors import FailedImage\n"
        "import jpeg_ls, PIL.Image\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before = peak()\n"
        "try: read_dicom(Path(sys.argv[1]).read_bytes())\n"
        "except FailedImage: print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True)
    assert int(done.stdout) < 64  # MiB


def deflated_bomb(folder: Path) -> bytes:
    """4 MiB of zeros in 5 kB, behind a header that is in order."""
    ds = dx(PixelData=bytes(4 * 2**20))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return write(ds, folder / "bomb.dcm").read_bytes()


GROUP_LENGTH = {
    "right": lambda data: data,
    "one too long": lambda data: data[:140] + struct.pack("<I", data[140] + 1) + data[144:],
    "too short": lambda data: data[:140] + struct.pack("<I", data[140] - 6) + data[144:],
    "missing": lambda data: data[:132] + data[144:],
}


@pytest.mark.parametrize("lie", GROUP_LENGTH.values(), ids=GROUP_LENGTH)
def test_a_deflate_bomb_is_refused_unopened(
    lie: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The length of the meta group is the file's word; the cap must not depend on it."""
    monkeypatch.setattr(read, "MAX_INFLATED_BYTES", 2**20)
    said = outcome(tmp_path / "bomb.dcm", lie(deflated_bomb(tmp_path)))
    assert said.startswith("too_large")


def test_a_file_over_the_limit_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 1000)
    data = write(dx(), tmp_path / "a.dcm").read_bytes()
    assert outcome(tmp_path / "a.dcm", data).startswith("too_large")


@pytest.mark.parametrize("depth", [50, 500, 5000])
def test_nested_sequences_are_refused(depth: int, tmp_path: Path) -> None:
    whole = write(dx(), tmp_path / "a.dcm").read_bytes()
    at = whole.index(b"\xe0\x7f\x10\x00")
    start = b"\x28\x00\x00\x30SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    said = outcome(tmp_path / "a.dcm", whole[:at] + start * depth + end * depth + whole[at:])
    assert said.startswith(("modality_lut", "unreadable", "bad_value"))
