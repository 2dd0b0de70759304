"""python -m pytest tests/infer/test_pooling.py -- pooled patch scores: formula, file, graph."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.infer import tiny_bundle
from tier_export.heads import GraphScore
from tier_export.queries import query_graph, set_entry
from tier_infer.bundle import load_bundle
from tier_infer.embeddings import Embeddings
from tier_infer.errors import IntegrityError, UsageError
from tier_infer.label_sets import Label, LabelSet, load_label_set, parse_label_set
from tier_infer.pooling import TEMPERATURES, LogSumExp, Pool, TopK, described, pool_of, pooled
from tier_infer.query_table import QueryTable
from tier_infer.scoring import heatmaps, select_labels
from tier_train import zero_shot

POOLS: list[Pool] = [LogSumExp(0.001), LogSumExp(0.1), LogSumExp(1.0),
                     TopK(1), TopK(5), TopK(49)]  # fmt: skip
SOFT = LogSumExp(0.1)
Floats = NDArray[np.float32]


def by_loops(z: Floats, pool: Pool) -> list[list[float]]:
    """[N, P, L] → [N, L] as the docstring of the formula says it, in float64."""

    def one(patches: list[float]) -> float:
        if isinstance(pool, TopK):
            best = sorted(patches, reverse=True)[: pool.k]
            return math.fsum(best) / len(best)
        top, t = max(patches), pool.temperature  # exp(z / 0.001) would overflow
        parts = math.fsum(math.exp((p - top) / t) for p in patches)
        return top + t * math.log(parts / len(patches))

    return [[one([float(p) for p in column]) for column in image.T] for image in z]


def in_graph(z: Floats, pool: Pool) -> Floats:
    """The table is the unit matrix, so that patches are their own scores."""
    found = GraphScore(graph_of(np.eye(z.shape[-1], dtype=np.float32), pool))
    n, p, dim = z.shape
    return found.images(z[:, 0], z.reshape(n, 1, p, dim))


def in_torch(z: Floats, pool: Pool) -> Floats:
    found: Floats = zero_shot.pooled(torch.from_numpy(z), pool).numpy()
    return found


WAYS: dict[str, Callable[[Floats, Pool], Any]] = {
    "numpy": pooled, "torch": in_torch, "graph": in_graph
}  # fmt: skip


def named(count: int, pool: Pool | None, set_id: str = "s") -> LabelSet:
    labels = (Label(f"label_{n}", f"Label {n}", (f"Finding {n}.",), ()) for n in range(count))
    return LabelSet(set_id, tuple(labels), pool)


def graph_of(table: Floats, pool: Pool | None, set_id: str = "s") -> bytes:
    return bytes(query_graph(table, named(len(table), pool, set_id), "words").SerializeToString())


@pytest.fixture(scope="module")
def z() -> Floats:
    return np.random.default_rng(0).uniform(-2, 2, (6, 49, 4)).astype(np.float32)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pool", POOLS)
def test_every_side_has_the_formula(z: Floats, pool: Pool, way: str) -> None:
    found = WAYS[way](z, pool)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_loops(z, pool), atol=3e-6)
    extremes = np.tile(np.array([[[2.0], [-2.0], [2.0]]], np.float32), (1, 17, 1))
    np.testing.assert_allclose(WAYS[way](extremes, pool), by_loops(extremes, pool), atol=3e-6)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pool", POOLS)
def test_one_patch_keeps_its_score_to_the_bit(z: Floats, pool: Pool, way: str) -> None:
    np.testing.assert_array_equal(WAYS[way](z[:, :1], pool), z[:, 0])


@pytest.mark.parametrize("pool", POOLS)
def test_a_higher_patch_never_lowers_the_score(z: Floats, pool: Pool) -> None:
    wide = z.astype(np.float64)
    for patch in range(0, 49, 7):
        higher = wide.copy()
        higher[:, patch] += 0.3
        assert (pooled(higher, pool) >= pooled(wide, pool) - 1e-12).all()


def test_between_mean_and_maximum(z: Floats) -> None:
    wide = z.astype(np.float64)
    for family in ([LogSumExp(t) for t in (0.001, 0.03, 0.4, 1)], [TopK(k) for k in (1, 7, 49)]):
        rows = [wide.max(1), *(pooled(wide, pool) for pool in family), wide.mean(1)]
        assert all((a >= b - 1e-12).all() for a, b in itertools.pairwise(rows))
    below = wide.max(1) - pooled(wide, LogSumExp(0.001))
    assert below.max() <= 0.001 * math.log(49) + 1e-12
    np.testing.assert_array_equal(pooled(wide, TopK(1)), wide.max(1))
    np.testing.assert_allclose(pooled(wide, TopK(49)), wide.mean(1), atol=1e-15)
    assert np.abs(pooled(wide, LogSumExp(1.0)) - wide.mean(1)).max() < wide.var(1).max()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"kind": "top_k", "k": 0}, "k must be a whole number from 1 to 4096, got 0"),
        ({"kind": "top_k", "k": 2.0}, "k must be a whole number"),
        ({"kind": "top_k", "k": True}, "k must be a whole number"),
        (
            {"kind": "log_sum_exp", "temperature": 0},
            "must be a number from 0.001 to 1, got 0",
        ),
        ({"kind": "log_sum_exp", "temperature": -0.1}, "temperature must be a number"),
        ({"kind": "log_sum_exp", "temperature": math.nan}, "temperature must be a number"),
        ({"kind": "log_sum_exp", "temperature": "0.1"}, "temperature must be a number"),
        ({"kind": "log_sum_exp"}, "`pool` must be { kind"),
        ({"kind": "log_sum_exp", "k": 3}, "`pool` must be { kind"),
        ({"kind": "top_k", "k": 3, "temperature": 1}, "`pool` must be { kind"),
        ({"kind": "mean"}, "`pool` must be { kind"),
        ({"kind": ["top_k"], "k": 3}, "`pool` must be { kind"),
        ("top_k", "`pool` must be { kind"),
    ],
)
def test_a_pool_that_is_none_is_refused(table: object, words: str) -> None:
    row = {"id": "a", "positive": ["A."]}
    with pytest.raises(UsageError, match=f"^label set t: .*{words}"):
        parse_label_set({"set": "s", "pool": table, "label": [row]}, "t")


@pytest.mark.parametrize("pool", POOLS)
def test_what_a_manifest_writes_is_read_again(pool: Pool) -> None:
    assert pool_of(json.loads(json.dumps(described(pool))), "x") == pool


def test_a_packaged_set_is_pooled_by_name(tmp_path: Path) -> None:
    plain, soft = load_label_set("chexpert"), load_label_set("chexpert@log_sum_exp=0.1", True)
    assert soft == replace(plain, id="chexpert_log_sum_exp", pool=SOFT)
    path = tmp_path / "a@b.toml"
    path.write_text('set = "own"\n[[label]]\nid = "x"\npositive = ["X."]\n')
    assert load_label_set(str(path)).pool is None
    assert load_label_set(f"{path}@top_k=5", True).id == "own_top_k"
    assert load_label_set(f"{path}@top_k=5", True).pool == TopK(5)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("chexpert@top_k=0", "k must be a whole number"),
        ("chexpert@top_k=2.5", "'2.5' is no k of top_k"),
        ("chexpert@log_sum_exp=hot", "'hot' is no temperature of log_sum_exp"),
        ("chexpert@mean=1", "'mean=1' is no pool; allowed: log_sum_exp=0.1 and top_k=5"),
        ("chexpert@top_k", "is no pool"),
        ("nowhere@top_k=5", "'nowhere' is neither packaged"),
        ("chexpert@top_k=5@top_k=5", "pools patch scores already"),
    ],
)
def test_a_name_that_pools_nonsense_is_refused(source: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_label_set(source, pooled=True)


def test_who_scores_images_by_their_own_embedding_gets_no_pooled_set() -> None:
    with pytest.raises(UsageError, match="`tier-train evaluate` does with --scoring margin"):
        load_label_set("chexpert@top_k=5")


TABLE = np.array([[1, -1], [-1, 1], [0.5, 0.25]], np.float32)  # [L, D]


def bundle_with(folder: Path, how: Pool, graph: bytes | None = None, **entry: object) -> Any:
    """A tiny bundle with `plain` and `pooled` of the same table; `entry` changes what the manifest
    says of the latter, a key of None goes."""
    tiny_bundle.write_bundle(folder, "small-112")
    manifest = load_bundle(folder).manifest
    sets = {}
    for set_id, pool, data in (("plain", None, None), ("pooled", how, graph)):
        labels = named(len(TABLE), pool, set_id)
        data = data or graph_of(TABLE, pool, set_id)
        (folder / f"queries/{set_id}.onnx").write_bytes(data)
        sets[set_id] = set_entry(labels, data)
    sets["pooled"] = {k: v for k, v in (sets["pooled"] | entry).items() if v is not None}
    changed = replace(manifest, label_sets=sets, default_set="plain", golden={})
    (folder / "manifest.json").write_text(changed.to_json())
    return load_bundle(folder)


def embeddings(count: int) -> Embeddings:
    rows = np.random.default_rng(1).normal(size=(count, 50, 2)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    return Embeddings(rows[:, 0], rows[:, 1:].reshape(count, 7, 7, 2))


@pytest.mark.parametrize("pool", POOLS)
def test_both_kinds_are_asked_at_once(tmp_path: Path, pool: Pool) -> None:
    bundle, seen = bundle_with(tmp_path / "b", pool), embeddings(5)
    selection = select_labels(bundle, ["pooled:label_2", "label_2", "pooled:Label 0"])
    assert selection.names == ("pooled:label_2", "label_2", "pooled:label_0")
    found = selection.image_scores(seen)
    wanted = by_loops(seen.patches.reshape(5, 49, 2) @ TABLE.T, pool)
    np.testing.assert_allclose(found[:, [2, 0]], np.array(wanted)[:, [0, 2]], atol=3e-6)
    np.testing.assert_allclose(found[:, 1], seen.image @ TABLE[2], atol=1e-6)
    heat = heatmaps(seen, selection)
    np.testing.assert_array_equal(heat[:, 0], heat[:, 1])  # cells are pooled over themselves


@pytest.mark.parametrize("pool", [TopK(3), SOFT])
def test_a_patch_that_is_no_number_is_not_left_out(tmp_path: Path, pool: Pool) -> None:
    """The three highest could be found beside it."""
    seen = embeddings(2)
    seen.patches[1, 3, 3] = np.nan
    found = QueryTable(bundle_with(tmp_path / "b", pool), "pooled").image_scores(seen)
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()


def test_what_is_not_pooled_is_written_as_before() -> None:
    model = onnx.load_model_from_string(graph_of(TABLE, None))
    assert [node.op_type for node in model.graph.node] == ["Gemm"]
    assert {row.key for row in model.metadata_props} == {"set", "labels", "text_sha256"}
    assert set(set_entry(named(3, None), b"")) == {"path", "sha256", "bytes", "labels"}


def retold(pool: Pool, told: Pool | None) -> bytes:
    """A graph that pools in one way and says another."""
    model = onnx.load_model_from_string(graph_of(TABLE, pool, "pooled"))
    rows = {row.key: row.value for row in model.metadata_props}
    del rows["pool"]
    onnx.helper.set_model_props(
        model, rows | ({"pool": json.dumps(described(told))} if told else {})
    )
    return bytes(model.SerializeToString())


def reweighted(pool: Pool, name: str, value: float) -> bytes:
    model = onnx.load_model_from_string(graph_of(TABLE, pool, "pooled"))
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    old = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.full_like(old, value), name))
    return bytes(model.SerializeToString())


REFUSED: dict[str, tuple[Pool, bytes | None, dict[str, object], str]] = {
    "the manifest knows no pool": (SOFT, None, {"pool": None}, "as its graph says, by None as the"),
    "the graph pools nothing": (SOFT, graph_of(TABLE, None, "pooled"), {}, "by None as its graph"),
    "another temperature is told": (SOFT, retold(SOFT, LogSumExp(0.2)), {}, "0.2} as its graph"),
    "an image's graph that claims to pool": (
        SOFT, retold(SOFT, None), {"pool": None}, "is not float32 scores of 3 labels"
    ),
    "another temperature": (
        SOFT, reweighted(SOFT, "temperature", 0.11), {}, "does not pool patch scores by"
    ),
    "no temperature": (SOFT, reweighted(SOFT, "temperature", 0), {}, "does not pool patch scores"),
    "another k": (TopK(5), reweighted(TopK(5), "k", 6), {}, "does not pool patch scores by"),
    "the largest k, less one": (TopK(49), reweighted(TopK(49), "k", 48), {}, "does not pool patch"),
    "another kind under one name": (
        SOFT, retold(TopK(5), SOFT), {}, "does not pool patch scores by"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_graph_that_pools_otherwise_is_refused(tmp_path: Path, case: str) -> None:
    """All hashes are right again."""
    pool, graph, entry, words = REFUSED[case]
    bundle = bundle_with(tmp_path / "b", pool, graph, **entry)
    with pytest.raises(IntegrityError, match=words):
        QueryTable(bundle, "pooled")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"kind": "top_k", "k": 50}, "pools 50 patches, the encoder gives 49"),
        ({"kind": "top_k", "k": 0}, "k must be a whole number"),
        ("top_k", "`pool` must be"),
    ],
)
def test_a_manifest_with_a_pool_of_nothing_is_refused(
    tmp_path: Path, entry: object, words: str
) -> None:
    """The set; the others can still be asked."""
    bundle = bundle_with(tmp_path / "b", TopK(5), pool=entry)
    assert len(QueryTable(bundle, "plain").ids) == 3
    with pytest.raises(IntegrityError, match=words) as refusal:
        QueryTable(bundle, "pooled")
    assert "make it again with `tier-export labels" in str(refusal.value)


@pytest.mark.parametrize("way", [in_torch, pooled])
def test_more_patches_than_there_are_have_no_mean(z: Floats, way: Callable[..., Any]) -> None:
    with pytest.raises((ValueError, RuntimeError)):
        way(z, TopK(50))


@pytest.mark.parametrize(("dim", "labels"), [(640, 57), (2048, 57)])
def test_the_largest_temperature_is_read_at_any_width(dim: int, labels: int) -> None:
    """Found in review: an ensemble of five wrote a set that the runtime refused."""
    rng = np.random.default_rng(dim)
    hot = LogSumExp(TEMPERATURES[1])
    for _ in range(3):
        table = rng.normal(size=(labels, dim)).astype(np.float32)
        table *= np.float32(0.3) / np.linalg.norm(table, axis=1, keepdims=True)
        data = graph_of(table, hot)
        told = SimpleNamespace(pool=lambda _: hot, text_sha256="words", embed_dim=dim)
        bundle: Any = SimpleNamespace(manifest=told, query_graph=lambda _, data=data: data)
        assert len(QueryTable(bundle, "s").ids) == labels


@pytest.mark.parametrize("pool", [SOFT, TopK(5)])
def test_patches_are_scored_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: Pool
) -> None:
    query, seen = QueryTable(bundle_with(tmp_path / "b", pool), "pooled"), embeddings(7)
    whole, shapes = query.image_scores(seen), []
    run = query._scores

    def watched(rows: Floats) -> Floats:
        shapes.append(rows.shape)
        return run(rows)

    monkeypatch.setattr(query, "_scores", watched)
    monkeypatch.setattr("tier_infer.pooling.BLOCK", 3 * 49 * 3)
    np.testing.assert_allclose(query.image_scores(seen), whole, atol=1e-6)
    assert shapes == [(3, 49, 2), (3, 49, 2), (1, 49, 2)]
