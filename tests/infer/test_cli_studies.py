"""python -m pytest tests/infer/test_cli_studies.py -- archives, folders, pages and refusals, as a
user meets them: tier-infer end to end on a trained bundle."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from tests.infer.conftest import Infer
from tests.infer.dicom_files import dx, film, pack, write
from tier_infer.bundle import load_bundle
from tier_infer.engine import Engine
from tier_infer.scoring import score_images, select_labels

CANARY = "CANARY"


def studies(result: Result) -> list[dict[str, Any]]:
    found = json.loads(result.stdout)["studies"]
    assert isinstance(found, list)
    return found


def images(result: Result) -> list[dict[str, Any]]:
    return [image for study in studies(result) for image in study["images"]]


def study_of(folder: Path, count: int = 2, **tags: Any) -> None:
    """`count` different films of one study, as 0.dcm, 1.dcm, ..."""
    for number in range(count):
        write(dx(film(number), SOPInstanceUID=f"1.2.3.{number}", **tags), folder / f"{number}.dcm")


# Archives.


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A study with a folder in it, a stray file, and what a Mac leaves behind."""
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("IMAGES/b.dcm", pack(dx(film(1), SOPInstanceUID="1.2.3.1")))
        out.writestr("IMAGES/a.dcm", pack(dx(film(0), SOPInstanceUID="1.2.3.0")))
        out.writestr("README.txt", "hello")
        out.writestr("__MACOSX/._a.dcm", "junk")
        out.writestr("IMAGES/.DS_Store", "junk")
    return path


def test_a_zip_scores_as_the_files_in_it(infer: Infer, archive: Path, tmp_path: Path) -> None:
    result = infer(archive, "--json")
    assert result.exit_code == 0
    got = {i["path"]: i for i in images(result)}
    assert list(got) == [f"{archive}/{n}" for n in ("IMAGES/a.dcm", "IMAGES/b.dcm", "README.txt")]
    assert got[f"{archive}/README.txt"]["reason"] == "not_an_image"
    (tmp_path / "out").mkdir()
    study_of(tmp_path / "out")
    plain = images(infer(tmp_path / "out", "--json"))
    assert [got[f"{archive}/IMAGES/{n}.dcm"]["scores"] for n in "ab"] == [
        i["scores"] for i in plain
    ]
    (study,) = (study for study in studies(result) if study["scores"])
    assert len(study["images"]) == 2


def test_a_member_is_named_like_a_path_and_a_zip_in_a_folder_is_opened(
    infer: Infer, archive: Path, tmp_path: Path
) -> None:
    folder = images(infer(tmp_path, "--json"))
    assert [i["path"] for i in folder] == [i["path"] for i in images(infer(archive, "--json"))]
    written = tmp_path / "page.html"
    assert infer(archive, "--report", written, "--labels", "edema").exit_code == 0
    assert "study.zip/IMAGES/a.dcm" in written.read_text()


@pytest.mark.parametrize("name", ["İstanbul.zip", "STUDY.ZIP", "a.zip.zip", "new\nline.zip"])
def test_archives_of_any_name(infer: Infer, archive: Path, name: str) -> None:
    """Found in review: a letter that grows in lower case moved the end of the archive's name."""
    other = archive.rename(archive.with_name(name))
    result = infer(other, "--json")
    assert result.exit_code == 0
    assert [i["status"] for i in images(result)] == ["scored", "scored", "not_evaluated"]


def hostile_zip(path: Path, kind: str) -> Path:
    good = pack(dx(film(0)))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        if kind == "climbing":
            out.writestr("../../evil.dcm", good)
        elif kind == "link":
            link = zipfile.ZipInfo("link.dcm")
            link.external_attr = 0o120777 << 16
            out.writestr(link, "/etc/passwd")
        elif kind == "nested":
            inner = io.BytesIO()
            with zipfile.ZipFile(inner, "w") as more:
                more.writestr("a.dcm", good)
            out.writestr("inner.zip", inner.getvalue())
    return path


