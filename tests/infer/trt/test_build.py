"""python -m pytest tests/infer/trt/test_build.py -- NVIDIA's parser and builder take our graphs.

Everything here is done by NVIDIA's own code, through TensorRT-RTX, without a GPU. No engine runs.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tier_export.graphs import encoder_graph
from tier_export.int8 import fit_int8
from tier_export.members import members_of
from tier_export.parity import Crops
from tier_infer.errors import DeviceError, IntegrityError, UsageError
from tier_infer.trt import build
from tier_infer.trt.build import Wish, build_plan
from tier_infer.trt.library import Library, collector
from tier_infer.trt.network import parsed
from tier_train.checkpoint import load_checkpoint

PRECISIONS = ("fp32", "fp16")
EVERY = ("sm80", "sm86", "sm89", "sm120")


def network_of(library: Library, graph: bytes) -> Any:
    logger = collector(library)
    builder = library.module.Builder(logger)
    network = parsed(library, builder, logger, graph)
    return builder, network  # the network dies with its builder


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_parser_sees_what_the_graph_states(
    library: Library, graphs: dict[str, bytes], precision: str
) -> None:
    model = onnx.load_model_from_string(graphs[precision])
    _, network = network_of(library, graphs[precision])
    ours = [*model.graph.input, *model.graph.output]
    theirs = [network.get_input(0), *(network.get_output(i) for i in range(network.num_outputs))]
    assert network.num_inputs == 1
    names = {TensorProto.UINT8: "UINT8", TensorProto.FLOAT: "FLOAT"}
    for value, tensor in zip(ours, theirs, strict=True):
        dims = [d.dim_value or -1 for d in value.type.tensor_type.shape.dim]
        assert tensor.name == value.name
        assert tensor.dtype.name == names[value.type.tensor_type.elem_type]
        assert list(tensor.shape) == dims
    nodes = Counter(node.op_type for node in model.graph.node)
    layers = Counter(network.get_layer(i).type.name for i in range(network.num_layers))
    assert layers["CONVOLUTION"] == nodes["Conv"] > 5
    assert layers["CAST"] == nodes["Cast"]
    assert network.get_flag(library.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


@pytest.mark.parametrize("capabilities", [*((name,) for name in EVERY), EVERY])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_plan_for_each_gpu_and_for_all(
    library: Library, graphs: dict[str, bytes], precision: str, capabilities: tuple[str, ...]
) -> None:
    built = build_plan(library, graphs[precision], Wish(precision, capabilities=capabilities))
    assert len(built.plan) > len(graphs[precision])  # the weights are in it
    assert built.timing_cache == b""
    assert built.precision_proof["plan_bytes"] == len(built.plan)
    assert built.precision_proof["inspector"] == "not run: no GPU here"


def test_both_profiles_are_in_the_plan(
    library: Library, graphs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan tells nothing without a GPU, but a profile more makes it larger."""
    wish = Wish("fp32", capabilities=("sm86",))
    both = build_plan(library, graphs["fp32"], wish)
    assert build.PROFILES == ((1, 1, 1), (1, 8, 32))
    monkeypatch.setattr(build, "PROFILES", build.PROFILES[1:])
    one = build_plan(library, graphs["fp32"], wish)
    assert len(both.plan) > len(one.plan) + 100_000


def test_an_fp16_plan_is_half_as_large(library: Library, resnet50: dict[str, bytes]) -> None:
    sizes = {}
    for precision, graph in resnet50.items():
        built = build_plan(library, graph, Wish(precision, capabilities=("sm86",)))
        sizes[precision] = len(built.plan)
        assert built.precision_proof["size_tells"]
    assert 0.45 <= sizes["fp16"] / sizes["fp32"] <= 0.55


def test_every_query_graph_parses(library: Library, site: Path) -> None:
    paths = sorted((site / "bundle" / "queries").glob("*.onnx"))
    assert paths
    for path in paths:
        model = onnx.load(path)
        _, network = network_of(library, path.read_bytes())
        labels = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
        assert (network.get_input(0).name, network.get_output(0).name) == ("embeddings", "scores")
        assert tuple(network.get_output(0).shape) == (-1, labels)


@pytest.mark.parametrize("opset", [18, 19, 20, 21, 22, 23])
def test_every_opset_parses(library: Library, site: Path, opset: int) -> None:
    members = members_of([load_checkpoint(site / "ckpt.pt")])
    model = encoder_graph(members, opset)
    assert next(o.version for o in model.opset_import if not o.domain) == opset
    built = build_plan(library, model.SerializeToString(), Wish("fp32", capabilities=("sm86",)))
    assert built.plan


