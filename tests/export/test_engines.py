"""python -m pytest tests/export/test_engines.py -- bundle/engines, with a GPU and without.

The GPU is the fake one of tests/infer/trt, and the plan that its builder gives is the graph.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result

import tier_export.engines
import tier_export.export
import tier_infer.devices
from tests.infer.trt.fake_cuda import FakeGpu
from tests.infer.trt.fake_engine import FakeEngine
from tests.infer.trt.station import ADA, TRT
from tier_export.cli import main
from tier_export.engines import add_engine, skipped
from tier_infer.bundle import load_bundle, sha256
from tier_infer.errors import DeviceError, IntegrityError, ParityError
from tier_infer.trt import run, store
from tier_infer.trt.build import Built, Wish
from tier_infer.trt.library import Library
from tier_infer.trt.run import NativeEncoder

NAME = "sm89-trt11.4.0.106-fp16"


def quiet(line: str) -> None:
    raise AssertionError(line)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same tests on a machine that has one."""
    monkeypatch.setenv("TIER_CACHE", str(tmp_path / "cache"))
    for module in (tier_export.engines, tier_infer.devices):
        monkeypatch.setattr(module, "obstacles", lambda: ["there is no NVIDIA device node"])


@pytest.fixture
def bundle(site: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(site / "bundle", tmp_path / "bundle"))


