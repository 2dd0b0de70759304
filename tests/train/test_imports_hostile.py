"""python -m pytest tests/train/test_imports_hostile.py -- files made to be misread.

What each claims was seen to happen before it was refused.
"""

from __future__ import annotations

import argparse
import io
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.train import layouts
from tier_infer.errors import IntegrityError, UsageError
from tier_train.checkpoint import read_archive
from tier_train.cli import main
from tier_train.imports import sources, weights
from tier_train.imports.weights import TIER_CLASSES, load_table, plain_state

torch.set_num_threads(1)
STATE = {"a.weight": torch.full((64, 64), 0.5), "a.bias": torch.arange(64.0)}


def _members(table: object) -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.save(table, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _rewritten(path: Path, kind: str) -> Path:
    members = _members(STATE)
    method = zipfile.ZIP_DEFLATED if kind == "compressed" else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of the second name
        for name, content in members.items():
            archive.writestr(name, content)
        if kind == "one name":
            archive.writestr(next(n for n in members if n.endswith("data/0")), bytes(64 * 64 * 4))
        if kind == "claim more":  # two entries of the directory over the same bytes
            for info in list(archive.infolist()):
                twin = zipfile.ZipInfo(f"{info.filename}_")
                for field in ("header_offset", "file_size", "compress_size", "CRC"):
                    setattr(twin, field, getattr(info, field))
                archive.filelist.append(twin)
    return path


@pytest.mark.parametrize("kind", ["compressed", "one name", "claim more"])
def test_an_archive_that_torch_did_not_write_is_refused(kind: str, tmp_path: Path) -> None:
    """Compressed weights were mapped as they lie: numbers that nobody trained, and no error."""
    path = _rewritten(tmp_path / "weights.pt", kind)
    for read in (load_table, read_archive):
        with pytest.raises(IntegrityError, match=kind):
            read(path)


def test_the_same_archive_as_torch_writes_it_is_read(tmp_path: Path) -> None:
    path = _rewritten(tmp_path / "weights.pt", "as torch does")
    assert torch.equal(load_table(path)["a.bias"], STATE["a.bias"])
    assert torch.equal(read_archive(path)[0]["a.bias"], STATE["a.bias"])


def test_a_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _rewritten(tmp_path / "weights.pt", "compressed")
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda self: pytest.fail("unpacked"))
    for read in (load_table, read_archive):
        with pytest.raises(IntegrityError, match="compressed"):
            read(path)


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(()).expand(4096, 4096),
        torch.zeros(8191).as_strided((4096, 4096), (1, 1)),
        torch.zeros(4, dtype=torch.float16).expand(4096, 4),
    ],
    ids=["one number", "overlapping", "half"],
)
def test_weights_that_are_not_there_are_refused(value: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2), "big": value}, path := tmp_path / "x.pt")
    with pytest.raises(IntegrityError, match="big claims more weights than the file holds"):
        plain_state(path, load_table(path))


def test_one_storage_is_not_many_weights(tmp_path: Path) -> None:
    """Two names for one weight are usual (tied); a hundred are a small file's large claim."""
    value = torch.zeros(4096)
    for count, right in ((2, True), (100, False)):
        torch.save({str(i): value for i in range(count)}, path := tmp_path / "x.pt")
        if right:
            assert len(plain_state(path, load_table(path))) == count
        else:
            with pytest.raises(IntegrityError, match="more than the file holds"):
                plain_state(path, load_table(path))


def test_hollow_weights_are_refused_as_such(tmp_path: Path) -> None:
    path, words = layouts.write_source("tier", tmp_path, layouts.hollow("tier"))
    with pytest.raises(IntegrityError, match="claims more weights"):
        sources.SOURCES["tier"](path, words)


