"""python -m pytest tests/train/test_manifest.py -- the CSV dataset: what it reads and refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tier_infer.errors import UsageError
from tier_infer.geometry import GEOMETRIES
from tier_infer.intensity import to_8bit
from tier_train.data.dataset import Dataset, Row, truth_table, validation_labels
from tier_train.data.manifest import read_manifest, resolve_intensity
from tier_train.data.pictures import load_pictures
from tier_train.phantoms.phantom import draw_phantom
from tier_train.phantoms.phantom_data import to_dicom

SMALL = GEOMETRIES["small-112"]
HEAD = "image_path,patient_id,split,text\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.dcm, a.png, a.jpg of one phantom; bad.jpg, bad.dcm; eq0..3.jpg, raw0..3.jpg."""
    path = tmp_path_factory.mktemp("images")
    to_dicom(draw_phantom(0, 0), "s", "i").save_as(path / "a.dcm", enforce_file_format=True)
    for name, preset in (("eq", "mimic-jpg"), ("raw", "minmax")):
        for i in range(4):
            grey = Image.fromarray(to_8bit(draw_phantom(0, i).pixels, preset))
            grey.save(path / f"{name}{i}.jpg", quality=95)
    grey.resize((200, 160)).save(path / "a.png")
    grey.save(path / "a.jpg")
    (path / "bad.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (path / "bad.dcm").write_bytes(b"\0" * 128 + b"DICM no header")
    return path


def _read(folder: Path, text: str, skip_bad: bool = False) -> Dataset:
    path = folder / "manifest.csv"
    path.write_text(text, encoding="utf-8")
    return read_manifest(path, skip_bad)


def _jpegs(*names: str) -> str:
    return HEAD + "".join(f"{name},p{i},train,x\n" for i, name in enumerate(names))


def test_dicom_png_and_jpeg_become_pictures_of_one_short_side(folder: Path) -> None:
    manifest = _read(folder, HEAD + "a.dcm,p,train,one\na.png,q,val,two\na.jpg,r,test,three\n")
    assert [row.number for row in manifest.rows] == [2, 3, 4]
    assert [row.text for row in manifest.rows] == ["one", "two", "three"]
    assert [len(manifest.split(s)) for s in ("train", "val", "test")] == [1, 1, 1]
    assert manifest.intensity == ""
    assert manifest.views == ("frontal",)
    rows, pictures = load_pictures(manifest, list(manifest.rows), "minmax", SMALL)
    assert rows == list(manifest.rows)
    shapes = [pictures[i].shape for i in range(len(pictures))]
    assert shapes == [(128, 128), (128, 160), (128, 128)]
    assert {pictures[i].dtype for i in range(3)} == {np.dtype(np.uint8)}
    expected = to_8bit(draw_phantom(0, 0).pixels, "minmax")
    assert np.array_equal(pictures[0], expected)
    assert len(load_pictures(manifest, [], "minmax", SMALL)[1]) == 0


def test_an_empty_cell_is_unknown_not_negative(folder: Path) -> None:
    text = "image_path,patient_id,split,Edema,Nodule,site\n"
    manifest = _read(folder, text + "a.png,p,train,1,,north\na.png,q,train,,0.0,south\n")
    assert manifest.label_columns == ("Edema", "Nodule")
    assert [row.labels for row in manifest.rows] == [{"Edema": 1}, {"Nodule": 0}]
    labels, columns = validation_labels(manifest)
    assert [label.id for label in labels.labels] == ["edema", "nodule"]
    assert columns == {"edema": "Edema", "nodule": "Nodule"}
    table = truth_table(list(manifest.rows), columns)
    np.testing.assert_array_equal(table["edema"], np.array([1, np.nan], np.float32))
    np.testing.assert_array_equal(table["nodule"], np.array([np.nan, 0], np.float32))


def test_what_is_not_read_of_a_manifest_is_told(folder: Path) -> None:
    """A misspelt `text` would train on captions of the labels, without a word."""
    text = "image_path,patient_id,split,impression,age,Edema\n"
    manifest = _read(folder, text + "a.png,p,train,Edema.,40,1\na.jpg,q,train,Clear.,50,0\n")
    assert manifest.notes == (
        "2 of 2 rows have no text: captions are made of their labels",
        "columns not used: impression, age",
    )
    assert _read(folder, HEAD + "a.png,p,train,x\n").notes == ()


def test_one_odd_cell_in_a_label_column_is_an_error(folder: Path) -> None:
    rows = [f"a.png,p{i},train,x,{i % 2}\n" for i in range(20)]
    rows[12] = "a.png,p12,train,x,yes\n"
    with pytest.raises(UsageError, match="line 14: column 'Edema'"):
        _read(folder, HEAD.strip() + ",Edema\n" + "".join(rows))


def test_no_cell_becomes_a_label_that_the_csv_does_not_have(folder: Path) -> None:
    manifest = _read(folder, HEAD.strip() + ",#\na.png,p,train,x,1\na.png,q,train,x,0\n")
    assert [row.labels for row in manifest.rows] in ([{"#": 1}, {"#": 0}], [{}, {}])


def test_a_patient_in_two_splits_is_refused_without_the_id(folder: Path) -> None:
    with pytest.raises(UsageError, match="two splits: train in line 2, val in line 3") as caught:
        _read(folder, HEAD + "a.png, Jane-Doe ,train,x\na.jpg,Jane-Doe,val,x\n")
    assert "Jane" not in str(caught.value)


def test_missing_images_are_counted_and_named(folder: Path) -> None:
    text = HEAD + "a.png,p,train,x\nno1.png,q,train,x\nno2.png,r,train,x\n"
    with pytest.raises(UsageError, match=r"2 of 3 images .*no1.png \(line 3\).*--skip-bad"):
        _read(folder, text)
    kept = _read(folder, text, skip_bad=True)
    assert [(row.image_path, row.number) for row in kept.rows] == [("a.png", 2)]
    assert kept.notes == ("2 of 3 rows left out: no image at their path",)


def test_a_refused_image_stops_the_run(folder: Path) -> None:
    manifest = _read(folder, HEAD + "a.png,p,train,x\nbad.jpg,q,train,x\nbad.dcm,r,train,x\n")
    rows = list(manifest.rows)
    with pytest.raises(UsageError, match=r"2 images .* refused.* line 3, bad.jpg: .*--skip-bad"):
        load_pictures(manifest, rows, "minmax", SMALL)
    kept, pictures = load_pictures(manifest, rows, "minmax", SMALL, skip_bad=True)
    assert [row.image_path for row in kept] == ["a.png"]
    assert len(pictures) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "missing: image_path, patient_id, split"),
        (HEAD, "missing: rows"),
        ("image_path,split\na.png,train\n", "missing: patient_id"),
        (HEAD + "a.png,p,Train,x\n", "line 2: split is 'Train', allowed: train, val, test"),
        (HEAD + "a.png,p,,x\n", "line 2: split is ''"),
        (HEAD + "a.png,,train,x\n", "line 2: patient_id is empty"),
        (HEAD + "a.png,p,train,x\na.png,p,train,\n", "neither text nor label.* line 3"),
        ("patient_id,split,text,image_path\np,train,x\n", "manifest"),  # a row that ends early
        (HEAD + 'a.png,p,train,"x\na.png,q,train,y\n', "manifest"),  # a quote that never closes
    ],
)
def test_a_broken_table_is_refused(folder: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        _read(folder, text)


def test_no_row_trains_on_an_empty_caption(folder: Path) -> None:
    """`no finding` 0 alone says that something is there, but not what: refused or worded."""
    try:
        rows = _read(folder, "image_path,patient_id,split,no finding\na.png,p,train,0\n").rows
    except UsageError:
        return
    assert all(row.caption(0, epoch) for row in rows for epoch in range(5))


def test_bytes_that_are_no_text_are_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(HEAD.encode("utf-16"))
    for given in (path, tmp_path, folder / "a.png"):
        with pytest.raises(UsageError, match=r"not UTF-8|no CSV|opened"):
            read_manifest(given)


def test_lines_inside_a_quoted_report_stay_apart(folder: Path) -> None:
    text = 'a.png,p,train,"Mild edema.\nNo effusion."\na.png,q,train,x\n'
    assert _read(folder, HEAD + text).rows[0].text.split() == ["Mild", "edema.", "No", "effusion."]


@pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_only_newlines_end_a_row(folder: Path, character: str) -> None:
    text = f"a.png,p,train,Edema.{character}No effusion.\na.png,q,train,x\n"
    rows = _read(folder, HEAD + text).rows
    assert len(rows) == 2
    assert rows[0].text.split() == ["Edema.", "No", "effusion."]


def test_a_byte_order_mark_and_crlf_are_read(folder: Path) -> None:
    text = "\ufeff" + (HEAD + "a.png,p,train,x\n").replace("\n", "\r\n")
    assert _read(folder, text).rows[0].text == "x"


def test_laterals_are_declared(folder: Path) -> None:
    text = "image_path,patient_id,split,text,view\na.png,p,train,x,Lateral\na.png,q,train,x,PA\n"
    assert _read(folder, text).views == ("frontal", "lateral")


@pytest.mark.parametrize(
    ("words", "view"),
    [
        ("AP,PA,frontal,ap supine,AP_SUPINE,AP_horizontal,antero-posterior,Posteroanterior", "f"),
        ("Portable AP,PA view,AP semi-erect,postero anterior", "f"),
        ("lateral,LL,RL,L,LAT,LLD,Left lateral,LATERAL_LEFT,xtable lateral", "l"),
        (" ,", ""),
    ],
)
def test_words_for_views(folder: Path, words: str, view: str) -> None:
    head = HEAD.strip() + ",view\n"
    rows = _read(folder, head + "".join(f"a.png,p,train,x,{word}\n" for word in words.split(",")))
    name = {"f": "frontal", "l": "lateral", "": ""}[view]
    assert [row.view for row in rows.rows] == [name] * len(words.split(","))


@pytest.mark.parametrize("word", ["yes", "side", "AP lateral", "oblique", "1", "APLL", "AP;PA"])
def test_another_word_for_a_view_is_refused(folder: Path, word: str) -> None:
    head = HEAD.strip() + ",view\n"
    with pytest.raises(UsageError, match="line 3: view is no word for frontal") as caught:
        _read(folder, head + f"a.png,p,train,x,PA\na.png,q,train,x,{word}\n")
    assert f"view is {word}" not in str(caught.value)


@pytest.mark.parametrize("other", ["a.png", "./a.png", "x/../a.png", " a.png "])
def test_an_image_in_two_splits_is_refused(folder: Path, other: str) -> None:
    (folder / "x").mkdir(exist_ok=True)
    with pytest.raises(UsageError, match="one image stands in two splits: train in line 2, val in"):
        _read(folder, HEAD + f"a.png,p,train,x\n{other},q,val,x\n")
    assert len(_read(folder, HEAD + f"a.png,p,train,x\n{other},q,train,x\n").rows) == 2


@pytest.mark.parametrize("ids", [("7", "007"), ("7", "7.0"), ("0", "00"), ("jo-1", "JO-1")])
def test_a_patient_of_two_spellings_in_two_splits_is_refused(
    folder: Path, ids: tuple[str, str]
) -> None:
    with pytest.raises(UsageError, match=r"two splits.*leading zeros or \.0"):
        _read(folder, HEAD + f"a.png,{ids[0]},train,x\na.jpg,{ids[1]},val,x\n")
    others = _read(folder, HEAD + "a.png,70,train,x\na.jpg,7,val,x\neq0.jpg,1.5,test,x\n")
    assert [row.patient for row in others.rows] == ["70", "7", "1.5"]


@pytest.mark.parametrize("cells", [("x", "x"), ("minmax", "mimic-jpg"), ("minmax", "")])
def test_the_intensity_column_holds_one_preset(folder: Path, cells: tuple[str, str]) -> None:
    head = HEAD.strip() + ",intensity\n"
    with pytest.raises(UsageError, match="intensity column must hold one of"):
        _read(folder, head + "".join(f"a.png,p,train,x,{cell}\n" for cell in cells))
    manifest = _read(folder, head + "a.dcm,p,train,x,minmax\na.png,q,train,x,minmax\n")
    assert resolve_intensity(manifest, "")[0] == "minmax"
    assert resolve_intensity(manifest, "mimic-jpg")[0] == "mimic-jpg"


def test_equalised_jpegs_are_recognised(folder: Path) -> None:
    equalised = _read(folder, _jpegs(*(f"eq{i}.jpg" for i in range(4))))
    assert resolve_intensity(equalised, "")[0] == "mimic-jpg"
    scaled = _read(folder, _jpegs(*(f"raw{i}.jpg" for i in range(4))))
    assert resolve_intensity(scaled, "")[0] == "minmax"


def test_png_and_dicom_need_a_named_preset(folder: Path) -> None:
    for name in ("a.png", "a.dcm"):
        with pytest.raises(UsageError, match="names no intensity preset"):
            resolve_intensity(_read(folder, _jpegs("eq0.jpg", name)), "")


@pytest.mark.parametrize("place", [0, 1, 64, 129])
def test_one_dicom_among_many_jpegs_needs_a_named_preset(folder: Path, place: int) -> None:
    manifest = _read(folder, _jpegs("eq0.jpg"))
    rows = [Row("eq0.jpg", "train", "x", {}, i + 2) for i in range(130)]
    rows[place] = dataclasses.replace(rows[place], image_path="a.dcm")
    with pytest.raises(UsageError, match="names no intensity preset"):
        resolve_intensity(dataclasses.replace(manifest, rows=tuple(rows)), "")


def test_an_unreadable_jpeg_does_not_stop_the_intensity_guess(folder: Path) -> None:
    # load_pictures is the one that counts and names it, or leaves it out with --skip-bad.
    manifest = _read(folder, _jpegs("eq0.jpg", "bad.jpg", "eq1.jpg"), skip_bad=True)
    assert resolve_intensity(manifest, "")[0] == "mimic-jpg"


def test_no_image_left_is_a_usage_error(folder: Path) -> None:
    with pytest.raises(UsageError):
        resolve_intensity(_read(folder, _jpegs("no.jpg"), skip_bad=True), "")