@pytest.mark.parametrize("kind", ["climbing", "link", "nested", "empty", "cut", "text"])
def test_a_hostile_zip_is_refused_and_listed(infer: Infer, tmp_path: Path, kind: str) -> None:
    path = hostile_zip(tmp_path / "a.zip", kind)
    if kind == "cut":
        path.write_bytes(hostile_zip(path, "climbing").read_bytes()[:-30])
    elif kind == "text":
        path.write_text("no zip")
    alone = infer(path, "--json")
    assert alone.exit_code == 3
    assert {i["reason"] for i in images(alone)} == {"archive"}
    beside = infer("study.dcm", path)
    assert beside.exit_code == 8
    assert "the archive, or the file named in it" in beside.stdout or kind == "empty"
    assert not (tmp_path.parent / "evil.dcm").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"a.zip"}  # nothing was extracted


def test_a_missing_zip_is_a_usage_error(infer: Infer) -> None:
    result = infer("nowhere.zip")
    assert result.exit_code == 2
    assert "a zip of them or a folder" in result.stderr


# Folders.


def dicomdir(folder: Path) -> None:
    """References to a file beside it, and to one that must not be opened."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.77"
    records = []
    for parts in (["IMAGES", "0.DCM"], ["..", "STUDY.DCM"]):
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        with warnings.catch_warnings():  # pydicom warns of the second, which no writer may write
            warnings.simplefilter("ignore")
            record.ReferencedFileID = parts
        records.append(record)
    ds.FileSetID, ds.DirectoryRecordSequence = "DISC", records
    ds.save_as(folder / "DICOMDIR", enforce_file_format=True)


def test_a_disc_with_a_dicomdir(infer: Infer, tmp_path: Path) -> None:
    disc = tmp_path / "disc"
    (disc / "IMAGES").mkdir(parents=True)
    dicomdir(disc)
    study_of(disc / "IMAGES")
    shutil.copy("study.dcm", tmp_path / "STUDY.DCM")
    result = infer(disc, "--json")
    assert result.exit_code == 0  # a DICOMDIR is no failure
    found = {Path(i["path"]).name: i["reason"] for i in images(result)}
    assert found == {"DICOMDIR": "dicomdir", "0.dcm": None, "1.dcm": None}
    alone = infer(disc / "DICOMDIR")
    assert alone.exit_code == 3
    assert "name its folder" in alone.stderr


def test_several_studies_in_one_folder(infer: Infer, tmp_path: Path) -> None:
    study_of(tmp_path, 2)
    for number, uid in ((5, "9.1"), (6, "9.2")):
        ds = dx(film(number), SOPInstanceUID=f"1.2.3.{number}", StudyInstanceUID=uid)
        write(ds, tmp_path / f"x{number}.dcm")
    Image.fromarray((film(7) >> 4).astype(np.uint8)).save(tmp_path / "z.png")
    found = studies(infer(tmp_path, "--json", "--labels", "edema"))
    assert [(s["id"], len(s["images"])) for s in found] == [
        ("study-1", 2), ("study-2", 1), ("study-3", 1), ("study-4", 1),
    ]  # fmt: skip
    table = infer(tmp_path, "--labels", "edema").stdout
    assert re.findall(r"^study-\d: .*", table, re.M) == [
        "study-1: 2 of 2 images scored",
        "study-2: 1 of 1 images scored",
        "study-3: 1 of 1 images scored",
        "study-4: 1 of 1 images scored",
    ]


def test_one_bad_file_among_good_ones(infer: Infer, tmp_path: Path) -> None:
    """Exit 8, each listed, and the study's score is that of the good ones."""
    study_of(tmp_path, 2)
    whole = pack(dx(film(2), SOPInstanceUID="1.2.3.2"))
    (tmp_path / "cut.dcm").write_bytes(whole[:-100])
    write(dx(film(3), SOPInstanceUID="1.2.3.3", ViewPosition="LL"), tmp_path / "lateral.dcm")
    write(dx(film(4), SOPInstanceUID="1.2.3.4", Modality="CT"), tmp_path / "ct.dcm")
    (tmp_path / "notes.txt").write_text("no image")
    result = infer(tmp_path, "--json", "--labels", "edema")
    assert result.exit_code == 8
    reasons = {Path(i["path"]).name: i["reason"] for i in images(result)}
    assert reasons == {
        "0.dcm": None, "1.dcm": None, "cut.dcm": "truncated", "lateral.dcm": "view",
        "ct.dcm": "modality", "notes.txt": "not_an_image",
    }  # fmt: skip
    study = studies(result)[0]
    scores = [i["scores"]["edema"] for i in study["images"] if i["scores"]]
    assert study["scores"]["edema"] == pytest.approx(np.mean(scores), abs=1e-12)
    assert len(scores) == 2
    rows = list(csv.DictReader(io.StringIO(infer(tmp_path, "--csv", "--labels", "edema").stdout)))
    assert [r["reason"] for r in rows if r["status"] != "scored"] == [
        reasons[Path(r["path"]).name] for r in rows if r["status"] != "scored"
    ]
    table = infer(tmp_path, "--labels", "edema")
    assert table.exit_code == 8
    assert "failed: (7FE0,0010) PixelData ends early" in table.stdout
    assert "not evaluated: (0008,0060) Modality is CT" in table.stdout