@pytest.mark.parametrize("kind", ["nested", "subclass"])
def test_tensors_of_another_kind_are_refused(kind: str, tmp_path: Path) -> None:
    class Own(torch.Tensor):
        pass

    value: Any = torch.zeros(3).as_subclass(Own)
    if kind == "nested":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a prototype, torch says
            value = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(IntegrityError, match="a is a tensor of another kind"):
        plain_state(tmp_path, {"a": value})


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] can't allocate memory: you tried")]
)
def test_too_little_memory_is_said(
    error: Exception, tmp_path: Path, runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise error

    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setitem(sources.SOURCES, "torchvision", fail)
    (tmp_path / "x.pth").touch()
    result = runner.invoke(main, ["import", "torchvision", str(tmp_path / "x.pth")])
    assert (result.exit_code, result.stdout) == (4, "")
    assert "asks for more memory than there is" in result.stderr


class Call:
    def __init__(self, function: object, *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


SCALAR = np.float64(0).__reduce__()[0]


@pytest.mark.parametrize(
    "value",
    [
        Call(SCALAR, Call(np.dtype, "V2000000000")),
        Call(SCALAR, Call(np.dtype, "f8")),
        Call(SCALAR, np.dtype("f8"), bytes(7)),
        Call(SCALAR, np.dtype("f8"), bytes(16)),
        Call(SCALAR, np.dtype("f4"), bytes(8)),
        Call(SCALAR, np.dtype("f2"), bytes(2)),
        Call(SCALAR, np.dtype(">f8"), bytes(8)),
        Call(np.dtype, "V2000000000"),
        Call(np.dtype, ["f8"]),
        np.dtype([("a", "f8")]),
    ],
)
def test_numpy_takes_no_memory_at_a_files_word(value: object, tmp_path: Path) -> None:
    """A scalar of type V2000000000 took 2 GB, out of a file of a kilobyte."""
    members = _members({"a": 0})
    name = next(n for n in members if n.endswith("data.pkl"))
    members[name] = pickle.dumps({"args": argparse.Namespace(lr=value)}, 2)
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    with pytest.raises(IntegrityError):
        load_table(tmp_path / "x.pt", TIER_CLASSES)


def test_numpys_scalars_are_read_as_numbers(tmp_path: Path) -> None:
    table = {"a": np.float32(2.5), "b": np.float64(-1.25), "c": np.int64(-7)}
    torch.save(table, tmp_path / "x.pt")
    assert load_table(tmp_path / "x.pt", TIER_CLASSES) == {"a": 2.5, "b": -1.25, "c": -7}


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("\x1b[31mEVIL\x07", r"\x1b[31mEVIL\x07"),
        ("a\ud800b", r"a\ud800b"),
        ("line\nexit 0", r"line\nexit 0"),
        ("k" * 10**6, "k" * 79 + "…"),
    ],
    ids=["colours", "surrogate", "line", "long"],
)
def test_a_name_cannot_forge_a_message(
    key: str, said: str, tmp_path: Path, runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    for value in (torch.zeros(1), 3.0):
        torch.save({key: value}, tmp_path / "x.pth")
        result = runner.invoke(main, ["import", "torchvision", str(tmp_path / "x.pth")])
        assert result.exit_code == 4
        assert said in result.stderr
        assert len(result.stderr) < 1000
        assert result.stderr.count("\n") == 1


def test_an_error_with_half_a_surrogate_pair_is_said(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(path: Path) -> None:
        raise UsageError("a\ud800b")

    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setitem(sources.SOURCES, "torchvision", fail)
    (tmp_path / "x.pth").touch()
    result = runner.invoke(main, ["import", "torchvision", str(tmp_path / "x.pth")])
    assert result.exit_code == 2
    assert result.stderr == "tier-train: a\\ud800b\n"


def test_merges_are_read_before_weights_are_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts.let_hollow_in(monkeypatch)
    monkeypatch.setattr(sources, "convert", lambda *_: pytest.fail("converted"))
    path, merges = layouts.write_source("chexzero", tmp_path, layouts.hollow("chexzero"))
    layouts.write_merges(merges, 10)
    with pytest.raises(IntegrityError, match="a vocabulary of 524 pieces"):
        sources.SOURCES["chexzero"](path, merges)


def test_memory_is_told_from_other_errors() -> None:
    """With torch's own words for it."""
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    assert weights.is_memory(error.value)
    assert not weights.is_memory(RuntimeError("shapes do not fit"))
