"""python -m pytest tests/export/test_pooled.py -- patch scores from the export to a score."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from onnx import numpy_helper

import tier_infer
from tests.export.resealed import reseal, verify
from tests.test_docs_export import rows as told
from tier_export.cli import main
from tier_export.heads import GraphScore
from tier_export.members import members_of
from tier_infer.bundle import load_bundle, sha256
from tier_infer.cli import main as infer_main
from tier_infer.engine import Engine
from tier_infer.geometry import to_crop
from tier_infer.golden import TABLE, read_golden, replay
from tier_infer.label_sets import load_label_set
from tier_infer.pooling import LogSumExp, TopK
from tier_infer.reader import Reader
from tier_infer.scoring import heatmaps, select_labels
from tier_train.checkpoint import Checkpoint, load_checkpoint
from tier_train.zero_shot import encode_images, pooled, query_table

SOFT, BEST = "chexpert_log_sum_exp", "chexpert_top_k"
POOLS = {SOFT: LogSumExp(0.1), BEST: TopK(5)}
PRECISE = ("--precision", "fp32", "--device", "cpu")


def run(command: Any, *args: object) -> Result:
    result = CliRunner().invoke(command, [str(a) for a in args])
    assert "Traceback" not in result.output
    return result


def change(folder: Path, *args: object) -> Result:
    return run(main, "labels", "--bundle", folder, *args)


@pytest.fixture(scope="module")
def network(site: Path) -> Checkpoint:
    return load_checkpoint(site / "ckpt.pt")


@pytest.fixture(scope="module")
def made(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported with the global set and the soft one; the best five came later."""
    folder = tmp_path_factory.mktemp("pooled") / "bundle"
    sets = ("--queries", "chexpert", "--queries", "chexpert@log_sum_exp=0.1")
    done = run(main, "--fp16", "--text", *sets, "-o", folder, site / "ckpt.pt")
    assert done.exit_code == 0, done.output
    assert f"set {SOFT}" in done.stdout
    later = change(folder, "--queries", "chexpert@top_k=5")
    assert later.exit_code == 0, later.output
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def in_pytorch(network: Checkpoint, crops: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """set → Z [N, L], of nothing but tier_train."""
    image_e, patch_e = encode_images(network.model, crops)
    with torch.no_grad():
        table = query_table(network.model, network.tokenizer, load_label_set("chexpert"))
    z = patch_e.flatten(1, 2) @ table.T  # [N, P, L]
    found = {"chexpert": image_e @ table.T} | {s: pooled(z, pool) for s, pool in POOLS.items()}
    return {set_id: scores.numpy() for set_id, scores in found.items()}


def test_every_set_scores_as_pytorch_does(
    site: Path, made: Path, network: Checkpoint, tmp_path: Path
) -> None:
    paths = [site / "study.dcm", *sorted((site / "images").glob("*.dcm"))[:8]]
    ids = [label.id for label in load_label_set("chexpert").labels]
    asked = [*ids, *(f"{s}:{i}" for s in POOLS for i in ids)]
    result = run(
        infer_main, *paths, "--bundle", made, "--labels", ",".join(asked), "--csv", *PRECISE
    )
    assert result.exit_code == 0, result.output
    scored = {
        (row["path"], row["label"]): float(row["score"])
        for row in csv.DictReader(io.StringIO(result.stdout)) if row["status"] == "scored"
    }  # fmt: skip
    with Reader() as reader:
        reader.intensity = network.intensity
        geometry = members_of([network]).geometry
        crops = np.stack([to_crop(reader.read(str(path)).grey, geometry) for path in paths])
    expected = in_pytorch(network, crops)
    for row, path in enumerate(paths):
        for name in asked:
            set_id, _, label = name.rpartition(":")
            exact = expected[set_id or "chexpert"][row, ids.index(label)]
            assert scored[str(path), name] == pytest.approx(exact, abs=1e-5)
    apart = np.abs(expected["chexpert"] - expected[SOFT]).max()
    assert apart > 1e-3  # the scores are others, so that their agreement says something


def test_every_result_names_the_pool(site: Path, made: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    asked = (site / "study.dcm", "--bundle", made, "--labels", f"edema,{SOFT}:edema", *PRECISE)
    report = json.loads(run(infer_main, *asked, "--json").stdout)
    schema = Path(tier_infer.__file__).parent / "schema/tier-infer-1.json"
    jsonschema.validate(report, json.loads(schema.read_text()))
    assert report["pools"] == {SOFT: {"kind": "log_sum_exp", "temperature": 0.1}}
    said = run(infer_main, *asked, "--report", page).stdout
    assert f"set {SOFT}: scores of patches, pooled by log_sum_exp=0.1" in said
    row = f"<dt>Label set {SOFT} pools patch scores by</dt><dd>log_sum_exp=0.1</dd>"
    assert row in page.read_text()
    plain = run(infer_main, *asked[:3], *PRECISE, "--json")
    assert "pools" not in json.loads(plain.stdout)


def test_heatmaps_are_those_of_the_plain_set(made: Path) -> None:
    opened = load_bundle(made)
    golden = read_golden(opened)
    assert golden is not None
    found = Engine(opened, "cpu", "fp32").encode(golden.crops)
    heat = heatmaps(found, select_labels(opened, ["edema", f"{SOFT}:edema", f"{BEST}:edema"]))
    np.testing.assert_array_equal(heat[:, 0], heat[:, 1])
    np.testing.assert_allclose(heat[:, 0], heat[:, 2], atol=1e-6)  # its table is the text tower's


def test_the_proofs_hold_the_pooled_scores(made: Path, site: Path, network: Checkpoint) -> None:
    certificate = json.loads((made / "parity.json").read_text())
    for precision, limit in (("fp32", 1e-5), ("fp16", 2e-3)):
        for sets in certificate["precisions"][precision]["proofs"].values():
            assert 0 < sets[SOFT]["max_dz"] <= limit
            spread = [sets[s]["labels"]["edema"]["spread"] for s in (SOFT, "chexpert")]
            assert spread[0] != pytest.approx(spread[1], rel=0.01)
    opened = load_bundle(made)
    golden = read_golden(opened)
    assert golden is not None
    expected = in_pytorch(network, golden.crops.copy())
    for set_id, scores in golden.scores.items():
        np.testing.assert_allclose(scores.z, expected[set_id], atol=1e-5)
    for precision in ("fp32", "fp16"):
        seen = replay(opened, Engine(opened, "cpu", precision), golden)
        assert (seen.breaches, seen.replaced) == ([], ())
    for more in ((), ("--against", site / "ckpt.pt")):
        result = verify(made, *more)
        assert result.exit_code == 0, result.output
        assert f"set {BEST}" in result.stdout
        assert "not proven" not in result.stdout


def tampered(folder: Path, set_id: str, name: str, value: float) -> None:
    """Another temperature or k in the graph; every hash is right again, golden scores too."""
    path = f"queries/{set_id}.onnx"
    model = onnx.load(str(folder / path))
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    old = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.full_like(old, value), name))
    data = model.SerializeToString()
    opened = load_bundle(folder)
    golden = read_golden(opened)
    assert golden is not None
    z = GraphScore(data).images(golden.image, golden.patches)

    def scores(table: dict[str, Any]) -> None:
        table["scores"][set_id] = {"sha256": sha256(data), "z": z.tolist()}

    reseal(folder, golden=scores, files={path: data})


