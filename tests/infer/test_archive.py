"""python -m pytest tests/infer/test_archive.py -- zip files that lie, or point elsewhere."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fuzz import bombs_other as bombs
from tests.infer.dicom_files import dx, picture, write
from tier_infer import archive, inputs
from tier_infer.archive import list_members, read_member
from tier_infer.errors import FailedImage, RefusedImage
from tier_infer.reader import Reader

LIMIT = 2**20


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(dx(), tmp_path_factory.mktemp("film") / "film.dcm").read_bytes()


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], method: int = 8) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


def info(name: str, mode: int = 0) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    return entry


def answers(path: Path, limit: int = LIMIT) -> list[str]:
    """Of listing and of reading every member: 'ok' or the reason. Any other exception fails."""
    try:
        names = list_members(path)
    except FailedImage as refusal:
        return [refusal.reason]
    found = ["ok"]
    for name in names[:20]:
        try:
            read_member(path, name, limit)
            found.append("ok")
        except FailedImage as refusal:
            found.append(refusal.reason)
    return found


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_come_out_as_they_went_in(method: int, tmp_path: Path) -> None:
    inside = {"b/two.dcm": b"2" * 1000, "a/one.dcm": b"1", "three": b""}
    path = zipped(tmp_path / "a.zip", *inside.items(), method=method)
    assert list_members(path) == sorted(inside)
    assert {name: read_member(path, name, LIMIT) for name in inside} == inside


def list_members_of(path: str) -> list[str]:
    return list_members(Path(path))


def test_folders_are_left_out_and_hidden_files_later(tmp_path: Path) -> None:
    names = ["a/", "a/b.dcm", "a/.hidden", "__MACOSX/a/b.dcm", "a/._b.dcm", ".DS_Store"]
    path = zipped(tmp_path / "a.zip", *((name, b"") for name in names))
    assert list_members(path) == sorted(names[1:])
    hidden: list[str] = []
    assert inputs.find_images([str(path)], list_members_of, hidden) == [f"{path}/a/b.dcm"]
    assert len(hidden) == 4


def test_a_study_in_a_zip_is_read_like_a_folder(film: bytes, tmp_path: Path) -> None:
    other = write(dx(picture(rows=50)), tmp_path / "other.dcm").read_bytes()
    inside = zipped(tmp_path / "Study.ZIP", ("in/a.dcm", film), ("b", other), ("README", b"hello"))
    with Reader("mimic-jpg") as reader:
        paths = inputs.find_images([str(inside)], reader.members)
        assert paths == [f"{inside}/{name}" for name in ("README", "b", "in/a.dcm")]
        assert reader.read(paths[1]).grey.shape == (50, 36)
        assert reader.read(paths[2]).grey.shape == (40, 36)
        with pytest.raises(RefusedImage) as caught:
            reader.read(paths[0])
        assert caught.value.reason == "not_an_image"


OUTSIDE = ["../x.dcm", "a/../../x.dcm", "/etc/x.dcm", "C:/x.dcm", "C:\\x.dcm", "..\\..\\x.dcm"]
OUTSIDE += ["\\\\host\\share\\x.dcm", "//x.dcm"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_of_places_outside_are_refused(name: str, tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", (info(name), b"x"))
    if os.sep == "\\":
        pytest.skip("zipfile turns backslashes round")
    assert answers(path) in (["ok", "archive"], ["archive"])
    assert os.listdir(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o060666, 0o010666, 0o140666, 0o040755])
def test_links_devices_and_pipes_are_refused(mode: int, tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", (info("x.dcm", mode), b"/etc/hostname"))
    assert answers(path) == ["ok", "archive"]


@pytest.mark.parametrize("name", ["in.zip", "in.ZIP", "in.tar", "in.tgz", "in.dcm.gz", "in.7z"])
def test_archives_inside_are_not_opened(name: str, film: bytes, tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", ("a.dcm", film)).read_bytes()
    path = zipped(tmp_path / "a.zip", (name, inner))
    assert answers(path) == ["ok", "archive"]
    with Reader("mimic-jpg") as reader, pytest.raises(FailedImage) as caught:
        reader.read(f"{path}/{name}/a.dcm")
    assert caught.value.reason == "archive"


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        path = zipped(tmp_path / "a.zip", ("x.dcm", b"1"), ("x.dcm", b"2"))
    assert answers(path) == ["archive"]


def test_other_methods_than_deflate_are_refused(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = zipped(tmp_path / f"{method}.zip", ("x.dcm", b"1" * 1000), method=method)
        assert answers(path) == ["ok", "archive"]


def changed(data: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    at = data.index(signature) + offset
    return data[:at] + value + data[at + len(value) :]


LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
LIES: dict[str, tuple[Callable[[bytes], bytes], list[list[str]]]] = {
    "encrypted": (
        lambda d: changed(changed(d, CENTRAL, 8, b"\1\0"), LOCAL, 6, b"\1\0"),
        [["ok", "archive"]],
    ),
    "another checksum": (lambda d: changed(d, CENTRAL, 16, b"abcd"), [["ok", "archive"]]),
    "unpacks to less": (lambda d: changed(d, CENTRAL, 24, b"\x10\0\0\0"), [["ok", "archive"]]),
    "unpacks to more": (
        lambda d: changed(d, CENTRAL, 24, b"\xff\xff\0\0"),
        [["ok", "too_large"], ["ok", "archive"]],
    ),
    "unpacks to 4 GiB": (lambda d: changed(d, CENTRAL, 24, b"\xfe" * 4), [["ok", "too_large"]]),
    "packed is 4 GiB": (
        lambda d: changed(d, CENTRAL, 20, b"\xfe" * 4),
        [["ok", "ok"]],  # nobody needs that number
    ),
    "starts behind the end": (
        lambda d: changed(d, CENTRAL, 42, b"\xff\xff\xff\x7f"),
        [["ok", "archive"], ["archive"]],
    ),
    "another name inside": (lambda d: changed(d, LOCAL, 30, b"y"), [["ok", "archive"]]),
    "no name": (lambda d: changed(d, CENTRAL, 28, b"\0\0"), [["archive"]]),
    "a NUL in the name": (
        lambda d: changed(d, CENTRAL, 47, b"\0"),
        [["ok", "archive"], ["archive"]],
    ),
    "a damaged stream": (lambda d: changed(d, LOCAL, 40, b"\xff" * 6), [["ok", "archive"]]),
    "another disk": (lambda d: changed(d, END, 4, b"\7\0"), [["archive"], ["ok", "ok"]]),
    "a table elsewhere": (lambda d: changed(d, END, 16, b"\xff\xff\0\0"), [["ok", "archive"]]),
    "a table of 4 GiB": (lambda d: changed(d, END, 12, b"\xfe" * 4), [["archive"]]),
    "65535 members": (lambda d: changed(d, END, 8, b"\xff" * 4), [["archive"]]),
    "a comment that is not there": (
        lambda d: changed(d, END, 20, b"\xff\xff"),
        [["archive"], ["ok", "ok"]],
    ),
    "a comment that is an end record": (
        lambda d: changed(d, END, 20, b"\x16\0") + b"PK\x05\x06" + b"\0" * 18,
        [["ok"], ["archive"]],
    ),
    "bytes before": (lambda d: b"MZ" + b"\0" * 500 + d, [["ok", "ok"]]),
    "zeros behind": (lambda d: d + bytes(100), [["ok", "ok"], ["archive"]]),
    "a second archive behind": (lambda d: d + d, [["ok", "ok"]]),
    "half": (lambda d: d[: len(d) // 2], [["archive"]]),
    "without its last byte": (lambda d: d[:-1], [["archive"]]),
    "nothing": (lambda d: b"", [["archive"]]),
    "only an end record": (lambda d: END + bytes(18), [["ok"]]),
    "no zip": (lambda d: b"DICM" * 100, [["archive"]]),
}


@pytest.mark.parametrize(("lie", "allowed"), LIES.values(), ids=LIES)
def test_lies(
    lie: Callable[[bytes], bytes], allowed: list[list[str]], film: bytes, tmp_path: Path
) -> None:
    path = zipped(tmp_path / "a.zip", (info("x.dcm"), film), method=8)
    path.write_bytes(lie(zip_deflated("x.dcm", film)))
    assert answers(path) in allowed
    with Reader("mimic-jpg") as reader:
        for name in [str(path), f"{path}/x.dcm", f"{path}/no.dcm", f"{path}/"]:
            said = ""
            try:
                reader.read(name)
            except RefusedImage as refusal:
                said = str(refusal)
            assert "can't be read" not in said, "not expected by any line of ours"


def zip_deflated(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("flag", [0, 0x800], ids=["cp437", "utf-8"])
def test_names_that_are_no_text(flag: int, film: bytes, tmp_path: Path) -> None:
    """Bytes that are not UTF-8: read under whatever name they get, or refused as an archive."""
    data = zip_deflated("xxxx.dcm", film).replace(b"xxxx", b"\xff\xfe\xed\x80")
    for signature, offset in ((LOCAL, 6), (CENTRAL, 8)):
        data = changed(data, signature, offset, struct.pack("<H", flag))
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    reason = "archive"
    with Reader("mimic-jpg") as reader:
        try:
            for name in reader.members(str(path)):
                assert reader.read(f"{path}/{name}").view == "PA"
        except FailedImage as refusal:
            reason = refusal.reason
        assert reason == "archive"
        assert reader.deaths == 0


def test_a_member_over_the_limit_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("a.dcm", np.random.default_rng(1).bytes(2000)))
    assert len(read_member(path, "a.dcm", 2000)) == 2000
    with pytest.raises(FailedImage) as caught:
        read_member(path, "a.dcm", 1999)
    assert caught.value.reason == "too_large"


def test_a_table_of_contents_is_counted_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python would make an object of each of 100,000 members first."""
    path = tmp_path / "a.zip"
    path.write_bytes(bombs.many_members(100_000))
    monkeypatch.setattr(archive.zipfile, "ZipFile", None)
    assert answers(path) == ["archive"]


