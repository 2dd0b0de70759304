"""python -m pytest tests/train/test_mimic_tables.py -- tables and reports that would train on
other pairs than the publisher's are refused by line or counted."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.train.mimic_tree import Study, plain, write_tree
from tier_infer import big_tables
from tier_infer.errors import UsageError
from tier_train.data.dataset import Dataset
from tier_train.data.mimic import NO_TEXT, TOO_LONG, TWO_REPORTS, read_mimic
from tier_train.recipe import Recipe

RECIPE = Recipe()
STUDIES = plain(6)
FIRST, SECOND = STUDIES[:2]
SECRETS = [str(v) for s in STUDIES for v in (s.subject, s.number, s.dicom(0))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "root", STUDIES, packed=False, pictures=False)


def _read(root: Path, **keys: object) -> Dataset:
    return read_mimic(root, replace(RECIPE, **keys))[0]  # type: ignore[arg-type]


def _table(root: Path, name: str) -> Path:
    return root / f"mimic-cxr-2.0.0-{name}.csv"


def _change(path: Path, change: Callable[[list[list[str]]], object]) -> None:
    rows = [line.split(",") for line in path.read_text().splitlines()]
    change(rows)
    path.write_text("".join(",".join(row) + "\n" for row in rows))


def _refused(root: Path, words: str, **keys: object) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        _read(root, **keys)
    assert not any(secret in str(caught.value) for secret in SECRETS)


def _report(root: Path, study: Study, beside: bool = False) -> Path:
    inner = f"s{study.number}/" if beside else ""
    return root / f"files/{study.folder()}/{inner}s{study.number}.txt"


def _swap(rows: list[list[str]]) -> None:
    for row in rows[1:]:
        row[1], row[2] = row[2], row[1]


def _set(line: int, at: int, change: Callable[[str], str]) -> Callable[[list[list[str]]], None]:
    def apply(rows: list[list[str]]) -> None:
        rows[line - 1][at] = change(rows[line - 1][at])

    return apply


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set(3, 2, lambda v: " " + v), "split.csv line 3: subject_id or study_id is no number"),
        (_set(3, 2, lambda v: "0" + v), "split.csv line 3: subject_id or study_id is no number"),
        (_set(3, 2, lambda v: "\u0661" + v[1:]), "split.csv line 3: .* is no number"),
        (_set(3, 2, lambda v: v[::-1]), "split.csv line 3 names another patient .* line 3 of the"),
        (_swap, "split.csv line 2 names another patient or study than line 2 of the metadata"),
        (lambda rows: rows.append(rows[1]), "split.csv lines 2 and 8 name the same image"),
    ],
    ids=["blank", "zero", "other digits", "another id", "columns exchanged", "twice"],
)
def test_a_patient_is_one_in_the_split_table(
    root: Path, change: Callable[[list[list[str]]], None], words: str
) -> None:
    assert _read(root, split_by="official").rows
    _change(_table(root, "split"), change)
    _refused(root, words, split_by="official")


def test_a_study_has_one_patient(root: Path) -> None:
    _change(_table(root, "metadata"), _set(3, 2, lambda _: str(FIRST.number)))
    _refused(root, "metadata.csv line 3: the study is another patient's in a line before")


@pytest.mark.parametrize(("table", "name"), [("chexpert", "Edema"), ("metadata", "ViewPosition")])
@pytest.mark.parametrize("header", ["", "same"])
def test_two_columns_of_one_name_are_refused(
    root: Path, table: str, name: str, header: str
) -> None:
    def add(rows: list[list[str]]) -> None:
        for i, row in enumerate(rows):
            row.append("0.0" if i else header and name)

    _change(_table(root, table), add)
    _refused(root, r"column \d+ has no name or that of another")


def test_view_words_are_read_as_people_write_them(root: Path) -> None:
    words = iter(["pa", "AP ", " PA", "Pa", "lateral", "PA LLD"])
    _change(
        _table(root, "metadata"),
        lambda rows: [row.__setitem__(3, next(words)) for row in rows[1:]],
    )
    assert [r.view for r in _read(root).rows] == ["frontal"] * 4 + ["lateral"] * 2


def test_only_the_publishers_names_are_tables(root: Path) -> None:
    for name in ("2.0.0-zz-metadata.csv", "2.9-metadata.csv", "2.9.9-metadata.csv.bak"):
        (root / f"mimic-cxr-{name}").write_text("dicom_id\n")
    dataset = _read(root)
    assert len(dataset.rows) == 6
    names = ("chexpert", "metadata")
    assert dataset.notes[-1] == "tables: " + ", ".join(f"mimic-cxr-2.0.0-{n}.csv" for n in names)


def test_an_interrupted_gunzip_is_refused(root: Path) -> None:
    path = _table(root, "metadata")
    whole = path.read_bytes()
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(whole))
    assert len(_read(root).rows) == 6
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:4]))
    _refused(root, r"metadata.csv is not as long as .*metadata.csv.gz unpacked; delete")


def test_a_table_that_would_fill_the_memory_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _table(root, "metadata")
    raw = path.read_bytes()
    path.unlink()
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(raw + b"a" * 2**21))
    _refused(root, "metadata.csv.gz has a line of more than 1048576 characters")
    packed.write_bytes(gzip.compress(raw))
    monkeypatch.setattr(big_tables, "MAX_TABLE", len(raw) - 1)
    _refused(root, f"or more than {len(raw) - 1} in all")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(root: Path) -> None:
    report, table = _report(root, FIRST), _table(root, "metadata")
    report.unlink()
    os.mkfifo(report)
    _refused(root, "the report of line 2 of the metadata table can't be read .no regular file")
    table.unlink()
    os.mkfifo(table)
    _refused(root, "metadata.csv is no regular file")


def test_a_report_that_cannot_be_read_is_not_none(root: Path) -> None:
    path = _report(root, SECOND)
    path.unlink()
    path.symlink_to(path)  # ELOOP, as a disk's error or a missing right
    _refused(root, "the report of line 3 of the metadata table can't be read")


def test_what_is_no_report_is_counted(root: Path) -> None:
    texts = [_report(root, study).read_bytes() for study in STUDIES]
    _report(root, STUDIES[0]).write_bytes(texts[0].decode().encode("utf-16"))
    _report(root, STUDIES[1]).write_bytes(texts[1] + "\ufffd".encode())
    _report(root, STUDIES[2]).write_bytes(texts[2] + b" " * 2**20)
    _report(root, STUDIES[3]).write_bytes(texts[3] + b"word " * 27_000)
    _report(root, STUDIES[4], beside=True).write_bytes(texts[4].replace(b"Edema", b"Other"))
    dataset, tally = read_mimic(root, RECIPE)
    assert tally.counts == {NO_TEXT: 2, TOO_LONG: 2}
    assert tally.kept == {TWO_REPORTS: 1}
    assert [row.text for row in dataset.rows] == ["Edema 4.", "Edema 5."]
    assert "two reports that differ: 1 (first: line 6)" in dataset.notes
