"""python -m pytest tests/infer/trt/test_precision.py -- a silent float32 engine does not pass.

What the inspector writes is taken from NVIDIA's documentation of TensorRT 8, 10 and 11 and from
public logs of it; on this project's machines no inspector ever ran.
"""

from __future__ import annotations

import json
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tier_infer.errors import ParityError
from tier_infer.trt import build
from tier_infer.trt.build import Wish, build_plan
from tier_infer.trt.library import Library
from tier_infer.trt.precision import plan_size, read_inspector

SM86 = ("sm86",)


def test_a_float32_graph_is_no_fp16(library: Library, graphs: dict[str, bytes]) -> None:
    with pytest.raises(ParityError, match=r"the fp16 graph computes in FLOAT \(11 products\)"):
        build_plan(library, graphs["fp32"], Wish("fp16", capabilities=SM86))
    with pytest.raises(ParityError, match=r"the fp32 graph .* FLOAT \(1 products\), HALF \(10"):
        build_plan(library, graphs["fp16"], Wish("fp32", capabilities=SM86))


def test_what_the_layers_compute_in(library: Library, resnet50: dict[str, bytes]) -> None:
    """The products of the ONNX graph, counted there: by the type of their weights."""
    for precision, graph in resnet50.items():
        model = onnx.load_model_from_string(graph)
        kinds = {t.name: t.data_type for t in model.graph.initializer}
        convolutions = [kinds[n.input[1]] for n in model.graph.node if n.op_type == "Conv"]
        halves = convolutions.count(TensorProto.FLOAT16)
        built = build_plan(library, graph, Wish(precision, capabilities=SM86))
        network = built.precision_proof["network"]
        assert (network.get("HALF", 0), network["FLOAT"]) == (halves, len(convolutions) - halves)
    assert halves > 50


