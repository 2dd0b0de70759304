"""python -m pytest tests/train/test_checkpoint.py -- ckpt.pt: whole, ours, and unable to run."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tier_infer.errors import IntegrityError, UsageError
from tier_train.checkpoint import FIELDS, Checkpoint, load_checkpoint, save_checkpoint
from tier_train.model import DualEncoder
from tier_train.recipe import recipe_from
from tier_train.towers.text_encoder import embed_prompts
from tier_train.towers.wordpiece import SPECIAL, WordPiece
from tier_train.zero_shot import encode_images

torch.set_num_threads(1)
VOCAB = [*SPECIAL, ".", "no", "edema", "effusion", "is", "present"]
PROMPTS = ["Edema is present.", "No effusion."]
BIAS = "text_head.dense_to_output.bias"
Table = dict[str, Any]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    recipe = recipe_from({"text_width": 16, "text_layers": 1, "embed_dim": 8, "name": "tiny"})
    torch.manual_seed(0)
    model = DualEncoder(recipe, len(VOCAB)).eval()
    training = {"data": "x/manifest.csv", "train_pairs": 3, "val_auc": {"edema": 0.5}}
    views = ("frontal", "lateral")
    return Checkpoint(model, WordPiece(VOCAB, 32), recipe, "minmax", views, training, "alarm")


@pytest.fixture(scope="module")
def saved(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "ckpt.pt"
    save_checkpoint(path, checkpoint)
    return path.read_bytes()


def _table(raw: bytes) -> Table:
    table: Table = torch.load(io.BytesIO(raw), weights_only=True)
    return table


def _write(path: Path, table: object, legacy: bool = False) -> Path:
    torch.save(table, path, _use_new_zipfile_serialization=not legacy)
    return path


def test_a_round_trip_changes_nothing(checkpoint: Checkpoint, saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    path.write_bytes(saved)
    again = load_checkpoint(path)
    for field in ("recipe", "intensity", "views", "training", "alarm", "text_sha256"):
        assert getattr(again, field) == getattr(checkpoint, field), field
    assert again.sha256 != checkpoint.sha256 == ""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 112, 112)).astype(np.uint8)
    for ours, theirs in zip(
        encode_images(checkpoint.model, pixels), encode_images(again.model, pixels), strict=True
    ):
        assert torch.equal(ours, theirs)
    words = [embed_prompts(c.model.words, c.tokenizer, PROMPTS) for c in (checkpoint, again)]
    assert torch.equal(*words)
    assert again.model.logit_scale.item() == checkpoint.model.logit_scale.item()
    assert not again.model.training


def test_weights_that_are_no_numbers_are_not_written(
    checkpoint: Checkpoint, saved: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "ckpt.pt"
    path.write_bytes(saved)
    spoilt = DualEncoder(checkpoint.recipe, len(VOCAB))
    spoilt.get_parameter(f"words.{BIAS}").data[0] = float("inf")
    with pytest.raises(IntegrityError, match=f"ckpt.pt is not written: .* not finite, e.g. {BIAS}"):
        save_checkpoint(path, dataclasses.replace(checkpoint, model=spoilt))
    assert path.read_bytes() == saved


def test_what_is_written_needs_no_pickle_rights(saved: bytes) -> None:
    assert set(_table(saved)) == FIELDS


def test_the_text_identity_is_that_of_words_and_weights(checkpoint: Checkpoint) -> None:
    other = WordPiece([*VOCAB[:-1], "absent"], 32)
    assert dataclasses.replace(checkpoint, tokenizer=other).text_sha256 != checkpoint.text_sha256
    assert dataclasses.replace(checkpoint, alarm="").text_sha256 == checkpoint.text_sha256
    moved = DualEncoder(checkpoint.recipe, len(VOCAB))
    assert dataclasses.replace(checkpoint, model=moved).text_sha256 != checkpoint.text_sha256


def test_the_text_identity_is_that_of_the_case_rule_too(checkpoint: Checkpoint) -> None:
    # The same prompt embeds elsewhere, so query tables made with one do not belong to the other.
    cased = dataclasses.replace(checkpoint, tokenizer=WordPiece(VOCAB, 32, lower_case=False))
    words = [embed_prompts(c.model.words, c.tokenizer, PROMPTS) for c in (checkpoint, cased)]
    assert not torch.equal(*words)
    assert cased.text_sha256 != checkpoint.text_sha256


class Payload:
    """Unpickling it makes a folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["alone", "training", "state", "beside"])
