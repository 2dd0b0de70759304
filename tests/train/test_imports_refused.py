"""python -m pytest tests/train/test_imports_refused.py -- files are whole and cannot run anything.

Hollow states (every weight the same zero) keep their files small; keys and shapes are published.
"""

from __future__ import annotations

import argparse
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.train import layouts
from tests.train.layouts import State
from tier_infer.errors import IntegrityError, UsageError
from tier_train.imports import image_start, text_start
from tier_train.imports.sources import SOURCES
from tier_train.recipe import recipe_from

torch.set_num_threads(1)
WITH_IMAGES = ("biovil", "biovil-t", "tier", "chexzero", "medclip", "torchvision")
LAST = "transformer.bert.encoder.layer.11.output.dense.bias"
FIRST = {  # a weight of the image, one more, and one of the text or one that is not read
    "biovil": ("encoder.encoder.bn1.bias", "projector.model.3.weight", "encoder.encoder.fc.bias"),
    "biovil-t": (
        *("encoder.missing_previous_emb", "encoder.backbone_to_vit.weight"),
        "encoder.vit_pooler.type_embed",
    ),
    "tier": ("cnn.projector.model.1.weight", LAST, "cls_projection_head.LayerNorm.bias"),
    "chexzero": ("visual.proj", "transformer.resblocks.11.attn.in_proj_weight", "text_projection"),
    "medclip": (
        *("vision_model.model.layer1.0.conv1.weight", "text_model.projection_head.weight"),
        "logit_scale",
    ),
    "torchvision": ("conv1.weight", "layer2.0.downsample.1.running_var", "fc.weight"),
}


@pytest.fixture(autouse=True)
def _hollow(monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.let_hollow_in(monkeypatch)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole CXR-BERT folder, hollow."""
    folder = tmp_path_factory.mktemp("words")
    return layouts.write_cxr_bert(folder, layouts.hollow("cxr-bert"))


def _files(source: str, folder: Path, table: object, legacy: bool = False) -> list[Path]:
    """The arguments of the import, `table` in place of the weights. Errors come before the text."""
    path = folder / layouts.FILES[source]
    torch.save(table, path, _use_new_zipfile_serialization=not legacy)
    if source == "torchvision":
        return [path]
    if source == "chexzero":
        return [path, layouts.write_merges(folder / "bpe.txt.gz")]
    size = 28996 if source == "medclip" else 30522
    return [path, layouts.write_vocabulary(folder / "words", size, lower_case=True)]


def _saved(source: str, state: State) -> object:
    return layouts.tier_checkpoint(state) if source == "tier" else state


@pytest.mark.parametrize("which", [0, 1, 2], ids=["first", "second", "third"])
@pytest.mark.parametrize("change", ["renamed", "missing", "extra"])
@pytest.mark.parametrize("source", WITH_IMAGES)
def test_a_key_too_many_or_too_few_is_refused_by_name(
    source: str, change: str, which: int, tmp_path: Path
) -> None:
    state, key = layouts.hollow(source), FIRST[source][which]
    if change == "extra":
        state[f"{key}_2"] = state[key]
    elif change == "missing":
        del state[key]
    else:
        state = {f"{k}_2" if k == key else k: v for k, v in state.items()}
    with pytest.raises(IntegrityError) as error:
        SOURCES[source](*_files(source, tmp_path, _saved(source, state)))
    named = f"{key}_2" if change == "extra" else key
    assert named in str(error.value)
    if change == "renamed" and "is missing or no weight" not in str(error.value):
        assert f"1 missing ({key})" in str(error.value)
        assert f"1 unknown ({key}_2)" in str(error.value)


@pytest.mark.parametrize("source", WITH_IMAGES)
@pytest.mark.parametrize("which", [0, 1])
def test_a_weight_of_another_shape_or_not_finite_is_refused_by_name(
    source: str, which: int, tmp_path: Path
) -> None:
    key = FIRST[source][which]
    state = layouts.hollow(source)
    whole = state[key]
    for value, word in (
        (torch.zeros(*whole.shape, 1, dtype=whole.dtype), "fit|no weight"),
        (torch.full(whole.shape, torch.nan, dtype=whole.dtype), "not finite"),
        (torch.full(whole.shape, torch.inf, dtype=whole.dtype), "not finite"),
        (torch.zeros(whole.shape, dtype=torch.int64), "fit"),
        (torch.zeros(whole.shape, dtype=torch.float64), "not a weight"),
        (torch.zeros(whole.shape, dtype=torch.bool), "not a weight"),
        (whole.float().to_sparse(), "not a weight"),
        (3.0, "not a tensor"),
    ):
        table = _saved(source, state | {key: value})
        with pytest.raises(IntegrityError, match=word) as error:
            SOURCES[source](*_files(source, tmp_path, table))
        assert key in str(error.value)


class Payload:
    """Unpickling it makes a folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.canary),)