def widened(graph: bytes, wanted: str) -> bytes:
    """The FP16 graph with one convolution in the middle back in float32, as a careless exporter
    leaves it."""
    model = onnx.load_model_from_string(graph)
    weights = {t.name: t for t in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Conv" and wanted in node.input[1]:
            for slot, name in enumerate(node.input):
                node.input[slot] = f"{name}_wide"
                if name in weights:
                    wide = numpy_helper.to_array(weights[name]).astype("float32")
                    model.graph.initializer.append(numpy_helper.from_array(wide, f"{name}_wide"))
                else:
                    kind = TensorProto.FLOAT
                    nodes.append(helper.make_node("Cast", [name], [f"{name}_wide"], to=kind))
            (output,) = node.output
            node.output[0] = f"{output}_wide"
            back = helper.make_node("Cast", [f"{output}_wide"], [output], to=TensorProto.FLOAT16)
            nodes += [node, back]
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def test_one_wide_convolution_in_float32_is_found(
    library: Library, resnet50: dict[str, bytes]
) -> None:
    graph = widened(resnet50["fp16"], "layer4.1.conv2.weight")
    with pytest.raises(ParityError, match=r"FLOAT \(4 products\), HALF \(51 products\), .* first"):
        build_plan(library, graph, Wish("fp16", capabilities=SM86))


def test_a_silent_float32_plan_of_an_fp16_graph(
    library: Library, resnet50: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plant: a builder that writes the plan of the float32 graph, network and all else right.
    Both plans are NVIDIA's."""
    exact = build_plan(library, resnet50["fp32"], Wish("fp32", capabilities=SM86)).plan
    half = build_plan(library, resnet50["fp16"], Wish("fp16", capabilities=SM86)).plan
    builder = library.module.Builder
    monkeypatch.setattr(builder, "build_serialized_network", lambda *_: exact)
    with pytest.raises(ParityError, match=r"plan of the fp16 graph has 96\.7 MB, the graph 47\.6"):
        build_plan(library, resnet50["fp16"], Wish("fp16", capabilities=SM86))
    monkeypatch.setattr(builder, "build_serialized_network", lambda *_: half)
    with pytest.raises(ParityError, match=r"plan of the fp32 graph has 49\.3 MB, the graph 95\.1"):
        build_plan(library, resnet50["fp32"], Wish("fp32", capabilities=SM86))


def test_of_a_small_graph_the_size_tells_nothing(
    library: Library, graphs: dict[str, bytes]
) -> None:
    """So it is not called a proof: the plan of the half graph is larger than its float32 weights
    would be."""
    built = build_plan(library, graphs["fp16"], Wish("fp16", capabilities=SM86))
    assert len(built.plan) > 2 * len(graphs["fp16"])
    assert built.precision_proof["size_tells"] is False
    assert plan_size(7_000_000, 30_000_000, "fp16")["size_tells"] is False
    with pytest.raises(ParityError, match="not fp16"):
        plan_size(9_000_000, 30_000_000, "fp16")


# What a layer looks like. 10: one key for format and type; 11: one for each, as its I/O tensors.
def tensor(version: int, kind: str) -> dict[str, Any]:
    rows = {"Name": "x", "Dimensions": [1, 64, 56, 56], "Location": "Device"}
    words = {"half": ("FP16", "Half"), "float": ("FP32", "Float"), "int8": ("Int8", "Int8")}[kind]
    if version == 10:
        return rows | {"Format/Datatype": f"Channel major {words[0]} format where channel % 8 == 0"}
    if version == 9:  # the short spelling, also seen of 10
        return rows | {"Format/Datatype": words[1]}
    return rows | {"DataType": words[1], "Format": "Row major linear format (kLINEAR)"}


def layer(version: int, kind: str, **more: Any) -> dict[str, Any]:
    ends = [tensor(version, kind)]
    row = {"Name": "node_conv2d_7 + node_relu_7", "LayerType": "CaskConvolution"}
    return {**row, "Inputs": ends, "Outputs": ends, "TacticName": "sm80_xmma_fprop_f32f32", **more}


REFORMAT: dict[str, Any] = {"LayerType": "Reformat", "Name": "Reformatting Node of node_conv2d_7"}


def told(*layers: Any) -> str:
    return json.dumps({"Layers": list(layers), "Bindings": ["pixels"]})


@pytest.mark.parametrize("version", [9, 10, 11])
def test_the_inspector_of_each_version(version: int) -> None:
    other = {"half": "float", "float": "half"}
    for precision, kind in (("fp16", "half"), ("fp32", "float")):
        reformat = layer(version, other[kind], **REFORMAT)
        right = [layer(version, kind) for _ in range(9)]
        assert read_inspector(told(*right, reformat), precision) == {kind: 9}
        with pytest.raises(ParityError, match=f"computes in {other[kind]} "):
            read_inspector(told(*(layer(version, other[kind]) for _ in range(9))), precision)
    stem = layer(version, "float")
    assert read_inspector(told(stem, *[layer(version, "half")] * 9), "fp16")
    with pytest.raises(ParityError, match="so it is not fp32"):
        read_inspector(told(layer(version, "half"), *[layer(version, "float")] * 99), "fp32")


def test_weights_tell_more_than_tensors() -> None:
    """Formats are not told of a shape that is not set; weights are."""
    unset = [{"Format/Datatype": "N/A due to dynamic shapes"}]
    rows = [
        layer(10, "half", Inputs=unset, Outputs=unset, Weights={"Type": kind, "Count": 9})
        for kind in ("Half", "Float")
    ]
    assert read_inspector(told(rows[0]), "fp16") == {"half": 1}
    assert read_inspector(told(rows[1]), "fp32") == {"float": 1}
    silent = layer(10, "half", Inputs=unset, Outputs=unset)
    for precision in ("fp16", "fp32"):
        with pytest.raises(ParityError, match="computes in untold"):
            read_inspector(told(silent), precision)


@pytest.mark.parametrize("tactic", ["sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32", "h16816"])
def test_a_kernel_that_rounds_is_no_fp32(tactic: str) -> None:
    rows = [layer(10, "float"), layer(10, "float", TacticName=tactic)]
    with pytest.raises(ParityError, match=tactic):
        read_inspector(told(*rows), "fp32")


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing",
        "[]",
        "{}",
        '{"Layers": 3}',
        '{"Layers": []}',
        '{"Layers": ["node_conv2d_7", "node_conv2d_8"]}',  # of a plan without details
        told({"Name": "conv"}),
        told(layer(10, "half", Weights=["Half"])),
        told(layer(10, "half", Inputs=None)),
        told(layer(10, "int8")),
        told(*[layer(10, "half")] * 9, layer(10, "int8")),
        told(layer(10, "half", Name="PWN", LayerType="PointWise")),  # no product at all
        "[" * 100_000,
    ],
)
def test_whatever_else_is_told_proves_nothing(text: str, precision: str) -> None:
    with pytest.raises(ParityError):
        read_inspector(text, precision)


def test_pixels_of_8_bits_make_no_quantised_kernel() -> None:
    pixels = [tensor(9, "float") | {"Format/Datatype": "UInt8"}]
    assert read_inspector(told(layer(9, "float", Inputs=pixels)), "fp32") == {"float": 1}


def test_tf32_is_cleared(
    library: Library, graphs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On by default in NVIDIA's own config, off in ours when the builder gets it."""
    trt = library.module
    config = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_builder_config()
    assert config.get_flag(trt.BuilderFlag.TF32)
    seen = []
    real = trt.Builder.build_serialized_network

    def watched(builder: Any, network: Any, config: Any) -> Any:
        seen.append([config.get_flag(f) for f in trt.BuilderFlag.__members__.values()])
        return real(builder, network, config)

    monkeypatch.setattr(trt.Builder, "build_serialized_network", watched)
    for precision in graphs:
        build_plan(library, graphs[precision], Wish(precision, capabilities=SM86))
    assert len(seen) == 2
    assert not any(flag for flags in seen for flag in flags)
    assert build.PRECISIONS == ("fp32", "fp16")