@pytest.mark.parametrize(
    ("tags", "reason", "code"),
    [
        ({"Modality": "CT"}, "modality", 0),
        ({"PatientOrientation": ["L", "P"]}, "orientation", 8),
        ({"PresentationLUTShape": "INVERSE"}, "polarity", 8),
        ({"PixelData": bytes(2 * 150 * 150)}, "constant_image", 8),
        ({"PixelData": None}, "no_pixels", 8),
    ],
)
def test_beside_a_good_file_only_a_failure_is_exit_8(
    infer: Infer, tmp_path: Path, tags: dict[str, Any], reason: str, code: int
) -> None:
    path = write(dx(film(), **tags), tmp_path / "a.dcm")
    assert infer(path).exit_code == 3
    result = infer("study.dcm", path, "--json")
    assert result.exit_code == code
    assert [i["reason"] for i in images(result)] == [None, reason]


# Flags.


def test_flags_are_shown_and_explained(infer: Infer, tmp_path: Path) -> None:
    tags = {"LossyImageCompression": "01", "WindowCenter": "1", "WindowWidth": "9"}
    tags |= {"PixelIntensityRelationship": "LIN", "PresentationIntentType": "FOR PRESENTATION"}
    path = write(dx(film(), PatientAge="004Y", **tags), tmp_path / "a.dcm")
    (image,) = images(infer(path, "--json"))
    flags = {"lossy", "window_ignored", "intensity_linear", "pediatric"}
    assert flags <= set(image["flags"])
    table = infer(path).stdout
    explained = [line for line in table.splitlines() if re.match(r"^  [! ] \w+: ", line)]
    assert {line[4:].split(":")[0] for line in explained} == set(image["flags"])
    assert explained[0].startswith("  ! intensity_linear: ")  # what may void the score comes first
    assert all(len(line.split(": ", 1)[1]) > 20 for line in explained)
    (row, *_) = csv.DictReader(io.StringIO(infer(path, "--csv").stdout))
    assert row["reason"].split() == image["flags"]


def test_a_lateral_alone_is_no_study_score(infer: Infer, tmp_path: Path) -> None:
    path = write(dx(film(), ViewPosition="LL"), tmp_path / "a.dcm")
    result = infer(path, "--json")
    assert result.exit_code == 3
    (study,) = studies(result)
    assert (study["scores"], study["images"][0]["reason"]) == ({}, "view")


# Identifiers.


def test_uids_only_when_asked_for(infer: Infer, tmp_path: Path) -> None:
    study_of(tmp_path, 1, StudyInstanceUID="1.2.826.77", PatientID=CANARY)
    Image.fromarray((film(7) >> 4).astype(np.uint8)).save(tmp_path / "z.png")
    silent = infer(tmp_path, "--json")
    assert "1.2.826.77" not in silent.output
    assert "_uid" not in silent.stdout.replace(str(tmp_path), "")
    told = infer(tmp_path, "--json", "--with-uids")
    one, other = studies(told)
    assert one["study_instance_uid"] == "1.2.826.77"
    assert one["images"][0]["sop_instance_uid"] == "1.2.3.0"
    assert other["study_instance_uid"] is None
    assert other["images"][0]["sop_instance_uid"] is None
    assert CANARY not in told.output
    assert one["scores"] == studies(silent)[0]["scores"]
    page = tmp_path / "page.html"
    for option, shown in (((), False), (("--with-uids",), True)):
        assert infer(tmp_path / "0.dcm", "--report", page, *option).exit_code == 0
        assert ("1.2.826.77" in page.read_text()) is shown
        assert CANARY not in page.read_text()


