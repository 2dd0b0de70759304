"""python -m pytest tests/export/test_golden.py -- golden vectors: written, sealed, replayed."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

from tests.conftest import DATA
from tier_export.cli import main
from tier_export.crops import phantom_crops
from tier_export.golden import COUNT
from tier_export.verify_facts import facts_of
from tier_infer.bundle import Manifest, canonical, load_bundle, parse_manifest, sha256
from tier_infer.cli import main as doctor
from tier_infer.engine import Engine
from tier_infer.errors import IntegrityError
from tier_infer.geometry import GEOMETRIES
from tier_infer.golden import CROPS, IMAGE, PATCHES, TABLE, golden_files, read_golden, replay
from tier_train.checkpoint import load_checkpoint

FILES = (CROPS, IMAGE, PATCHES, TABLE)


@pytest.fixture
def copy(site: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(site / "bundle", tmp_path / "bundle"))


def manifest_of(folder: Path) -> Manifest:
    return parse_manifest((folder / "manifest.json").read_bytes())


def reseal(folder: Path, **files: bytes) -> None:
    """The golden files replaced, the manifest consistent: as if an export had written them."""
    manifest = manifest_of(folder)
    golden = dict(manifest.golden)
    for name, data in files.items():
        path = next(p for p in FILES if p.endswith((f"{name}.npy", f"{name}.json")))
        (folder / path).write_bytes(data)
        golden[path] = {"sha256": sha256(data), "bytes": len(data)}
    (folder / "manifest.json").write_text(replace(manifest, golden=golden).to_json())


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), **options)
    return buffer.getvalue()


def test_the_export_wrote_phantoms_and_what_pytorch_makes_of_them(site: Path) -> None:
    bundle = load_bundle(site / "bundle")
    assert sorted(bundle.manifest.golden) == sorted(FILES)
    golden = read_golden(bundle)
    assert golden is not None
    checkpoint = load_checkpoint(site / "ckpt.pt")
    assert np.array_equal(
        golden.crops,
        phantom_crops(GEOMETRIES[checkpoint.recipe.geometry], checkpoint.intensity, COUNT).pixels,
    )
    assert golden.image.shape == (COUNT, bundle.manifest.embed_dim)
    assert golden.scores["chexpert"].z.shape == (COUNT, 5)
    assert "fp32" in golden.source
    assert set(golden.gates) == {"fp32", "fp16"}
    # numpy alone opens them
    assert np.array_equal(np.load(site / "bundle" / CROPS), golden.crops)
    assert np.array_equal(np.load(site / "bundle" / PATCHES), golden.patches)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_replay_on_this_machine_is_within_the_gates(site: Path, precision: str) -> None:
    bundle = load_bundle(site / "bundle")
    golden = read_golden(bundle)
    assert golden is not None
    found = replay(bundle, Engine(bundle, "cpu", precision), golden)
    assert found.breaches == []
    assert found.max_dz is not None
    assert found.max_dembedding > 0  # onnxruntime is not PyTorch: the comparison was made
    assert (found.allowed_dz, found.replaced) == (1e-5 if precision == "fp32" else 2e-3, ())


@pytest.fixture(scope="module")
def quantised(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with an INT8 encoder, as the command writes it."""
    folder = tmp_path_factory.mktemp("int8") / "bundle"
    args = ["--int8", "phantoms", "-o", folder, site / "ckpt.pt"]
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    assert "calibrated on 128 phantoms" in " ".join(result.stdout.split())
    return folder


def test_int8_is_replayed_at_what_it_showed_at_the_export(quantised: Path) -> None:
    bundle = load_bundle(quantised)
    golden = read_golden(bundle)
    assert golden is not None
    found = replay(bundle, Engine(bundle, "cpu", "int8"), golden)
    assert found.breaches == []
    worst = max(found.max_dembedding, found.max_dz or 0)
    # Another way of computing it may be worse by some steps, not by another order.
    assert 1e-4 < 1.25 * worst <= found.allowed_dz < 2.5 * worst
    assert 1.25 * found.max_dpatch <= found.allowed_dcell < 2.5 * found.max_dpatch
    exact = replay(bundle, Engine(bundle, "cpu", "fp32"), golden)
    assert exact.allowed_dz == 1e-5


