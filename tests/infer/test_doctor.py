"""python -m pytest tests/infer/test_doctor.py -- every fault has its line and its exit code."""

from __future__ import annotations

import builtins
import io
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner

from tier_infer import gpu as gpu_module
from tier_infer import reader
from tier_infer.bundle import load_bundle, parse_manifest, sha256
from tier_infer.cli import main
from tier_infer.dicom import decode, pixel_data
from tier_infer.dicom.syntaxes import SYNTAXES
from tier_infer.doctor import decode_checks, installation, machine, patient
from tier_infer.doctor.checks import exit_code, run_doctor, to_json, to_lines
from tier_infer.doctor.installation import Check
from tier_infer.doctor.probes import picture, probe_file
from tier_infer.engine import Engine
from tier_infer.errors import FailedImage
from tier_infer.golden import CROPS, TABLE

GIB = 2**30


@pytest.fixture
def copy(site: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(site / "bundle", tmp_path / "bundle"))


def line(found: list[Check], name: str) -> Check:
    (check,) = [c for c in found if c.name == name]
    return check


def failed(found: list[Check]) -> list[str]:
    return [c.name for c in found if c.status == "fail"]


def reseal(folder: Path, **changes: Any) -> None:
    manifest = parse_manifest((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(replace(manifest, **changes).to_json())


def test_a_sound_installation(site: Path) -> None:
    found = run_doctor(site / "bundle")
    assert failed(found) == []
    assert exit_code(found) == 0
    names = [c.name for c in found]
    assert len(set(names)) == len(names)
    for name in ("tier-cxr", "python", "numpy", "pillow", "pydicom", "click", "pyjpegls"):
        assert line(found, name).status == "ok"
    assert "OpenJPEG" in line(found, "pillow").sentence
    assert "CPUExecutionProvider" in line(found, "providers").sentence
    assert "max |dZ|" in line(found, "golden vectors").sentence
    assert line(found, "memory cap").status in ("ok", "warn")
    assert {s.name for s in SYNTAXES.values()} <= set(names)


def test_lines_and_json_say_the_same(site: Path) -> None:
    found = [Check("a", "ok", "one"), Check("b", "fail", "two\nlines \x1b[31m", 4)]
    lines = to_lines(found).splitlines()
    assert len(lines) == 2
    assert "\x1b" not in lines[1]
    report = json.loads(to_json(found))
    assert report["schema"] == "tier-infer-doctor/1"
    assert report["exit_code"] == 4
    assert [row["name"] for row in report["checks"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("codes", "expected"), [([], 0), ([4, 2], 4), ([1, 6], 6), ([1, 1], 1), ([2], 2)]
)
def test_the_exit_code_is_that_of_the_first_cause(codes: list[int], expected: int) -> None:
    found = [Check("x", "fail", "", code) for code in codes]
    assert exit_code([Check("w", "warn", ""), *found, Check("o", "ok", "")]) == expected


def test_the_verb(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site)
    shown = CliRunner().invoke(main, ["doctor"])
    assert shown.exit_code == 0, shown.output
    assert "golden vectors" in shown.stdout
    table = CliRunner().invoke(main, ["doctor", "--json", "--bundle", "nowhere"])
    assert table.exit_code == json.loads(table.stdout)["exit_code"] == 2


# The bundle


def test_no_bundle(tmp_path: Path) -> None:
    found = run_doctor(tmp_path / "nowhere")
    assert failed(found) == ["bundle"]
    assert "tier-export" in line(found, "bundle").sentence
    assert line(found, "golden vectors").status == "warn"
    assert exit_code(found) == 2


def test_a_flipped_byte_in_golden(copy: Path) -> None:
    whole = bytearray((copy / CROPS).read_bytes())
    whole[-1] ^= 1
    (copy / CROPS).write_bytes(whole)
    found = run_doctor(copy)
    assert failed(found) == ["bundle"]
    assert "crops.npy was changed after the export" in line(found, "bundle").sentence
    assert exit_code(found) == 4


def test_a_changed_expected_score(copy: Path) -> None:
    """Sealed anew, so that the hashes agree: only the replay can tell."""
    table = json.loads((copy / TABLE).read_text())
    table["scores"]["chexpert"]["z"][2][3] += 0.01
    data = json.dumps(table).encode()
    (copy / TABLE).write_bytes(data)
    golden = load_manifest_golden(copy) | {TABLE: {"sha256": sha256(data), "bytes": len(data)}}
    reseal(copy, golden=golden)
    found = run_doctor(copy)
    assert failed(found) == ["golden vectors"]
    sentence = line(found, "golden vectors").sentence
    assert "score Z differs by 1.0e-02, allowed 1e-05" in sentence
    assert exit_code(found) == 5


def load_manifest_golden(folder: Path) -> dict[str, dict[str, Any]]:
    return parse_manifest((folder / "manifest.json").read_bytes()).golden


def test_no_golden_vectors(copy: Path) -> None:
    shutil.rmtree(copy / "golden")
    reseal(copy, golden={})
    found = run_doctor(copy)
    assert failed(found) == []
    assert line(found, "golden vectors").status == "warn"
    assert "export again" in line(found, "golden vectors").sentence
    assert exit_code(found) == 0


def test_golden_vectors_that_do_not_belong(copy: Path) -> None:
    golden = load_manifest_golden(copy)
    del golden[CROPS]
    reseal(copy, golden=golden)
    found = run_doctor(copy)
    assert failed(found) == ["golden vectors"]
    assert exit_code(found) == 4


def test_another_computer_that_computes_otherwise(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Engine.encode

    def wrong(self: Engine, pixels: Any) -> Any:
        right = encode(self, pixels)
        return replace(right, patches=right.patches.transpose(0, 2, 1, 3))

    monkeypatch.setattr(Engine, "encode", wrong)
    found = run_doctor(site / "bundle")
    assert failed(found) == ["golden vectors"]
    assert "patch embedding differs" in line(found, "golden vectors").sentence
    assert exit_code(found) == 5


# onnxruntime and the device


def without(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = builtins.__import__

    def guarded(wanted: str, *args: Any, **rest: Any) -> Any:
        if wanted.partition(".")[0] == name:
            raise ImportError(name)
        return real(wanted, *args, **rest)

    monkeypatch.setattr(builtins, "__import__", guarded)


def test_no_onnxruntime(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "onnxruntime")
    found = run_doctor(site / "bundle")
    assert failed(found) == ["onnxruntime", "device"]
    assert "pip install 'tier-cxr[cpu]'" in line(found, "onnxruntime").sentence
    assert "no onnxruntime can be loaded" in line(found, "gpu").sentence
    assert exit_code(found) == 2


def versions(monkeypatch: pytest.MonkeyPatch, **changed: str | None) -> None:
    real = metadata.version

    def version(name: str) -> str:
        found = changed.get(name.replace("-", "_"), "as it is")
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return real(name) if found == "as it is" else found

    monkeypatch.setattr(metadata, "version", version)


def test_two_onnxruntimes(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, onnxruntime_gpu="1.32.0")
    found = list(installation.runtime())
    assert found[0].status == "fail"
    assert "onnxruntime and onnxruntime-gpu are installed together" in found[0].sentence
    assert "pip uninstall onnxruntime onnxruntime-gpu, then pip install" in found[0].sentence
    assert exit_code(found) == 2


BOTH = """
import sys
from tier_infer.doctor import installation
for check in installation.guarded("onnxruntime", installation.runtime):
    print(check.status, check.code, check.name, check.sentence)
"""


@pytest.mark.parametrize(
    ("installed", "left", "words"),
    [
        (("onnxruntime", "onnxruntime_gpu"), True, "are installed together and overwrite each"),
        (("onnxruntime_gpu",), True, "onnxruntime-gpu is installed and its files are not whole"),
        (("onnxruntime_gpu",), False, "onnxruntime-gpu is installed and its files are not whole"),
    ],
)
def test_two_onnxruntimes_for_real(
    tmp_path: Path, installed: tuple[str, ...], left: bool, words: str
) -> None:
    """What pip leaves behind. After one of two was uninstalled, the other's folder holds nothing
    but its providers and imports as an empty namespace (1.31.1): the check itself failed then."""
    for name in installed:
        folder = tmp_path / f"{name}-1.31.1.dist-info"
        folder.mkdir()
        told = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.31.1\n"
        (folder / "METADATA").write_text(told)
    if left:
        (tmp_path / "onnxruntime/capi").mkdir(parents=True)
        (tmp_path / "onnxruntime/capi/libonnxruntime_providers_cuda.so").write_bytes(b"")
    hidden = f"""
import importlib.abc, sys
class Hidden(importlib.abc.MetaPathFinder):  # the real one of this environment
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            from importlib.machinery import PathFinder
            return PathFinder.find_spec(name, [{str(tmp_path)!r}]) or self.none()
    def none(self):
        raise ModuleNotFoundError("onnxruntime")
sys.meta_path.insert(0, Hidden())
sys.path.insert(0, {str(tmp_path)!r})
from importlib import metadata
real = metadata.version
def version(name):
    if name.startswith("onnxruntime"):
        found = [d for d in metadata.distributions(path=[{str(tmp_path)!r}])
                 if d.metadata["Name"] == name]
        if not found:
            raise metadata.PackageNotFoundError(name)
        return found[0].version
    return real(name)
metadata.version = version
"""
    done = subprocess.run(
        [sys.executable, "-c", hidden + BOTH], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0]
    assert first.startswith("fail 2 onnxruntime ")
    assert words in first
    assert "then pip install 'tier-cxr[cpu]' or 'tier-cxr[gpu]'" in first


def test_a_module_of_another_version_than_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two were installed, then one uninstalled and the other not installed anew."""
    versions(monkeypatch, onnxruntime="1.30.0")
    (check,) = installation.guarded("onnxruntime", installation.runtime)
    assert (check.status, check.code) == ("fail", 2)
    assert "installed is onnxruntime 1.30.0; pip uninstall onnxruntime, then" in check.sentence


def test_an_old_package(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, numpy="1.26.4", pydicom=None)
    found = list(installation.packages())
    assert failed(found) == ["numpy", "pydicom"]
    assert "1.26.4, at least 2.0 is needed" in line(found, "numpy").sentence
    assert exit_code(found) == 2


def test_cuda_asked_for_where_there_is_none(site: Path) -> None:
    found = run_doctor(site / "bundle", "cuda")
    if line(found, "gpu").sentence.startswith("used"):
        pytest.skip("this machine has a GPU")
    assert failed(found) == ["device"]
    assert exit_code(found) == 6
    assert line(found, "gpu").sentence.startswith("not used: ")


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise OSError(f"/opt/{name}: cannot open")

    monkeypatch.setattr(gpu_module.platform, "system", lambda: "Linux")
    monkeypatch.setattr(gpu_module.ctypes, "CDLL", refuse)
    monkeypatch.setattr(gpu_module, "glob", lambda _: ["/dev/nvidia0"])
    assert gpu_module.obstacles() == ["the driver library libcuda.so.1 can't be loaded"]
    monkeypatch.setattr(gpu_module.platform, "system", lambda: "Darwin")
    assert gpu_module.obstacles() == ["there is no CUDA for Darwin"]


# Decoders and the child


def test_every_syntax_has_a_test_picture() -> None:
    assert [uid for uid in SYNTAXES if probe_file(uid) is None] == []


def test_the_embedded_codestreams_are_the_picture() -> None:
    """imagecodecs wrote them and must read them; where it is missing the doctor says so."""
    pytest.importorskip("imagecodecs")
    found = list(decode_checks.decoders())
    assert [c.status for c in found] == ["ok"] * len(SYNTAXES)
    for exact in ("JPEG lossless", "JPEG lossless SV1", "HTJ2K", "RLE", "JPEG-LS lossless"):
        assert line(found, exact).sentence.endswith("decodes, exact")


def test_pydicom_itself_reads_the_probes() -> None:
    """A second reader, so that probe and decoder can't be wrong in the same way."""
    for uid in ("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.2"):
        probe = probe_file(uid)
        assert probe is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = pydicom.dcmread(io.BytesIO(probe[0])).pixel_array
        assert np.array_equal(pixels, picture(probe[1]))


def test_a_missing_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "missing_decoder", lambda s: s.decoder == "imagecodecs")
    found = list(decode_checks.decoders())
    lossless = line(found, "JPEG lossless SV1")
    assert lossless.status == "warn"
    assert "pip install 'tier-cxr[jpeg-lossless]'" in lossless.sentence
    assert failed(found) == []
    versions(monkeypatch, imagecodecs=None)
    (extra,) = installation.jpeg_lossless()
    assert extra.status == "warn"
    assert "pip install 'tier-cxr[jpeg-lossless]'" in extra.sentence


def tampered(change: Callable[[Any], Any]) -> Callable[..., Any]:
    real = pixel_data.stored_pixels

    def stored(ds: Any) -> Any:
        pixels, flags = real(ds)
        return change(pixels), flags

    return stored


def test_a_decoder_that_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    lie = tampered(lambda pixels: pixels + np.uint16(100))
    monkeypatch.setattr(pixel_data, "stored_pixels", lie)
    found = list(decode_checks.decoders())
    rle = line(found, "RLE")
    assert rle.status == "fail"
    assert "comes out wrong by 100 levels" in rle.sentence
    assert exit_code(found) == 2


def test_a_decoder_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(ds: Any) -> Any:
        raise FailedImage("decode", "can't be decoded")

    monkeypatch.setattr(pixel_data, "stored_pixels", refuse)
    found = list(decode_checks.decoders())
    assert len(failed(found)) == len(SYNTAXES)
    assert exit_code(found) == 2


def test_a_child_that_cannot_start(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader.sys, "executable", "/nowhere/python")
    found = list(decode_checks.decode_child())
    assert [c.name for c in found] == ["decode child"]
    assert found[0].sentence == "it can't be started (No such file or directory)"
    assert exit_code(found) == 2


def test_a_child_that_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "CHILD", "raise SystemExit({path!r} and 1)")
    words = "ModuleNotFoundError: No module named 'nothing'"
    done = subprocess.CompletedProcess([], 1, "", f"Traceback\n/home/somebody\n{words}\n")
    monkeypatch.setattr(decode_checks, "_like_the_child", lambda code: done)
    (found,) = decode_checks.decode_child()
    assert found.sentence == f"it ends before it is ready ({words})"
    assert (found.status, found.code) == ("fail", 2)
    done.stderr = "Traceback\nOSError: /home/somebody/x.so: cannot open\n"
    assert next(iter(decode_checks.decode_child())).sentence.endswith("(OSError)")


def test_a_child_that_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_checks, "film", lambda: np.zeros((256, 256), np.uint16))
    (found,) = decode_checks.decode_child()
    assert "does not read a test picture" in found.sentence
    assert (found.status, found.code) == ("fail", 3)


def test_a_cap_that_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_checks, "BEYOND_THE_CAP", "print('not held')  # {path} {bytes}")
    monkeypatch.setattr(decode_checks.platform, "system", lambda: "Linux")
    assert decode_checks._memory_cap().code == 3
    monkeypatch.setattr(decode_checks.platform, "system", lambda: "Windows")
    check = decode_checks._memory_cap()
    assert (check.status, check.sentence) == ("warn", "not enforced on Windows")


# The machine, and the doctor itself


@pytest.mark.parametrize(
    ("amounts", "status", "words"),
    [
        ((8 * GIB, 16 * GIB), "ok", "8.0 of 16.0 GiB free"),
        ((GIB, 16 * GIB), "warn", "may need 2 GiB"),
        ((None, 16 * GIB), "ok", "of 16.0 GiB unknown"),
        ((None, None), "ok", "unknown on this platform"),
    ],
)
def test_memory(
    monkeypatch: pytest.MonkeyPatch, amounts: tuple[Any, Any], status: str, words: str
) -> None:
    monkeypatch.setattr(machine, "memory", lambda: amounts)
    (check,) = installation.memory()
    assert check.status == status
    assert words in check.sentence


def test_disk_is_named_and_not_located(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIER_CACHE", str(tmp_path / "not" / "there" / "yet"))
    (check,) = installation.disk()
    assert check.sentence.endswith("in TIER_CACHE")
    assert str(tmp_path) not in check.sentence
    monkeypatch.setattr(machine, "free_disk", lambda: ("the temporary folder", 10**6, True))
    assert next(iter(installation.disk())).status == "warn"
    monkeypatch.setattr(machine, "free_disk", lambda: ("the temporary folder", 10**12, False))
    assert "can't be written" in next(iter(installation.disk())).sentence


def test_a_container_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n",
        "/sys/fs/cgroup/memory.max": str(2 * GIB),
        "/sys/fs/cgroup/memory.current": str(GIB),
        "/sys/fs/cgroup/cpu.max": "100000 100000",
    }
    monkeypatch.setattr(machine, "_read", lambda path: files.get(path, ""))
    assert machine.memory() == (GIB, 2 * GIB)
    assert machine.threads()[0] == 1


def test_no_check_crashes_the_doctor(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("/home/somebody/secret")

    for name in ("threads", "memory", "free_disk"):
        monkeypatch.setattr(machine, name, broken)
    monkeypatch.setattr(gpu_module, "obstacles", broken)
    monkeypatch.setattr(patient, "load_bundle", broken)
    found = run_doctor(site / "bundle")
    assert failed(found) == ["processor", "memory", "disk", "tensorrt", "bundle", "gpu"]
    assert exit_code(found) == 1
    assert "somebody" not in to_lines(found)
    assert line(found, "memory").sentence == "the check itself failed (RuntimeError)"


def test_nothing_is_asked_of_a_network(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_socket(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", no_socket)
    monkeypatch.setattr(socket, "getaddrinfo", no_socket)
    assert exit_code(run_doctor(site / "bundle")) == 0


def test_no_machine_path_is_shown(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site)
    lines = to_lines(run_doctor(Path("bundle")))
    for place in (site, Path.home(), Path(sys.prefix), Path(tempfile.gettempdir())):
        assert str(place) not in lines
    assert load_bundle(Path("bundle")).manifest.name in lines
