"""From images to studies: which belong together, which count, what the study's score is.

Identity is checked across the whole run: the same object twice, two objects under one name, or
two patients in one study are things a score must not hide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tier_infer.scores import mean_of
from tier_infer.scoring import ImageResult

OTHERS = "other-files"


@dataclass
class StudyResult:
    id: str  # a pseudonym: order of appearance in this run
    images: list[ImageResult]
    scores: Mapping[str, float]


def group_studies(results: Iterable[ImageResult]) -> list[StudyResult]:
    """By StudyInstanceUID, in order of appearance; a scored file without one is a study of its own.
    Files without a score that belong to no study come last, together."""
    images = list(results)
    _check_instances(images)
    groups: dict[str, list[ImageResult]] = {}
    others: list[ImageResult] = []
    for number, image in enumerate(images):
        if image.study_key is None and image.status != "scored":
            others.append(image)
        else:
            groups.setdefault(image.study_key or f"file {number}", []).append(image)
    for members in groups.values():
        _check_patient(members)
        _flag_copies(members)
    studies = [
        StudyResult(f"study-{number}", members, study_scores(members))
        for number, members in enumerate(groups.values(), start=1)
    ]
    return studies + ([StudyResult(OTHERS, others, {})] if others else [])


def _check_instances(images: list[ImageResult]) -> None:
    """One SOPInstanceUID names one object (PS3.5 section 9): a copy is flagged and counts once;
    different pictures under one UID are refused, for nobody can tell which one is meant."""
    by_instance: dict[str, list[ImageResult]] = {}
    for image in images:
        if image.instance_key and image.status == "scored":
            by_instance.setdefault(image.instance_key, []).append(image)
    for same in by_instance.values():
        told = {(i.digest, i.study_key, i.patient_key, i.view) for i in same}
        if len(told) > 1:
            for image in same:
                image.refuse(
                    "failed",
                    "uid_not_unique",
                    "another file of this run has the same (0008,0018) SOPInstanceUID and another "
                    "picture, view, patient or study; which one is right can't be known",
                )
        else:
            for image in same[1:]:
                image.flags.append("duplicate")


def _flag_copies(members: list[ImageResult]) -> None:
    """One picture sent twice under different UIDs counts once, too."""
    seen: set[tuple[str | None, str]] = set()
    for image in members:
        if image.status != "scored":
            continue
        if (image.digest, image.view) in seen and "duplicate" not in image.flags:
            image.flags.append("duplicate")
        seen.add((image.digest, image.view))


def _check_patient(members: list[ImageResult]) -> None:
    if len({image.patient_key for image in members if image.patient_key}) <= 1:
        return
    for image in members:
        if image.status == "scored":
            image.refuse(
                "failed",
                "study_conflict",
                "the study's files name different patients in (0010,0020) PatientID",
            )


def is_counted(image: ImageResult) -> bool:
    """Scored and frontal, an unknown view counting as frontal (it carries a flag); no copy."""
    return image.status == "scored" and image.view != "lateral" and "duplicate" not in image.flags


def study_scores(images: list[ImageResult]) -> Mapping[str, float]:
    """Mean of Z over the images that count; none when there is none."""
    counted = [image for image in images if is_counted(image)]
    if not counted:
        return {}
    return mean_of([image.scores for image in counted])
