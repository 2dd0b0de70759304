"""python -m pytest tests/export/test_pooled_proofs.py -- what pooled sets are held against."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from tests.export.kin import saved, shifted
from tier_export.average import compared
from tier_export.crops import phantom_crops
from tier_export.export import prover_of, query_files
from tier_export.golden_gate import widened
from tier_export.heads import numpy_score, onnx_query
from tier_export.labels import Made, check_pools, prepare
from tier_export.members import Members, exact_score, members_of
from tier_export.parity import Crops
from tier_export.queries import query_graph
from tier_infer.bundle import ENCODERS, load_bundle, sha256
from tier_infer.engine import Engine
from tier_infer.errors import ParityError, UsageError
from tier_infer.golden import read_golden
from tier_infer.label_sets import LabelSet, load_label_set
from tier_infer.pooling import LogSumExp
from tier_train.checkpoint import Checkpoint, load_checkpoint
from tier_train.zero_shot import encode_images, pooled


@pytest.fixture(scope="module")
def network(site: Path) -> Checkpoint:
    return load_checkpoint(site / "ckpt.pt")


def test_patches_that_were_not_trained_are_not_pooled(network: Checkpoint, site: Path) -> None:
    """Those of imported CheXzero weights."""
    soft = load_label_set("chexpert@log_sum_exp=0.1", pooled=True)
    blind = replace(network, training=network.training | {"patches": "not trained"})
    with pytest.raises(UsageError, match="which this network was not trained for"):
        query_files(members_of([blind]), [soft], 18, print)
    opened = load_bundle(site / "bundle")
    rows = [row | {"patches": "not trained"} for row in opened.manifest.checkpoint]
    other = replace(opened, manifest=replace(opened.manifest, checkpoint=rows))
    with pytest.raises(UsageError, match="leave its pool out"):
        check_pools(other, [soft])
    with pytest.raises(UsageError, match="leave its pool out"):
        prepare(other, [Made(soft, np.ones((5, 128), np.float32), [], [])])


def pair(network: Checkpoint, folder: Path) -> tuple[Members, LabelSet, Crops]:
    two = [network, saved(shifted(network, 1, 0.2), folder / "other.pt")]
    soft = load_label_set("chexpert@log_sum_exp=0.1", pooled=True)
    members = members_of(two)
    return members, soft, phantom_crops(members.geometry, network.intensity, 120)


def test_an_ensemble_pools_the_mean_of_its_members_patches(
    network: Checkpoint, tmp_path: Path
) -> None:
    members, soft, crops = pair(network, tmp_path)
    tables, queries = query_files(members, [soft], 18, print)
    encoded = members.encode(crops.pixels)
    each = []  # cells of every member
    for one in members.networks:
        patch_e = encode_images(one.model, crops.pixels)[1].numpy()
        each.append(patch_e.reshape(len(patch_e), -1, 128) @ members_of([one]).table(soft).T)
    mean = torch.from_numpy(np.mean(each, axis=0))
    expected = pooled(mean, LogSumExp(0.1)).numpy()
    found = onnx_query(queries[soft.id]).images(*encoded)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    truth = {k: y for k, y in crops.truth.items() if y.sum() * (1 - y).sum() >= 1000}
    assert truth
    rows = compared(members, encoded, tables[soft.id], soft, replace(crops, truth=truth))
    assert [row["what"] for row in rows][:3] == ["member", "member", "ensemble"]
    assert set(rows[2]["rank"].values()) == {1.0}
    for row, z in zip(rows, [*(pooled(torch.from_numpy(z), LogSumExp(0.1)) for z in each), mean],
                      strict=False):  # fmt: skip
        z = torch.from_numpy(expected) if row["what"] == "ensemble" else z
        ids = [label.id for label in soft.labels]
        for label, area in row["auc"].items():
            column = z[:, ids.index(label)].numpy()
            assert area == pytest.approx(roc_auc_score(truth[label], column), abs=1e-4)


def test_the_reference_is_not_the_graph(network: Checkpoint) -> None:
    """A graph that pools at another temperature breaks the gate of Z."""
    members = members_of([network])
    soft = load_label_set("chexpert@log_sum_exp=0.1", pooled=True)
    warmer = replace(soft, pool=LogSumExp(0.11))
    table = members.table(soft)
    crops = phantom_crops(members.geometry, network.intensity, 100)
    for labels in (soft, warmer):
        graph = query_graph(table, labels, members.text_sha256).SerializeToString()
        prover = prover_of(members, [soft], {soft.id: table}, {soft.id: graph}, crops)
        if labels is soft:
            prover.prove("fp32", "torch", members.encode)
        else:
            with pytest.raises(ParityError, match="score Z differs"):
                prover.prove("fp32", "torch", members.encode)


def test_a_pooled_set_that_comes_later_widens_the_gate_of_int8(site: Path, tmp_path: Path) -> None:
    """The fp16 encoder stands for a quantised one. Its gate was narrow: images alone."""
    copy = Path(shutil.copytree(site / "bundle", tmp_path / "bundle"))
    opened = load_bundle(copy)
    golden = read_golden(opened)
    assert golden is not None
    data = opened.encoder("fp16")
    (copy / ENCODERS["int8"]).write_bytes(data)
    entry = {"sha256": sha256(data), "bytes": len(data), "precision": "int8"}
    files = opened.manifest.files | {ENCODERS["int8"]: entry}
    other = replace(opened, manifest=replace(opened.manifest, files=files))
    narrow = golden.gates | {"int8": {"max_dz": 1e-9, "max_dcell": 0.1}}
    soft = load_label_set("chexpert@log_sum_exp=0.1", pooled=True)
    score = exact_score(np.eye(128, dtype=np.float32)[:5], soft)
    assert widened(other, replace(golden, gates=narrow), []) == narrow
    gates = widened(other, replace(golden, gates=narrow), [score])
    assert gates["fp32"] == golden.gates["fp32"]
    assert gates["int8"]["max_dcell"] == 0.1
    moved = Engine(opened, "cpu", "fp16").encode(golden.crops)
    apart = score.images(moved.image, moved.patches) - score.images(golden.image, golden.patches)
    assert np.abs(apart).max() <= gates["int8"]["max_dz"]


def test_scores_in_blocks_are_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    patches, table = (rng.normal(size=s).astype(np.float32) for s in ((9, 3, 3, 8), (4, 8)))
    seen: list[int] = []

    def last(z: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(len(z))
        return z[:, -1]

    monkeypatch.setattr("tier_export.heads.BLOCK", 4 * 9 * 4)
    found = numpy_score(table, last).images(patches[:, 0, 0], patches)
    np.testing.assert_allclose(found, patches[:, -1, -1] @ table.T, atol=1e-5)
    assert seen == [4, 4, 1]