BOMBS = {
    "42.zip": lambda: bombs.nested_zip(2, 4),
    "overlapping": lambda: bombs.overlapping_zip(500, 8 * 2**20),
    "quoted": lambda: bombs.quoted_zip(300, 8 * 2**20),
    "many": lambda: bombs.many_members(11_000),
    "says 1": lambda: bombs.many_members(11_000, 1),
    "zip64": bombs.zip64_lies,
    "wrong sizes": lambda: bombs.wrong_sizes(30 * 2**20),
    "zeros": lambda: bombs.zip_of({"a.dcm": bytes(30 * 2**20)}),
    "end records": lambda: END * 5000,
}


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_bombs(make: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(make())
    assert set(answers(path)[1:]) <= {"archive", "too_large"}


def test_a_file_that_is_replaced_while_it_is_read(film: bytes, tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("a.dcm", film))
    with Reader("mimic-jpg") as reader:
        (name,) = reader.members(str(path))
        zipped(path, ("b.dcm", film))
        with pytest.raises(FailedImage, match="does not hold"):
            reader.read(f"{path}/{name}")
        path.unlink()
        with pytest.raises(FailedImage):
            reader.read(f"{path}/{name}")


def test_a_folder_may_be_called_like_an_archive(film: bytes, tmp_path: Path) -> None:
    (tmp_path / "films.zip").mkdir()
    (tmp_path / "films.zip" / "a.dcm").write_bytes(film)
    with Reader("mimic-jpg") as reader:
        paths = inputs.find_images([str(tmp_path)], reader.members)
        assert reader.read(paths[0]).view == "PA"
