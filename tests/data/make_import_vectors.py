"""Writes import_vectors.npz: what the source libraries themselves make of tame random weights.

    .uv/bin/uv venv --python .venv/bin/python PEERS
    .uv/bin/uv pip install --python PEERS/bin/python --no-deps hi-ml-multimodal==0.2.2 \\
        medclip==0.0.3 torchvision==0.28.0 clip-anytorch==2.6.0 timm==1.0.20 ftfy regex wcwidth \\
        requests urllib3 idna certifi charset-normalizer
    export PYTHONPATH=.:$(echo .venv/lib/python3*/site-packages)
    PEERS/bin/python tests/data/make_import_vectors.py

The weights are those of tests/train/layouts.py, the images its `crops`, the sentences its PROMPTS.
With `--layouts FILE`, a JSON of key layouts, first writes state_dict_layouts.json.gz: those, and
BioViL-T's and MedCLIP's text, which are read off the libraries' own classes.

Keys: <source>_image float32 [2, D], <source>_patches [2, 5, D] at the flat cells `cells`,
<source>_text [3, D], all unit norm; <source>_ids int64 [3, T], padded with -1;
torchvision_features [2, 64], the mean over the last stage; clip_ids_<i>, of SENTENCES; versions.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import sys
import types
import unittest.mock
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from tests.train import layouts

HERE = Path(__file__).parent
CELLS = (0, 6, 17, 30, 48)  # of every grid, which has at least 49
SENTENCES = (  # what a byte-pair encoding can trip over
    "Atelectasis", "no Pleural Effusion", "  Left-sided   chest tube; no pneumothorax!  ",
    "It's 3.5cm (AP), 12mm x 4 mm, 100%", "ÉPANCHEMENT pleural à gauche", "naïve café",
    "“quoted” and it’s fine", "T5–T6: 37°C ± 2 µm", "left &amp; right &lt; 5", "efﬁcient ﬂow",
    "don't we'll they've I'm you'd he's", "line\nbreak\tand tab", "肺 эмфизема", "a", "....",
)  # fmt: skip


def stub_packages() -> None:
    """Their __init__ files import much that nothing here needs and that no longer exists."""
    library = torch.library.Library("torchvision", "DEF")  # absent beside a CPU-only torch
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    stub_packages.kept = library
    for name in ("health_multimodal.image", "medclip", "clip"):
        package = types.ModuleType(name)
        relative = name.replace(".", "/")
        package.__path__ = [
            str(Path(p) / relative) for p in sys.path if (Path(p) / relative).is_dir()
        ]
        sys.modules[name] = package


def hi_ml(source: str, image_state: dict[str, Tensor], text_state: dict[str, Tensor], side: int,
          statistics: tuple[Any, Any]) -> dict[str, Tensor]:  # fmt: skip
    """BioViL, BioViL-T and TIER, whose image model is BioViL's."""
    from health_multimodal.image.model.model import ImageModel, MultiImageModel
    from health_multimodal.text.model.configuration_cxrbert import CXRBertConfig
    from health_multimodal.text.model.modelling_cxrbert import CXRBertModel
    from transformers import BertTokenizer

    image: Any
    if source == "biovil-t":
        image = MultiImageModel(img_encoder_type="resnet50_multi_image", joint_feature_size=128)
    else:
        image = ImageModel("resnet50", 128)
    image.load_state_dict(image_state)
    image.eval()
    x = statistics_of(layouts.crops(side), *statistics)
    image_e = normalize(image(x).projected_global_embedding, dim=1)
    patches = image.get_patchwise_projected_embeddings(x, normalize=True)
    text = CXRBertModel(CXRBertConfig(vocab_size=30522, layer_norm_eps=1e-12)).eval()
    text.load_state_dict(text_state)
    table = {piece: i for i, piece in enumerate(layouts.vocabulary(30522))}
    rows = BertTokenizer(vocab=table, do_lower_case=True)(list(layouts.PROMPTS), padding=True)
    ids, mask = (torch.tensor(rows[key]) for key in ("input_ids", "attention_mask"))
    text_e = text.get_projected_text_embeddings(ids, mask)
    return packed(source, image_e, patches, text_e, ids.masked_fill(mask == 0, -1))


def tier() -> dict[str, Tensor]:
    state = layouts.state_of("tier")
    image = {k[4:]: v for k, v in state.items() if k.startswith("cnn.")}
    text = {k[12:]: v for k, v in state.items() if k.startswith("transformer.")}
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return hi_ml("tier", image, text, 224, imagenet)


def chexzero() -> dict[str, Tensor]:
    from clip.model import CLIP, convert_weights
    from clip.simple_tokenizer import SimpleTokenizer

    model = CLIP(512, 224, 12, 768, 32, 77, 49408, 512, 8, 12)
    convert_weights(model)  # as saved; CLIP computes in float32 on a CPU
    model.load_state_dict(layouts.state_of("chexzero"))
    model.float().eval()
    canvas = torch.from_numpy(layouts.crops(320)).float()[:, None].expand(-1, 3, -1, -1)
    x = interpolate((canvas - 101.48761) / 83.43944, size=(224, 224), mode="bicubic",
                    align_corners=False, antialias=False)  # fmt: skip
    seen: list[Tensor] = []
    handle = model.visual.transformer.register_forward_hook(lambda *call: seen.append(call[2]))
    image_e = normalize(model.encode_image(x), dim=1)
    handle.remove()
    tokens = model.visual.ln_post(seen[0].permute(1, 0, 2)) @ model.visual.proj  # [N, 50, D]
    patches = normalize(tokens[:, 1:], dim=2)
    bpe = layouts.write_merges(HERE / "merges.tmp.gz")
    words = SimpleTokenizer(str(bpe))
    bpe.unlink()
    rows = [[49406, *words.encode(prompt), 49407] for prompt in layouts.PROMPTS]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [-1] * (longest - len(row)) for row in rows])
    text_e = normalize(model.encode_text(ids.clamp_min(0)), dim=1)
    sentences = {
        f"clip_ids_{i}": torch.tensor([49406, *words.encode(sentence), 49407])
        for i, sentence in enumerate(SENTENCES)
    }
    return packed("chexzero", image_e, patches, text_e, ids) | sentences


