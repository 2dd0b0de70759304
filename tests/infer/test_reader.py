"""python -m pytest tests/infer/test_reader.py -- the child that reads files, and what it may do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.fuzz.bomb_parts import deflated, jpeg2000, long_element
from tests.infer.dicom_files import dx, in_syntax, picture, write
from tier_infer import reader as reader_module
from tier_infer.errors import FailedImage, NotEvaluated, RefusedImage
from tier_infer.images import load_image
from tier_infer.reader import Reader

LINUX = pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="needs /proc")
# A child that greets like a real one and then does `{do}` with every request.
FAKE = """
import json, os, sys, time
def say(data): os.write(1, data)
say(b'{{"ready": true}}\\n')
for line in sys.stdin.buffer:
    {do}
"""
GREY = b'"shape": [1, 2], "pictures": 1, "has_display": false, '
REST = b'"view": "PA", "flags": [], "study_key": null, "instance_key": null, "patient_key": null}\n'
FORGED = {
    "no json": b"scored\n",
    "no utf-8": b'{"refused": "\xff\xfe"}\n',
    "a list": b"[]\n",
    "nothing in it": b"{}\n",
    "half a refusal": b'{"refused": "FailedImage"}\n',
    "no pixels": b'{"shape": [0, 5], "pictures": 1, ' + GREY[GREY.index(b'"has') :] + REST,
    "more pixels than any film": b'{"shape": [100000, 100000], "pictures": 1}\n',
    "a negative size": b'{"shape": [-1, -2], "pictures": 1}\n',
    "an infinite size": b'{"shape": [1e999, 1], "pictures": 1}\n',
    "not a number": b'{"shape": [NaN, 1], "pictures": 1}\n',
    "a size in words": b'{"shape": ["a", 1], "pictures": 1}\n',
    "three sizes": b'{"shape": [1, 2, 3], "pictures": 1}\n',
    "three pictures": b"{" + GREY.replace(b": 1,", b": 3,") + REST + b"ab" * 3,
    "more pixels than announced": b"{" + GREY + REST + b"abc",
    "no flags": b"{" + GREY + REST.replace(b"[]", b"7") + b"ab",
    "brackets": b"[" * 100_000 + b"\n",
    "digits": b"9" * 10_000 + b"\n",
    "a line without end": b"x" * (2**22 + 2**21),
}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(dx(), tmp_path_factory.mktemp("film") / "film.dcm")


@pytest.fixture(scope="module")
def shared() -> Iterator[Reader]:
    with Reader("mimic-jpg") as reader:
        yield reader


def fake(do: str, monkeypatch: pytest.MonkeyPatch, **options: float) -> Reader:
    """A reader with a child of our own, whose successors are real."""
    with monkeypatch.context() as patch:
        patch.setattr(reader_module, "CHILD", FAKE.replace("{do}", do.replace("{", "{{")))
        return Reader("mimic-jpg", **options)  # type: ignore[arg-type]


def answering(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Reader:
    path = FAKE.replace("{do}", f"say(bytes.fromhex('{data.hex()}'))")
    if len(data) > 50_000:  # longer than a command line may be
        path = FAKE.replace("{do}", f"say({data[:1]!r} * {len(data) - 1} + {data[-1:]!r})")
    with monkeypatch.context() as patch:
        patch.setattr(reader_module, "CHILD", path)
        return Reader("mimic-jpg", seconds=5)


def limits(reader: Reader) -> dict[str, list[str]]:
    assert reader._child is not None
    lines = Path(f"/proc/{reader._child.pid}/limits").read_text().splitlines()
    return {line[:26].strip(): line[26:].split() for line in lines}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("display", [False, True])
def test_it_reads_as_in_process(film: Path, display: bool, shared: Reader) -> None:
    found, expected = shared.read(str(film), display), load_image(film, "mimic-jpg", display)
    assert np.array_equal(found.grey, expected.grey)
    assert (found.view, found.flags) == (expected.view, expected.flags)
    assert (found.study_key, found.instance_key, found.patient_key) == (
        expected.study_key, expected.instance_key, expected.patient_key,
    )  # fmt: skip
    assert (found.display is None) == (not display)
    if display:
        assert found.display is not None
        assert expected.display is not None
        assert np.array_equal(found.display, expected.display)


def test_refusals_keep_kind_reason_and_study(tmp_path: Path, shared: Reader) -> None:
    path = write(dx(Modality="CT"), tmp_path / "ct.dcm")
    with pytest.raises(NotEvaluated) as caught:
        shared.read(str(path))
    assert caught.value.reason == "modality"
    assert caught.value.study_key == dx().StudyInstanceUID
    assert caught.value.view == "PA"


def test_the_parent_parses_nothing(film: Path) -> None:
    """No parser of files is even imported by who only holds a Reader."""
    code = (
        "import sys; from tier_infer.reader import Reader\n"
        "with Reader('minmax') as r: r.read(sys.argv[1])\n"
        "known = 'pydicom', 'zipfile', 'imagecodecs', 'PIL.PngImagePlugin'\n"
        "print([m for m in known if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, film], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@LINUX
def test_the_kernel_is_told_the_limits(film: Path) -> None:
    with Reader("minmax", memory_bytes=2**29, seconds=7) as reader:
        reader.read(str(film))
        found = limits(reader)
        assert found["Max data size"][:2] == [str(2**29)] * 2
        assert found["Max core file size"][:2] == ["0", "0"]
        assert found["Max file size"][:2] == ["0", "0"]
        assert 7 < int(found["Max cpu time"][0]) <= 14


@LINUX
def test_memory_beyond_the_cap_is_refused_and_the_child_lives_on(
    film: Path, tmp_path: Path
) -> None:
    bomb = tmp_path / "bomb.dcm"
    bomb.write_bytes(deflated(long_element(0x00091001, b"OB", bytes(120 * 2**20))))
    with Reader("mimic-jpg", memory_bytes=200 * 2**20) as reader:
        reader.read(str(film))
        child = reader._child
        with pytest.raises(FailedImage) as caught:
            reader.read(str(bomb))
        assert caught.value.reason == "too_large"
        reader.read(str(film))
        assert reader._child is child
        assert reader.deaths == 0


@LINUX
def test_memory_that_a_decoder_keeps_is_given_back(film: Path, tmp_path: Path) -> None:
    """OpenJPEG leaves a quarter GiB behind when it fails on this one; the next film needs it."""
    leak = tmp_path / "leak.dcm"
    leak.write_bytes(jpeg2000(8160, 8160, 32, padding=140_000))
    with Reader("mimic-jpg") as reader:
        for _ in range(3):
            with pytest.raises(FailedImage):
                reader.read(str(leak))
        reader.read(str(film))
        assert reader._child is not None
        status = Path(f"/proc/{reader._child.pid}/status").read_text()
        assert int(status.split("VmRSS:")[1].split()[0]) < 300 * 1024
        assert reader.deaths == 0


def test_a_child_that_dies_costs_one_image(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for do in ("os._exit(3)", "os.abort()", "os.kill(os.getpid(), 9)", "os.close(1)"):
        with fake(do, monkeypatch, seconds=5) as reader:
            with pytest.raises(FailedImage) as caught:
                reader.read(str(film))
            assert caught.value.reason == "decode"
            assert reader.deaths == 1
            assert reader.read(str(film)).view == "PA"


def test_a_child_that_hangs_costs_the_limit(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake("time.sleep(60)", monkeypatch, seconds=0.5) as reader:
        begun = time.monotonic()
        with pytest.raises(FailedImage) as caught:
            reader.read(str(film))
        assert time.monotonic() - begun < 30
        assert caught.value.reason == "time_limit"
        assert "0.5 s" in str(caught.value)
        reader._seconds = 20
        assert reader.read(str(film)).view == "PA"


def test_a_child_that_drips_its_answer_hangs_too(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time, the whole never does."""
    with (
        fake("[(say(b' '), time.sleep(0.05)) for _ in range(9999)]", monkeypatch, seconds=0.5) as r,
        pytest.raises(FailedImage, match="longer than"),
    ):
        r.read(str(film))


