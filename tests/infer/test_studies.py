"""python -m pytest tests/infer/test_studies.py -- which images belong together, and which count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tier_infer.scoring import ImageResult
from tier_infer.studies import group_studies, is_counted

NUMBERS = iter(range(10_000))


def image(z: float = 0.5, **fields: Any) -> ImageResult:
    """A scored PA image of study 1.2, patient p; its own instance, its own picture."""
    number = next(NUMBERS)
    unlike = {"instance_key": f"1.2.{number}", "digest": f"d{number}"}
    known = {"study_key": "1.2", "patient_key": "p", "view": "PA", "scores": {"edema": z}}
    return ImageResult(f"{number}.dcm", **(known | unlike | fields))


def refused(status: str = "failed", **fields: Any) -> ImageResult:
    return image(status=status, reason="decode", message="broken", scores={}, **fields)


def test_grouped_by_study_in_the_order_of_appearance() -> None:
    a, b, c, d = image(), image(study_key="9"), image(), refused(study_key="9")
    studies = group_studies([a, b, c, d])
    assert [study.id for study in studies] == ["study-1", "study-2"]
    assert [study.images for study in studies] == [[a, c], [b, d]]


def test_a_file_without_study_is_a_study_of_its_own() -> None:
    studies = group_studies([image(study_key=None), image(study_key=None), refused(study_key="")])
    assert [len(study.images) for study in studies] == [1, 1, 1]
    odd = [image(study_key="file 1"), image(study_key=None)]  # no key that a file can forge
    assert len(group_studies([image(study_key=f"FILE {n}") for n in (0, 1)] + odd[1:])) == 3


def test_the_mean_of_what_counts() -> None:
    images = [
        image(0.25),
        image(0.75, view="AP"),
        image(-0.25, view="unknown"),
        image(9.0, view="lateral"),
        refused(),
        refused("not_evaluated", view="oblique"),
    ]
    (study,) = group_studies(images)
    assert study.scores == {"edema": 0.25}
    assert [is_counted(i) for i in images] == [True, True, True, False, False, False]


def test_no_frontal_no_study_score() -> None:
    (study,) = group_studies([image(view="lateral"), refused()])
    assert study.scores == {}
    assert study.images[0].scores == {"edema": 0.5}  # shown, not counted


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_a_copy_is_flagged_and_counts_once(copies: int) -> None:
    first = image(1.0, instance_key="i", digest="d")
    more = [image(1.0, instance_key="i", digest="d") for _ in range(copies)]
    other = image(0.0)
    (study,) = group_studies([first, *more, other])
    assert study.scores == {"edema": 0.5}
    assert first.flags == []
    assert all(i.flags == ["duplicate"] and not is_counted(i) for i in more)
    assert all(i.status == "scored" and i.scores for i in more)


def test_one_picture_under_several_uids_counts_once() -> None:
    """Sent twice with new UIDs, or none; a lateral twin is no copy of a frontal one."""
    for keys in ((None, None, None), ("a", "b", "c")):
        images = [image(1.0, instance_key=key, digest="d") for key in keys]
        other, side = image(0.0, digest="e"), image(0.0, digest="d")
        side.view = "lateral"
        (study,) = group_studies([*images, other, side])
        assert [i.flags for i in images] == [[], ["duplicate"], ["duplicate"]]
        assert side.flags == []
        assert study.scores == {"edema": 0.5}


@pytest.mark.parametrize(
    "difference", [{"digest": "e"}, {"study_key": "9"}], ids=["picture", "study"]
)
def test_one_name_for_two_things_fails_both(difference: dict[str, str]) -> None:
    first = image(instance_key="1.2.77", digest="d", heat=np.zeros((1, 7, 7), np.float32))
    second = image(**({"instance_key": "1.2.77", "digest": "d"} | difference))
    third = image(0.125)
    studies = group_studies([first, second, third])
    for one in (first, second):
        assert (one.status, one.reason, one.scores) == ("failed", "uid_not_unique", {})
        assert one.heat is None
        assert "(0008,0018) SOPInstanceUID" in str(one.message)
        assert "1.2.77" not in str(one.message)
        assert str(one.message) != "i"
    assert studies[0].scores == {"edema": 0.125}


def test_a_copy_of_one_of_two_under_one_name_fails_too() -> None:
    images = [image(instance_key="i", digest=d) for d in ("d", "e", "d")]
    group_studies(images)
    assert [i.reason for i in images] == ["uid_not_unique"] * 3
    assert not any("duplicate" in i.flags for i in images)


def test_what_was_refused_before_is_no_second_thing() -> None:
    """A damaged copy beside the whole file: its reason stays, the whole one is scored."""
    whole, damaged = image(instance_key="i", digest="d"), refused(instance_key="i", digest=None)
    group_studies([damaged, whole])
    assert (whole.status, whole.flags, damaged.reason) == ("scored", [], "decode")


def test_two_patients_in_one_study_fail() -> None:
    images = [image(patient_key="p"), image(patient_key="q"), refused(), image(study_key="9")]
    first, second = group_studies(images)
    assert [i.reason for i in first.images] == ["study_conflict", "study_conflict", "decode"]
    assert "(0010,0020) PatientID" in str(first.images[0].message)
    assert first.scores == {}
    assert second.scores == {"edema": 0.5}


def test_an_unnamed_patient_contradicts_nobody() -> None:
    images = [image(patient_key="p"), image(patient_key=None), image(patient_key="p")]
    (study,) = group_studies(images)
    assert {i.status for i in study.images} == {"scored"}


def test_a_refused_image_of_another_patient_still_contradicts() -> None:
    """It is the study that is in doubt, not the one picture."""
    images = [image(patient_key="p"), refused(patient_key="q")]
    (study,) = group_studies(images)
    assert [i.reason for i in study.images] == ["study_conflict", "decode"]


def test_several_labels_keep_their_order() -> None:
    images = [image(scores={"b": 1.0, "a": 0.0}), image(scores={"b": 0.0, "a": 1.0})]
    (study,) = group_studies(images)
    assert list(study.scores.items()) == [("b", 0.5), ("a", 0.5)]


def test_nothing_is_no_study() -> None:
    assert group_studies([]) == []