@pytest.mark.parametrize(("set_id", "name", "value"), [(SOFT, "temperature", 0.12), (BEST, "k", 4)])
def test_a_tampered_pool_is_exit_4(
    bundle: Path, site: Path, set_id: str, name: str, value: float
) -> None:
    (bundle / f"queries/{set_id}.onnx").write_bytes(b"\0")
    args = (site / "study.dcm", "--bundle", bundle, "--labels", f"{set_id}:edema")
    assert run(infer_main, *args).exit_code == 4  # its hash


@pytest.mark.parametrize(("set_id", "name", "value"), [(SOFT, "temperature", 0.12), (BEST, "k", 4)])
def test_a_tampered_pool_under_right_hashes_is_exit_4(
    bundle: Path, site: Path, set_id: str, name: str, value: float
) -> None:
    tampered(bundle, set_id, name, value)
    args = (site / "study.dcm", "--bundle", bundle, "--labels")
    for done in (run(infer_main, *args, f"{set_id}:edema"), verify(bundle)):
        assert done.exit_code == 4, done.output
        assert f"label set {set_id} does not pool patch scores by" in done.stderr
    assert run(infer_main, *args, "edema").exit_code == 0


def test_pooled_sets_are_listed_replaced_and_removed(bundle: Path) -> None:
    listed = json.loads(change(bundle, "--json").stdout)["sets"]
    assert [row.get("pool") for row in listed] == [
        None, {"kind": "log_sum_exp", "temperature": 0.1}, {"kind": "top_k", "k": 5}]  # fmt: skip
    assert change(bundle).stdout.splitlines()[2].endswith("  top_k  5")
    was = load_bundle(bundle).manifest
    again = change(bundle, "--queries", "chexpert@top_k=3", "--remove", SOFT)
    assert again.exit_code == 0, again.output
    assert [line.split()[0] for line in again.stdout.splitlines()[:2]] == ["replaced", "removed"]
    manifest = load_bundle(bundle).manifest
    assert manifest.bundle_sha256 == was.bundle_sha256
    assert manifest.pool(BEST) == TopK(3)
    assert list(manifest.label_sets) == ["chexpert", BEST]
    assert change(bundle, "--queries", "chexpert@top_k=9", "--check").exit_code == 0


