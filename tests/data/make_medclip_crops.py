"""Writes medclip_crops.json: what MedCLIP's own MedCLIPFeatureExtractor makes of drawn pictures.

    .uv/bin/uv venv -p 3.11 MC_FOLDER
    .uv/bin/uv pip install -p MC_FOLDER/bin/python transformers==4.24.0 "numpy<2" pillow==13.0.0
    .uv/bin/uv pip install -p MC_FOLDER/bin/python --no-deps medclip==0.0.3
    MC_FOLDER/bin/python tests/data/make_medclip_crops.py

transformers 4.24 is of medclip's time; later ones changed the class that it extends. The class is
taken out of its file alone: the rest wants torch, torchvision, pandas and nltk, the class none.

The pictures are made by `waves` from integer arithmetic, so the test makes the same ones. Keys: the
picture's rows x columns → SHA-256 of the uint8 [224, 224] behind the normalised floats; `middle`,
of the first picture: the normalised floats of row 112.
"""

from __future__ import annotations

import ast
import hashlib
import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

SHAPES = (
    (613, 509),  # portrait, an odd number of columns to add
    (430, 777),
    (301, 300),  # one column: it goes to the right
    (320, 320),
    (224, 224),  # nothing to do
    (100, 61),  # an island in a black square of 224
    (61, 225),
    (1500, 1201),
)


def waves(height: int, width: int) -> np.ndarray:
    """uint8 [height, width] from integer arithmetic alone: equal on every machine."""
    y, x = np.mgrid[:height, :width]
    return ((x * x // 97 + y * 3 + x * y // 41) % 256).astype(np.uint8)


def medclip_class() -> type:
    import typing

    from PIL import Image
    from transformers import CLIPFeatureExtractor
    from transformers.feature_extraction_utils import BatchFeature
    from transformers.image_utils import is_torch_tensor
    from transformers.utils import TensorType

    folder = Path(find_spec("medclip").submodule_search_locations[0])
    constants = type("constants", (), {})
    exec((folder / "constants.py").read_text(), namespace := {})
    for name in ("IMG_MEAN", "IMG_STD"):
        setattr(constants, name, namespace[name])
    tree = ast.parse((folder / "dataset.py").read_text())
    wanted = [node for node in tree.body if getattr(node, "name", "") == "MedCLIPFeatureExtractor"]
    names = {**vars(typing), "np": np, "Image": Image, "constants": constants}
    names |= {"CLIPFeatureExtractor": CLIPFeatureExtractor, "BatchFeature": BatchFeature}
    names |= {"is_torch_tensor": is_torch_tensor, "TensorType": TensorType}
    exec(compile(ast.Module(wanted, []), "dataset.py", "exec"), names)
    return names["MedCLIPFeatureExtractor"]


if __name__ == "__main__":
    from PIL import Image

    extract = medclip_class()()
    found = {}
    for shape in SHAPES:
        (pixels,) = extract(Image.fromarray(waves(*shape)))["pixel_values"]
        pixels = np.asarray(pixels, np.float64)[0]  # [224, 224]
        levels = (pixels * extract.image_std + extract.image_mean) * 255
        grey = np.rint(levels).astype(np.uint8)
        assert np.abs(levels - grey).max() < 1e-3
        found["x".join(map(str, shape))] = hashlib.sha256(grey.tobytes()).hexdigest()
        if shape == SHAPES[0]:
            middle = [round(float(v), 6) for v in pixels[112]]
    table = {
        "made_with": {n: version(n) for n in ("medclip", "transformers", "pillow")},
        "crops": found,
        "middle": middle,
    }
    text = json.dumps(table, indent=1).replace(",\n  ", ", ")
    Path(__file__).with_name("medclip_crops.json").write_text(text + "\n")
