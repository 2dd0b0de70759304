"""python -m pytest tests/export/test_ensemble.py -- K checkpoints as one graph."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from tests.export.kin import saved, shifted, stranger
from tier_export import members as members_module
from tier_export.cli import main
from tier_export.crops import phantom_crops
from tier_export.export import prove, prover_of, query_files
from tier_export.graphs import encoder_graph
from tier_export.heads import GraphScore
from tier_export.members import NODES, Members, members_of, weight_bytes
from tier_export.parity import Crops, onnx_encoder
from tier_infer.bundle import Bundle, load_bundle
from tier_infer.errors import ParityError, UsageError
from tier_infer.label_sets import LabelSet, load_label_set
from tier_train.checkpoint import Checkpoint, load_checkpoint
from tier_train.zero_shot import encode_images, query_table

NAMES = ("a.pt", "b.pt", "c.pt")
DIMS = (128, 128, 48)


@pytest.fixture(scope="module")
def folder(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.pt, b.pt as of one run, c.pt with nothing in common but the images; bundle/ of the three,
    written by the command."""
    folder = tmp_path_factory.mktemp("ensemble")
    trained = load_checkpoint(site / "ckpt.pt")
    for name, one in zip(
        NAMES,
        (shifted(trained, 1, 0.1), shifted(trained, 2, 0.1), stranger(trained, DIMS[2])),
        strict=True,
    ):
        saved(one, folder / name)
    done = export("--fp16", *[folder / name for name in NAMES], "-o", folder / "bundle")
    assert done.exit_code == 0, done.output
    (folder / "stdout").write_text(done.stdout)
    return folder


def export(*args: object) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def three(folder: Path) -> list[Checkpoint]:
    return [load_checkpoint(folder / name) for name in NAMES]


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return load_bundle(folder / "bundle")


@pytest.fixture(scope="module")
def labels() -> LabelSet:
    return load_label_set("chexpert")


@pytest.fixture(scope="module")
def crops(three: list[Checkpoint]) -> Crops:
    """Not those of the export."""
    return phantom_crops(members_of(three).geometry, three[0].intensity, 40, 1000)


