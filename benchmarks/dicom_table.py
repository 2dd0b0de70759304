"""Each file of a folder of DICOM test files under each preset: scored, flagged or refused.

    python -m benchmarks.dicom_table ../shared/data/dicom [OUT.csv]

The folder has an index.csv (file, expectation, ...). `derived/` holds one film in many encodings:
each picture is compared with what the formulas of PS3.3 make of the stored values of d_00. `other/`
holds what a chest X-ray reader must refuse. Exit 1 on a crash, a hang or a wrong picture.
"""

from __future__ import annotations

import csv
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from tests.infer.encodings.base import Case, Float
from tests.infer.encodings.reference import PRESETS, difference, expected, small
from tier_infer.errors import RefusedImage
from tier_infer.images import load_image
from tier_infer.radiograph import Radiograph

SECONDS = 20  # for one file; beyond it is a hang
BASE = "derived/d_00_base_explicit_le.dcm"
TWIN, FAKE = "cxr/rsna_chest_pa_mono2_jpeg_baseline.dcm", "cxr/rsna_chest_pa_fake_mono1.dcm"
PAIR = "cxr/rg1_chest_pa_mono1_j2k_lossy.dcm", "cxr/rg1_chest_pa_mono1_jpegls_near.dcm"
CLOSE = 0.01 * 255  # mean grey levels at 224 x 224 between two lossy copies of one exposure
LOSSY = {"d_06": 0.6, "d_08": 1.6, "d_19": 1.6}  # mean grey levels, three times after equalising
REFUSED = {  # of derived/: what must be answered, under every preset or under `voi` alone
    "d_12": "multi_frame", "d_30": "photometric", "d_31": "pixel_module", "d_32": "no_pixels",
    "d_34": "truncated", "d_35": "truncated", "d_37": "constant_image",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    file: str
    preset: str
    outcome: str  # scored, flagged, refused; crash, hang
    reason: str
    flags: str
    check: str  # what the picture was compared with, and how far off it is
    problem: str  # empty, or what is wrong
    seconds: float


class _Hang(Exception):
    pass


def judge(folder: Path) -> list[Row]:
    """One row for every file of index.csv and every preset."""
    with (folder / "index.csv").open(newline="") as file:
        names = [row["file"] for row in csv.DictReader(file)]
    stored = pydicom.dcmread(folder / BASE).pixel_array.astype(np.float64)
    return [row for preset in PRESETS for row in _rows(folder, names, preset, stored)]


def _rows(folder: Path, names: list[str], preset: str, stored: Float) -> Iterator[Row]:
    pictures: dict[str, Radiograph] = {}
    for name in names:
        started = time.monotonic()
        answer = _read(folder / name, preset)
        seconds = time.monotonic() - started
        if isinstance(answer, Radiograph):
            pictures[name] = answer
            check, problem = _check(name, preset, answer, stored, pictures)
            outcome = "flagged" if answer.flags else "scored"
            yield Row(name, preset, outcome, "", " ".join(answer.flags), check, problem, seconds)
            continue
        outcome, reason = answer
        want = _must_refuse(name, preset)
        if outcome != "refused":
            problem = f"{outcome}: {reason}"
        elif want == "picture":
            problem = f"refused ({reason}) although it can be rendered"
        else:
            problem = "" if want in ("", reason) else f"refused, but not as {want}"
        yield Row(name, preset, outcome, reason, "", "", problem, seconds)


def _read(path: Path, preset: str) -> Radiograph | tuple[str, str]:
    def alarm(number: int, frame: FrameType | None) -> None:
        raise _Hang

    before = signal.signal(signal.SIGALRM, alarm)
    signal.alarm(SECONDS)
    try:
        return load_image(path, preset)
    except RefusedImage as refusal:
        return "refused", refusal.reason
    except _Hang:
        return "hang", f"over {SECONDS} s"
    except Exception as error:  # what must never happen is what this looks for
        return "crash", type(error).__name__
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _must_refuse(name: str, preset: str) -> str:
    """The reason wanted; 'picture' if the file must not be refused, empty if any reason does."""
    key = Path(name).name[:4]
    if key in REFUSED:
        return REFUSED[key]
    if key == "d_38" and preset == "voi":
        return "window"
    return "" if name.startswith("other/") else "picture"


def _check(
    name: str, preset: str, image: Radiograph, stored: Float, pictures: dict[str, Radiograph]
) -> tuple[str, str]:
    """What the picture was compared with; the second is empty if it agrees."""
    if _must_refuse(name, preset) != "picture":
        return "", "scored, although it must be refused"
    if name.startswith("derived/"):
        return _against_formula(Path(name).name[:4], preset, image.grey, stored)
    if name in (TWIN, FAKE):
        return _against_twin(preset, pictures)
    if name == PAIR[1]:
        mean = float(np.abs(small(image.grey) - small(pictures[PAIR[0]].grey)).mean())
        problem = "" if mean <= CLOSE * (3 if preset.endswith("jpg") else 1) else "pair disagrees"
        return f"its J2K copy, mean {mean:.2f} of 255", problem
    return "", ""


def _against_formula(
    key: str, preset: str, grey: NDArray[np.uint8], stored: Float
) -> tuple[str, str]:
    want = expected(_case(key, stored), preset)
    mean, most = difference(grey, want)
    if key in LOSSY:
        bound = LOSSY[key] * (3 if preset.endswith("jpg") else 1)
        return f"d_00, mean {mean:.3f} of at most {bound:.1f}", "" if mean <= bound else "wrong"
    # One level is rounding of the 8 bits a file holds itself, or of the display
    allowed = 1 if key in ("d_18", "d_20") or preset == "voi" else 0
    told = "exactly" if most == 0 else f"up to {most} of 255"
    return f"formula on d_00, {told}", "" if most <= allowed else "wrong picture"


def _case(key: str, v: Float) -> Case:
    """What the encodings of the derived films show, worked out from the stored values of d_00."""
    about: dict[str, Any] = {"shown": v / 4095, "values": v}
    if key == "d_09":
        shown = 1 - ((4095 - v - 2046.5) / 4095 + 0.5).clip(0, 1)  # window 2047 / 4096
        about = {"shown": shown, "values": 4095 - v, "inverted": True}
    elif key == "d_11":  # slope 0.5, intercept -100, window 924 / 2048
        about["shown"] = ((v * 0.5 - 100 - 923.5) / 2047 + 0.5).clip(0, 1)
    elif key == "d_13":  # no window: the range that occurs
        about["shown"] = v / v.max()
    elif key == "d_15":
        about["shown"] = 1 / (1 + np.exp(-4 * (v - 2048) / 4096))
    elif key == "d_16":
        padding = np.zeros(v.shape, bool)
        padding[:40] = padding[-40:] = True
        about |= {"padding": padding, "shown": np.where(padding, 0, v / 4095)}
    elif key in ("d_18", "d_19", "d_20"):  # 8 bits; the last has no window: the range that occurs
        eight = np.floor(v / 16)
        about = {"shown": eight / (eight.max() if key == "d_20" else 255), "values": eight}
    return Case(key, b"", **about)


def _against_twin(preset: str, pictures: dict[str, Radiograph]) -> tuple[str, str]:
    """The same pixels, once called MONOCHROME1: the inverse, and it must look suspicious."""
    if TWIN not in pictures or FAKE not in pictures:
        return "", ""
    inverse = 255 - pictures[TWIN].grey
    suspect = "polarity_suspect" in pictures[FAKE].flags
    problem = "" if suspect else "false polarity not flagged"
    if "polarity_suspect" in pictures[TWIN].flags:
        problem = "right polarity flagged"
    if preset.endswith("jpg"):  # equalised after the inversion
        return "", problem
    _, most = difference(pictures[FAKE].grey, inverse)
    allowed = int(preset == "voi")  # which rounds halves to even
    inverse_ok = "" if most <= allowed else "not the inverse"
    return f"255 - its twin, up to {most} off", problem or inverse_ok


def main(folder: str, out: str = "") -> int:
    rows = judge(Path(folder))
    if out:
        with open(out, "w", newline="") as file:
            writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
            writer.writeheader()
            writer.writerows({**asdict(row), "seconds": f"{row.seconds:.3f}"} for row in rows)
    for name in dict.fromkeys(row.file for row in rows):
        of = {row.preset: row for row in rows if row.file == name}
        answers = dict.fromkeys(f"{r.outcome} {r.reason or r.flags}".strip() for r in of.values())
        print(f"{name:<50} {' | '.join(answers)}")
    print()
    for preset in PRESETS:
        counts = Counter(row.outcome for row in rows if row.preset == preset)
        print(f"{preset:<13} {', '.join(f'{n} {what}' for what, n in sorted(counts.items()))}")
    wrong = [row for row in rows if row.problem]
    for row in wrong:
        print(f"WRONG {row.file} {row.preset}: {row.problem} [{row.check}]")
    slowest = max(rows, key=lambda row: row.seconds)
    print(
        f"{len(rows)} answers, {len(wrong)} wrong; slowest {slowest.seconds:.2f} s {slowest.file}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