def test_a_file_says_how_it_pools(bundle: Path, tmp_path: Path) -> None:
    text = (
        'set = "wet"\npool = { kind = "log_sum_exp", temperature = 0.05 }\n[[label]]\n'
        'id = "edema"\npositive = ["Edema is present."]\n'
    )
    (tmp_path / "wet.toml").write_text(text)
    assert change(bundle, "--queries", tmp_path / "wet.toml").exit_code == 0
    assert load_bundle(bundle).manifest.pool("wet") == LogSumExp(0.05)
    (tmp_path / "wet.toml").write_text(text.replace("0.05", "0"))
    refused = change(bundle, "--queries", tmp_path / "wet.toml")
    assert refused.exit_code == 2
    assert "temperature must be a number from 0.001 to 1," in refused.stderr


@pytest.mark.parametrize(
    ("source", "words"),
    [("chexpert@top_k=50", "pools the 50 highest patch scores, the encoder gives 49"),
     ("chexpert@top_k=0", "k must be a whole number")],
)  # fmt: skip
def test_more_patches_than_there_are(site: Path, bundle: Path, source: str, words: str) -> None:
    refused = change(bundle, "--queries", source)
    export = run(main, "--queries", source, "-o", bundle.parent / "new", site / "ckpt.pt")
    for result in (refused, export):
        assert result.exit_code == 2, result.output
        assert words in result.stderr
    assert not (bundle.parent / "new").exists()


def test_the_documented_signature_is_that_of_the_graph(made: Path) -> None:
    model = onnx.load(str(made / f"queries/{SOFT}.onnx"))
    shapes = []
    for value in (*model.graph.input, *model.graph.output):
        sizes = [size.dim_param or "?" for size in value.type.tensor_type.shape.dim]
        shapes.append(f"`{value.name}: float32 [{', '.join(sizes)}]")
    cells: Sequence[str] = told("Signatures")["pooled query"]
    assert shapes == ["`patch_embeddings: float32 [M, P, ?]", "`scores: float32 [M, ?]"]
    assert cells[0].startswith(shapes[0].replace("?", "D"))
    assert cells[1].startswith(shapes[1].replace("?", "L"))
    keys = {row.key for row in model.metadata_props}
    assert all(f"`{key}`" in told("Signatures", 1)["pooled query"][0] for key in keys)
    assert TABLE in load_bundle(made).manifest.golden
