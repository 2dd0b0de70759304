"""python -m pytest tests/train/test_mimic.py -- the stock tree reads to exactly the right pairs."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest
from sklearn.model_selection import GroupShuffleSplit

from tests.train.mimic_tree import LABELS, STUDIES, Study, plain, write_table, write_tree
from tier_infer.errors import UsageError
from tier_train.data.dataset import Dataset
from tier_train.data.datasets import open_dataset
from tier_train.data.mimic import EMPTY, NO_LABELS, NO_REPORT, read_mimic
from tier_train.recipe import Recipe

RECIPE = Recipe()
ALL = STUDIES + plain(30)
OUT = {"mimic": 2, "tier": 2, "chexzero": 1}  # empty impressions, by hand


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("mimic") / "root", ALL, pictures=False)


def _read(root: Path, **keys: object) -> Dataset:
    return read_mimic(root, replace(RECIPE, **keys))[0]  # type: ignore[arg-type]


def _by_patient(dataset: Dataset) -> dict[str, str]:
    assert all(row.patient for row in dataset.rows)
    splits = {row.patient: row.split for row in dataset.rows}
    assert all(row.split == splits[row.patient] for row in dataset.rows), "patient-disjoint"
    return splits


@pytest.mark.parametrize("rules", ["mimic", "tier", "chexzero"])
def test_the_tree_reads_to_exactly_the_expected_pairs(tree: Path, rules: str) -> None:
    dataset, tally = read_mimic(tree, replace(RECIPE, impressions=rules))
    expected, line = [], 1
    for study in ALL:
        for i, view in enumerate(study.views):
            line += 1
            text = getattr(study, rules)
            if text and study.report and study.labels is not None:
                path = f"files/{study.folder()}/s{study.number}/{study.dicom(i)}.jpg"
                known = {k: int(float(v)) for k, v in study.labels.items() if float(v) >= 0}
                side = "frontal" if view in ("AP", "PA") else "lateral"
                expected.append((path, text, known, line, str(study.subject), side))
    found = [(r.image_path, r.text, r.labels, r.number, r.patient, r.view) for r in dataset.rows]
    assert found == expected
    assert tally.counts == {NO_LABELS: 1, NO_REPORT: 1, EMPTY: OUT[rules]}
    assert tally.first == {NO_LABELS: 9, NO_REPORT: 4, EMPTY: 5}
    assert dataset.notes[0] == "left out, no row in the chexpert table: 1 (first: line 9)"
    assert dataset.label_columns == LABELS
    assert (dataset.kind, dataset.intensity) == ("mimic", "mimic-jpg")
    assert dataset.views == ("frontal", "lateral")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("layout", ["no files/", "beside", "second root"])
def test_every_layout_gives_the_same_pairs(
    tree: Path, tmp_path: Path, layout: str, packed: bool
) -> None:
    reports = tmp_path / "reports" if layout == "second root" else None
    root = write_tree(
        tmp_path / "root",
        ALL,
        packed=packed,
        files=layout != "no files/",
        beside=layout == "beside",
        reports=reports,
        pictures=False,
    )
    spec = f"mimic:{root}" + (f",reports={reports}" if reports else "")
    found = open_dataset(spec, RECIPE).rows
    inner = "" if layout == "no files/" else "files/"
    for row, same in zip(found, _read(tree).rows, strict=True):
        assert row == replace(same, image_path=same.image_path.replace("files/", inner))


def test_frontal_only_leaves_laterals_out(tree: Path) -> None:
    dataset, tally = read_mimic(tree, replace(RECIPE, views="frontal"))
    assert dataset.views == ("frontal",)
    assert {row.view for row in dataset.rows} == {"frontal"}
    assert tally.counts["lateral view"] == 3  # of two views, lateral only, no view
    both = {(row.number, row.split) for row in _read(tree).rows}
    assert {(row.number, row.split) for row in dataset.rows} <= both, "nobody changes sides"


def test_patients_are_held_out_by_the_seed(tree: Path) -> None:
    splits = _by_patient(_read(tree))
    assert set(splits.values()) == {"train", "val"}
    labelled = {study.subject for study in ALL if study.labels is not None}  # 37: 4 are held out
    held_out = sum(split == "val" for split in splits.values())
    assert 4 - (len(labelled) - len(splits)) <= held_out <= 4, "but for those without a text"
    assert _by_patient(_read(tree)) == splits
    assert _by_patient(_read(tree, split_seed=1)) != splits
    other_text = _by_patient(_read(tree, impressions="chexzero"))
    assert {p: other_text[p] for p in splits} == splits, "the text decides nothing"


@pytest.mark.parametrize("count", [1, 7, 40, 103])
@pytest.mark.parametrize("views", ["all", "frontal"])
def test_the_released_split_is_scikit_learns(tmp_path: Path, count: int, views: str) -> None:
    """As the released code calls it: on the rows that have labels, before texts are read."""
    studies = STUDIES + plain(count)[::-1]
    root = write_tree(tmp_path / "root", studies, pictures=False)
    dataset = _read(root, split_by="released_code", views=views)
    rows = [
        study.subject
        for study in studies
        for view in study.views
        if study.labels is not None and (views == "all" or view in ("AP", "PA"))
    ]
    splitter = GroupShuffleSplit(test_size=0.1, n_splits=1, random_state=1)
    _, val = next(splitter.split(rows, groups=rows))
    held_out = {str(rows[i]) for i in val}
    for patient, split in _by_patient(dataset).items():
        assert (split == "val") == (patient in held_out)


def test_the_official_split_is_the_tables(tree: Path) -> None:
    names = {"train": "train", "validate": "val", "test": "test"}
    published = {str(study.subject): names[study.split] for study in ALL}
    splits = _by_patient(_read(tree, split_by="official"))
    assert set(splits.values()) == {"train", "val", "test"}
    assert splits == {patient: published[patient] for patient in splits}


def test_a_patient_in_two_splits_is_refused_by_lines(tmp_path: Path) -> None:
    moved = (STUDIES[0], replace(STUDIES[1], split="test"))
    root = write_tree(tmp_path, moved, pictures=False)
    with pytest.raises(UsageError, match=r"train in line 2 and test in line 4.*split_by") as caught:
        _read(root, split_by="official")
    assert "10000032" not in str(caught.value)
    assert _read(root).rows  # the table plays no part


def test_a_row_that_the_split_table_lacks_is_counted(tree: Path, tmp_path: Path) -> None:
    root = write_tree(tmp_path, plain(12), pictures=False)
    path = root / "mimic-cxr-2.0.0-split.csv.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    write_table(path, [list[object](line.split(",")) for line in lines[:-2]])
    dataset, tally = read_mimic(root, replace(RECIPE, split_by="official"))
    assert len(dataset.rows) == 10
    assert tally.counts == {"no row in the split table": 2}


def test_the_digest_is_of_the_pairs(tree: Path, tmp_path: Path) -> None:
    again = write_tree(tmp_path / "other", ALL, packed=False, pictures=False)
    assert _read(again).sha256 == _read(tree).sha256
    assert _read(again, impressions="tier").sha256 != _read(tree).sha256
    one = next((again / "files").rglob(f"s{ALL[-1].number}.txt"))
    one.write_text(one.read_text().replace("Edema", "Oedema"))
    assert _read(again).sha256 != _read(tree).sha256


def test_reports_of_other_line_ends_and_bytes_are_read(tmp_path: Path) -> None:
    root = write_tree(tmp_path, plain(2), packed=False, pictures=False)
    for path in root.rglob("s*.txt"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n").replace(b"Edema", b"\xd6dem"))
    dataset = _read(root)
    assert dataset.notes[0] == "report is not UTF-8, read as Latin-1: 2 (first: line 2)"
    assert [row.text for row in dataset.rows] == ["\xd6dem 0.", "\xd6dem 1."]


def test_the_newer_table_and_the_unpacked_one_come_first(tmp_path: Path) -> None:
    root = write_tree(tmp_path, plain(2), pictures=False)
    packed = root / "mimic-cxr-2.0.0-chexpert.csv.gz"
    text = gzip.decompress(packed.read_bytes()).decode()
    (root / "mimic-cxr-2.1.0-chexpert.csv").write_text(text.replace(",0.0", ",1.0"))
    assert [row.labels for row in _read(root).rows] == [{"Edema": 1}] * 2


def _table(root: Path, name: str) -> Path:
    return root / f"mimic-cxr-2.0.0-{name}.csv"


def _edit(root: Path, name: str, old: str, new: str) -> None:
    path = _table(root, name)
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())


SUBJECT, STUDY, DICOM = str(plain(1)[0].subject), str(plain(1)[0].number), plain(1)[0].dicom(0)


@pytest.mark.parametrize(
    ("table", "old", "new", "words"),
    [
        ("metadata", "ViewPosition", "View", r"metadata.csv needs the columns .*ViewPosition"),
        ("metadata", DICOM, "../../" + DICOM, "metadata.csv line 2: dicom_id is no file name"),
        ("metadata", SUBJECT, "../" + SUBJECT, "line 2: subject_id or study_id is no number"),
        ("metadata", plain(2)[1].dicom(0), DICOM, "lines 2 and 3 name the same image"),
        ("metadata", ",PA,", ",", "line 2 has 4 cells, the header 5"),
        ("chexpert", "0.0", "0.5", "line 2: a label is not 1.0, 0.0, -1.0 or empty"),
        ("split", "train", "training", "split.csv line 2: split is not one of train, validate"),
        ("metadata", "PA", '"PA', "is no CSV"),
    ],
)
def test_a_broken_table_is_refused_by_its_line(
    tmp_path: Path, table: str, old: str, new: str, words: str
) -> None:
    root = write_tree(tmp_path, plain(2), packed=False, pictures=False)
    _edit(root, table, old, new)
    with pytest.raises(UsageError, match=words) as caught:
        _read(root, split_by="official")
    assert not any(secret in str(caught.value) for secret in (SUBJECT, STUDY, DICOM))


def test_a_study_with_two_rows_of_labels_is_refused(tmp_path: Path) -> None:
    root = write_tree(tmp_path, plain(2), packed=False, pictures=False)
    path = _table(root, "chexpert")
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(UsageError, match="line 4: the study stood in a line before"):
        _read(root)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    root = write_tree(tmp_path, ALL, pictures=False)
    path = root / "mimic-cxr-2.0.0-metadata.csv.gz"
    whole = path.read_bytes()
    for damaged in (whole[:-9], whole[: len(whole) // 2], b"PK" + whole[2:], whole[:40] * 2):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=r"damaged.*SHA256SUMS"):
            _read(root)
    path.write_bytes(gzip.compress("dicom_id,\xe9\n".encode("latin-1")))
    with pytest.raises(UsageError, match="UTF-8"):
        _read(root)


def test_a_root_that_is_none_names_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no mimic-cxr-2\.\*-chexpert\.csv or \.csv\.gz"):
        _read(tmp_path)
    root = write_tree(tmp_path / "root", (replace(STUDIES[0], report=None),), pictures=False)
    with pytest.raises(UsageError, match=r"2 have no report.*mimic-cxr-reports\.zip.*reports=DIR"):
        _read(root)
    words = Study("text", 10000001, ("PA",), "nothing of use\n")
    root = write_tree(tmp_path / "words", (words,), pictures=False)
    with pytest.raises(UsageError, match=r"makes a pair \(1 have empty impression\)$"):
        _read(root)
