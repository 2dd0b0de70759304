"""A graph's bytes → NVIDIA's network, and the check that it is an encoder."""

from __future__ import annotations

import re
from typing import Any

from tier_infer.errors import IntegrityError
from tier_infer.trt.library import Library


def parsed(library: Library, builder: Any, logger: Any, graph: bytes) -> Any:
    """A strongly typed INetworkDefinition. IntegrityError for what NVIDIA's parser refuses."""
    typed = library.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(typed))
    parser = library.module.OnnxParser(network, logger)
    if not parser.parse(graph):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        operator = errors[0].node_operator() if errors else ""
        said = sentence([errors[0].desc()] if errors else logger.errors)
        raise IntegrityError(
            f"{library} does not parse the graph: {f'{operator}: ' if operator else ''}{said}; "
            "export it again with tier-export"
        )
    return network


def check_ends(library: Library, network: Any) -> tuple[int, int]:
    """Height and width of `pixels`. IntegrityError for a network that is no encoder."""
    types = library.module.DataType
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    found = {t.name: (t.dtype, tuple(t.shape)) for t in (*inputs, *outputs)}
    try:
        (name,) = (t.name for t in inputs)
        kinds = {name: kind for name, (kind, _) in found.items()}
        batch, height, width = found["pixels"][1]
        image, patches = found["image_embedding"][1], found["patch_embeddings"][1]
        cells, dim = patches[1], image[1]
        fits = (
            name == "pixels"
            and kinds
            == {
                "pixels": types.UINT8,
                "image_embedding": types.FLOAT,
                "patch_embeddings": types.FLOAT,
            }
            and batch == -1
            and image == (-1, dim)
            and patches == (-1, cells, cells, dim)
            and min(height, width, cells, dim) > 0
        )
    except (IndexError, KeyError, ValueError):
        fits = False
    if not fits:
        told = ", ".join(f"{n} {k.name} {list(shape)}" for n, (k, shape) in found.items())
        raise IntegrityError(
            f"the graph is no encoder: it has {told or 'neither inputs nor outputs'}, an encoder "
            "pixels UINT8 [-1, H, W], image_embedding FLOAT [-1, D] and patch_embeddings FLOAT "
            "[-1, g, g, D]; export it again with tier-export"
        )
    return height, width


def sentence(errors: list[str]) -> str:
    """The first thing that NVIDIA said which is not the mere absence of a driver, on one line and
    without its source files."""
    lines = [line for error in errors for line in error.splitlines() if line.strip()]
    telling = [line for line in lines if "Error Code" in line and "Cuda Runtime" not in line]
    line = (telling or lines or ["it gives no reason"])[0]
    line = re.sub(r"^.*?Error Code \d+: [\w ]+\(", "", line)
    return re.sub(r" *\(?In \w+ at /\S+\)?| *at /\S+", "", line)[:300].strip(" .;)")
