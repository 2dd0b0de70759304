"""python -m pytest tests/export/test_pooled_proofs.py -- what pooled sets are held against."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from tier_export.heads import GraphScore, TableScore
from tier_export.labels import Made, check_pools, open_to_write, prepare, write
from tier_export.members import Members, exact_score, members_of
from tier_export.parity import Crops
from tier_export.queries import query_graph
from tier_infer.bundle import ENCODERS, load_bundle, sha256
from tier_infer.engine import Engine
from tier_infer.errors import ParityError, UsageError
from tier_infer.golden import read_golden
from tier_infer.label_sets import LabelSet, load_label_set, parse_label_set
from tier_infer.pooling import LogSumExp
from tier_train.checkpoint import Checkpoint, load_checkpoint
from tier_train.evaluation.margin import MarginScorer
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


def test_checkpoints_are_held_to_the_same_rule(network: Checkpoint) -> None:
    """Found in review: PyTorch took the 49 highest for the 500 highest, and untrained patches."""
    blind = replace(network, training=network.training | {"patches": "not trained"})
    for one, source, words in (
        (network, "chexpert@top_k=500", "the 500 highest patch scores, the encoder gives 49"),
        (blind, "chexpert@top_k=5", "which this network was not trained for"),
    ):
        labels = load_label_set(source, pooled=True)
        with pytest.raises(UsageError, match=words):
            MarginScorer([one], ["a.pt"], labels, ["edema"], "cpu")


def test_warnings_are_given_once_for_sets_that_differ_by_their_pool(network: Checkpoint) -> None:
    row = {"id": "edema", "positive": ["Edema is present."]}  # no negative: a warning
    sets = [
        parse_label_set({"set": f"s{n}", "label": [row]} | pool, "t")
        for n, pool in enumerate(({}, {"pool": {"kind": "top_k", "k": 5}}))
    ]
    said: list[str] = []
    tables, queries = query_files(members_of([network]), sets, 18, said.append)
    assert len([line for line in said if "no negative sentence" in line]) == 1
    assert list(queries) == ["s0", "s1"]
    np.testing.assert_array_equal(tables["s0"], tables["s1"])


def test_what_the_runtime_refuses_is_not_written(
    site: Path, network: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a graph whose pool no proof looks at."""
    soft = load_label_set("chexpert@log_sum_exp=0.1", pooled=True)
    warmer = replace(soft, pool=LogSumExp(0.11))
    opened, table = load_bundle(site / "bundle"), members_of([network]).table(soft)

    def other(table: NDArray[np.float32], labels: LabelSet, *more: Any) -> Any:
        model = query_graph(table, warmer, *more)
        (row,) = (row for row in model.metadata_props if row.key == "pool")
        row.value = row.value.replace("0.11", "0.1")
        return model

    monkeypatch.setattr("tier_export.labels.query_graph", other)
    monkeypatch.setattr("tier_export.labels.proven", lambda *_: np.zeros((6, 5), np.float32))
    with pytest.raises(ParityError, match=r"does not pool patch scores by .*nothing could score"):
        prepare(opened, [Made(soft, table, [], [])])


def test_a_set_whose_pool_is_nonsense_can_be_taken_out(site: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(site / "bundle", tmp_path / "bundle"))
    manifest = load_bundle(copy).manifest
    bad = manifest.label_sets["chexpert"] | {"pool": {"kind": "top_k", "k": 0}}
    sets = manifest.label_sets | {"odd": bad}
    (copy / "manifest.json").write_text(replace(manifest, label_sets=sets).to_json())
    opened = open_to_write(copy, ["odd"])
    write(opened, prepare(opened, [], ["odd"]))
    assert list(load_bundle(copy).manifest.label_sets) == list(manifest.label_sets)


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
    found = GraphScore(queries[soft.id]).images(*encoded)
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

    monkeypatch.setattr("tier_infer.pooling.BLOCK", 4 * 9 * 4)
    found = TableScore(table, last).images(patches[:, 0, 0], patches)
    np.testing.assert_allclose(found, patches[:, -1, -1] @ table.T, atol=1e-5)
    assert seen == [4, 4, 1]