def graph_of(nodes: list[onnx.NodeProto], batch: str | int = "N") -> bytes:
    """pixels uint8 [N, 8, 8] → image_embedding float32 [N, 8, 8]"""
    ends = [
        helper.make_tensor_value_info("pixels", TensorProto.UINT8, [batch, 8, 8]),
        helper.make_tensor_value_info("image_embedding", TensorProto.FLOAT, [batch, 8, 8]),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString()


def cast(source: str, to: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [to], to=kind)


BOGUS = graph_of(
    [
        cast("pixels", "x", TensorProto.FLOAT),
        helper.make_node("NoSuchOp", ["x"], ["image_embedding"], domain="of.nobody"),
    ]
)
MIXED = graph_of(
    [
        cast("pixels", "x", TensorProto.FLOAT),
        cast("pixels", "y", TensorProto.FLOAT16),
        helper.make_node("Add", ["x", "y"], ["image_embedding"]),
    ]
)
ALONE = graph_of([cast("pixels", "image_embedding", TensorProto.FLOAT)])


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (BOGUS, "NoSuchOp: .*Plugin not found"),
        (MIXED, "Add: .*must have same input types"),
        (b"no graph at all", "Failed to parse the ONNX model"),
        (b"", "neither inputs nor outputs"),  # which NVIDIA's parser accepts
        (ALONE, r"pixels UINT8 \[-1, 8, 8\], image_embedding FLOAT \[-1, 8, 8\]"),
    ],
)
def test_what_is_no_encoder_is_refused_in_a_sentence(
    library: Library, graph: bytes, said: str
) -> None:
    with pytest.raises(IntegrityError, match=said) as caught:
        build_plan(library, graph, Wish("fp32", capabilities=("sm86",)))
    message = str(caught.value)
    assert "\n" not in message
    assert "/" not in message.replace("Input/Output", "")  # NVIDIA's source files
    assert message.endswith("export it again with tier-export")


def test_a_dynamic_axis_without_a_profile_builds_nothing(
    library: Library, graphs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "PROFILES", ())
    with pytest.raises(DeviceError, match=r"builds no engine: .*profile"):
        build_plan(library, graphs["fp32"], Wish("fp32", capabilities=("sm86",)))


def quantised_of(graph: bytes) -> bytes:
    """As `tier-export --int8` writes it, calibrated on noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 112, 112), dtype=np.uint8)
    encoder, crops = onnx.load_model_from_string(graph), Crops(pixels, {}, "noise")
    model, _ = fit_int8(encoder, crops, judge=lambda _: None, say=lambda _: None)
    return model.SerializeToString()


def test_a_quantised_graph_is_refused(library: Library, graphs: dict[str, bytes]) -> None:
    """The one that is made for CPUs. There is no engine of it, whatever precision is claimed."""
    with pytest.raises(IntegrityError, match="does not parse the graph: DequantizeLinear"):
        build_plan(library, quantised_of(graphs["fp32"]), Wish("fp32", capabilities=("sm86",)))
    with pytest.raises(UsageError, match="engines are fp32 or fp16, not int8"):
        build_plan(library, graphs["fp32"], Wish("int8", capabilities=("sm86",)))


@pytest.mark.parametrize(
    ("wish", "error", "said"),
    [
        (Wish("fp32", capabilities=("sm90",)), DeviceError, r"sm121, not for sm90; .*\[tensorrt\]"),
        (Wish("fp32", capabilities=("SM86; x",)), DeviceError, "not for SM86; x"),
        (Wish("fp32", "ampere+", capabilities=("sm86",)), UsageError, "GPU types instead"),
        (Wish("fp32", "turing+", capabilities=("sm86",)), UsageError, "none, ampere, same-cc"),
        (Wish("fp32"), DeviceError, "no GPU here: .*run tier-infer warmup on the target"),
        (
            Wish("fp32", version_compatible=True, capabilities=("sm86",)),
            DeviceError,
            "libnvinfer_lean",
        ),
    ],
)
def test_what_this_library_can_not_do(
    library: Library,
    graphs: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    wish: Wish,
    error: type[Exception],
    said: str,
) -> None:
    monkeypatch.setattr(build, "obstacles", lambda: ["there is no NVIDIA device node"])
    with pytest.raises(error, match=said.replace("ampere,", r"ampere\+,")):
        build_plan(library, graphs["fp32"], wish)


def test_progress_is_the_builders_own(library: Library, graphs: dict[str, bytes]) -> None:
    said: list[str] = []
    build_plan(library, graphs["fp32"], Wish("fp32", capabilities=("sm86",)), say=said.append)
    assert said[0] == f"engine: parsing {len(graphs['fp32']) / 1e6:.1f} MB"
    assert said[-1] == "engine: proving fp32"
    tenths = [int(line.split()[2]) for line in said[1:-1]]
    assert tenths == sorted(set(tenths))
    assert tenths[-1] == 100
    assert 5 < len(said) <= 20


BUILD = """
import sys, time
from pathlib import Path
from tier_infer.trt.build import Wish, build_plan
from tier_infer.trt.library import find_library
def say(line):
    print(line.partition("building ")[2] or "begun")
    if "30 %" in line:
        raise KeyboardInterrupt
library = find_library("tensorrt_rtx")
graph = Path(sys.argv[1]).read_bytes()
try:
    build_plan(library, graph, Wish("fp32", capabilities=("sm86",)), say=say)
except KeyboardInterrupt:
    print("interrupted")
try:
    build_plan(library, b"no graph", Wish("fp32", capabilities=("sm86",)))
except Exception as error:
    print(type(error).__name__)
"""


STOPPED = "begun\n0 %\n10 %\n30 %\ninterrupted\nIntegrityError\n"  # no step after it


def test_an_interrupted_build_ends_like_any_other_code(library: Library, site: Path) -> None:
    """Not with the process: an exception must not leave a callback of NVIDIA's. And NVIDIA's
    library says nothing by itself, neither on stdout nor on stderr."""
    graph = site / "bundle" / "image_encoder.onnx"
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(graph)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, STOPPED), done.stderr
    assert done.stderr == ""


def test_a_plan_is_what_nvidia_writes(library: Library, graphs: dict[str, bytes]) -> None:
    """The plan itself, no wrapping of ours: trtexec and Triton load it as it is."""
    built = build_plan(library, graphs["fp32"], Wish("fp32", capabilities=("sm86",)))
    assert built.plan[:4] == b"vtrt"
