"""The INT8 encoder for CPUs: calibrated, held against the gate, mended where the gate breaks.

Weights have 7 bits (`reduce_range`). x86 processors without VNNI (most from before 2019) add pairs
of 8-bit products in 16 bits: 2 · 255 · 127 = 64,770 is beyond 32,767, so an old workstation would
clip sums and give other scores without a word. 2 · 255 · 64 = 32,640 fits. No such processor was at
hand: that nothing overflows follows from the weights; that it matters, from the sums done one by
one. With 8 bits one pair in a thousand was clipped on a narrow network, and |ΔAUC| rose from 1e-3
to 9e-3. The price of 7 bits is coarser weights, and no time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tier_export.certificate import crops_identity
from tier_export.parity import Crops, onnx_encoder
from tier_export.qdq import Layers, layers_of, prepared, quantised, ranges_of, sealed
from tier_infer.errors import ParityError

SAMPLE = 8  # crops that layers are ranked on
MAX_FLOAT = 1 / 3  # of the multiply-adds; with more of them in float32, fp32 is the better file
Names = list[str]


def fit_int8(
    encoder: onnx.ModelProto,
    calibration: Crops,
    judge: Callable[[bytes], None],
    say: Callable[[str], None],
    reduce_range: bool = True,
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The fp32 encoder → its INT8 twin, and what that is made of. The same input, the same bytes.

    `judge` raises ParityError for a graph that breaks a gate. Then the layers that move the image
    embedding most stay float32, more and more of them; when that would take more than a third of
    the multiply-adds, the last ParityError is raised.
    """
    model = prepared(encoder)
    layers = layers_of(model)
    say(f"calibrating on {calibration.source}")
    ranges = ranges_of(model, calibration.pixels)
    names = [*layers.products, *layers.sums]

    def eight(chosen: Names) -> onnx.ModelProto:
        return quantised(model, ranges, [*chosen, *layers.follow], reduce_range)

    def refusal_of(graph: onnx.ModelProto) -> ParityError | None:
        try:
            judge(graph.SerializeToString())
        except ParityError as error:
            return error
        return None

    left_out: dict[str, float] = {}
    graph = sealed(eight(names), encoder)
    refusal = refusal_of(graph)
    if refusal:
        say(f"int8: {refusal}; ranking {len(names)} layers by the harm that 8 bits do to each")
        harm = _harm(encoder, calibration.pixels, names, eight)
        for left_out in _attempts(harm, layers):
            say(f"int8: trying with {len(left_out)} of them in float32")
            graph = sealed(eight([name for name in names if name not in left_out]), encoder)
            refusal = refusal_of(graph)
            if not refusal:
                break
    if refusal:
        raise refusal
    return graph, _facts(model, layers, left_out, calibration, reduce_range)


def _harm(
    encoder: onnx.ModelProto,
    pixels: NDArray[np.uint8],
    names: Names,
    eight: Callable[[Names], onnx.ModelProto],
) -> dict[str, float]:
    """layer → root mean square of what the image embedding moves by when only this one is 8-bit.

    Layers' errors add up like independent noise, so this is what leaving one out gains. The
    library's own figure (qdq_loss_debug) is a tensor's ratio of signal to noise: a channel of
    outliers, which leaves few steps to all others, is a strong signal to it.
    """
    sample = pixels[:: -(-len(pixels) // SAMPLE)]
    exact, _ = onnx_encoder(encoder.SerializeToString())(sample)
    harm = {}
    for name in names:
        image, _ = onnx_encoder(eight([name]).SerializeToString())(sample)
        harm[name] = float(np.sqrt(np.mean(np.square(image - exact))))
    return harm


def _attempts(harm: Mapping[str, float], layers: Layers) -> Iterator[dict[str, float]]:
    """The most harmed layers that fit under MAX_FLOAT: 1, 2, 4, …, all of them."""
    spent = sum(layers.stems.values())
    limit = MAX_FLOAT * (spent + sum(layers.products.values()))
    fitting = []
    for name in sorted(harm, key=lambda name: -harm[name]):
        cost = layers.products.get(name, 0)
        if spent + cost <= limit:
            spent += cost
            fitting.append(name)
    count = 1
    while count < 2 * len(fitting):
        yield {name: harm[name] for name in fitting[:count]}
        count *= 2


def _facts(
    model: onnx.ModelProto,
    layers: Layers,
    left_out: Mapping[str, float],
    calibration: Crops,
    reduce_range: bool,
) -> dict[str, Any]:
    """For the certificate. `kept_float32` are products and sums; norms are never anything else."""
    harmed = {
        name: f"sensitive: in 8 bits it alone moves image embeddings by {harm:.1e} rms"
        for name, harm in left_out.items()
    }
    reasons = layers.apart | harmed
    costs = layers.stems | layers.products
    nodes = {node.name: node for node in model.graph.node if node.name in reasons}
    kept = []
    for name, node in nodes.items():
        weight = {"weight": node.input[1]} if name in costs else {}
        kept.append({"node": name, "op": node.op_type, **weight, "reason": reasons[name]})
    whole = [name for name in layers.products if name not in left_out]
    share = sum(costs[name] for name in whole) / sum(costs.values())
    summary = (
        f"{len(whole)} of {len(costs)} products with weights of {7 if reduce_range else 8} bits, "
        f"{share:.0%} of their multiply-adds; calibrated on {calibration.source}; in float32: stem"
    )
    for name in left_out:
        summary += ", " + (nodes[name].input[1].removesuffix(".weight") if name in costs else name)
    return {
        "quantised": len(whole),
        "share": share,
        "kept_float32": kept,
        "calibration": crops_identity(calibration) | {"count": len(calibration.pixels)},
        "method": "static; activations uint8, least to largest value of each tensor; weights int8, "
        "a step per output channel",
        "reduce_range": reduce_range,
        "summary": summary,
    }
