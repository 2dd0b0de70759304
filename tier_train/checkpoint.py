"""ckpt.pt: everything that scoring needs, and nothing that can run.

Tensors, strings, numbers, lists and dicts only, loaded with a literal `weights_only=True`. Keys of
the network: trunk.*, proj.* (image), text.*, text_head.* (words), logit_scale.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tier_infer.errors import IntegrityError, UsageError
from tier_infer.files import write_atomic
from tier_infer.intensity import PRESETS
from tier_train.model import DualEncoder
from tier_train.recipe import Recipe, recipe_from
from tier_train.text_encoder import SPECIAL, Tokenizer

FORMAT = "tier-cxr-checkpoint/1"
FIELDS = {"format", "state", "recipe", "tokenizer", "intensity", "views", "training", "alarm"}


@dataclass(frozen=True)
class Checkpoint:
    model: DualEncoder
    tokenizer: Tokenizer
    recipe: Recipe
    intensity: str
    views: tuple[str, ...]
    training: dict[str, Any]  # data name and digest, counts, steps, validation AUC
    alarm: str  # "" or why the network has probably collapsed
    sha256: str = ""  # of the file; "" before it is saved

    @property
    def text_sha256(self) -> str:
        """Identity of the text tower: query tables belong to it."""
        words = self.tokenizer
        head = "\n".join([str(words.lower_case), str(words.max_tokens), *words.vocab])
        digest = hashlib.sha256(head.encode())
        for key, value in sorted(self.model.words.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.contiguous().numpy().tobytes())
        return digest.hexdigest()


def flat_state(model: DualEncoder) -> dict[str, Tensor]:
    state = {**model.image.state_dict(), **model.words.state_dict()}
    return state | {"logit_scale": model.logit_scale.detach()}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    tokenizer = checkpoint.tokenizer
    table = {
        "format": FORMAT,
        "state": flat_state(checkpoint.model),
        "recipe": asdict(checkpoint.recipe),
        "tokenizer": {
            "vocab": tokenizer.vocab,
            "max_tokens": tokenizer.max_tokens,
            "lower_case": tokenizer.lower_case,
        },
        "intensity": checkpoint.intensity,
        "views": list(checkpoint.views),
        "training": checkpoint.training,
        "alarm": checkpoint.alarm,
    }
    buffer = io.BytesIO()
    torch.save(table, buffer)
    write_atomic(path, buffer.getvalue())


def load_checkpoint(path: Path) -> Checkpoint:
    """Raises UsageError when there is no file, IntegrityError when it is not one of ours, whole."""
    if not path.is_file():
        raise UsageError(f"no checkpoint at {path}; `tier-train run` writes ./ckpt.pt")
    raw = path.read_bytes()
    _check_archive(path, raw)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise IntegrityError(
            f"{path} holds pickled code or objects; only tensors and plain values are loaded"
        ) from None
    except Exception as error:  # damaged pickles end in any of a dozen
        raise IntegrityError(f"{path} is no complete checkpoint ({type(error).__name__})") from None
    if not isinstance(table, dict) or table.get("format") != FORMAT or set(table) != FIELDS:
        raise IntegrityError(f"{path} is not a checkpoint of this version ({FORMAT})")
    return _rebuild(path, table, hashlib.sha256(raw).hexdigest())


def _check_archive(path: Path, raw: bytes) -> None:
    """Every member against its CRC: torch would load a flipped weight without a word."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            damaged = archive.testzip()
    except Exception as error:
        if raw.startswith(b"\x80"):  # how every pickle begins; torch's old format is one
            raise IntegrityError(f"{path} holds pickled code or objects, not tensors") from None
        raise IntegrityError(f"{path} is no complete checkpoint ({type(error).__name__})") from None
    if damaged is not None:
        raise IntegrityError(f"{path} is damaged: a member's checksum is wrong")


def _rebuild(path: Path, table: dict[str, Any], digest: str) -> Checkpoint:
    words = table["tokenizer"]
    for name, right in (
        ("recipe", isinstance(table["recipe"], dict)),
        ("tokenizer", _is_tokenizer(words)),
        ("intensity", table["intensity"] in PRESETS),
        ("views", _is_texts(table["views"]) and bool(table["views"])),
        ("training", isinstance(table["training"], dict)),
        ("alarm", isinstance(table["alarm"], str)),
        ("state", isinstance(table["state"], dict)),
    ):
        if not right:
            raise IntegrityError(f"{path}: its field `{name}` is not what this version writes")
    try:
        recipe = recipe_from(table["recipe"])
    except (UsageError, TypeError) as error:
        raise IntegrityError(f"{path}: its recipe is not one of this version: {error}") from None
    tokenizer = Tokenizer(words["vocab"], words["max_tokens"], words["lower_case"])
    model = DualEncoder(recipe, len(tokenizer.vocab))
    expected = flat_state(model)
    state = table["state"]
    wrong = sorted(map(str, set(expected) ^ set(state)))
    wrong += [k for k in expected if k in state and not _same_kind(expected[k], state[k])]
    if wrong:
        raise IntegrityError(f"{path}: {len(wrong)} weights do not fit the recipe, e.g. {wrong[0]}")
    not_finite = [k for k, v in state.items() if not torch.isfinite(v).all()]
    if not_finite:
        raise IntegrityError(f"{path}: weights are not finite, e.g. {not_finite[0]}")
    with torch.no_grad():
        for key, value in expected.items():  # expected holds the model's own storage
            value.copy_(state[key])
    model.eval()
    return Checkpoint(
        model, tokenizer, recipe, table["intensity"], tuple(table["views"]), table["training"],
        table["alarm"], digest,
    )  # fmt: skip


def _same_kind(expected: Tensor, found: object) -> bool:
    return (
        isinstance(found, Tensor)
        and found.layout == torch.strided
        and found.device.type == "cpu"
        and (found.dtype, found.shape) == (expected.dtype, expected.shape)
    )


def _is_tokenizer(words: object) -> bool:
    return (
        isinstance(words, dict)
        and set(words) == {"vocab", "max_tokens", "lower_case"}
        and _is_texts(words["vocab"])
        and set(SPECIAL) <= set(words["vocab"])
        and len(set(words["vocab"])) == len(words["vocab"])
        and type(words["max_tokens"]) is int
        and words["max_tokens"] >= 3
        and type(words["lower_case"]) is bool
    )


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