def _with_payload(source: str, place: str, payload: Payload) -> object:
    if place == "alone":
        return payload
    state: dict[str, Any] = dict(layouts.hollow(source))
    state[FIRST[source][0]] = payload
    table: Any = _saved(source, state)
    if place == "args":  # beside TIER's weights, in the classes that may stand there
        table = layouts.tier_checkpoint(layouts.hollow("tier"))
        table["args"] = argparse.Namespace(lr=payload)
    return table


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("source", "place"),
    [*((s, p) for s in WITH_IMAGES for p in ("alone", "state")), ("tier", "args")],
)
def test_a_pickle_payload_never_runs(source: str, place: str, legacy: bool, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    files = _files(source, tmp_path, _with_payload(source, place, Payload(canary)), legacy)
    with pytest.raises(IntegrityError, match="pickled code"):
        SOURCES[source](*files)
    assert not canary.exists()
    torch.load(files[0], weights_only=False)
    assert canary.exists(), "the payload itself works"


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_payload_in_the_text_weights_never_runs(legacy: bool, tmp_path: Path) -> None:
    folder = layouts.write_cxr_bert(tmp_path / "words", layouts.hollow("cxr-bert"))
    payload = {"bert.x": Payload(tmp_path / "canary")}
    path = folder / "pytorch_model.bin"
    torch.save(payload, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(IntegrityError, match="pickled code"):
        text_start(folder)
    assert not (tmp_path / "canary").exists()


class Scalar:
    """A NumPy scalar of dtype object, which would carry any pickle."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return np.float64(0).__reduce__()[0], (np.dtype("O"), {"a": 1})


def test_a_scalar_of_objects_is_no_scalar(tmp_path: Path) -> None:
    table = layouts.tier_checkpoint(layouts.hollow("tier")) | {"val_loss": Scalar()}
    with pytest.raises(IntegrityError):
        SOURCES["tier"](*_files("tier", tmp_path, table))


def test_classes_of_tier_are_of_tier_alone(tmp_path: Path) -> None:
    table = layouts.tier_checkpoint(layouts.hollow("biovil"))
    with pytest.raises(IntegrityError, match="pickled code"):
        SOURCES["biovil"](*_files("biovil", tmp_path, table))


def test_a_file_of_numpy_1_names_another_module(tmp_path: Path, words: Path) -> None:
    """TIER's checkpoints were written in 2022: `numpy.core`, which NumPy 2 renamed."""
    state = layouts.hollow("tier")
    path = tmp_path / "best_model.pt"
    torch.save(layouts.tier_checkpoint(state), path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))
    assert members[pickled].count(b"numpy._core") == 1
    members[pickled] = members[pickled].replace(b"numpy._core", b"numpy.core")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert SOURCES["tier"](path, words).training["source"] == "tier"


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99, -1])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_truncated_file_is_refused(kept: float, legacy: bool, tmp_path: Path) -> None:
    (path,) = _files("torchvision", tmp_path, layouts.hollow("torchvision"), legacy)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(kept * len(raw)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(IntegrityError):
        SOURCES["torchvision"](path)


def test_a_changed_byte_in_a_weight_is_refused(tmp_path: Path) -> None:
    state = layouts.hollow("torchvision") | {"bn1.bias": torch.arange(64.0)}
    (path,) = _files("torchvision", tmp_path, state)
    raw = path.read_bytes()
    at = raw.index(torch.arange(64.0).numpy().tobytes())
    path.write_bytes(raw[:at] + b"\1" + raw[at + 1 :])
    with pytest.raises(IntegrityError, match="checksum is wrong"):
        SOURCES["torchvision"](path)


def test_other_kinds_of_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    with tarfile.open(path, "w") as archive:  # torch before 0.1.10
        for name in ("storages", "tensors", "pickle"):
            (tmp_path / name).write_bytes(pickle.dumps(0))
            archive.add(tmp_path / name, name)
    with pytest.raises(IntegrityError):
        SOURCES["torchvision"](path)
    for content in (pickle.dumps([1, 2]), b"version https://git-lfs.github.com/spec/v1\n", b"PK"):
        path.write_bytes(content)
        with pytest.raises(IntegrityError):
            SOURCES["torchvision"](path)
    for table in ([1], {}, {1: torch.zeros(1)}, torch.zeros(3), {"state_dict": {}}):
        torch.save(table, path)
        with pytest.raises(IntegrityError):
            SOURCES["torchvision"](path)


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model."])
@pytest.mark.parametrize("wrapper", ["", "state_dict", "model_state_dict", "model"])
def test_wrappers_are_taken_off(prefix: str, wrapper: str, tmp_path: Path) -> None:
    state = {prefix + key: value for key, value in layouts.hollow("torchvision").items()}
    files = _files("torchvision", tmp_path, {wrapper: state} if wrapper else state)
    with pytest.raises(UsageError, match="is whole"):
        SOURCES["torchvision"](*files)


def test_files_from_before_batches_were_counted_are_whole(tmp_path: Path) -> None:
    state = layouts.hollow("torchvision")
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    kept = {key: value for key, value in state.items() if key not in counters}
    recipe = recipe_from({"arch": "resnet50", "geometry": "tier-224-imagenet"})
    (path,) = _files("torchvision", tmp_path, kept)
    weights = image_start("torchvision", path, recipe)
    assert len(weights) == 318
    assert weights["trunk.bn1.num_batches_tracked"].item() == 0
    (path,) = _files("torchvision", tmp_path, kept | {counters[0]: state[counters[0]]})
    with pytest.raises(IntegrityError, match="52 missing"):  # some, but not all
        image_start("torchvision", path, recipe)


@pytest.mark.parametrize(
    ("source", "given", "words"),
    [
        ("biovil", "biovil-t", "import biovil-t"),
        ("biovil-t", "biovil", "import biovil"),
        ("biovil", "torchvision", "image_init=torchvision"),
        ("biovil", "cxr-bert", "name its folder"),
        ("chexzero", "medclip", "import medclip"),
        ("medclip", "chexzero", "import chexzero"),
        ("torchvision", "biovil", "import biovil"),
    ],
)
def test_the_wrong_file_is_recognised(source: str, given: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=f"looks like .*{words}"):
        SOURCES[source](*_files(source, tmp_path, layouts.hollow(given)))


@pytest.mark.parametrize(
    ("source", "copy"),
    [
        ("tier", "cls_projection_head.LayerNorm.bias"),
        ("tier", "transformer.cls.predictions.decoder.weight"),
        ("cxr-bert", "cls.predictions.decoder.bias"),
    ],
)
def test_one_weight_stored_twice_must_be_equal(source: str, copy: str, tmp_path: Path) -> None:
    state = layouts.hollow(source)
    changed = torch.zeros(state[copy].shape)
    changed.flatten()[-1] = 1e-6
    state |= {copy: changed}
    if source == "tier":
        files = _files("tier", tmp_path, layouts.tier_checkpoint(state))
    else:
        files = [layouts.write_cxr_bert(tmp_path, state)]
    with pytest.raises(IntegrityError, match=f"{copy} and .* differ"):
        SOURCES["tier"](*files) if source == "tier" else text_start(*files)