def test_what_int8_is_made_of_again_from_its_bytes(quantised: Path) -> None:
    row = json.loads((quantised / "parity.json").read_text())["precisions"]["int8"]
    assert facts_of(load_bundle(quantised), "int8").items() <= row["facts"].items()


def test_the_gate_of_int8_holds_where_nothing_is_fused(quantised: Path) -> None:
    """As in another onnxruntime: the same graph, its integers computed as floats."""
    bundle = load_bundle(quantised)
    golden = read_golden(bundle)
    assert golden is not None
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(bundle.encoder("int8"), options)
    image, patches = session.run(None, {"pixels": golden.crops})
    assert np.abs(image - golden.image).max() <= golden.gates["int8"]["max_dz"] / 1.25
    assert np.abs(patches - golden.patches).max() <= golden.gates["int8"]["max_dcell"] / 1.25


def test_a_wrong_step_in_one_layer_breaks_the_replay(quantised: Path, tmp_path: Path) -> None:
    """One Conv's weights are twice as large as they were, everything is sealed."""
    folder = Path(shutil.copytree(quantised, tmp_path / "bundle"))
    path = folder / "image_encoder.int8.onnx"
    model = onnx.load(str(path))
    makers = {name: node for node in model.graph.node for name in node.output}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    step = makers[convs[len(convs) // 2].input[1]].input[1]
    (tensor,) = [t for t in model.graph.initializer if t.name == step]
    tensor.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(tensor), step))
    onnx.save(model, str(path))
    data = path.read_bytes()
    manifest = manifest_of(folder)
    files = dict(manifest.files)
    files[path.name] = files[path.name] | {"sha256": sha256(data), "bytes": len(data)}
    (folder / "manifest.json").write_text(replace(manifest, files=files).to_json())
    bundle = load_bundle(folder)
    golden = read_golden(bundle)
    assert golden is not None
    breaches = replay(bundle, Engine(bundle, "cpu", "int8", unproven=True), golden).breaches
    assert any(breach.startswith("image embedding differs by") for breach in breaches)
    result = CliRunner().invoke(doctor, ["doctor", "--precision", "int8", "--bundle", str(folder)])
    assert result.exit_code == 5, result.output
    assert "cpu int8 against 6 phantoms" in result.output
    sound = CliRunner().invoke(
        doctor, ["doctor", "--precision", "int8", "--bundle", str(quantised)]
    )
    assert sound.exit_code == 0, sound.output


def test_user_images_stay_out_of_the_bundle(site: Path, tmp_path: Path) -> None:
    """--crops measures parity on radiographs; the golden crops are phantoms all the same."""
    films = sorted((DATA / "nih").glob("*.jpg"))
    rows = [f"{path},{n},test,1\n" for n, path in enumerate(films)]
    (tmp_path / "films.csv").write_text("image_path,patient_id,split,edema\n" + "".join(rows))
    args = ["--crops", tmp_path / "films.csv", "-o", tmp_path / "bundle", site / "ckpt.pt"]
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    crops = "golden/crops.npy"
    assert (tmp_path / "bundle" / crops).read_bytes() == (site / "bundle" / crops).read_bytes()
    for name in FILES:  # PyTorch's last bit depends on how its threads met
        if name.endswith("embeddings.npy"):
            one, other = (np.load(folder / "bundle" / name) for folder in (site, tmp_path))
            assert np.abs(one - other).max() < 1e-6


def test_bundle_sha256_does_not_depend_on_golden(copy: Path) -> None:
    before = manifest_of(copy)
    (copy / "manifest.json").write_text(replace(before, golden={}).to_json())
    after = load_bundle(copy).manifest
    assert after.golden == {}
    assert after.bundle_sha256 == before.bundle_sha256


def test_a_bundle_of_the_first_version_still_loads(copy: Path) -> None:
    """Its manifest has no key `golden` at all."""
    table = json.loads((copy / "manifest.json").read_text())
    del table["golden"], table["manifest_sha256"]
    table["manifest_sha256"] = sha256(canonical(table).encode())
    (copy / "manifest.json").write_text(canonical(table))
    shutil.rmtree(copy / "golden")
    bundle = load_bundle(copy)
    assert read_golden(bundle) is None
    assert bundle.manifest.bundle_sha256 == table["bundle_sha256"]


