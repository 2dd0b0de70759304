"""ckpt.pt: everything that scoring needs, and nothing that can run.

Tensors, strings, numbers, lists and dicts only, loaded with a literal `weights_only=True`. Keys of
the network: trunk.*, proj.* (image), text.*, text_head.* (words), logit_scale.
"""

from __future__ import annotations

import hashlib
import io
import json
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
from tier_train.towers.text_encoder import Tokenizer
from tier_train.towers.wordpiece import SPECIAL, WordPiece

FORMAT = "tier-cxr-checkpoint/1"
LONGEST = 80  # characters of a name that a message shows
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
        digest = hashlib.sha256(json.dumps(self.tokenizer.state(), sort_keys=True).encode())
        for key, value in sorted(self.model.words.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.contiguous().numpy().tobytes())
        return digest.hexdigest()


def flat_state(model: DualEncoder) -> dict[str, Tensor]:
    state = {**model.image.state_dict(), **model.words.state_dict()}
    return state | {"logit_scale": model.logit_scale.detach()}


def shown(name: str) -> str:
    """A name out of a file for a message: printable and short, so that none can forge a line."""
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in name[: LONGEST + 1])
    return plain if len(plain) <= LONGEST else plain[: LONGEST - 1] + "…"


def not_finite(state: dict[str, Tensor]) -> str:
    """The first tensor that holds a NaN or an infinity; "" where none does."""
    flags = [torch.isfinite(v).all() for v in state.values()]
    if bool(torch.stack(flags).all()):  # a GPU is asked once
        return ""
    return next(key for key, flag in zip(state, flags, strict=True) if not flag)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Raises OSError, or IntegrityError for weights that are no numbers: nothing is written."""
    if bad := not_finite(flat_state(checkpoint.model)):
        raise IntegrityError(f"{path} is not written: weights are not finite, e.g. {bad}")
    table = {
        "format": FORMAT,
        "state": flat_state(checkpoint.model),
        "recipe": asdict(checkpoint.recipe),
        "tokenizer": checkpoint.tokenizer.state(),
        "intensity": checkpoint.intensity,
        "views": list(checkpoint.views),
        "training": checkpoint.training,
        "alarm": checkpoint.alarm,
    }
    # A pickle notes which equal strings are one object; a copy forgets it, so that equal contents
    # are equal bytes, whether a run was resumed or not.
    state = table.pop("state")
    buffer = io.BytesIO()
    torch.save({**json.loads(json.dumps(table)), "state": state}, buffer)
    write_atomic(path, buffer.getvalue())


def load_checkpoint(path: Path) -> Checkpoint:
    """Raises UsageError when there is no file, IntegrityError when it is not one of ours, whole."""
    table, digest = read_archive(path)
    kind = table.get("format") if isinstance(table, dict) else None
    if isinstance(kind, str) and kind.startswith("tier-cxr-supervised"):
        raise IntegrityError(
            f"{path} is a supervised network: it has no text tower to ask with sentences; name the "
            "ckpt.pt of `tier-train run` or `tier-train import`"
        )
    if kind != FORMAT or set(table) != FIELDS:
        raise IntegrityError(f"{path} is not a checkpoint of this version ({FORMAT})")
    return _rebuild(path, table, digest)


def read_archive(path: Path) -> tuple[Any, str]:
    """The plain values of a torch file of ours and its SHA-256; IntegrityError if damaged."""
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
    return table, hashlib.sha256(raw).hexdigest()


def _check_archive(path: Path, raw: bytes) -> None:
    """Every member against its CRC: torch would load a flipped weight without a word."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            rewritten = not_stored(archive, len(raw))
            damaged = None if rewritten else archive.testzip()
    except Exception as error:
        if raw.startswith(b"\x80"):  # how every pickle begins; torch's old format is one
            raise IntegrityError(f"{path} holds pickled code or objects, not tensors") from None
        raise IntegrityError(f"{path} is no complete checkpoint ({type(error).__name__})") from None
    if rewritten:
        raise IntegrityError(f"{path} is no archive that torch wrote: {rewritten}")
    if damaged is not None:
        raise IntegrityError(f"{path} is damaged: a member's checksum is wrong")


def not_stored(archive: zipfile.ZipFile, size: int) -> str:
    """What torch.save never writes into a file of `size` bytes; "" where it may have written all.

    Asked before anything is unpacked: a compressed member may be a thousand times its bytes, and
    torch maps its compressed bytes as if they were weights. Of two members of one name, Python and
    torch may read different ones.
    """
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        return "a member is compressed"
    if len({member.filename for member in members}) != len(members):
        return "two members have one name"
    if sum(member.file_size for member in members) > size:
        return "its members claim more bytes than it has"
    return ""


def _rebuild(path: Path, table: dict[str, Any], digest: str) -> Checkpoint:
    words = table["tokenizer"]
    for name, right in (
        ("recipe", isinstance(table["recipe"], dict)),
        ("tokenizer", is_tokenizer(words)),
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
    tokenizer = tokenizer_from(words)
    model = DualEncoder(recipe, tokenizer.vocab_size)
    expected = flat_state(model)
    state = table["state"]
    wrong = sorted(map(str, set(expected) ^ set(state)))
    wrong += [k for k in expected if k in state and not _same_kind(expected[k], state[k])]
    if wrong:
        raise IntegrityError(
            f"{path}: {len(wrong)} weights do not fit the recipe, e.g. {shown(wrong[0])}"
        )
    if bad := not_finite(state):
        raise IntegrityError(f"{path}: weights are not finite, e.g. {bad}")
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


def is_tokenizer(words: object) -> bool:
    """Whether `tokenizer_from` can build from it. Checkpoints of before name no kind: WordPiece."""
    if not isinstance(words, dict):
        return False
    kind = words.get("kind", "wordpiece")
    keys = {"wordpiece": {"vocab", "max_tokens", "lower_case"}, "clip": {"merges", "max_tokens"}}
    if kind not in keys or set(words) - {"kind"} != keys[kind]:
        return False
    if type(words["max_tokens"]) is not int or words["max_tokens"] < 3:
        return False
    pieces = words["vocab" if kind == "wordpiece" else "merges"]
    if not _is_texts(pieces) or len(set(pieces)) != len(pieces):
        return False
    return kind == "clip" or (set(SPECIAL) <= set(pieces) and type(words["lower_case"]) is bool)


def tokenizer_from(words: dict[str, Any]) -> Tokenizer:
    if words.get("kind") == "clip":
        from tier_train.towers.clip_text import ClipTokenizer

        return ClipTokenizer(words["merges"], words["max_tokens"])
    return WordPiece(words["vocab"], words["max_tokens"], words["lower_case"])


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
