"""python -m pytest tests/infer/test_upright.py -- mirrored, turned and stretched pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.infer.dicom_files import dx, film, told, write
from tier_infer.dicom.upright import MAX_STRETCH, Pose, read_pose
from tier_infer.errors import FailedImage
from tier_infer.images import load_image

Array = NDArray[Any]
Turn = Callable[[Array], Array]
# PatientOrientation (where a row runs to, where a column runs to): how such a picture comes about
# from one that runs to the left and to the feet, C.7.6.1.1.1
STORED: dict[tuple[str, str], Turn] = {
    ("L", "F"): lambda a: a,
    ("R", "F"): np.fliplr,
    ("L", "H"): np.flipud,
    ("R", "H"): lambda a: np.rot90(a, 2),
    ("F", "L"): np.transpose,
    ("H", "L"): lambda a: np.rot90(a, -1),
    ("F", "R"): np.rot90,
    ("H", "R"): lambda a: np.rot90(np.transpose(a), 2),
}
UPRIGHT = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7)


@pytest.mark.parametrize("orientation", STORED, ids="".join)
def test_all_eight_orientations_come_upright(orientation: tuple[str, str]) -> None:
    pose = read_pose(dx(PatientOrientation=list(orientation)), "PA")
    stored = STORED[orientation](UPRIGHT)
    assert np.array_equal(pose.apply(stored), UPRIGHT)
    assert pose.apply(stored).flags["C_CONTIGUOUS"]
    assert np.array_equal(pose.roughly(stored.astype(np.int32)), UPRIGHT)
    assert pose.flags == ([] if orientation == ("L", "F") else ["oriented"])


@pytest.mark.parametrize("orientation", STORED, ids="".join)
@pytest.mark.parametrize("preset", ["minmax", "mimic-jpg", "voi"])
def test_a_turned_film_scores_as_the_upright_one(
    preset: str, orientation: tuple[str, str], tmp_path: Path
) -> None:
    plain = load_image(write(dx(film()), tmp_path / "a.dcm"), preset, display=True)
    ds = dx(np.ascontiguousarray(STORED[orientation](film())))
    ds.PatientOrientation = list(orientation)
    image = load_image(write(ds, tmp_path / "b.dcm"), preset, display=True)
    assert np.array_equal(image.grey, plain.grey)
    assert image.display is not None
    assert plain.display is not None
    assert np.array_equal(image.display, plain.display)
    assert told(image.flags) - {"oriented"} == told(plain.flags)
    assert "rotation_suspect" not in image.flags  # the content is looked at upright


@pytest.mark.parametrize("finer", [("LPF", "FA"), ("LF", "FR"), (" l", "f ")])
def test_only_the_main_direction_counts(finer: tuple[str, str]) -> None:
    assert read_pose(dx(PatientOrientation=list(finer)), "PA") == Pose()


@pytest.mark.parametrize(
    ("orientation", "view", "flags"),
    [
        (("A", "F"), "lateral", []),
        (("P", "F"), "lateral", []),
        (("A", "H"), "lateral", ["oriented"]),
        (("F", "P"), "lateral", ["oriented"]),
        (("A", "F"), "oblique", []),
        (("R", "F"), "oblique", ["oriented"]),
        (("L", "F"), "unknown", []),
    ],
)
def test_laterals_may_face_either_way(
    orientation: tuple[str, str], view: str, flags: list[str]
) -> None:
    """Left and right laterals differ in nothing but that; feet come down all the same."""
    assert read_pose(dx(PatientOrientation=list(orientation)), view).flags == flags


@pytest.mark.parametrize(
    ("orientation", "view"),
    [
        (("A", "F"), "PA"),
        (("P", "F"), "AP"),
        (("A", "F"), "unknown"),
        (("L", "F"), "lateral"),
        (("L", "A"), "PA"),  # seen from above
        (("L", "L"), "PA"),
        (("L", "R"), "PA"),
        (("F", "F"), "PA"),
        (("F", "H"), "PA"),
        (("A", "P"), "lateral"),
        (("X", "F"), "PA"),
        (("L",), "PA"),
        (("L", "F", "A"), "PA"),
        (("L", ""), "PA"),
    ],
)
def test_what_no_standing_patient_looks_like_is_refused(
    orientation: tuple[str, ...], view: str
) -> None:
    with pytest.raises(FailedImage, match=r"\(0020,0020\) PatientOrientation") as caught:
        read_pose(dx(PatientOrientation=list(orientation)), view)
    assert caught.value.reason == "orientation"


@pytest.mark.parametrize("orientation", ["", None, ["", ""]])
def test_nothing_said_is_left_as_it_is(orientation: Any) -> None:
    """Type 2C: devices write one empty value, two, or none."""
    assert read_pose(dx(PatientOrientation=orientation), "PA") == Pose()


ASPECTS: list[tuple[dict[str, Any], float]] = [
    ({"PixelAspectRatio": [1, 1]}, 1.0),
    ({"PixelAspectRatio": [2, 1]}, 2.0),  # vertical \ horizontal, C.7.6.3.1.7
    ({"PixelAspectRatio": [1, 2]}, 0.5),
    ({"PixelAspectRatio": [4, 1]}, MAX_STRETCH),
    ({"PixelSpacing": ["0.3", "0.2"]}, 1.5),  # between rows \ between columns, 10.7.1.3
    ({"ImagerPixelSpacing": ["0.2", "0.3"]}, 2 / 3),
    ({"NominalScannedPixelSpacing": ["0.4", "0.2"]}, 2.0),
    ({"PixelSpacing": ["0.143", "0.1432"]}, 1.0),  # few digits
    ({"PixelSpacing": ["0", "0"]}, 1.0),  # a device that knows none
    ({"PixelSpacing": ["0", "0"], "ImagerPixelSpacing": ["0.3", "0.2"]}, 1.5),
    ({"PixelAspectRatio": [3, 2], "PixelSpacing": ["0.3", "0.201"]}, 1.5),  # rounded otherwise
]


@pytest.mark.parametrize(("tags", "ratio"), ASPECTS, ids=[repr(tags) for tags, _ in ASPECTS])
def test_the_shape_of_a_pixel(tags: dict[str, Any], ratio: float) -> None:
    pose = read_pose(dx(**tags), "PA")
    assert pose.row_to_column == pytest.approx(ratio)
    assert pose.flags == (["aspect_resampled"] if ratio != 1 else [])


@pytest.mark.parametrize(
    "tags",
    [
        {"PixelAspectRatio": [1, 1], "PixelSpacing": ["0.3", "0.2"]},
        {"PixelSpacing": ["0.2", "0.2"], "ImagerPixelSpacing": ["0.3", "0.2"]},
        {"PixelAspectRatio": [5, 1]},
        {"PixelAspectRatio": [1, 5]},
        {"PixelAspectRatio": [0, 0]},
        {"PixelAspectRatio": [-1, -1]},
        {"PixelAspectRatio": [1]},
        {"PixelSpacing": ["1", "0.1"]},
        {"PixelSpacing": ["0.2"]},
        {"PixelSpacing": ["0.2", "0"]},
    ],
    ids=repr,
)
def test_an_impossible_shape_is_refused(tags: dict[str, Any]) -> None:
    with pytest.raises(FailedImage, match=r"two positive numbers|contradict") as caught:
        read_pose(dx(**tags), "PA")
    assert caught.value.reason == "pixel_aspect"


@pytest.mark.parametrize("ratio", [0.25, 0.4, 0.5, 2 / 3, 1.5, 2.0, 2.5, 4.0])
def test_pixels_become_square_by_enlarging_alone(ratio: float) -> None:
    """A disc that was squeezed into rows or columns is a disc again."""
    y, x = np.mgrid[:120, :120]
    disc = (np.hypot(y - 59.5, x - 59.5) < 40).astype(np.uint8) * 255
    rows = np.round(np.arange(0, 119.5, max(ratio, 1.0))).astype(int)
    columns = np.round(np.arange(0, 119.5, max(1 / ratio, 1.0))).astype(int)
    squeezed = disc[np.ix_(rows, columns)]
    pose = Pose(row_to_column=ratio)
    for shown in (pose.apply(squeezed), pose.roughly(squeezed.astype(np.int32))):
        assert abs(shown.shape[0] - 120) <= 4
        assert abs(shown.shape[1] - 120) <= 4
        down, across = (np.ptp(np.flatnonzero((shown > 127).any(axis=axis))) for axis in (1, 0))
        assert abs(int(down) - int(across)) <= 6
        assert min(shown.shape) >= min(squeezed.shape)


@pytest.mark.parametrize("orientation", [("F", "L"), ("H", "R")], ids="".join)
def test_stretched_as_stored_then_turned(orientation: tuple[str, str]) -> None:
    """Rows of a file that lies on its side are columns of the upright picture."""
    ds = dx(PatientOrientation=list(orientation), PixelAspectRatio=[2, 1])
    pose = read_pose(ds, "PA")
    assert pose.flags == ["oriented", "aspect_resampled"]
    assert pose.apply(np.zeros((10, 30), np.uint8)).shape == (30, 20)
    assert pose.roughly(np.zeros((10, 30), np.int32)).shape == (30, 20)


def test_values_of_any_depth_are_never_mixed_by_the_rough_pose() -> None:
    stored = np.array([[-32768, 70000], [3, 4]], np.int32)
    shown = Pose(row_to_column=1.5).roughly(stored)
    assert shown.dtype == np.int32
    assert set(shown.ravel()) == set(stored.ravel())
