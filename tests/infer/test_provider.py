"""python -m pytest tests/infer/test_provider.py -- TensorRT in onnxruntime: made, sealed, opened.

No GPU here: in TensorRT's place onnxruntime's CPU runs the encoder, from a file that it wrote where
and how the options of TensorRT's provider say. What is tested is what is asked of onnxruntime, and
which bytes ever reach it. tests/infer/test_gpu.py runs the real one.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.infer.tiny_bundle import write_bundle
from tier_infer import devices, sessions
from tier_infer.bundle import Bundle, load_bundle
from tier_infer.cache import Cache
from tier_infer.engine import Engine
from tier_infer.errors import DeviceError, UsageError
from tier_infer.gpu import Gpu
from tier_infer.sessions import OnnxEncoder
from tier_infer.trt import provider
from tier_infer.trt.provider import open_provider, warm_provider

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 112, 112), dtype=np.uint8)
BOARD = Gpu("NVIDIA RTX A4000", "GPU-1", "sm86", "580.65.06", "13.0")


def quiet(_: str) -> None:
    pass


class Machine:
    """What can change around an engine, and all that onnxruntime was asked for."""

    def __init__(self) -> None:
        self.gpu, self.tensorrt, self.runtime = BOARD, "10.16.1", "onnxruntime 1.31.1"
        self.compiled: list[dict[str, str]] = []
        self.opened: list[bytes] = []
        self.beside = ""  # another file that the provider leaves


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    here = Machine()
    real = sessions.open_session

    def open_session(
        graph: bytes, device: str, fused: bool = True, settings: Mapping[str, str] | None = None
    ) -> Any:
        assert (device, fused) == ("tensorrt-ep", False)
        if settings is None:
            here.opened.append(graph)
            return real(graph, "cpu")
        here.compiled.append(dict(settings))
        target = Path(settings["trt_ep_context_file_path"])
        assert list(target.parent.iterdir()) == []
        assert stat.S_IMODE(target.parent.stat().st_mode) == 0o700
        context = onnx.load_from_string(graph)
        context.producer_name = f"engine {len(here.compiled)}"  # two builds are never the same
        target.write_bytes(context.SerializeToString())
        if here.beside:
            (target.parent / here.beside).touch()
        return real(graph, "cpu")

    monkeypatch.setattr(devices, "obstacles", list)
    monkeypatch.setattr(provider, "prepare", lambda _: None)
    monkeypatch.setattr(provider, "check_libraries", lambda _: None)
    monkeypatch.setattr(provider, "gpu", lambda: here.gpu)
    monkeypatch.setattr(provider, "linked_tensorrt", lambda: here.tensorrt)
    monkeypatch.setattr(provider, "runtime_version", lambda: here.runtime)
    monkeypatch.setattr(provider, "open_session", open_session)
    monkeypatch.setattr(sessions, "gpu", lambda: here.gpu)
    monkeypatch.setattr(sessions, "_check_granted", lambda *_: None)
    return here


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("TIER_CACHE", str(tmp_path / "cache"))
    return Cache()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(write_bundle(tmp_path_factory.mktemp("tiny"), "small-112"))


def left(cache: Cache) -> list[str]:
    return sorted(str(p.relative_to(cache.folder)) for p in cache.folder.rglob("*") if p.is_file())


def test_what_warmup_makes_is_sealed_and_answers(
    machine: Machine, cache: Cache, bundle: Bundle
) -> None:
    told: list[str] = []
    warm_provider(bundle, "fp32", cache, told.append)
    name = f"contexts/{bundle.manifest.bundle_sha256[:12]}/sm86-fp32"
    sealed = [f"{name}.{end}" for end in ("json", "json.seal", "onnx", "onnx.seal")]
    assert left(cache) == sorted([*sealed, "key"])
    assert any("takes minutes" in line for line in told)
    encoder = open_provider(bundle, "fp32")
    assert machine.opened == [cache.read(f"{name}.onnx")]
    assert (encoder.device, encoder.precision) == ("tensorrt-ep", "fp32")
    wanted = OnnxEncoder(bundle, "cpu", "fp32").encode(PIXELS)
    assert np.array_equal(encoder.encode(PIXELS).patches, wanted.patches)
    assert encoder.identity["tensorrt"] == "10.16.1"
    assert BOARD.uuid in encoder.identity["machine"]
    engine = Engine(bundle, "tensorrt-ep")  # with its golden vectors
    assert (engine.device, engine.precision) == ("tensorrt-ep", "fp32")


def test_another_engine_is_another_identity(machine: Machine, cache: Cache, bundle: Bundle) -> None:
    """So that its golden vectors are replayed."""
    found = []
    for _ in range(2):
        warm_provider(bundle, "fp32", cache, quiet, rebuild=True)
        found.append(open_provider(bundle, "fp32").identity)
    assert found[0]["engine"] != found[1]["engine"]
    assert found[0]["graph"] == found[1]["graph"]


def test_the_engine_is_asked_for_in_one_file_and_for_batches_up_to_32(
    machine: Machine, cache: Cache, bundle: Bundle
) -> None:
    warm_provider(bundle, "fp32", cache, quiet)
    (asked,) = machine.compiled
    assert asked.pop("trt_ep_context_file_path").startswith(str(cache.folder))
    assert asked == {
        "trt_dump_ep_context_model": "True",
        "trt_ep_context_embed_mode": "1",
        "trt_profile_min_shapes": "pixels:1x112x112",
        "trt_profile_opt_shapes": "pixels:8x112x112",
        "trt_profile_max_shapes": "pixels:32x112x112",
    }


def test_an_engine_that_is_not_in_the_file_is_refused(
    machine: Machine, cache: Cache, bundle: Bundle
) -> None:
    machine.beside = "TensorrtExecutionProvider_0.engine"
    with pytest.raises(DeviceError, match=r"_0\.engine, .* one file with the engine in it"):
        warm_provider(bundle, "fp32", cache, quiet)
    assert left(cache) == ["key"]


def test_one_that_fits_is_not_built_again(machine: Machine, cache: Cache, bundle: Bundle) -> None:
    for rebuild, builds in ((False, 1), (False, 1), (True, 2)):
        warm_provider(bundle, "fp32", cache, quiet, rebuild=rebuild)
        assert len(machine.compiled) == builds
    machine.tensorrt = "10.17.0"
    warm_provider(bundle, "fp32", cache, quiet)
    assert len(machine.compiled) == 3
    open_provider(bundle, "fp32")


def test_without_an_engine_the_next_command_is_named(
    machine: Machine, cache: Cache, bundle: Bundle
) -> None:
    with pytest.raises(DeviceError, match="run tier-infer warmup --device tensorrt-ep"):
        open_provider(bundle, "fp32")
    with pytest.raises(UsageError, match="no fp16 encoder"):
        open_provider(bundle, "fp16")
    with pytest.raises(UsageError, match="no fp16 encoder"):
        warm_provider(bundle, "fp16", cache, quiet)
    assert (machine.compiled, machine.opened) == ([], [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tensorrt": "10.17.0"}, "was made for TensorRT 10.16.1; here: TensorRT 10.17.0"),
        ({"runtime": "onnxruntime 1.40.0"}, "made for onnxruntime 1.31.1; here: onnxruntime 1.40"),
        ({"gpu": replace(BOARD, uuid="GPU-2")}, "GPU GPU-1; here: GPU GPU-2"),
        ({"gpu": replace(BOARD, driver="590.1")}, "driver 580.65.06; here: driver 590.1"),
        ({"gpu": replace(BOARD, uuid="GPU-2", sm="sm89")}, "there is no engine"),
    ],
)
def test_an_engine_for_another_machine_is_refused(
    machine: Machine, cache: Cache, bundle: Bundle, change: dict[str, Any], words: str
) -> None:
    warm_provider(bundle, "fp32", cache, quiet)
    for name, value in change.items():
        setattr(machine, name, value)
    with pytest.raises(DeviceError) as caught:
        open_provider(bundle, "fp32")
    assert words in str(caught.value)
    assert "tier-infer warmup --device tensorrt-ep" in str(caught.value)
    assert machine.opened == []


@pytest.mark.parametrize("end", ["onnx", "json", "onnx.seal", "json.seal"])
@pytest.mark.parametrize("harm", ["changed", "gone", "foreign"])
def test_a_changed_or_foreign_file_never_reaches_onnxruntime(
    machine: Machine, cache: Cache, bundle: Bundle, end: str, harm: str, tmp_path: Path
) -> None:
    warm_provider(bundle, "fp32", cache, quiet)
    name = f"contexts/{bundle.manifest.bundle_sha256[:12]}/sm86-fp32.{end}"
    path = cache.folder / name
    if harm == "changed":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif harm == "gone":
        path.unlink()
    else:
        other = Cache(tmp_path / "other")
        warm_provider(bundle, "fp32", other, quiet, rebuild=True)
        path.write_bytes((other.folder / name).read_bytes())
    with pytest.raises(DeviceError, match="tier-infer warmup"):
        open_provider(bundle, "fp32")
    assert machine.opened == []
    warm_provider(bundle, "fp32", cache, quiet)  # which mends it
    assert open_provider(bundle, "fp32").device == "tensorrt-ep"


def test_two_sealed_halves_of_two_builds_are_no_engine(
    machine: Machine, cache: Cache, bundle: Bundle
) -> None:
    """Both were sealed here; a kill between them must not join them."""
    warm_provider(bundle, "fp32", cache, quiet)
    name = f"contexts/{bundle.manifest.bundle_sha256[:12]}/sm86-fp32"
    note = cache.read(f"{name}.json")
    assert note is not None
    warm_provider(bundle, "fp32", cache, quiet, rebuild=True)
    cache.write(f"{name}.json", note)
    with pytest.raises(DeviceError, match="not of one piece"):
        open_provider(bundle, "fp32")
    assert machine.opened == []


def test_a_cache_that_cannot_be_used_is_no_device(
    machine: Machine, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TIER_CACHE", str(tmp_path / "file"))
    with pytest.raises(DeviceError, match="TIER_CACHE can't be used"):
        open_provider(bundle, "fp32")
    assert machine.opened == []


def test_without_a_gpu_nothing_is_loaded(
    machine: Machine, cache: Cache, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(_: str) -> None:
        raise AssertionError

    monkeypatch.setattr(devices, "obstacles", lambda: ["no driver"])
    monkeypatch.setattr(provider, "prepare", loaded)
    for call in (open_provider, lambda *a: warm_provider(*a, cache, quiet)):
        with pytest.raises(DeviceError, match="device tensorrt-ep is not available: no driver"):
            call(bundle, "fp32")