@pytest.mark.parametrize("data", FORGED.values(), ids=FORGED)
def test_a_forged_answer_is_a_dead_child(
    data: bytes, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What decodes hostile bytes may itself be hostile; the parent believes nothing."""
    with answering(data, monkeypatch) as reader:
        with pytest.raises(FailedImage) as caught:
            reader.read(str(film))
        assert caught.value.reason == "decode"
        assert reader.deaths == 1
        assert reader.read(str(film)).view == "PA"


def test_what_a_library_prints_is_no_answer(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On stdout it vanishes, on stderr it is a decoder that complains (reliability: hazard 33)."""
    lie = '{"refused": "NotEvaluated", "reason": "lie", "words": "", "study_key": 0, "view": 0}'
    for stream, expected in (("stdout", ""), ("stderr", "the decoder complained")):
        act = f"os.write(sys.{stream}.fileno(), {lie.encode() + bytes([10])!r})"
        code = (
            "import os, sys, tier_infer.reader_child as c; real = c.load_image; "
            f"c.load_image = lambda *a: ({act}, real(*a))[1]; c.main()"
        )
        code = f"exec({code!r})".replace("{", "{{").replace("}", "}}")
        code = "import sys; sys.path[:] = {path!r}; " + code
        monkeypatch.setattr(reader_module, "CHILD", code)
        with Reader("mimic-jpg") as reader:
            said = ""
            try:
                assert reader.read(str(film)).view == "PA"
            except FailedImage as refusal:
                said = str(refusal)
            assert said.startswith(expected)
            assert bool(said) == bool(expected)


def test_an_interrupted_answer_is_not_taken_for_the_next(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write(dx(picture(rows=50)), tmp_path / "other.dcm")
    with Reader("mimic-jpg") as reader:
        reader.read(str(film))

        def interrupted(*_: Any) -> Any:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(reader_module, "_answer", interrupted)
            with pytest.raises(KeyboardInterrupt):
                reader.read(str(film))
        assert reader.read(str(other)).grey.shape == (50, 36)


def test_files_are_not_mixed_up(tmp_path: Path, shared: Reader) -> None:
    """Scored, refused, another scored, …: each answer belongs to its question."""
    paths = [write(dx(picture(rows=40 + i)), tmp_path / f"{i}.dcm") for i in range(5)]
    broken = write(dx(RescaleSlope="0"), tmp_path / "broken.dcm")
    for turn in range(4):
        for number, path in enumerate(paths):
            assert shared.read(str(path), bool(turn % 2)).grey.shape == (40 + number, 36)
            with pytest.raises(FailedImage) as caught:
                shared.read(str(broken))
            assert caught.value.reason == "rescale"


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_child_killed_between_files_is_not_their_fault(film: Path) -> None:
    with Reader("mimic-jpg") as reader:
        reader.read(str(film))
        assert reader._child is not None
        reader._child.send_signal(signal.SIGKILL)
        reader._child.wait()
        assert reader.read(str(film)).view == "PA"


def test_no_child_is_left_behind(film: Path) -> None:
    with Reader("mimic-jpg") as reader:
        reader.read(str(film))
        child = reader._child
        assert child is not None
    assert child.poll() is not None
    reader.close()  # twice does no harm


NAMES = [
    "new\nline.dcm",
    '{"path": "x"}.dcm',
    "-rf.dcm",
    " .dcm",
    "ü名\u202e.dcm",
    "a" * 200,
    "..\\b",
]
NAMES += ["%s%n.dcm", "'quoted\".dcm", "\x1b[31m.dcm", "\udcff\udcfe.dcm"]


@pytest.mark.skipif(sys.platform != "linux", reason="names that other file systems refuse")
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_file_name(name: str, film: Path, tmp_path: Path, shared: Reader) -> None:
    path = tmp_path / name
    path.write_bytes(film.read_bytes())
    assert shared.read(str(path)).view == "PA"


@pytest.mark.parametrize(
    "path", ["", "\0", "a\0b.dcm", "/", ".", "x" * 5000, "nowhere.dcm"], ids=ascii
)
def test_what_is_no_file_is_refused(path: str, shared: Reader) -> None:
    with pytest.raises(RefusedImage):
        shared.read(path)
    assert shared.deaths == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in the file system")
def test_pipes_and_devices_are_not_opened(tmp_path: Path, shared: Reader) -> None:
    os.mkfifo(tmp_path / "pipe.dcm")
    for path in (tmp_path / "pipe.dcm", Path("/dev/zero")):
        with pytest.raises(FailedImage, match="no regular file"):
            shared.read(str(path))


@LINUX
def test_the_number_of_open_files_stays(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()
    with Reader("mimic-jpg") as reader:
        reader.read(str(film))
        with_child = open_files()
        for _ in range(100):
            reader.read(str(film))
        assert reader._child is not None
        child = Path(f"/proc/{reader._child.pid}/fd")
        in_child = len(list(child.iterdir()))
        for _ in range(100):
            reader.read(str(film))
        assert len(list(child.iterdir())) == in_child
        for _ in range(3):
            reader._child.kill()
            reader._child.wait()
            reader.read(str(film))
        assert open_files() == with_child
    assert open_files() == before


GUARD = """
def guard(event, args):
    writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    flags = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    named = event.startswith(("socket", "subprocess", "os.system", "os.exec", "os.posix_spawn"))
    changes = event in ("os.rename", "os.remove", "os.mkdir", "os.symlink", "shutil.move")
    if (writes or flags or named or changes) and args[:1] != ("/dev/null",):
        os._exit(99)
"""


def guarded(act: str) -> str:
    """`act`, in a child that ends at the first event that is none of its business."""
    scope = f"import os, sys; exec({GUARD!r}); sys.addaudithook(guard); {act}"
    return f"exec({scope!r})".replace("{", "{{").replace("}", "}}")


def test_nothing_is_written_started_or_asked_of_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every syntax and damaged files, under an audit hook that ends the child at the first try."""
    paths = [write(in_syntax(dx(), uid), tmp_path / f"{i}.dcm") for i, uid in enumerate(SYNTAXES)]
    broken = bytearray(paths[0].read_bytes())
    broken[300:400] = b"\xff" * 100
    (tmp_path / "broken.dcm").write_bytes(broken)
    paths.append(tmp_path / "broken.dcm")
    before = sorted(os.listdir(tmp_path))
    child = reader_module.CHILD.replace("main()", guarded("main()"))
    monkeypatch.setattr(reader_module, "CHILD", child)
    with Reader("mimic-jpg") as reader:
        for path in paths:
            try:
                reader.read(str(path), display=True)
            except RefusedImage:
                assert path.name == "broken.dcm"
        assert reader.deaths == 0
    assert sorted(os.listdir(tmp_path)) == before


SYNTAXES = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"]
SYNTAXES += ["1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80"]
SYNTAXES += ["1.2.840.10008.1.2.4.90"]


def test_the_guard_sees_what_it_should(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for act in ("import socket; socket.socket()", "open('x', 'w')"):
        monkeypatch.setattr(reader_module, "CHILD", FAKE.replace("{do}", guarded(act)))
        with Reader("mimic-jpg", seconds=5) as reader, pytest.raises(FailedImage):
            reader.read(str(film))


def test_readers_in_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    """One reader each: a Reader is not shared between threads."""
    paths = [write(dx(picture(rows=40 + i)), tmp_path / f"{i}.dcm") for i in range(2)]
    shapes: list[set[tuple[int, ...]]] = [set(), set()]

    def work(number: int) -> None:
        with Reader("mimic-jpg") as reader:
            for _ in range(20):
                shapes[number].add(reader.read(str(paths[number])).grey.shape)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shapes == [{(40, 36)}, {(41, 36)}]