def medclip_model() -> Any:
    import torchvision.models
    import transformers

    bert = transformers.BertConfig(vocab_size=28996, output_hidden_states=True)
    offline = unittest.mock.patch.multiple(
        "transformers.AutoModel", from_pretrained=lambda *a, **k: transformers.BertModel(bert)
    )
    words = unittest.mock.patch("transformers.AutoTokenizer.from_pretrained")
    resnet = torchvision.models.resnet50
    plain = unittest.mock.patch("torchvision.models.resnet50", return_value=resnet(weights=None))
    with offline, words, plain:
        from medclip.modeling_medclip import MedCLIPModel

        return MedCLIPModel().eval()


def medclip() -> dict[str, Tensor]:
    from transformers import BertTokenizer

    model = medclip_model()
    state = layouts.state_of("medclip")
    model.load_state_dict({k: v for k, v in state.items() if not k.endswith("position_ids")})
    x = statistics_of(layouts.crops(224), (0.5862785803043838,), (0.27950088968644304,))
    image_e = model.encode_image(x)
    # No patches in MedCLIP: its last convolution through its last matrix, whose mean is the above.
    resnet = model.vision_model.model
    for stage in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        x = getattr(resnet, stage)(x if x.shape[1] != 1 else x.repeat(1, 3, 1, 1))
    patches = normalize(resnet.fc(x.permute(0, 2, 3, 1)), dim=3)
    table = {piece: i for i, piece in enumerate(layouts.vocabulary(28996))}
    rows = BertTokenizer(vocab=table)(
        list(layouts.PROMPTS), padding=True
    )  # its default: lower case
    ids, mask = (torch.tensor(rows[key]) for key in ("input_ids", "attention_mask"))
    # encode_text without its .cuda(): each prompt alone, and all with padding
    alone = torch.cat([model.text_model(i[None, : m.sum()], m[None, : m.sum()])
                       for i, m in zip(ids, mask, strict=True)])  # fmt: skip
    together = {"medclip_padded": normalize(model.text_model(ids, mask), dim=1)}
    shown = ids.masked_fill(mask == 0, -1)
    return packed("medclip", image_e, patches, normalize(alone, dim=1), shown) | together


def resnet50() -> dict[str, Tensor]:
    import torchvision.models

    model = torchvision.models.resnet50(weights=None).eval()
    model.load_state_dict(layouts.state_of("torchvision"))
    x = statistics_of(layouts.crops(224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for stage in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        x = getattr(model, stage)(x)
    return {"torchvision_features": x.mean((2, 3))[:, :64]}


def statistics_of(pixels: np.ndarray, mean: Any, std: Any) -> Tensor:
    x = torch.from_numpy(pixels)[:, None].double() / 255
    shaped = [torch.tensor(v, dtype=torch.float64).reshape(1, -1, 1, 1) for v in (mean, std)]
    return ((x - shaped[0]) / shaped[1]).float()


def packed(
    source: str, image_e: Tensor, patches: Tensor, text_e: Tensor, ids: Tensor
) -> dict[str, Tensor]:
    cells = patches.reshape(2, -1, patches.shape[-1])[:, CELLS]
    return {f"{source}_image": image_e, f"{source}_patches": cells, f"{source}_text": text_e,
            f"{source}_ids": ids}  # fmt: skip


def write_layouts(given: Path) -> None:
    from health_multimodal.image.model.model import MultiImageModel

    tables = json.loads(given.read_text(encoding="utf-8"))
    tables.pop("note", None)
    temporal = MultiImageModel(img_encoder_type="resnet50_multi_image", joint_feature_size=128)
    text = medclip_model().text_model.state_dict()
    text = {f"text_model.{key}": value for key, value in text.items()}
    places = {"text_model.model.embeddings.position_ids": torch.arange(512)[None]}  # older library
    for name, state in (("biovil_t_image", temporal.state_dict()), ("medclip_text", text | places)):
        tables[name] = {k: [list(v.shape), str(v.dtype)[6:]] for k, v in state.items()}
    raw = json.dumps(tables, separators=(",", ":")).encode()
    (HERE / "state_dict_layouts.json.gz").write_bytes(gzip.compress(raw, mtime=0))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    stub_packages()
    torch.set_num_threads(1)
    if "--layouts" in sys.argv:
        write_layouts(Path(sys.argv[sys.argv.index("--layouts") + 1]))
    bert = layouts.state_of("cxr-bert")
    with torch.no_grad():
        out = tier() | chexzero() | medclip() | resnet50()
        for source, side in (("biovil", 480), ("biovil-t", 448)):
            raw = ((0.0,) * 3, (1.0,) * 3)
            out |= hi_ml(source, layouts.state_of(source), bert, side, raw)
    table = {key: value.numpy() for key, value in out.items()}
    names = ("torch", "transformers", "hi-ml-multimodal", "medclip", "torchvision", "clip-anytorch")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    np.savez_compressed(
        HERE / "import_vectors.npz", versions=np.array(versions), cells=np.array(CELLS), **table
    )
