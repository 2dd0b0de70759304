"""python -m pytest tests/infer/trt/test_api.py -- the builder against TensorRT 10 and 11.

Neither can be installed here. So the API of their Python bindings is recorded (see
tests/data/make_tensorrt_api.py) and a stand-in has just that: a name, keyword, enum or type that a
version does not know is an error. What NVIDIA's code then does, only a GPU can show.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tests.data import make_tensorrt_api
from tests.infer.trt.recorded import API, VERSIONS, Recorded
from tier_infer.errors import DeviceError, ParityError, UsageError
from tier_infer.gpu import Gpu
from tier_infer.trt import build
from tier_infer.trt.build import Wish, build_plan
from tier_infer.trt.library import Library, find_library

PLAN, TIMINGS = b"a plan", b"timings of this version"
TYPED = {"10": 1, "11": 0, "1.": 0}  # STRONGLY_TYPED by version, as NVIDIA numbers it
WITHOUT_RTX = pytest.mark.parametrize("machine", VERSIONS[:-1], indirect=True)
REDUCED = {"FP16", "BF16", "INT8", "FP8", "INT4", "FP4", "TF32"}


class Machine:
    """A version of TensorRT that builds: what a test may turn is an attribute."""

    def __init__(self, version: str) -> None:
        self.built: bytes | None = PLAN
        self.loads = True
        self.formats = "Half"
        self.objections: list[str] = []
        self.trt = Recorded(version, self.behaviour())
        self.kinds = self.trt.module.DataType

    def behaviour(self) -> dict[str, Any]:
        new = lambda kind: lambda *_, **__: self.trt.new(kind)  # noqa: E731
        nothing = lambda *_, **__: None  # noqa: E731
        return {
            "Builder.create_network": lambda _, flags: self.network(),
            "Builder.create_builder_config": new("IBuilderConfig"),
            "Builder.create_optimization_profile": new("IOptimizationProfile"),
            "Builder.build_serialized_network": self.build,
            "OnnxParser.parse": lambda _, model: True,
            "INetworkDefinition.get_input": lambda network, index: self.ends()[index],
            "INetworkDefinition.get_output": lambda network, index: self.ends()[1 + index],
            "INetworkDefinition.get_layer": lambda network, index: self.layer(),
            "ILayer.get_output_type": lambda layer, index: self.kinds.HALF,
            "ILayer.get_input": lambda layer, index: self.tensor("x", "HALF", -1, 512, 7, 7),
            "IOptimizationProfile.set_shape": nothing,
            "IBuilderConfig.add_optimization_profile": lambda config, profile: 0,
            "IBuilderConfig.clear_flag": nothing,
            "IBuilderConfig.set_flag": nothing,
            "IBuilderConfig.create_timing_cache": self.timing_cache,
            "IBuilderConfig.set_timing_cache": lambda _, cache, ignore_mismatch: (
                cache.known in (b"", TIMINGS) and ignore_mismatch is False
            ),
            "ITimingCache.serialize": lambda cache: self.trt.memory(TIMINGS),
            "Runtime.deserialize_cuda_engine": lambda _, serialized_engine: (
                self.trt.new("ICudaEngine") if self.loads else None
            ),
            "ICudaEngine.create_execution_context": new("IExecutionContext"),
            "ICudaEngine.create_engine_inspector": new("EngineInspector"),
            "IExecutionContext.set_input_shape": lambda context, name, shape: True,
            "EngineInspector.get_engine_information": lambda _, format: self.information(),
        }

    def network(self) -> Any:
        return self.trt.new("INetworkDefinition", num_inputs=1, num_outputs=2, num_layers=3)

    def tensor(self, name: str, kind: str, *shape: int) -> Any:
        return self.trt.new("ITensor", name=name, dtype=getattr(self.kinds, kind), shape=shape)

    def ends(self) -> list[Any]:
        return [
            self.tensor("pixels", "UINT8", -1, 224, 224),
            self.tensor("image_embedding", "FLOAT", -1, 128),
            self.tensor("patch_embeddings", "FLOAT", -1, 7, 7, 128),
        ]

    def layer(self) -> Any:
        return self.trt.new("ILayer", name="conv", type=self.trt.module.LayerType.CONVOLUTION)

    def timing_cache(self, _: Any, serialized_timing_cache: bytes) -> Any:
        if serialized_timing_cache == b"unreadable":
            return None
        made = self.trt.new("ITimingCache")
        made.__dict__["known"] = serialized_timing_cache
        return made

    def build(self, builder: Any, network: Any, config: Any) -> Any:
        """As pybind hands it out: positional or not, overloads or not."""
        config.progress_monitor.phase_start("Building engine", None, 2)
        for step in range(2):
            assert config.progress_monitor.step_complete("Building engine", step)
        config.progress_monitor.phase_finish("Building engine")
        (logger,) = (row["logger"] for row in self.trt.called("Builder.__init__")[-1:])
        for objection in self.objections:
            logger.log(self.trt.module.ILogger.ERROR, objection)
        return None if self.built is None else self.trt.memory(self.built)

    def information(self) -> str:
        ends = [{"Format/Datatype": self.formats}]
        row = {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": ends, "Outputs": ends}
        return json.dumps({"Layers": [row]})


@pytest.fixture(params=VERSIONS)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Installed, on a machine with a GPU."""
    made = Machine(request.param)
    monkeypatch.setitem(sys.modules, made.trt.module.__name__, made.trt.module)
    monkeypatch.setattr(build, "obstacles", list)
    gpu = Gpu("NVIDIA L40S", "GPU-0", "sm89", "580.65.06", "13.0")
    monkeypatch.setattr(build, "gpu", lambda: gpu)
    return made