@pytest.mark.parametrize("name", FILES)
def test_every_golden_file_is_checked_at_load(copy: Path, name: str) -> None:
    path = copy / name
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(10):
        changed = bytearray(whole)
        changed[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(changed))
        with pytest.raises(IntegrityError, match="changed after the export"):
            load_bundle(copy)
    path.write_bytes(whole[:-1])
    with pytest.raises(IntegrityError, match="the manifest says"):
        load_bundle(copy)
    path.unlink()
    with pytest.raises(IntegrityError, match="missing from the bundle"):
        load_bundle(copy)


def test_golden_names_stay_inside_their_folder(copy: Path) -> None:
    manifest = manifest_of(copy)
    (copy.parent / "outside.npy").write_bytes(b"x")
    golden = {"golden/../../outside.npy": {"sha256": sha256(b"x"), "bytes": 1}}
    (copy / "manifest.json").write_text(replace(manifest, golden=golden).to_json())
    with pytest.raises(IntegrityError, match="outside the bundle"):
        load_bundle(copy)


def test_a_replaced_set_leaves_the_embeddings(copy: Path) -> None:
    bundle = load_bundle(copy)
    golden = read_golden(bundle)
    assert golden is not None
    other = replace(golden.scores["chexpert"], sha256="0" * 64)
    files = golden_files(replace(golden, scores={"chexpert": other}))
    reseal(copy, golden=files[TABLE])
    bundle = load_bundle(copy)
    changed = read_golden(bundle)
    assert changed is not None
    found = replay(bundle, Engine(bundle, "cpu"), changed)
    assert (found.max_dz, found.replaced, found.breaches) == (None, ("chexpert",), [])


def test_wrong_numbers_are_breaches_by_name(site: Path) -> None:
    bundle = load_bundle(site / "bundle")
    engine, golden = Engine(bundle, "cpu"), read_golden(bundle)
    assert golden is not None
    z = golden.scores["chexpert"].z.copy()
    z[-1, -1] += 1e-3
    scores = {"chexpert": replace(golden.scores["chexpert"], z=z)}
    (only,) = replay(bundle, engine, replace(golden, scores=scores)).breaches
    assert only == "score Z differs by 1.0e-03, allowed 1e-05"
    (only,) = replay(bundle, engine, replace(golden, patches=golden.patches * 1.01)).breaches
    assert only.startswith("patch embedding differs by")
    holed = golden.image.copy()
    holed[0, 0] = np.nan
    (only,) = replay(bundle, engine, replace(golden, image=holed)).breaches
    assert only.startswith("image embedding differs by nan")


CROP = np.zeros((2, 112, 112), np.uint8)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"crops": b""}, "is not an array N x 112 x 112 of uint8"),
        ({"crops": npy(CROP)[:-1]}, "is not an array"),
        ({"crops": npy(CROP[:, :56])}, "is not an array"),
        ({"crops": npy(CROP.astype(np.float32))}, "is not an array"),
        ({"crops": npy(np.asfortranarray(CROP))}, "is not an array"),
        ({"crops": npy(CROP, version=(2, 0))}, "is not an array"),
        ({"crops": npy(np.array([{}], object))}, "is not an array"),
        ({"crops": npy(CROP).replace(b"(2, 112", b"(9, 112")}, "is not an array"),
        ({"crops": npy(CROP[:0])}, "the same number of rows"),
        ({"crops": npy(CROP)}, "the same number of rows"),
        ({"golden": b"[]"}, "is not a table"),
        ({"golden": b'{"schema": "tier-golden/2"}'}, "is not a table"),
        ({"golden": b"[" * 100_000}, "is not a table"),
        ({"golden": b"\xff"}, "is not a table"),
    ],
)
def test_sealed_nonsense_is_refused(copy: Path, files: dict[str, bytes], words: str) -> None:
    reseal(copy, **files)
    with pytest.raises(IntegrityError, match=words):
        read_golden(load_bundle(copy))


def test_another_number_of_scores_is_refused(copy: Path) -> None:
    table = json.loads((copy / TABLE).read_text())
    table["scores"]["chexpert"]["z"] = [row[:4] for row in table["scores"]["chexpert"]["z"]]
    reseal(copy, golden=json.dumps(table).encode())
    bundle = load_bundle(copy)
    golden = read_golden(bundle)
    assert golden is not None
    with pytest.raises(IntegrityError, match="another number of scores"):
        replay(bundle, Engine(bundle, "cpu"), golden)