def test_burned_in_text_is_drawn_only_when_asked_for(infer: Infer, tmp_path: Path) -> None:
    path = write(dx(film(), BurnedInAnnotation="YES"), tmp_path / "a.dcm")
    page = tmp_path / "page.html"
    sizes = []
    for option in ((), ("--with-uids",)):
        folder = tmp_path / f"heat{len(option)}"
        asked = (path, "--labels", "edema", "--heatmaps", folder, "--report", page, *option)
        assert infer(*asked).exit_code == 0
        sizes.append((len(list(folder.glob("*.png"))), page.stat().st_size))
    assert [count for count, _ in sizes] == [0, 1]
    assert sizes[1][1] > sizes[0][1] + 2000  # the film


# Pictures.


def test_report_is_one_file_with_everything_in_it(infer: Infer, tmp_path: Path) -> None:
    study_of(tmp_path, 2)
    (tmp_path / "bad.dcm").write_bytes(b"no image")
    page = tmp_path / "page.html"
    result = infer(tmp_path, "--json", "--labels", "edema", "--report", page)
    assert result.exit_code == 8
    assert f"wrote {page}" in result.stderr
    text = page.read_text()
    assert "not for diagnostic use" in text
    assert f"{studies(result)[0]['scores']['edema']:+.4f}"[:5] in text
    assert "bad.dcm" in text
    assert not re.findall(r"(?:src|href)=\"https?:", text)
    assert page.stat().st_size < 2 * 2**20
    scores = studies(infer(tmp_path, "--json", "--labels", "edema"))[0]["scores"]
    assert scores == studies(result)[0]["scores"]  # a page changes no score


def test_a_page_is_written_when_nothing_is_scored(infer: Infer, tmp_path: Path) -> None:
    (tmp_path / "bad.dcm").write_bytes(b"no image")
    page = tmp_path / "page.html"
    assert infer(tmp_path / "bad.dcm", "--report", page).exit_code == 3
    assert "bad.dcm" in page.read_text()


def test_smooth_changes_pictures_and_nothing_else(infer: Infer, tmp_path: Path) -> None:
    pictures, pages, tables = [], [], []
    for n, option in enumerate(((), ("--smooth",))):
        folder, page = tmp_path / f"heat{n}", tmp_path / f"{n}.html"
        asked = ("study.dcm", "--json", "--labels", "edema", "--heatmaps", folder, "--report", page)
        result = infer(*asked, *option)
        assert result.exit_code == 0
        (file,) = folder.glob("*.png")
        pictures.append(np.asarray(Image.open(file)))
        pages.append(page.read_text())
        tables.append(result.stdout)
    assert not np.array_equal(*pictures)
    assert pages[0] != pages[1]
    assert tables[0] == tables[1]