def library_of(machine: Machine) -> Library:
    return find_library(machine.trt.module.__name__)


def test_a_plan_is_built_with_what_this_version_has(machine: Machine) -> None:
    said: list[str] = []
    library = library_of(machine)
    built = build_plan(library, b"graph", Wish("fp16"), say=said.append)
    assert built.plan == PLAN
    assert built.timing_cache == (b"" if library.rtx else TIMINGS)
    assert built.precision_proof["inspector"] == {"half": 1}
    assert built.precision_proof["network"] == {"HALF": 3}
    assert said[1:-1] == [f"engine: building {n} %" for n in (0, 50, 100)]
    (flags,) = machine.trt.called("Builder.create_network")
    assert flags["flags"] == 1 << TYPED[library.version[:2]]
    shapes = [
        (row["min"][0], row["opt"][0], row["max"][0])
        for row in machine.trt.called("IOptimizationProfile.set_shape")
    ]
    assert tuple(shapes) == build.PROFILES
    assert machine.trt.called("IExecutionContext.set_input_shape") == [
        {"name": "pixels", "shape": (1, 224, 224)}
    ]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_no_flag_of_a_precision_is_ever_set(machine: Machine, precision: str) -> None:
    machine.formats = {"fp32": "Float", "fp16": "Half"}[precision]
    if precision == "fp32":
        kinds = machine.trt.module.DataType
        machine.trt.behaviour["ILayer.get_output_type"] = lambda layer, index: kinds.FLOAT
    wishes = [Wish(precision)]
    if not library_of(machine).rtx:
        wishes.append(Wish(precision, "ampere+", version_compatible=True))
    for wish in wishes:
        build_plan(library_of(machine), b"graph", wish)
    flags = {row["flag"].name for row in machine.trt.called("IBuilderConfig.set_flag")}
    assert flags == ({"VERSION_COMPATIBLE"} if len(wishes) > 1 else set())
    assert not flags & REDUCED
    cleared = [row["flag"].name for row in machine.trt.called("IBuilderConfig.clear_flag")]
    assert cleared == ["TF32"] * len(wishes)
    assert not [name for name, _ in machine.trt.calls if name == "IBuilderConfig.flags="]


