"""Columns of a user's table that tell who somebody is, by the names that such columns have.

They are no findings and no groups, and a patient's number under another name than patient_id would
make every image a patient of its own.
"""

from __future__ import annotations

import re

from tier_infer.label_sets import column_id

NUMBER = "(id|ids|nr|no|num|number|code|key|uid|instanceuid|hash|name|identifier|pseudonym)"
PATIENT = re.compile(
    f"((anon|anonymi[sz]ed|deid|hashed|pseudo)?(patient|subject|person|participant){NUMBER}*"
    f"|pt{NUMBER}+|pid|mrn|empi|medicalrecord{NUMBER}*)"
)
STUDY = re.compile(
    f"(study|accession){NUMBER}*|(exam|examination|encounter|visit|admission|order){NUMBER}+|hadmid"
)
DATE = re.compile("(study|series|acquisition|content|exam|scan|admission)(date|time|datetime)")
BIRTH = "birth", "birthdate", "birthday", "birthyear", "dob"
SECRET_WORDS = {"date", "datetime", "timestamp", "uid", *BIRTH}
NO_ID = {"nan", "n/a", "na", "<na>", "nat", "null", "none", "nil", "unknown", "-", "?"}


def unit_of(column: str) -> str:
    """patient_id or study_id where the column is one by its name, else ""."""
    name = _compact(column)
    return "patient_id" if PATIENT.fullmatch(name) else "study_id" if STUDY.fullmatch(name) else ""


def is_secret(column: str) -> bool:
    """An id of any kind, or a date: never the name of a label or a group."""
    words = column_id(re.sub("(?<=[a-z])(?=[A-Z])", "_", column)).split("_")
    name = _compact(column)
    return bool(
        unit_of(column)
        or DATE.fullmatch(name)
        or name.endswith(("instanceuid", "dicomid"))
        or SECRET_WORDS & set(words)
    )


def names_nobody(cell: str) -> bool:
    """What programs write where an id is missing: taken for an id, it would make one of many."""
    return cell.strip().lower() in NO_ID


def _compact(column: str) -> str:
    return column_id(column).replace("_", "")