def test_own_pictures_are_not_scored(infer: Infer, tmp_path: Path) -> None:
    folder, page = tmp_path / "heat", tmp_path / "page.html"
    infer("study.dcm", "--labels", "edema", "--heatmaps", folder, "--report", page)
    shown = re.search(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", page.read_text())
    assert shown
    (tmp_path / "saved.jpg").write_bytes(base64.b64decode(shown[1]))
    result = infer(folder, tmp_path / "saved.jpg", "--json")
    assert result.exit_code == 3
    assert [i["reason"] for i in images(result)] == ["own_output", "own_output"]


@pytest.mark.parametrize("option", [("--report", "page.html"), ("--heatmaps", "heat")])
def test_pictures_do_not_decide_what_is_scored(
    infer: Infer, tmp_path: Path, option: tuple[str, str]
) -> None:
    """Found in review: rendering for people failed on odd numbers that the score ignores."""
    tags = {"RescaleSlope": "1e-20", "RescaleIntercept": "1000"}
    path = write(dx(film(), **tags), tmp_path / "a.dcm")
    plain = images(infer(path, "--json"))
    drawn = images(infer(path, "--json", option[0], tmp_path / option[1]))
    assert [(i["status"], i["scores"]) for i in plain] == [
        (i["status"], i["scores"]) for i in drawn
    ]


# doctor


def test_doctor_looks_at_the_bundle(infer: Infer) -> None:
    result = infer("doctor")
    assert result.exit_code == 0, result.output
    assert "bundle" in result.stdout
    report = json.loads(infer("doctor", "--json").stdout)
    assert report["schema"] == "tier-infer-doctor/1"
    assert "doctor" in infer("--help").stdout


@pytest.mark.parametrize(
    ("args", "code"),
    [(["--bundle", "nowhere"], (2, 4)), (["--device", "cuda"], (6,)), (["extra"], (2,))],
)
def test_doctor_tells_by_its_exit_code(infer: Infer, args: list[str], code: tuple[int]) -> None:
    assert infer("doctor", *args).exit_code in code


def test_a_file_called_like_a_verb(infer: Infer, tmp_path: Path, site: Path) -> None:
    shutil.copy(site / "study.dcm", tmp_path / "doctor")
    assert infer(tmp_path / "doctor").exit_code == 0


# Options that nobody else tries.


def test_debug_shows_where_and_says_so(infer: Infer, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Engine, "encode", bug)
    monkeypatch.setattr("sys.argv", ["tier-infer", "study.dcm", "--debug"])
    result = infer("study.dcm", "--debug")
    assert isinstance(result.exception, ZeroDivisionError)
    assert "it may hold file content" in " ".join(infer("--help").stdout.split())


def test_doctor_takes_a_precision(infer: Infer) -> None:
    assert infer("doctor", "--precision", "fp16", "--device", "cpu").exit_code == 0
    result = infer("doctor", "--precision", "int8")
    assert result.exit_code == 2
    assert "the bundle has no int8 encoder" in result.stdout


def test_with_uids_is_refused_where_it_would_do_nothing(infer: Infer) -> None:
    for option in ((), ("--csv",)):
        result = infer("study.dcm", *option, "--with-uids")
        assert result.exit_code == 2
        assert "--json, --report and --heatmaps" in result.stderr


@pytest.mark.parametrize("option", ["--device", "--precision", "--bundle"])
def test_evaluate_takes_what_scoring_takes(infer: Infer, option: str, tmp_path: Path) -> None:
    table = tmp_path / "some.csv"
    films = [f"images/phantom-0000{n}.dcm" for n in range(4)]
    rows = [f"{Path(film).resolve()},{n % 2}" for n, film in enumerate(films)]
    table.write_text("\n".join(["image_path,edema", *rows]))
    value = {"--device": "cpu", "--precision": "fp16", "--bundle": "./bundle"}[option]
    asked = ("evaluate", table, "--json", "--draws", "0", option)
    report = json.loads(infer(*asked, value).stdout)
    assert (report["images"]["scored"], report["model"]["device"]) == (4, "cpu")
    assert report["model"]["precision"] == ("fp16" if option == "--precision" else "fp32")
    wrong = infer(*asked, "nowhere")
    assert wrong.exit_code == 2
    assert wrong.stdout == ""


def test_evaluate_lists_what_it_refuses(infer: Infer, tmp_path: Path, site: Path) -> None:
    shutil.copy(site / "study.dcm", tmp_path / "a.dcm")
    write(dx(film(), Modality="CT"), tmp_path / "ct.dcm")
    (tmp_path / "bad.dcm").write_text("no image")
    rows = {"ct": 0, "both": 8, "none": 3}
    (tmp_path / "ct.csv").write_text("image_path,edema\na.dcm,1\nct.dcm,0\n")
    (tmp_path / "both.csv").write_text("image_path,edema\na.dcm,1\nct.dcm,0\nbad.dcm,0\n")
    (tmp_path / "none.csv").write_text("image_path,edema\nct.dcm,1\nbad.dcm,0\n")
    for name, code in rows.items():
        result = infer("evaluate", tmp_path / f"{name}.csv", "--draws", "0")
        assert result.exit_code == code
        assert "1 images not_evaluated modality" in result.stderr


@pytest.mark.parametrize("preset", ["minmax", "mimic-jpg", "chexpert-jpg", "voi"])
def test_the_preset_is_the_bundles(site: Path, tmp_path: Path, preset: str) -> None:
    """The child is told by the parent; each preset gives another picture, so another score."""
    tags = {"WindowCenter": "1500", "WindowWidth": "1000"}
    path = write(dx(film() + 300, bits=13, **tags), tmp_path / "a.dcm")
    bundle = load_bundle(site / "bundle")
    other = replace(bundle, manifest=replace(bundle.manifest, intensity=preset))
    selection = select_labels(bundle, ["edema"])
    (image,) = score_images([str(path)], other, Engine(bundle, "cpu"), selection, keep_heat=True)
    assert image.status == "scored"
    assert ("window_ignored" in image.flags) == (preset != "voi")
    assert image.display is not None