@WITHOUT_RTX
def test_options_reach_the_library(machine: Machine) -> None:
    build_plan(library_of(machine), b"graph", Wish("fp16", "same-cc", version_compatible=True))
    (level,) = machine.trt.called("IBuilderConfig.hardware_compatibility_level=")
    assert level["value"] is machine.trt.module.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
    (host,) = machine.trt.called("Runtime.engine_host_code_allowed=")
    assert host["value"] is True  # else a version-compatible plan does not load
    (verbosity,) = machine.trt.called("IBuilderConfig.profiling_verbosity=")
    assert verbosity["value"].name == "DETAILED"


@pytest.mark.parametrize("known", [TIMINGS, b"unreadable", b"of another version", b""])
def test_a_timing_cache_that_does_not_fit_is_made_again(machine: Machine, known: bytes) -> None:
    library = library_of(machine)
    built = build_plan(library, b"graph", Wish("fp16"), timing_cache=known)
    assert built.timing_cache == (b"" if library.rtx else TIMINGS)
    given = machine.trt.called("IBuilderConfig.create_timing_cache")
    tried = [row["serialized_timing_cache"] for row in given]
    if not library.rtx:
        assert tried == ([known] if known in (TIMINGS, b"") else [known, b""])


def test_a_builder_that_gives_nothing(machine: Machine) -> None:
    machine.built = None
    machine.objections = ["[a.cpp::f::9] Error Code 2: OutOfMemory (no 3 GB left. In f at /x)"]
    with pytest.raises(DeviceError, match=r"builds no engine: no 3 GB left; run tier-infer doctor"):
        build_plan(library_of(machine), b"graph", Wish("fp16"))


def test_a_plan_that_does_not_load(machine: Machine) -> None:
    machine.loads = False
    with pytest.raises(DeviceError, match="does not load the plan that it built"):
        build_plan(library_of(machine), b"graph", Wish("fp16"))


def test_a_silent_float32_engine(machine: Machine) -> None:
    """The graph is half, the builder succeeds, the kernels are float32."""
    machine.formats = "Float"
    with pytest.raises(ParityError, match="the engine of the fp16 graph computes in float"):
        build_plan(library_of(machine), b"graph", Wish("fp16"))


@WITHOUT_RTX
def test_tensorrt_builds_for_its_own_gpu_alone(machine: Machine) -> None:
    with pytest.raises(UsageError, match="not for sm80; run tier-infer warmup there"):
        build_plan(library_of(machine), b"graph", Wish("fp16", capabilities=("sm80",)))


def test_a_gpu_that_rtx_does_not_know(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hopper at hand: TensorRT builds for it, TensorRT-RTX has no such target."""
    monkeypatch.setattr(build, "gpu", lambda: SimpleNamespace(sm="sm90"))
    library = library_of(machine)
    if library.rtx:
        with pytest.raises(DeviceError, match=r"not for sm90; .*tier-cxr\[tensorrt\]"):
            build_plan(library, b"graph", Wish("fp16"))
    else:
        assert build_plan(library, b"graph", Wish("fp16")).plan == PLAN


def test_the_record_is_of_the_versions_that_are_known() -> None:
    names = [version.partition(" ") for version in VERSIONS]
    majors = [(name, int(number.partition(".")[0])) for name, _, number in names]
    assert majors == [("tensorrt", 10), ("tensorrt", 10), ("tensorrt", 11), ("tensorrt_rtx", 1)]
    eleven = API["tensorrt 11.4.0.106"]
    assert not set(eleven["BuilderFlag"]["values"]) & (REDUCED - {"TF32"})
    assert set(API["tensorrt 10.16.1.11"]["BuilderFlag"]["values"]) >= REDUCED


def test_the_record_is_what_nvidia_ships(library: Library) -> None:
    """Of the one version that is installed: read anew, it is the record."""
    if library.version not in VERSIONS[-1]:
        pytest.skip(f"recorded is {VERSIONS[-1]}, installed {library.version}")
    ((key, rows),) = make_tensorrt_api.introspect("tensorrt_rtx")
    assert (key, rows) == (VERSIONS[-1], API[VERSIONS[-1]])