def alone(
    checkpoint: Checkpoint, labels: LabelSet, pixels: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Z [N, L] and cells [N, g, g, L] of one network in PyTorch."""
    image_e, patch_e = encode_images(checkpoint.model, pixels)
    with torch.no_grad():
        table = query_table(checkpoint.model, checkpoint.tokenizer, labels).double().numpy()
    return image_e.double().numpy() @ table.T, patch_e.double().numpy() @ table.T


def test_scores_and_cells_are_the_mean_of_the_members(
    three: list[Checkpoint], bundle: Bundle, labels: LabelSet, crops: Crops
) -> None:
    each = [alone(checkpoint, labels, crops.pixels) for checkpoint in three]
    image_e, patch_e = onnx_encoder(bundle.encoder("fp32"))(crops.pixels)
    score = GraphScore(bundle.query_graph("chexpert"))
    cells = score(patch_e.reshape(-1, sum(DIMS))).reshape(*patch_e.shape[:3], -1)
    for found, column in ((score(image_e), 0), (cells, 1)):
        parts = np.stack([one[column] for one in each])
        assert np.ptp(parts, axis=0).max() > 0.02  # else their mean would prove nothing
        assert np.abs(found - parts.mean(0)).max() <= 1e-6
    for e in (image_e, patch_e):
        assert np.abs(np.linalg.norm(e, axis=-1) - 1).max() <= 1e-6


def test_the_bundle_says_what_it_is_made_of(
    folder: Path, three: list[Checkpoint], bundle: Bundle
) -> None:
    manifest = bundle.manifest
    assert manifest.embed_dim == sum(DIMS)
    assert [row["sha256"] for row in manifest.checkpoint] == [c.sha256 for c in three]
    assert not any("combined" in row for row in manifest.checkpoint)
    assert manifest.name.endswith(" x 3")
    meta = {p.key: p.value for p in onnx.load_from_string(bundle.encoder("fp32")).metadata_props}
    assert json.loads(meta["checkpoints"]) == [c.sha256 for c in three]
    rows = json.loads((folder / "bundle/parity.json").read_text())["compared"]
    assert [row["what"] for row in rows] == ["member", "member", "member", "ensemble"]
    table = (folder / "stdout").read_text()
    assert all(c.sha256[:12] in table for c in three)


def test_the_gates_hold_in_every_precision(folder: Path) -> None:
    precisions = json.loads((folder / "bundle/parity.json").read_text())["precisions"]
    assert set(precisions) == {"fp32", "fp16"}
    for proof in precisions["fp32"]["proofs"].values():
        assert proof["chexpert"]["max_dz"] <= 1e-5
        assert proof["chexpert"]["max_dcell"] <= 1e-4
        assert proof["chexpert"]["flips"] == 0
    assert len(precisions["fp16"]["proofs"]) == 2
    for proof in precisions["fp16"]["proofs"].values():
        assert proof["chexpert"]["max_dz"] <= 2e-3
        assert proof["chexpert"]["max_dcell"] <= 1e-2
    assert precisions["fp16"]["bytes"] < 0.6 * precisions["fp32"]["bytes"]


def test_the_fp16_twin_halves_every_tower(bundle: Bundle, three: list[Checkpoint]) -> None:
    """The converter follows paths from the first Conv, and here are three."""
    graphs = {p: onnx.load_from_string(bundle.encoder(p)) for p in ("fp32", "fp16")}
    kinds = {t.name: t.data_type for t in graphs["fp16"].graph.initializer}
    convs = [node for node in graphs["fp16"].graph.node if node.op_type == "Conv"]
    halves = [kinds[node.input[1]] == onnx.TensorProto.FLOAT16 for node in convs]
    assert len(convs) % 3 == 0
    assert halves.count(False) == 3  # the stems of nine weights per output
    casts = {p: [n.op_type for n in g.graph.node].count("Cast") for p, g in graphs.items()}
    assert casts["fp16"] - casts["fp32"] == 2 * 3  # into each tower and out of it


def test_the_query_table_belongs_to_the_towers_in_their_order(
    three: list[Checkpoint], bundle: Bundle
) -> None:
    members = members_of(three)
    assert bundle.manifest.text_sha256 == members.text_sha256
    assert members_of(three[::-1]).text_sha256 != members.text_sha256
    assert members_of(three[:1]).text_sha256 == three[0].text_sha256


def test_one_checkpoint_is_exported_as_before(site: Path, labels: LabelSet, crops: Crops) -> None:
    """No division by √1, no concatenation: bit for bit what the network gives."""
    trained = load_checkpoint(site / "ckpt.pt")
    members = members_of([trained])
    with torch.no_grad():
        table = query_table(trained.model, trained.tokenizer, labels).numpy()
    assert np.array_equal(members.table(labels), table)
    few = crops.pixels[:16]
    for ours, theirs in zip(members.encode(few), encode_images(trained.model, few), strict=True):
        assert np.array_equal(ours, theirs.numpy())
    assert members.embed_dim == trained.recipe.embed_dim


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"recipe": {"geometry": "tier-224-imagenet"}},
            "geometry is small-112 in one and tier-224",
        ),
        ({"recipe": {"arch": "resnet50"}}, "patches per side is 7 in one and 3 in"),
        ({"recipe": {"global_pool": "mean_then_norm"}}, "global_pool is norm_then_mean"),
        ({"intensity": "voi"}, "intensity is mimic-jpg in one and voi in the other"),
        ({"views": ("frontal", "lateral")}, "views is frontal in one and frontal and lateral"),
    ],
)
def test_different_eyes_are_refused(
    three: list[Checkpoint], change: dict[str, Any], words: str
) -> None:
    recipe = replace(three[1].recipe, **change.get("recipe", {}))
    other = replace(three[1], **(change | {"recipe": recipe}))
    with pytest.raises(UsageError, match=words) as error:
        members_of([three[0], other], ["run/a.pt", "run/b.pt"])
    assert "run/a.pt and run/b.pt" in str(error.value)


def test_one_checkpoint_twice_is_refused(folder: Path, tmp_path: Path) -> None:
    done = export(folder / "a.pt", folder / "b.pt", folder / "a.pt", "-o", tmp_path / "bundle")
    assert done.exit_code == 2
    assert "are one checkpoint" in done.stderr
    assert not (tmp_path / "bundle").exists()


def test_two_default_label_sets_are_refused(three: list[Checkpoint]) -> None:
    """The first's would have been taken without a word."""
    other = replace(three[1], recipe=replace(three[1].recipe, prompts="padchest"))
    members = members_of([three[0], other])
    with pytest.raises(UsageError, match="chexpert, padchest; choose with --queries"):
        _ = members.prompts
    assert members_of(three).prompts == "chexpert"


def test_all_training_data_are_named(three: list[Checkpoint]) -> None:
    other = replace(three[1], training=three[1].training | {"data": "films.csv"})
    assert members_of([three[0], other, three[2]]).data == f"{three[0].training['data']}, films.csv"


def test_more_than_a_file_holds_is_refused_before_it_is_built(
    three: list[Checkpoint], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = sum(weight_bytes(c.model) for c in three)
    found = len(bundle.encoder("fp32"))
    assert abs(found - weights) < 0.02 * weights  # what is refused is what would be written
    limit = sum(weight_bytes(c.model) + NODES for c in three[:2])
    monkeypatch.setattr(members_module, "GRAPH_LIMIT", limit)
    assert len(members_of(three[:2]).networks) == 2
    with pytest.raises(UsageError, match=r"which is the first 2; name fewer, or .* --average"):
        members_of(three)


def test_a_member_that_changed_breaks_the_gate(
    three: list[Checkpoint], labels: LabelSet, crops: Crops
) -> None:
    """Planted: one tower of three holds other weights than the reference."""
    members = members_of(three)
    tables, queries = query_files(members, [labels], 18, print)
    few = Crops(crops.pixels[:16], {}, "16 phantoms")
    prover = prover_of(members, [labels], tables, queries, few)
    model = copy.deepcopy(three[1].model)
    with torch.no_grad():
        model.image.trunk.get_parameter("conv1.weight").mul_(2)
    networks = (three[0], replace(three[1], model=model), three[2])
    graph = encoder_graph(Members(networks, members.sources)).SerializeToString()
    with pytest.raises(ParityError, match="fp32"):
        prove(prover, members, "fp32", graph)
