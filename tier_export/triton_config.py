"""config.pbtxt: what a Triton server is told of one model, as protobuf text.

Fields are those of ModelConfig (triton-inference-server/common, protobuf/model_config.proto; in
prose server/docs/user_guide/model_configuration.md). A dict is a message, a list a repeated field,
an `Enum` a bare word; the server's own parser reads what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MAX_BATCH = 32  # images; the widest profile of a plan
PREFERRED = (1, 8, 32)  # the batches that plans are tuned for, see tier_infer.trt.build
KINDS = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "cuda": "KIND_GPU"}
LABELS = "labels.txt"
Message = Mapping[str, Any]


class Enum(str):
    """A value of an enum: written without quotes."""


def text_of(message: Message, indent: str = "") -> str:
    """Protobuf text, one field a line, in the order given. TypeError for what has no such form."""
    lines: list[str] = []
    for name, value in message.items():
        every = value if isinstance(value, list) else [value]
        for one in every:
            if isinstance(one, Mapping):
                lines += [f"{indent}{name} {{", text_of(one, f"{indent}  ") + f"{indent}}}"]
            else:
                lines.append(f"{indent}{name}: {_scalar(one)}")
    return "".join(f"{line}\n" for line in lines)


def _scalar(value: object) -> str:
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return f'"{_escaped(value)}"'
    raise TypeError(f"{type(value).__name__} has no protobuf text")


def _escaped(text: str) -> str:
    """Octal for every byte that is no plain ASCII: nothing in a name can end the string."""
    plain = {byte: chr(byte) for byte in range(0x20, 0x7F) if chr(byte) not in '"\\'}
    return "".join(
        plain.get(byte, f"\\{byte:03o}") for byte in text.encode("utf-8", "backslashreplace")
    )


def entries(table: Mapping[str, Any]) -> list[Message]:
    """A protobuf map."""
    return [{"key": key, "value": value} for key, value in table.items()]


def facts(table: Mapping[str, str]) -> dict[str, Any]:
    """`parameters`, which no backend reads and any client may."""
    return {"parameters": entries({k: {"string_value": v} for k, v in table.items()})}


def tensor(name: str, kind: str, dims: Sequence[int], **more: Any) -> Message:
    """An input or output; `dims` are those of one row, the batch goes before them."""
    return {"name": name, "data_type": Enum(f"TYPE_{kind}"), "dims": list(dims), **more}


def encoder_config(
    name: str, crop: int, cells: int, dim: int, device: str, told: Mapping[str, str]
) -> dict[str, Any]:
    """pixels: uint8 [N, H, W] → image_embedding: float32 [N, D], patch_embeddings: float32
    [N, g, g, D]. onnxruntime; `planned` makes it TensorRT's."""
    pixels = {"data_type": Enum("TYPE_UINT8"), "dims": [crop, crop], "zero_data": True}
    config: dict[str, Any] = {
        "name": name,
        "platform": "onnxruntime_onnx",
        "max_batch_size": MAX_BATCH,
        "input": [tensor("pixels", "UINT8", (crop, crop))],
        "output": [
            tensor("image_embedding", "FP32", (dim,)),
            tensor("patch_embeddings", "FP32", (cells, cells, dim)),
        ],
        "instance_group": [{"count": 1, "kind": Enum(KINDS[device])}],
        "dynamic_batching": {"preferred_batch_size": list(PREFERRED)},
    }
    if device != "cpu":
        # TF32 would compute fp32 graphs with ten-bit mantissas. The backend hands these settings to
        # onnxruntime's CUDA provider (onnxruntime_backend, README.md).
        cuda = {"name": "cuda", "parameters": entries({"use_tf32": "0"})}
        config["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": [cuda]}}
    # Libraries choose their kernels at the first batch of a size: before the server is ready.
    config["model_warmup"] = [
        {"name": f"batch-{n}", "batch_size": n, "inputs": entries({"pixels": pixels})}
        for n in PREFERRED
    ]
    return config | facts(told)


def planned(config: Mapping[str, Any], plans: Mapping[str, str], profile: int) -> dict[str, Any]:
    """The same encoder as TensorRT plans: compute capability ("8.6") → file. A GPU of another one
    finds no plan, and the server does not load the model."""
    rest = {key: value for key, value in config.items() if key != "optimization"}
    # Without `profile` the backend takes the first, which is for single images.
    group = {"count": 1, "kind": Enum(KINDS["cuda"]), "profile": [str(profile)]}
    return rest | {
        "platform": "tensorrt_plan",
        "instance_group": [group],
        "cc_model_filenames": entries(plans),
    }


def query_config(
    name: str, cells: int, dim: int, labels: int, pooled: bool, told: Mapping[str, str]
) -> Message:
    """embeddings: float32 [M, D] → scores: float32 [M, L]. A pooled set is given what the encoder
    gives, [M, g, g, D], and its graph sees [M, P, D].

    On the CPU, where `tier-infer` computes it, too: one small product.
    """
    patches = cells * cells
    if pooled:
        flat = {"shape": [patches, dim]}
        given = tensor("patch_embeddings", "FP32", (cells, cells, dim), reshape=flat)
    else:
        given = tensor("embeddings", "FP32", (dim,))
    return {
        "name": name,
        "platform": "onnxruntime_onnx",
        # The patches of one image are one batch, for its heatmap; of a plain set those of 32.
        "max_batch_size": max(MAX_BATCH, patches) if pooled else MAX_BATCH * patches,
        "input": [given],
        "output": [tensor("scores", "FP32", (labels,), label_filename=LABELS)],
        "instance_group": [{"count": 1, "kind": Enum("KIND_CPU")}],
        "dynamic_batching": {},
        **facts(told),
    }


def ensemble_config(
    name: str, encoder: Mapping[str, Any], query: Mapping[str, Any], told: Mapping[str, str]
) -> Message:
    """pixels → scores in one request, and of a plain set patch_embeddings.

    Of a pooled set the second step takes those, and a tensor that a step takes must be no output:
    a Triton server (2.51) does not answer a request that asks for the other outputs only.
    """
    asked = str(query["input"][0]["name"])
    handed = "patch_embeddings" if asked == "patch_embeddings" else "image_embedding"
    outputs = [query["output"][0]]
    if handed != "patch_embeddings":
        outputs.append(encoder["output"][1])
    kept = {name: name for name in dict.fromkeys((handed, "patch_embeddings"))}
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": MAX_BATCH,
        "input": encoder["input"],
        "output": outputs,
        "ensemble_scheduling": {
            "step": [
                _step(encoder["name"], {"pixels": "pixels"}, kept),
                _step(query["name"], {asked: handed}, {"scores": "scores"}),
            ]
        },
        **facts(told),
    }


def _step(model: str, given: Mapping[str, str], gives: Mapping[str, str]) -> Message:
    return {
        "model_name": model,
        "model_version": -1,  # the newest, and there is one
        "input_map": entries(given),
        "output_map": entries(gives),
    }