def test_a_pickle_payload_never_runs(
    saved: bytes, tmp_path: Path, place: str, legacy: bool
) -> None:
    canary = tmp_path / "canary"
    payload, table = Payload(canary), _table(saved)
    content = {
        "alone": lambda: payload,
        "training": lambda: table | {"training": {"data": payload}},
        "state": lambda: table | {"state": table["state"] | {BIAS: payload}},
        "beside": lambda: table | {"more": payload},
    }[place]()
    path = _write(tmp_path / "ckpt.pt", content, legacy)
    with pytest.raises(IntegrityError, match="pickled code"):
        load_checkpoint(path)
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists(), "the payload itself works"


def test_a_bare_pickle_never_runs(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    path.write_bytes(pickle.dumps(Payload(tmp_path / "canary")))
    with pytest.raises(IntegrityError):
        load_checkpoint(path)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("kept", [0, 1, 3, 64, 1000, 0.25, 0.5, 0.9, 0.999, -1])
def test_a_truncated_file_is_refused(saved: bytes, tmp_path: Path, kept: float) -> None:
    path = tmp_path / "ckpt.pt"
    path.write_bytes(saved[: int(kept * len(saved)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(IntegrityError):
        load_checkpoint(path)


def test_a_changed_byte_in_a_weight_is_refused(saved: bytes, tmp_path: Path) -> None:
    weight = _table(saved)["state"]["trunk.layer3.0.conv2.weight"].numpy().tobytes()
    at = saved.index(weight) + 1
    path = tmp_path / "ckpt.pt"
    path.write_bytes(saved[:at] + bytes([saved[at] ^ 1]) + saved[at + 1 :])
    with pytest.raises(IntegrityError):
        load_checkpoint(path)


def test_damaged_bytes_end_in_an_integrity_error(saved: bytes, tmp_path: Path) -> None:
    """Flipped bytes in the pickle part, and noise: loaded (a harmless place) or refused."""
    path = tmp_path / "ckpt.pt"
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (n for n in files if n.endswith("data.pkl"))
    for _ in range(100):
        damaged = bytearray(files[name])
        for at in rng.integers(0, len(damaged), rng.integers(1, 4)):
            damaged[at] = rng.integers(256)
        with zipfile.ZipFile(path, "w") as archive:
            for key, value in (files | {name: bytes(damaged)}).items():
                archive.writestr(key, value)
        _load_or_refuse(path)
        path.write_bytes(rng.bytes(int(rng.integers(400))))
        _load_or_refuse(path)


def test_a_legacy_file_with_a_damaged_key_is_refused(saved: bytes, tmp_path: Path) -> None:
    path = _write(tmp_path / "ckpt.pt", _table(saved), legacy=True)
    raw = path.read_bytes()
    at = raw.index(b"FloatStorage") + raw[raw.index(b"FloatStorage") :].index(b"X") + 5
    assert raw[at : at + 1].isdigit(), "the name of a storage"
    path.write_bytes(raw[:at] + b"x" + raw[at + 1 :])
    with pytest.raises(IntegrityError):
        load_checkpoint(path)


def _load_or_refuse(path: Path) -> None:
    with contextlib.suppress(IntegrityError):
        load_checkpoint(path)


def test_a_missing_file_names_the_command(tmp_path: Path) -> None:
    for path in (tmp_path / "ckpt.pt", tmp_path):
        with pytest.raises(UsageError, match="tier-train run"):
            load_checkpoint(path)
