"""Whose key is which of ours, and the strict conversion: nothing missing, nothing left over.

Our keys: trunk.*, proj.* (image), text.*, text_head.* (words), logit_scale.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tier_infer.errors import IntegrityError
from tier_train.checkpoint import shown

COUNTER = ".num_batches_tracked"


@dataclass(frozen=True)
class KeyMap:
    """`prefixes`: (ours, theirs), the first that fits. `unused` must be there and are not read,
    `optional` may be there. `twins`: theirs that are stored twice and must be equal. `transposed`:
    those of ours that are stored the other way round."""

    prefixes: tuple[tuple[str, str], ...]
    unused: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    twins: tuple[tuple[str, str], ...] = ()
    transposed: frozenset[str] = frozenset()

    def theirs(self, key: str) -> str:
        for ours, theirs in self.prefixes:
            if key.startswith(ours):
                return theirs + key.removeprefix(ours)
        raise KeyError(key)  # a bug of ours: every key of a model has a place in its map


def _under(prefix: str, *names: str) -> frozenset[str]:
    return frozenset(prefix + name for name in names)


def _pairs(*modules: str) -> list[str]:
    return [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]


_FC = _pairs("fc")  # ImageNet's classifier
_POOLER = ["type_embed", *_pairs("norm_post")]  # BioViL-T's comparison with a prior image
for _i in range(3):
    _block = [*_pairs("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2")]
    _block += [f"attn.proj_{part}.weight" for part in "qkv"]
    _POOLER += [f"blocks.{_i}.{name}" for name in _block]
# Masked-language head. Its decoder is the word embedding and its bias, not always written twice.
_LM = ["bias", *_pairs("transform.dense", "transform.LayerNorm")]
_DECODER = (
    ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    ("cls.predictions.decoder.bias", "cls.predictions.bias"),
)
_PLACES = "bert.embeddings.position_ids"  # 0 … 511, in files of older libraries

TORCHVISION = KeyMap((("trunk.", ""),), frozenset(_FC))
BIOVIL = KeyMap(
    (("trunk.", "encoder.encoder."), ("proj.", "projector.model.")),
    _under("encoder.encoder.", *_FC),
)
BIOVIL_T = KeyMap(
    (*BIOVIL.prefixes, ("fold.", "encoder.")),
    BIOVIL.unused | _under("encoder.vit_pooler.", *_POOLER),
)
CXR_BERT = KeyMap(
    (("text.", "bert."), ("text_head.", "cls_projection_head.")),
    _under("cls.predictions.", *_LM),
    frozenset([*(copy for copy, _ in _DECODER), _PLACES]),
    _DECODER,
)
_HEAD = _pairs("dense_to_hidden", "LayerNorm", "dense_to_output")
_HEADS = [f"cls_projection_head.{name}" for name in _HEAD]  # TIER holds its text head twice
TIER = KeyMap(
    (
        *((ours, f"cnn.{theirs}") for ours, theirs in BIOVIL.prefixes),
        *((ours, f"transformer.{theirs}") for ours, theirs in CXR_BERT.prefixes),
        ("logit_scale", "logit_scale"),
    ),
    _under("cnn.", *BIOVIL.unused) | _under("transformer.", *CXR_BERT.unused) | set(_HEADS),
    _under("transformer.", *CXR_BERT.optional),
    (
        *((f"transformer.{copy}", f"transformer.{first}") for copy, first in _DECODER),
        *((name, f"transformer.{name}") for name in _HEADS),
    ),
)
CHEXZERO = KeyMap(
    (
        ("trunk.", "visual."),
        ("proj.0.weight", "visual.proj"),
        ("text_head.weight", "text_projection"),
        ("text.", ""),
        ("logit_scale", "logit_scale"),
    ),
    transposed=frozenset(["proj.0.weight", "text_head.weight"]),
)
MEDCLIP = KeyMap(
    (
        ("trunk.", "vision_model.model."),
        ("proj.0.", "vision_model.model.fc."),
        ("text.", "text_model.model."),
        ("text_head.", "text_model.projection_head."),
        ("logit_scale", "logit_scale"),
    ),
    optional=_under("text_model.model.", "embeddings.position_ids", *_pairs("pooler.dense")),
)

# A key that only one kind of file has, and what that file is; the first that is found.
MARKS = (
    ("encoder.backbone_to_vit.weight", "BioViL-T's image model (tier-train import biovil-t)"),
    ("classifier.fc_0.model.0.weight", "TIER's supervised classifier, which has no text tower"),
    ("cnn.encoder.encoder.conv1.weight", "a TIER checkpoint (tier-train import tier)"),
    ("projector.model.0.weight", "BioViL's image model (tier-train import biovil)"),
    ("visual.proj", "a CLIP model (tier-train import chexzero)"),
    ("vision_model.projection_head.weight", "MedCLIP with a Swin transformer: not imported"),
    ("vision_model.model.fc.weight", "MedCLIP with a ResNet (tier-train import medclip)"),
    ("cls_projection_head.dense_to_hidden.weight", "CXR-BERT: name its folder, not this file"),
    ("layer4.2.conv3.weight", "torchvision's ResNet-50 (tier-train run, image_init=torchvision)"),
    ("trunk.conv1.weight", "a checkpoint of ours (tier-export takes it as it is)"),
)


def convert(
    path: Path, state: Mapping[str, Tensor], keymap: KeyMap, expected: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """`state` under our names, float32; `expected`: our keys and shapes.

    Raises IntegrityError naming keys that are missing, left over, of another shape or not finite.
    """
    wanted = {keymap.theirs(key): key for key in expected}
    fresh = {}
    if not any(key.endswith(COUNTER) for key in state):
        # Files from before torch counted batches; torch itself starts the counter at 0 then.
        fresh = {key: torch.tensor(0) for key in expected if key.endswith(COUNTER)}
        wanted = {theirs: ours for theirs, ours in wanted.items() if ours not in fresh}
    _check_names(path, set(state), {*wanted, *keymap.unused}, keymap.optional)
    for copy, first in keymap.twins:
        if copy in state and not _same(state[copy], state[first]):
            raise IntegrityError(f"{path}: {copy} and {first} are one weight, and differ")
    out = dict(fresh)
    for theirs, ours in wanted.items():
        value = state[theirs]
        if value.dim() == 2:
            value = value.T if ours in keymap.transposed else value
            if expected[ours] == (*value.shape, 1, 1):
                value = value[:, :, None, None]  # a matrix is a 1×1 convolution
        if value.shape != expected[ours] or (value.dtype == torch.int64) != ours.endswith(COUNTER):
            raise IntegrityError(
                f"{path}: {theirs} is {value.dtype} {tuple(state[theirs].shape)}, which does not "
                f"fit {tuple(expected[ours])}{guess(state)}"
            )
        if not torch.isfinite(value).all():
            raise IntegrityError(f"{path}: {theirs} is not finite; fetch the file again")
        if ours.endswith(".running_var") and bool((value < 0).any()):
            raise IntegrityError(f"{path}: {theirs} is negative, which no variance is")
        out[ours] = value if ours.endswith(COUNTER) else value.to(torch.float32)
    return out


def _same(copy: Tensor, first: Tensor) -> bool:
    alike = (copy.dtype, copy.shape) == (first.dtype, first.shape)
    return alike and torch.equal(copy, first)


def _check_names(path: Path, found: set[str], needed: set[str], optional: frozenset[str]) -> None:
    missing = sorted(needed - found)
    left = sorted(found - needed - optional)
    said = [
        f"{len(names)} {what} ({', '.join(map(shown, names[:3]))}{', …' if len(names) > 3 else ''})"
        for names, what in ((missing, "missing"), (left, "unknown"))
        if names
    ]
    if said:
        raise IntegrityError(f"{path}: weights are {' and '.join(said)}{guess(found)}")


def guess(names: Mapping[str, Tensor] | set[str]) -> str:
    """What the file seems to be, for someone who named the wrong one."""
    return next((f"; the file looks like {what}" for mark, what in MARKS if mark in names), "")


def layers(names: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers stand at the `#` of `pattern`, such as "text.encoder.layer.#."."""
    found = re.compile("^" + re.escape(pattern).replace(r"\#", r"(\d+)"))
    return len({match[1] for name in names if (match := found.match(name))})