class Machine:
    """A GPU, TensorRT 11, and a builder whose plans are `plan`."""

    def __init__(self, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bundle = load_bundle(site / "bundle")
        self.gpu = FakeGpu(monkeypatch)
        self.builds("fp16")
        self.wishes: list[Wish] = []
        self.opened: list[NativeEncoder] = []
        opened = self.opened

        class Watched(NativeEncoder):
            def __init__(self, *given: Any) -> None:
                opened.append(self)
                super().__init__(*given)

        monkeypatch.setattr(run, "NativeEncoder", Watched)
        for module in (tier_export.engines, tier_infer.devices, run):
            monkeypatch.setattr(module, "obstacles", list)
        for module in (store, run):
            monkeypatch.setattr(module, "gpu", lambda: ADA)
            monkeypatch.setattr(module, "find_library", lambda: self.library)
        monkeypatch.setattr(store, "build_plan", self.build)

    def builds(self, precision: str) -> None:
        """From now on the library's plans are of this encoder."""
        self.engine = FakeEngine(self.gpu, self.bundle.encoder(precision), 112, 7, 128)
        name, _, number = TRT.partition(" ")
        self.library = Library(name, number, self.engine.library(TRT).module)

    def build(self, library: Library, graph: bytes, wish: Wish, timing: bytes, say: Any) -> Built:
        assert library == self.library
        self.wishes.append(wish)
        return Built(graph, b"timing", 1.0, {"inspector": {"half": 10}})


@pytest.fixture
def machine(no_gpu: None, site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(site, monkeypatch)
    yield made
    for encoder in made.opened:
        encoder.close()


def test_without_a_gpu_nothing_is_written(bundle: Path) -> None:
    assert add_engine(bundle, quiet) == ([], "no GPU here")
    assert not (bundle / "engines").exists()
    assert not (bundle.parent / "cache").exists()
    assert skipped("no GPU here") == (
        "engine skipped: no GPU here; run tier-infer warmup on the target"
    )


def test_on_a_gpu_machine_the_bundle_gets_its_engine(bundle: Path, machine: Machine) -> None:
    """Of the best precision, proven by the golden vectors, for this installation."""
    before = load_bundle(bundle).manifest
    (row,), reason = add_engine(bundle, quiet)
    assert reason == ""
    plan = (bundle / "engines" / f"{NAME}.engine").read_bytes()
    assert row == {
        "path": f"engines/{NAME}.engine",
        "sha256": sha256(plan),
        "bytes": len(plan),
        "precision": "fp16",
        "sm": "sm89",
        "library": "tensorrt 11.4.0.106",
    }
    assert sorted(os.listdir(bundle / "engines")) == [
        f"{NAME}{ending}" for ending in (".engine", ".json", ".seal")
    ]
    told = json.loads((bundle / "engines" / f"{NAME}.json").read_bytes())
    assert told["onnx_sha256"] == before.files["image_encoder.fp16.onnx"]["sha256"]
    assert [wish.precision for wish in machine.wishes] == ["fp16"]
    assert {batch for _, batch in machine.engine.ran} == {1, 8, 32}
    assert load_bundle(bundle).manifest == before


@pytest.mark.parametrize("fault", [0.01, float("nan")])
def test_an_engine_that_computes_something_else_does_not_stay(
    bundle: Path, machine: Machine, fault: float
) -> None:
    machine.engine.spoilt = {8: fault}
    with pytest.raises(ParityError, match="golden vectors in batches of 8"):
        add_engine(bundle, quiet)
    assert os.listdir(bundle / "engines") == []
    load_bundle(bundle)


def test_a_gpu_without_the_library_says_what_to_install(
    bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Library:
        raise DeviceError("no TensorRT: the package tensorrt is not installed (pip install 'x')")

    monkeypatch.setattr(store, "find_library", missing)
    engines, reason = add_engine(bundle, quiet)
    assert engines == []
    assert skipped(reason) == (
        "engine skipped: no TensorRT: the package tensorrt is not installed (pip install 'x'); "
        "run tier-infer warmup on the target"
    )


def test_a_reason_that_names_the_command_does_not_name_it_twice() -> None:
    assert skipped("it was changed; run tier-infer warmup").count("warmup") == 1


@pytest.mark.parametrize("error", [ParityError("not fp16"), IntegrityError("does not parse")])
def test_what_is_wrong_with_the_graph_is_no_reason_to_skip(
    bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """An FP16 engine that was FP32 has been shipped with exit 0 elsewhere."""

    def refused(*given: Any) -> Built:
        raise error

    monkeypatch.setattr(store, "build_plan", refused)
    with pytest.raises(type(error)):
        add_engine(bundle, quiet)


def test_a_folder_that_can_not_be_written(
    bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device", "/somewhere/secret")

    monkeypatch.setattr(store, "save_engine", full)
    _, reason = add_engine(bundle, quiet)
    assert reason == "it can't be written (No space left on device)"


def exported(site: Path, monkeypatch: pytest.MonkeyPatch, *args: object) -> Result:
    """tier-export, with the site's graph in place of building it again: seconds less."""
    model = onnx.load(str(site / "bundle/image_encoder.onnx"))
    monkeypatch.setattr(tier_export.export, "encoder_graph", lambda *_: model)
    result = CliRunner().invoke(main, [str(a) for a in (*args, site / "ckpt.pt")])
    assert result.exit_code == 0, result.output
    return result


def test_the_command_says_one_line_and_all_else_is_complete(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = exported(site, monkeypatch, "--json", "-o", tmp_path / "new")
    lines = [line for line in result.stderr.splitlines() if "engine" in line]
    assert lines == ["engine skipped: no GPU here; run tier-infer warmup on the target"]
    assert json.loads(result.stdout)["engines"] == []
    assert not (tmp_path / "new" / "engines").exists()


def test_the_command_lists_its_engine_and_replaces_it(
    site: Path, bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a bundle with the engine of another encoder: that one does not survive."""
    add_engine(bundle, quiet)
    machine.builds("fp32")
    result = exported(site, monkeypatch, "-o", bundle)
    name = NAME.replace("fp16", "fp32")
    assert f"engines/{name}.engine " in result.stdout
    assert "fp32, this machine only" in result.stdout
    assert "skipped" not in result.output
    assert sorted(os.listdir(bundle / "engines"))[0] == f"{name}.engine"
    assert len(os.listdir(bundle / "engines")) == 3
