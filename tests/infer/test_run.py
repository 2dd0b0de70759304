"""python -m pytest tests/infer/test_run.py -- what a run survives, lists and refuses: children that
don't start, pipes, odd names, stray files. Found in review."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from tests.infer.conftest import Infer
from tests.infer.dicom_files import dx, film, pack, write
from tests.trained import BIN
from tier_infer import archive
from tier_infer import reader as reader_module
from tier_infer.embeddings import Embeddings
from tier_infer.engine import Engine
from tier_infer.errors import FailedImage, UsageError
from tier_infer.reader import Reader

PIPES = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in the file system")
BUG = (  # in the child, on one file
    "; import tier_infer.reader_child as child; read = child.read_any; "
    "child.read_any = lambda path, *rest: 1 // 0 if 'odd' in path else read(path, *rest); main()"
)


def images(result: Result) -> list[dict[str, Any]]:
    return [image for study in json.loads(result.stdout)["studies"] for image in study["images"]]


# The child.


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write(dx(), tmp_path_factory.mktemp("film") / "film.dcm"))


def test_a_child_that_dies_while_it_starts_is_started_again(
    picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(reader_module, "CHILD", "raise SystemExit(9)")
        reader = Reader("mimic-jpg")
    with reader:
        assert reader.read(picture).view == "PA"


def test_a_start_that_fails_later_costs_a_file_and_not_the_run(
    picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with Reader("mimic-jpg") as reader:
        reader.read(picture)
        for name, value in (("CHILD", "raise SystemExit(9)"), ("subprocess.Popen", no_memory)):
            reader.close()
            with monkeypatch.context() as patch:
                patch.setattr(f"tier_infer.reader.{name}", value)
                with pytest.raises(FailedImage, match="can't start") as caught:
                    reader.read(picture)
            assert caught.value.reason == "decode"
            assert reader.read(picture).view == "PA"


def test_a_child_that_never_starts_is_no_fault_of_a_file(
    infer: Infer, picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "CHILD", "raise SystemExit(9)")
    with Reader("mimic-jpg") as reader, pytest.raises(UsageError, match="tier-infer doctor"):
        reader.read(picture)
    result = infer(picture, "--json")
    assert (result.exit_code, result.stdout) == (2, "")


def test_a_child_without_set_blocking_reads(picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has it from Python 3.12."""
    without = "import os; del os.set_blocking; " + reader_module.CHILD
    monkeypatch.setattr(reader_module, "CHILD", without)
    with Reader("mimic-jpg") as reader:
        assert reader.read(picture).view == "PA"


