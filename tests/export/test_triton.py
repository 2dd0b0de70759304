"""python -m pytest tests/export/test_triton.py -- model repositories, read as a server would."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from numpy.typing import NDArray
from onnx import numpy_helper
from tritonclient.grpc import model_config_pb2

from tests.export.triton_server import Models, config_of, dtype_of
from tests.infer import tiny_bundle
from tier_export.queries import query_graph, set_entry
from tier_export.triton import Files, chosen_sets, make_repository, model_names
from tier_export.triton_config import text_of
from tier_export.writing import write_bundle
from tier_infer.bundle import ENCODERS, NOTICE, load_bundle, sha256
from tier_infer.engine import Engine
from tier_infer.errors import IntegrityError, UsageError
from tier_infer.golden import read_golden
from tier_infer.label_sets import load_label_set
from tier_infer.query_table import QueryTable
from tier_infer.scoring import heatmaps, select_labels

PLAIN, POOLED = "chexpert", "chexpert_top_k"
ORT_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


def with_pool(source: Path, target: Path) -> Path:
    """A copy with the set chexpert@top_k=5 added, whose table is that of chexpert."""
    shutil.copytree(source, target)
    manifest = load_bundle(target).manifest
    labels = load_label_set("chexpert@top_k=5", pooled=True)
    graph = onnx.load(str(target / manifest.label_sets[PLAIN]["path"])).graph
    table = next(numpy_helper.to_array(row) for row in graph.initializer if row.name == "table")
    data = query_graph(table, labels, manifest.text_sha256).SerializeToString()
    entry = set_entry(labels, data)
    sets = manifest.label_sets | {labels.id: entry}
    write_bundle(target, replace(manifest, label_sets=sets), {entry["path"]: data}, keep=manifest)
    return target


def spread(folder: Path, files: Files) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def bundle(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_pool(site / "bundle", tmp_path_factory.mktemp("triton") / "bundle")


@pytest.fixture(scope="module")
def models(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_repository(load_bundle(bundle))
    return spread(tmp_path_factory.mktemp("models"), made.files)


@pytest.fixture(scope="module")
def crops(bundle: Path) -> NDArray[np.uint8]:
    golden = read_golden(load_bundle(bundle))
    assert golden
    return golden.crops


def test_there_is_an_encoder_and_two_models_for_each_label_set(models: Path) -> None:
    names = {path.name for path in models.iterdir() if path.is_dir()}
    sets = {f"tier_{kind}{s}" for s in (PLAIN, POOLED) for kind in ("", "query_")}
    assert names == {"tier_encoder"} | sets


@pytest.mark.parametrize("name", ["tier_encoder", f"tier_query_{PLAIN}", f"tier_query_{POOLED}"])
def test_a_config_agrees_with_its_graph(models: Path, name: str) -> None:
    served = Models(models)
    config = served.configs[name]
    session = served._session(config)
    for rows, nodes in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        assert {row.name for row in rows} == {node.name for node in nodes}
        for node in nodes:
            row = next(row for row in rows if row.name == node.name)
            dims = list(row.reshape.shape if row.HasField("reshape") else row.dims)
            assert not isinstance(node.shape[0], int)  # the batch, which a server asks to be free
            fixed = [d if isinstance(d, int) else None for d in node.shape[1:]]
            assert len(dims) == len(fixed)
            assert all(b in (a, None) for a, b in zip(dims, fixed, strict=True))
            assert dtype_of(row) is ORT_TYPES[node.type]
            assert np.prod(dims) == np.prod(list(row.dims))


@pytest.mark.parametrize("set_id", [PLAIN, POOLED])
def test_an_ensemble_fits_its_steps(models: Path, set_id: str) -> None:
    """What server/docs/user_guide/ensemble_models.md asks: every tensor has one giver, of the same
    shape and type as its taker expects, and each is used. A tensor that a step takes is no output:
    a real server (2.51) met a deadlock when such an output was not asked for."""
    configs = Models(models).configs
    config = configs[f"tier_{set_id}"]
    known = {row.name: (list(row.dims), row.data_type) for row in config.input}
    used: set[str] = set()
    for step in config.ensemble_scheduling.step:
        inner = configs[step.model_name]
        assert inner.max_batch_size >= config.max_batch_size > 0
        wanted = {row.name: (list(row.dims), row.data_type) for row in inner.input}
        assert set(step.input_map) == set(wanted)
        for key, value in step.input_map.items():
            assert known[value] == wanted[key]
            used.add(value)
        given = {row.name: (list(row.dims), row.data_type) for row in inner.output}
        for key, value in step.output_map.items():
            assert value not in known
            known[value] = given[key]
    for row in config.output:
        assert row.name not in used
        assert known[row.name] == (list(row.dims), row.data_type)
        used.add(row.name)
    assert used == set(known)


@pytest.mark.parametrize("set_id", [PLAIN, POOLED])
def test_an_ensemble_gives_the_runtimes_scores(
    bundle: Path, models: Path, crops: NDArray[np.uint8], set_id: str
) -> None:
    found = Models(models).infer(f"tier_{set_id}", {"pixels": crops})
    opened = load_bundle(bundle)
    embeddings = Engine(opened, "cpu", "fp32").encode(crops)
    expected = QueryTable(opened, set_id).image_scores(embeddings)
    np.testing.assert_array_equal(found["scores"], expected)
    if set_id == PLAIN:
        np.testing.assert_array_equal(found["patch_embeddings"], embeddings.patches)
    assert np.ptp(expected) > 0.01


@pytest.mark.parametrize("set_id", [PLAIN, POOLED])
def test_a_heatmap_is_one_batch_to_the_label_set(
    bundle: Path, models: Path, crops: NDArray[np.uint8], set_id: str
) -> None:
    """As docs/triton.md says: patches as rows; for a pooled set each patch fills a whole image."""
    served = Models(models)
    patches = served.infer("tier_encoder", {"pixels": crops[:1]})["patch_embeddings"][0]
    cells, side, dim = patches.reshape(-1, patches.shape[-1]), patches.shape[0], patches.shape[-1]
    if set_id == POOLED:
        name, rows = "patch_embeddings", np.empty((len(cells), side, side, dim), np.float32)
        rows[:] = cells[:, None, None]
    else:
        name, rows = "embeddings", cells
    heat = served.infer(f"tier_query_{set_id}", {name: rows})["scores"].T.reshape(-1, side, side)
    opened = load_bundle(bundle)
    labels = opened.manifest.label_sets[set_id]["labels"]
    selection = select_labels(opened, [f"{set_id}:{label}" for label in labels])
    embeddings = Engine(opened, "cpu", "fp32").encode(crops[:1])
    np.testing.assert_allclose(heat, heatmaps(embeddings, selection)[0], atol=1e-6)


def test_fp16_serves_the_fp16_encoder(bundle: Path, crops: NDArray[np.uint8]) -> None:
    opened = load_bundle(bundle)
    made = make_repository(opened, [PLAIN], "fp16")
    data = made.files["tier_encoder/1/model.onnx"]
    assert sha256(data) == opened.manifest.files[ENCODERS["fp16"]]["sha256"]
    assert made.listing["precision"] == "fp16"


def test_every_model_says_what_it_is(bundle: Path, models: Path) -> None:
    manifest = load_bundle(bundle).manifest
    for name, config in Models(models).configs.items():
        told = {key: value.string_value for key, value in config.parameters.items()}
        assert told["bundle_sha256"] == manifest.bundle_sha256
        assert told["notice"] == NOTICE
        assert told["intensity"] == manifest.intensity
        if name != "tier_encoder":
            entry = manifest.label_sets[told["set"]]
            assert name.endswith(told["set"])
            assert told["set_sha256"] == entry["sha256"]
            assert told["text_sha256"] == manifest.text_sha256
            assert told["labels"].split(",") == entry["labels"]
            row = next(row for row in config.output if row.name == "scores")
            lines = (models / name / row.label_filename).read_text().splitlines()
            assert lines == entry["labels"]


def test_the_encoder_is_warm_for_every_batch_before_it_is_ready(models: Path) -> None:
    config = config_of(models / "tier_encoder")
    preferred = list(config.dynamic_batching.preferred_batch_size)
    assert preferred == [sample.batch_size for sample in config.model_warmup] == [1, 8, 32]
    for sample in config.model_warmup:
        row = sample.inputs["pixels"]
        assert (list(row.dims), row.data_type) == (
            list(config.input[0].dims),
            config.input[0].data_type,
        )


def test_fp32_on_a_gpu_is_no_tf32(models: Path) -> None:
    config = config_of(models / "tier_encoder")
    (cuda,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (cuda.name, dict(cuda.parameters)) == ("cuda", {"use_tf32": "0"})


@pytest.mark.parametrize(
    ("device", "kind"), [("auto", "KIND_AUTO"), ("cpu", "KIND_CPU"), ("cuda", "KIND_GPU")]
)
def test_a_device_is_granted_by_its_kind(tmp_path: Path, device: str, kind: str) -> None:
    opened = load_bundle(tiny_bundle.write_bundle(tmp_path / "bundle", "small-112"))
    made = spread(tmp_path / "models", make_repository(opened, device=device).files)
    (group,) = config_of(made / "tier_encoder").instance_group
    assert model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind) == kind


def test_equal_bundles_give_equal_bytes(tmp_path: Path) -> None:
    first = tiny_bundle.write_bundle(tmp_path / "a", "small-112")
    second = tiny_bundle.write_bundle(tmp_path / "b", "small-112")
    assert make_repository(load_bundle(first)).files == make_repository(load_bundle(second)).files


HOSTILE = ['"', "\\", "a\nb", '" parameters { key: "x"', "Ödem 肺", "\x00\x07\x7f", "'", "#", "\\n"]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_ends_its_string(text: str) -> None:
    written = text_of({"name": text, "backend": "after"})
    read = text_format.Parse(written, model_config_pb2.ModelConfig())
    assert (read.name, read.backend) == (text, "after")
    assert written.isascii()
    assert written.count("\n") == 2


def test_a_hostile_bundle_name_is_only_a_name(tmp_path: Path) -> None:
    name = '"}\nplatform: "python\ud800'
    folder = tiny_bundle.write_bundle(tmp_path / "bundle", "small-112", name=name)
    made = spread(tmp_path / "models", make_repository(load_bundle(folder)).files)
    config = config_of(made / "tier_encoder")
    assert config.platform == "onnxruntime_onnx"
    assert config.parameters["bundle"].string_value == name.replace("\ud800", "\\ud800")


def test_text_has_no_form_for_a_number_with_a_point() -> None:
    with pytest.raises(TypeError, match="float"):
        text_of({"name": 0.5})


def test_two_models_never_share_a_name() -> None:
    assert model_names(["edema"]) == {"edema": ("tier_query_edema", "tier_edema")}
    with pytest.raises(UsageError, match=r"label set encoder and the encoder .*tier_encoder"):
        model_names(["encoder"])
    with pytest.raises(UsageError, match=r"label set query_x and label set x .*tier_query_x"):
        model_names(["x", "query_x"])


def test_sets_are_chosen_once_in_the_bundles_order(bundle: Path) -> None:
    opened = load_bundle(bundle)
    assert chosen_sets(opened, []) == [PLAIN, POOLED]
    assert chosen_sets(opened, ["Chexpert top-k", PLAIN, PLAIN]) == [PLAIN, POOLED]
    with pytest.raises(UsageError, match="'chexpert@top_k=5' is not in the bundle; it has"):
        chosen_sets(opened, ["chexpert@top_k=5"])


def test_a_label_that_is_two_lines_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_bundle, "LABELS", ("bright\ndark", "dark"))
    opened = load_bundle(tiny_bundle.write_bundle(tmp_path / "bundle", "small-112"))
    with pytest.raises(IntegrityError, match="which is no id"):
        make_repository(opened)
