"""Writes source_scores.json: what CheXzero and MedCLIP themselves say of drawn pictures.

Runs in the environment of make_import_vectors.py, which says how to set it up:

    PEERS/bin/python tests/data/make_source_scores.py

The weights are those of tests/train/layouts.py, the pictures `pictures()`. CheXzero: CLIP of
clip-anytorch under the procedure of rajpurkarlab/CheXzero (preprocess_train.py, zero_shot.py),
written down from its description, because the repository is no package. MedCLIP: PromptClassifier
and generate_chexpert_class_prompts of medclip 0.0.3, which draws after `random.seed(SEED)`.

Keys: chexzero's mean p [picture, label] of two networks; medclip's logits [picture, label] by
`ensemble`, and the prompts drawn.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import random
import re
import unittest.mock
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from tests.data.make_import_vectors import medclip_model, stub_packages
from tests.train import layouts

HERE = Path(__file__).parent
LABELS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
SHAPES = ((613, 509), (430, 777), (320, 320), (512, 512))
SECOND = ("visual.proj", "text_projection")
SEED, PROMPTS = 7, 10


def pictures() -> list[np.ndarray]:
    """uint8 [H, W] from integer arithmetic alone; smooth, because noise is refused as no film."""
    found = []
    for k, (height, width) in enumerate(SHAPES):
        y, x = np.mgrid[:height, :width]
        ramp = 40 + (x * (60 + 20 * k)) // width + (y * 70) // height
        far = (x - width // (2 + k % 2)) ** 2 + (y - height // 3) ** 2
        blob = np.maximum(0, 60 - far * 240 // (width * height)) * (1 - 2 * (k % 2))
        found.append(np.clip(ramp + blob, 0, 255).astype(np.uint8))
    return found


def second_member() -> layouts.State:
    """What the second of two CheXzero networks has of its own; the rest is as in the first."""
    table = layouts.layouts()["chexzero_clip_vit_b32"]
    return {key: layouts.tame(key, tuple(table[key][0]), table[key][1], seed=1) for key in SECOND}


def chexzero_pixels(grey: np.ndarray) -> np.ndarray:
    """preprocess_train.py: long side to 320, on a black canvas."""
    picture = Image.fromarray(np.stack([grey] * 3, axis=-1))
    ratio = 320.0 / max(picture.size)
    size = tuple(int(side * ratio) for side in picture.size)
    canvas = Image.new("L", (320, 320))
    corner = ((320 - size[0]) // 2, (320 - size[1]) // 2)
    canvas.paste(picture.resize(size, Image.Resampling.LANCZOS), corner)
    return np.asarray(canvas, np.float32)


def chexzero() -> dict[str, Any]:
    from clip.model import CLIP, convert_weights
    from clip.simple_tokenizer import SimpleTokenizer

    bpe = layouts.write_merges(HERE / "merges.tmp.gz")
    words = SimpleTokenizer(str(bpe))
    bpe.unlink()
    x = torch.from_numpy(np.stack([chexzero_pixels(grey) for grey in pictures()]))
    x = (x[:, None].expand(-1, 3, -1, -1) - 101.48761) / 83.43944
    x = interpolate(x, size=(224, 224), mode="bicubic", align_corners=False, antialias=False)
    members = []
    first = layouts.state_of("chexzero")
    for state in (first, first | second_member()):
        model = CLIP(512, 224, 12, 768, 32, 77, 49408, 512, 8, 12)
        convert_weights(model)  # as saved; CLIP computes in float32 on a CPU
        model.load_state_dict(state)
        model.float().eval()
        image_e = model.encode_image(x)
        image_e = image_e / image_e.norm(dim=-1, keepdim=True)
        cosines = []
        for template in ("{}", "no {}"):
            columns = []
            for label in LABELS:
                ids = [49406, *words.encode(template.format(label)), 49407]
                padded = torch.tensor([ids + [0] * (77 - len(ids))])
                class_e = model.encode_text(padded)
                class_e = (class_e / class_e.norm(dim=-1, keepdim=True)).mean(0)
                columns.append(class_e / class_e.norm())
            cosines.append((image_e @ torch.stack(columns, dim=1)).numpy())
        positive, negative = (np.exp(c) for c in cosines)
        members.append(positive / (positive + negative))
    return {"softmax": rounded(np.mean(members, axis=0))}


def medclip_pixels(grey: np.ndarray) -> torch.Tensor:
    """MedCLIPFeatureExtractor, as medclip_crops.json proves `medclip-224` to be."""
    picture = Image.fromarray(grey)
    side = max(224, *picture.size)
    square = Image.new("L", (side, side), 0)
    square.paste(picture, tuple((side - length) // 2 for length in picture.size))
    square = square.resize((224, 224), Image.Resampling.BICUBIC)
    x = np.asarray(square, np.float64) / 255
    return torch.from_numpy((x - 0.5862785803043838) / 0.27950088968644304).float()[None]


def medclip() -> dict[str, Any]:
    from medclip.modeling_medclip import PromptClassifier
    from medclip.prompts import generate_chexpert_class_prompts
    from transformers import BertTokenizer

    model = medclip_model()
    state = layouts.state_of("medclip")
    model.load_state_dict({k: v for k, v in state.items() if not k.endswith("position_ids")})
    random.seed(SEED)
    with contextlib.redirect_stdout(io.StringIO()):
        prompts = generate_chexpert_class_prompts(PROMPTS)
    words = BertTokenizer(vocab={p: i for i, p in enumerate(layouts.vocabulary(28996))})
    inputs = {
        name: dict(words(rows, truncation=True, max_length=77, padding=True, return_tensors="pt"))
        for name, rows in prompts.items()
    }
    for columns in inputs.values():
        columns.pop("token_type_ids", None)
    x = torch.stack([medclip_pixels(grey) for grey in pictures()])
    found: dict[str, Any] = {"prompts": {k: [" ".join(p.split()) for p in v]
                                         for k, v in prompts.items()}}  # fmt: skip
    with unittest.mock.patch.object(torch.Tensor, "cuda", lambda self: self):
        for name, ensemble in (("prompt-mean", True), ("prompt-max", False)):
            out = PromptClassifier(model, ensemble=ensemble).eval()(x, inputs)
            assert tuple(out["class_names"]) == LABELS
            found[name] = rounded(out["logits"].numpy())
    return found


def rounded(table: np.ndarray) -> list[list[float]]:
    return [[float(f"{value:.9g}") for value in row] for row in table]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    stub_packages()
    torch.set_num_threads(1)
    with torch.no_grad():
        table = {"chexzero": chexzero(), "medclip": medclip()}
    names = ("torch", "transformers", "medclip", "clip-anytorch", "pillow")
    made_with = {name: importlib.metadata.version(name) for name in names}
    text = json.dumps({"made_with": made_with, "seed": SEED} | table, indent=1)
    text = re.sub(r"\[[^][\"]+\]", lambda row: " ".join(row[0].split()), text)  # a row, a line
    (HERE / "source_scores.json").write_text(text + "\n", encoding="utf-8")