def test_a_bug_costs_one_file_and_is_told(
    infer: Infer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = images(infer("study.dcm", "--json"))
    child = reader_module.CHILD
    monkeypatch.setattr(reader_module, "CHILD", child.replace("; main()", BUG))
    odd = write(dx(film(1)), tmp_path / "odd.dcm")
    result = infer(odd, "study.dcm", "--json", "--report", tmp_path / "page.html")
    assert result.exit_code == 1
    assert [i["reason"] for i in images(result)] == [None, "bug"]
    assert images(result)[0]["scores"] == plain[0]["scores"]
    assert "a bug of ours on this file (ZeroDivisionError)" in result.stderr
    assert "odd.dcm" in (tmp_path / "page.html").read_text()
    shutil.copy("study.dcm", tmp_path)
    (tmp_path / "labels.csv").write_text("image_path,edema\nstudy.dcm,1\nodd.dcm,0\n")
    result = infer("evaluate", tmp_path / "labels.csv", "--draws", "0")
    assert result.exit_code == 1
    assert "1 images failed bug" in result.stderr


def test_heat_that_is_not_finite_is_no_heatmap(
    infer: Infer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Engine.encode

    def poisoned(self: Engine, pixels: np.ndarray) -> Embeddings:
        found = encode(self, pixels)
        found.patches[1, 0] = np.nan
        return found

    monkeypatch.setattr(Engine, "encode", poisoned)
    films = [f"images/phantom-0000{n}.dcm" for n in range(3)]
    result = infer(*films, "--json", "--labels", "edema", "--heatmaps", tmp_path / "heat")
    assert result.exit_code == 8
    assert [i["reason"] for i in images(result)] == [None, "not_finite", None]
    assert [i["reason"] for i in images(infer(*films, "--json"))] == [None] * 3


# Archives and pipes.


def test_an_archive_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    check = archive._check_directory
    monkeypatch.setattr(archive, "_check_directory", lambda p: (parsed.append(p), check(p))[1])
    paths = [tmp_path / name for name in ("a.zip", "b.zip")]
    for path in paths:
        with zipfile.ZipFile(path, "w") as out:
            for number in range(50):
                out.writestr(f"{number:02}.txt", f"{path.name} {number}")
    for path in paths:
        names = archive.list_members(path)
        found = [archive.read_member(path, name, 100) for name in names]
        assert found == [f"{path.name} {number}".encode() for number in range(50)]
    assert parsed == paths
    with zipfile.ZipFile(paths[1], "w") as out:
        out.writestr("00.txt", "another")
    assert archive.read_member(paths[1], "00.txt", 100) == b"another"


@PIPES
def test_a_pipe_called_like_an_archive_is_not_opened(infer: Infer, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.zip")
    for asked in (tmp_path / "a.zip", tmp_path):
        result = infer(asked, "--json")
        assert result.exit_code == 3
        assert [i["message"] for i in images(result)] == ["it is no regular file"]


# Outputs.


@PIPES
def test_a_report_does_not_wait_for_a_pipe(infer: Infer, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "page.html")
    result = infer("study.dcm", "--report", tmp_path / "page.html")
    assert result.exit_code == 2
    assert "is no report" in result.stderr


def test_a_report_replaces_reports_only(infer: Infer, tmp_path: Path) -> None:
    page, other = tmp_path / "page.html", tmp_path / "page.dcm"
    page.write_text("<title>my notes</title>")
    for target, words in ((page, "is no report"), (other, "ends in .html")):
        result = infer("study.dcm", "--report", target, "--json")
        assert (result.exit_code, result.stdout) == (2, "")
        assert words in result.stderr
    assert page.read_text() == "<title>my notes</title>"
    page.unlink()
    for _ in range(2):  # one of our own
        assert infer("study.dcm", "--labels", "edema", "--report", page).exit_code == 0
    assert not other.exists()


@pytest.mark.parametrize("option", [("--report", "page.html"), ("--heatmaps", "heat")])
def test_a_place_that_cannot_be_written_is_told_before_scoring(
    infer: Infer, tmp_path: Path, option: tuple[str, str]
) -> None:
    (tmp_path / "file").touch()  # closed to root, too
    result = infer("study.dcm", "--json", option[0], tmp_path / "file" / option[1])
    assert (result.exit_code, result.stdout) == (2, "")


def test_heatmaps_are_in_the_json_only_when_asked_for(infer: Infer, tmp_path: Path) -> None:
    asked = ("study.dcm", "--labels", "edema", "--json")
    page, heat = ("--report", tmp_path / "page.html"), ("--heatmaps", tmp_path / "heat")
    found = ["heatmaps" in images(infer(*asked, *more))[0] for more in ((), page, heat)]
    assert found == [False, False, True]


@pytest.mark.skipif(sys.platform == "win32", reason="names that other file systems refuse")
def test_a_carriage_return_in_a_name_is_no_row(infer: Infer, tmp_path: Path, site: Path) -> None:
    name = "a\rstudy-9 forged\r.dcm"  # nothing else in it asks for quotes
    shutil.copy(site / "study.dcm", tmp_path / name)
    printed = infer(tmp_path, "--csv", "--labels", "edema").stdout_bytes.decode()
    (tmp_path / "labels.csv").write_text(f'image_path,edema\n"{name}",1\n', newline="")
    command = ("evaluate", tmp_path / "labels.csv", "--labels", "edema", "--draws", "0")
    assert infer(*command, "-o", tmp_path / "out").exit_code == 0
    written = (tmp_path / "out/scores.csv").read_bytes().decode()
    for text, column in ((printed, "path"), (written, "image_path")):
        (row,) = csv.DictReader(io.StringIO(text, newline=""))
        assert row[column].endswith(name)
        assert "edema" in (row.get("label"), *row)


@pytest.mark.skipif(os.name != "posix", reason="pipes end otherwise elsewhere")
def test_a_reader_that_has_seen_enough_is_no_error(site: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [str(BIN / "tier-infer"), "study.dcm", "--csv"]
    with open(writing, "wb") as closed:
        done = subprocess.run(
            command, cwd=site, stdout=closed, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 141
    assert "ipe" not in done.stderr


# What is found.


def test_an_empty_name_is_no_folder(infer: Infer) -> None:
    for asked in (("",), ("study.dcm", "")):
        result = infer(*asked)
        assert result.exit_code == 2
        assert "does not exist" in result.stderr


def test_every_refused_file_is_named_where_there_is_no_table(infer: Infer, tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / f"{number:02}.dcm").write_text("no image")
    result = infer(tmp_path)
    assert (result.exit_code, result.stdout) == (3, "")
    assert all(f"{number:02}.dcm: " in result.stderr for number in range(25))


def test_stray_and_hidden_files(infer: Infer, tmp_path: Path, site: Path) -> None:
    for name in (".DS_Store", "._b.dcm"):
        (tmp_path / name).write_text("junk")
    for name in ("a.txt", "z.txt", "bad.dcm"):
        (tmp_path / name).write_text("no image")
    shutil.copy(site / "study.dcm", tmp_path / "m.dcm")
    with zipfile.ZipFile(tmp_path / "n.zip", "w") as out:
        out.writestr("a.dcm", pack(dx(film(1))))
        out.writestr("__MACOSX/a.dcm", "junk")
    result = infer(tmp_path, "--json")
    found = json.loads(result.stdout)["studies"]
    assert [study["id"] for study in found] == ["study-1", "study-2", "other-files"]
    assert [Path(i["path"]).name for i in found[-1]["images"]] == ["a.txt", "bad.dcm", "z.txt"]
    assert found[-1]["scores"] == {}
    assert "hidden files left out: 3" in result.stderr
    assert infer(tmp_path).stdout.index("files of no study:") > 0
    assert "hidden" not in infer("study.dcm").stderr


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_a_linked_folder_gets_a_row(infer: Infer, tmp_path: Path, site: Path) -> None:
    study, elsewhere = tmp_path / "study", tmp_path / "elsewhere"
    study.mkdir()
    elsewhere.mkdir()
    shutil.copy(site / "study.dcm", study)
    shutil.copy(site / "study.dcm", elsewhere)
    (study / "more").symlink_to(elsewhere)
    result = infer(study, "--json")
    assert result.exit_code == 8
    found = {Path(i["path"]).name: i["reason"] for i in images(result)}
    assert found == {"study.dcm": None, "more": "unreadable"}
    assert "a link to a folder" in result.stderr
