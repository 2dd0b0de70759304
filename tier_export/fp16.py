"""The FP16 twin: precision in the graph, strongly typed, float32 at both ends.

TensorRT 11 has no FP16 flag any more: an engine computes in the types that the graph states. So
the convolution tower becomes half; the division by 255, the normalisation, the unit norms and the
mean stay float32, where half would lose what it gains. A stem with few weights per output stays
float32 too (`MIN_FAN_IN`).
"""

from __future__ import annotations

import copy
import itertools

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tier_train.image_encoder import ImageEncoder, normalise
from tier_train.model import DualEncoder

TOWER = {"Conv", "Relu", "Add", "MaxPool"}  # all that may stand between the first and the last Conv
# Rounding errors average out over the weights of one output. The narrow network's stem has 9 of
# them and alone made two thirds of the FP16 error (1.5e-3 of 2.1e-3 in Z); ResNet-50's has 147.
MIN_FAN_IN = 32


def to_fp16(source: onnx.ModelProto) -> onnx.ModelProto:
    """The BN-folded fp32 encoder → its FP16 twin; the source is left as it is."""
    model = onnx.ModelProto()
    model.CopyFrom(source)
    nodes = list(model.graph.node)
    fan_in = {t.name: int(np.prod(t.dims[1:])) for t in model.graph.initializer}
    convs = [
        i
        for i, node in enumerate(nodes)
        if node.op_type == "Conv" and fan_in[node.input[1]] >= MIN_FAN_IN
    ]
    if not convs:
        raise RuntimeError("the encoder has no Conv, so there is no tower to convert")
    first, last = convs[0], convs[-1]
    tower = nodes[first : last + 1]
    foreign = sorted({node.op_type for node in tower} - TOWER)
    if foreign:
        raise RuntimeError(
            f"the tower holds {', '.join(foreign)}, which this converter leaves alone"
        )
    _halve_weights(model, tower)
    # The half tensor keeps its name inside the tower; the two ends get float32 names of their own.
    entry, exit_ = nodes[first].input[0], nodes[last].output[0]
    into, out_of = f"{entry}_fp16", f"{exit_}_fp16"
    made_inside = {name for node in tower for name in node.output} | {entry, *fan_in}
    for node in tower:
        for slot, name in enumerate(node.input):
            if name not in made_inside or name == exit_:
                raise RuntimeError(f"{name} enters the tower beside {entry}")
            if name == entry:
                node.input[slot] = into
    nodes[last].output[0] = out_of
    down = helper.make_node("Cast", [entry], [into], name="to_fp16", to=TensorProto.FLOAT16)
    up = helper.make_node("Cast", [out_of], [exit_], name="to_fp32", to=TensorProto.FLOAT)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:first], down, *tower, up, *nodes[last + 1 :]])
    del model.graph.value_info[:]  # stated float32; shape inference states them anew
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def _halve_weights(model: onnx.ModelProto, tower: list[onnx.NodeProto]) -> None:
    inside = {name for node in tower for name in node.input}
    outside = {
        name
        for node in model.graph.node
        if not any(node is t for t in tower)
        for name in node.input
    }
    for tensor in model.graph.initializer:
        if tensor.name not in inside or tensor.data_type != TensorProto.FLOAT:
            continue
        if tensor.name in outside:
            raise RuntimeError(f"{tensor.name} is used in both precisions")
        values = numpy_helper.to_array(tensor)
        if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
            raise RuntimeError(f"{tensor.name} does not fit into half precision")
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))


def half_share(model: onnx.ModelProto) -> float:
    """Share of the initializers' elements that are half: the proof that the twin is one."""
    sizes = [(t.data_type, int(np.prod(t.dims))) for t in model.graph.initializer]
    half = sum(size for kind, size in sizes if kind == TensorProto.FLOAT16)
    return half / max(1, sum(size for _, size in sizes))


class HalfEncoder(nn.Module):
    """The same arithmetic in torch, with half activations: what a GPU does and onnxruntime on a CPU
    does not (there FP16 graphs are computed in float32).

    Weights and every tensor between two operators are rounded to half, sums run in float32, as
    tensor cores do. torch has half convolutions for CPUs, too, but slow ones.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.image = fold(model.image)
        stem = self.image.trunk.conv1
        kept = stem if stem.weight[0].numel() < MIN_FAN_IN else None
        for module in self.image.modules():
            if isinstance(module, nn.Conv2d) and module is not kept:
                module.to(torch.float16).to(torch.float32)
                module.register_forward_hook(lambda _, args, x: rounded(x))
            elif isinstance(module, nn.ReLU) and not (kept and module is self.image.trunk.relu):
                module.register_forward_pre_hook(lambda _, args: (rounded(args[0]),))
        if kept:  # then half begins behind the max-pool
            self.image.trunk.maxpool.register_forward_hook(lambda _, args, x: rounded(x))
        else:
            stem.register_forward_pre_hook(lambda _, args: (rounded(args[0]),))
        self.register_buffer("mean", model.mean)
        self.register_buffer("std", model.std)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """pixels: uint8 [N, H, W] → image_e [N, D], patch_e [N, 7, 7, D], float32."""
        image_e, patch_e = self.image(normalise(pixels, self.mean, self.std))
        return image_e, patch_e


def rounded(x: Tensor) -> Tensor:
    """The nearest half value of every element, as float32; beyond 65504 it's infinite, as there."""
    return x.to(torch.float16).to(torch.float32)


def fold(image: ImageEncoder) -> ImageEncoder:
    """A copy with every BatchNorm folded into the Conv before it, as the exporter does."""
    folded = copy.deepcopy(image).eval()
    for parent in list(folded.modules()):
        for conv_name, norm_name in itertools.pairwise(list(parent._modules)):
            conv, norm = parent._modules[conv_name], parent._modules[norm_name]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                parent._modules[conv_name] = fuse_conv_bn_eval(conv, norm)
                parent._modules[norm_name] = nn.Identity()
    left = [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if left:
        raise RuntimeError(f"BatchNorm {left[0]} could not be folded")
    return folded
