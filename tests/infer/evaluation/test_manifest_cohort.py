"""python -m pytest tests/infer/evaluation/test_manifest_cohort.py -- a user's own table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.infer.evaluation.trees import picture
from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import NO_PATIENTS, Cohort
from tier_infer.evaluation.datasets import open_cohort
from tier_infer.evaluation.run import covered

NAN = np.nan
TABLE = """image_path,patient_id,study_id,split,view,text,Edema,lung mass,ward,visits,,seen
a/1.png,p1,s1,train,PA,"Clear, as before.",1,,east,3,0,
a/2.png,p1,s1,test,AP_HORIZONTAL,,0,1.0,east,7,1,
b/3.dcm,,,valid,lateral,Edema.,,0.0,west,9,2,
 ./b/4.jpg ,007,s 3,Test,,,1,1,,0,3,
"""


def read(tmp_path: Path, text: str, split: str | None = None) -> Cohort:
    path = tmp_path / "mine.csv"
    path.write_bytes(text.encode())
    return open_cohort(f"manifest:{path}", split)


@pytest.mark.parametrize("excel", [False, True])
def test_every_column_finds_its_use(tmp_path: Path, excel: bool) -> None:
    """Excel writes a byte order mark and CRLF, and blank rows below."""
    text = "\ufeff" + TABLE.replace("\n", "\r\n") + ",,,,,,,,,,,\r\n" if excel else TABLE
    cohort = read(tmp_path, text)
    assert cohort.name == f"{tmp_path.name}/mine.csv"
    assert cohort.root == tmp_path
    assert cohort.names == ("Edema", "lung mass", "seen")
    assert cohort.labels == ("edema", "lung_mass", "seen")
    np.testing.assert_array_equal(
        cohort.truth, [[1, NAN, NAN], [0, 1, NAN], [NAN, 0, NAN], [1, 1, NAN]]
    )
    assert [case.image_path for case in cohort.cases] == [
        "a/1.png", "a/2.png", "b/3.dcm", "./b/4.jpg",
    ]  # fmt: skip
    assert [case.patient for case in cohort.cases] == ["p1", "p1", "", "7"]
    assert [case.study for case in cohort.cases] == ["s1", "s1", "", "s 3"]
    assert [case.view for case in cohort.cases] == ["frontal", "frontal", "lateral", ""]
    assert [case.line for case in cohort.cases] == [2, 3, 4, 5]
    assert cohort.texts == ("Clear, as before.", "", "Edema.", "")
    assert cohort.groups["ward"] == ("east", "east", "west", "")
    assert cohort.groups["visits"] == ("3", "7", "9", "0")
    assert cohort.groups["folder"] == ("a", "a", "b", "b")
    assert cohort.groups["Edema"] == ("1", "0", "", "1")
    assert not {"patient_id", "study_id", "text", "image_path"} & set(cohort.groups)


def test_a_split_by_any_of_its_names(tmp_path: Path) -> None:
    assert [case.line for case in read(tmp_path, TABLE, "test").cases] == [3, 5]
    assert [case.line for case in read(tmp_path, TABLE, "val").cases] == [4]
    with pytest.raises(UsageError, match="no row with split 'nowhere'; it has test, train, val"):
        read(tmp_path, TABLE, "nowhere")
    with pytest.raises(UsageError, match="has no split column; leave --split out"):
        read(tmp_path, "image_path,edema\na.png,1\n", "test")


def test_a_minimal_table(tmp_path: Path) -> None:
    cohort = read(tmp_path, "image_path,edema\na.png,1\n")
    assert (cohort.texts, cohort.left_out, cohort.split) == ((), {}, "")
    assert cohort.notes == (NO_PATIENTS,)
    (case,) = cohort.cases
    assert (case.patient, case.study, case.view) == ("", "", "")
    assert set(cohort.groups) == {"edema", "folder"}


def test_a_table_without_labels_has_none(tmp_path: Path) -> None:
    cohort = read(tmp_path, "image_path,name\na.png,x\nb.png,1\nc.png,y\n")
    assert (cohort.labels, cohort.truth.shape) == ((), (3, 0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("edema\n1\n", "missing: image_path"),
        ("image_path,edema\n", "missing: rows"),
        ("image_path,edema\na.png\n", "line 2 has not 2 cells"),
        ("image_path,edema,Edema\na.png,1,0\n", "no distinct names"),
        ("image_path,edema,edema\na.png,1,0\n", "two columns called 'edema'"),
        ("image_path;edema\na.png;1\n", "separated by ;"),
        ("image_path,edema\na.png,1\na.png,-1\n", "line 3: edema must be 1, 0 or empty"),
        ("image_path,edema\na.png,1\nb.png,0\nc.png,maybe\n", "line 4: edema must be"),
        ("image_path,edema\na.png,1\n./a.png,0\n", "lines 2 and 3 name the same image"),
        ("image_path,edema\n,1\n", "line 2: image_path is empty"),
        ("image_path,view,edema\na.png,sideways,1\n", "line 2: view is no word for frontal"),
    ],
)
def test_what_could_be_understood_in_two_ways_is_refused(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        read(tmp_path, text)


def test_a_table_of_ones_own_may_point_anywhere(tmp_path: Path) -> None:
    cohort = read(tmp_path, f"image_path,edema\n../a.png,1\n{tmp_path}/b.png,0\n")
    assert [case.image_path for case in cohort.cases] == ["../a.png", f"{tmp_path}/b.png"]
    assert cohort.root / cohort.cases[1].place == tmp_path / "b.png"


def test_what_stands_before_two_dots_may_be_a_link(tmp_path: Path) -> None:
    """link/../a.png is inner/a.png, where link leads to inner/deep."""
    for place in ("a.png", "inner/a.png", "inner/deep/b.png"):
        picture(tmp_path / place)
    (tmp_path / "link").symlink_to(tmp_path / "inner/deep")
    head = "image_path,edema\n"
    cohort = read(tmp_path, f"{head}link/../a.png,1\na.png,0\n")
    there = [(cohort.root / case.place).resolve() for case in cohort.cases]
    assert there == [tmp_path.resolve() / "inner/a.png", tmp_path.resolve() / "a.png"]
    for twin in ("inner/a.png", f"{tmp_path}/inner/a.png", "inner//deep/../a.png"):
        with pytest.raises(UsageError, match="lines 2 and 3 name the same image"):
            read(tmp_path, f"{head}link/../a.png,1\n{twin},0\n")


def test_a_twin_in_another_split_is_refused(tmp_path: Path) -> None:
    text = "image_path,split,edema\n./a.png,val,1\na.png,test,1\nb.png,test,0\n"
    with pytest.raises(UsageError, match="lines 2 and 3 name the same image"):
        read(tmp_path, text, "test")


def test_a_patient_has_one_spelling(tmp_path: Path) -> None:
    """As in training: a spreadsheet makes 7 or 7.0 of 007."""
    ids = ("007", "7", "7.0", "70", "Jo-1", "JO-1")
    rows = "".join(f"{i}.png,{who},1\n" for i, who in enumerate(ids))
    cohort = read(tmp_path, f"image_path,patient_id,edema\n{rows}")
    assert [case.patient for case in cohort.cases] == ["7", "7", "7", "70", "jo-1", "jo-1"]


@pytest.mark.parametrize("word", ["nan", "NaN", "N/A", "NULL", "none", "<NA>", "unknown"])
@pytest.mark.parametrize("column", ["patient_id", "study_id"])
def test_a_word_for_a_missing_id_is_no_id(tmp_path: Path, word: str, column: str) -> None:
    with pytest.raises(UsageError, match=f"line 3: {column} is a word for a missing one"):
        read(tmp_path, f"image_path,{column},edema\na.png,1,1\nb.png,{word},0\n")


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        *((name, "patient_id") for name in
          ("patient", "PatientID", "Patient ID", "patient_number", "subject_id", "MRN",
           "Anonymized Patient ID", "medical_record_number", "PID", "participant")),
        *((name, "study_id") for name in
          ("study", "StudyID", "study_instance_uid", "StudyInstanceUID", "accession",
           "Accession Number", "exam_id")),
    ],
)  # fmt: skip
def test_an_id_under_another_name_is_refused(tmp_path: Path, column: str, unit: str) -> None:
    """As a label it would be asked, as a group printed, and intervals would not know of it."""
    with pytest.raises(UsageError, match=f"'{column}' seems to name .*; call it {unit}, or leave"):
        read(tmp_path, f"image_path,{column},edema\na.png,1,1\nb.png,0,0\n")
    text = f"image_path,{unit},{column},edema\na.png,5,1,1\nb.png,6,0,0\n"
    cohort = read(tmp_path, text)
    assert cohort.labels == ("edema",)
    assert set(cohort.groups) == {"edema", "folder"}


@pytest.mark.parametrize(
    "column", ["study_date", "StudyDate", "birth_date", "Year of birth", "DOB", "AcquisitionTime",
               "SeriesInstanceUID", "dicom_id", "date"],
)  # fmt: skip
def test_dates_and_other_ids_are_no_groups(tmp_path: Path, column: str) -> None:
    cohort = read(tmp_path, f"image_path,{column},edema\na.png,1,1\nb.png,0,0\n")
    assert cohort.labels == ("edema",)
    assert set(cohort.groups) == {"edema", "folder"}


@pytest.mark.parametrize(
    "column", ["pleural fluid", "patient_sex", "Patient Age Group", "study_type", "update",
               "visits", "candidate", "rapid", "scanner"],
)  # fmt: skip
def test_a_name_that_only_looks_like_an_id_is_free(tmp_path: Path, column: str) -> None:
    cohort = read(tmp_path, f"image_path,{column},edema\na.png,1,1\nb.png,0,0\n")
    assert column in cohort.names
    assert column in cohort.groups


@pytest.mark.parametrize(
    ("cells", "line"),
    [(("True", "False", "True"), 2), (("", "1", "-1", "-1", "-1"), 4), (("nan", "nan", "1"), 2)],
)
def test_a_column_that_would_be_asked_is_not_dropped_silently(
    tmp_path: Path, cells: tuple[str, ...], line: int
) -> None:
    rows = "".join(f"{i}.png,{cell},{i % 2}\n" for i, cell in enumerate(cells))
    cohort = read(tmp_path, f"image_path,Edema,mass\n{rows}")
    assert cohort.labels == ("mass",)
    assert covered(cohort, ["mass", "nodule"]) == ["mass"]
    words = f"mine.csv line {line}: edema must be 1, 0 or empty"
    with pytest.raises(UsageError, match=words):
        covered(cohort, ["mass", "edema"])
    with pytest.raises(UsageError, match=words):
        cohort.truth_of("edema")


def test_the_odd_cell_counts_in_every_split(tmp_path: Path) -> None:
    """A column is a label in all splits or in none."""
    text = "image_path,split,edema\na.png,test,1\nb.png,test,0\nc.png,train,x\n"
    with pytest.raises(UsageError, match="line 4: edema must be"):
        read(tmp_path, text, "test")
