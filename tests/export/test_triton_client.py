"""python -m pytest tests/export/test_triton_client.py -- examples/triton_client.py and a server.

The server is `triton_server`: the real protocol over loopback, the repository's own ONNX files.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from runpy import run_path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.export.test_triton import PLAIN, POOLED, spread, with_pool
from tests.export.triton_server import Running, serving
from tests.infer import tiny_bundle
from tests.infer.dicom_files import dx
from tier_export.triton import make_repository
from tier_infer.bundle import NOTICE, load_bundle
from tier_infer.cli import main as infer_main
from tier_infer.golden import read_golden

SCRIPT = Path(__file__).parents[2] / "examples/triton_client.py"
MAIN: click.Command = run_path(str(SCRIPT))["main"]


@pytest.fixture(scope="module")
def bundle(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_pool(site / "bundle", tmp_path_factory.mktemp("client") / "bundle")


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = spread(tmp_path_factory.mktemp("models"), make_repository(load_bundle(bundle)).files)
    with serving(models) as running:
        yield running


@pytest.fixture
def running(server: Running) -> Running:
    server.servicer.asked.clear()
    return server


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A study's file that is no picture of a chest."""
    path = tmp_path / "report.dcm"
    made = dx()
    made.Modality = "SR"
    made.save_as(path, enforce_file_format=True)
    return path


def client(url: str, folder: Path, *args: object) -> Result:
    options = ("--url", url, "--bundle", str(folder))
    result = CliRunner().invoke(MAIN, [*options, *map(str, args)])
    assert "Traceback" not in result.output
    return result


def runtime(folder: Path, *args: object) -> Result:
    options = ("--bundle", str(folder), "--device", "cpu", "--precision", "fp32", "--json")
    return CliRunner().invoke(infer_main, [*map(str, args), *options])


def test_the_script_scores_a_study(running: Running, bundle: Path, site: Path) -> None:
    command = [sys.executable, "-W", "error", str(SCRIPT), "--url", running.url]
    done = subprocess.run(
        [*command, "--bundle", str(bundle), "study.dcm"],
        cwd=site, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(NOTICE)
    assert "study-1" in done.stdout
    for label in load_bundle(bundle).manifest.label_sets[PLAIN]["labels"]:
        assert label in done.stdout
    asked = [model for model, _ in running.servicer.asked]
    assert asked == ["tier_encoder", f"tier_{PLAIN}", f"tier_{PLAIN}"]  # golden vectors first


@pytest.mark.parametrize("set_id", [PLAIN, POOLED])
def test_scores_are_those_of_tier_infer(
    running: Running, bundle: Path, site: Path, report: Path, set_id: str
) -> None:
    files = (site / "study.dcm", report)
    mine = client(running.url, bundle, *files, "--queries", set_id, "--json")
    labels = load_bundle(bundle).manifest.label_sets[set_id]["labels"]
    asked = ",".join(f"{set_id}:{label}" for label in labels)
    theirs = runtime(bundle, *files, "--labels", asked)
    assert mine.exit_code == theirs.exit_code
    found, expected = json.loads(mine.stdout), json.loads(theirs.stdout)
    assert (found["schema"], found["device"]) == ("tier-triton-client/1", "triton")
    assert (found["precision"], found["bundle"]) == (expected["precision"], expected["bundle"])
    plain = json.loads(json.dumps(expected["studies"]).replace(f'"{set_id}:', '"'))
    assert found["studies"] == plain
    assert len(plain[0]["scores"]) == len(labels)


def test_a_server_sees_crops_and_nothing_else(
    running: Running, bundle: Path, site: Path, report: Path
) -> None:
    assert client(running.url, bundle, site / "study.dcm", report).exit_code == 0
    request = running.servicer.last
    crop = load_bundle(bundle).manifest.resolved_geometry().crop
    assert [(row.name, list(row.shape)) for row in request.inputs] == [("pixels", [1, crop, crop])]
    assert [len(raw) for raw in request.raw_input_contents] == [crop * crop]
    sent = {field.name for field, _ in request.ListFields()}
    assert sent == {"model_name", "inputs", "outputs", "raw_input_contents"}


def test_refused_images_are_told_with_their_reasons(
    running: Running, bundle: Path, site: Path, report: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"\x00" * 200)
    both = client(running.url, bundle, site / "study.dcm", broken)
    assert both.exit_code == 8
    assert f"{broken}  failed: " in both.stdout
    none = client(running.url, bundle, report)
    assert none.exit_code == 3
    assert f"{report}  not_evaluated: " in none.stdout
    golden = read_golden(load_bundle(bundle))
    assert golden
    n = len(golden.crops)
    assert [rows for _, rows in running.servicer.asked] == [n, n, 1, n, n]


def test_a_server_of_another_bundle_gets_no_pixel(
    running: Running, site: Path, tmp_path: Path
) -> None:
    other = tiny_bundle.write_bundle(tmp_path / "other", "small-112")
    models = spread(tmp_path / "models", make_repository(load_bundle(other)).files)
    with serving(models) as elsewhere:
        third = tiny_bundle.write_bundle(tmp_path / "third", "medclip-224")
        refused = client(elsewhere.url, third, site / "study.dcm")
        assert refused.exit_code == 4
        assert "serves tier_light of another bundle_sha256" in refused.stderr
        assert elsewhere.servicer.asked == []


def test_a_server_of_another_label_set_gets_no_pixel(
    running: Running, bundle: Path, site: Path
) -> None:
    config = running.servicer.models.configs[f"tier_{PLAIN}"]
    before = config.parameters["set_sha256"].string_value
    config.parameters["set_sha256"].string_value = "0" * 64
    try:
        refused = client(running.url, bundle, site / "study.dcm")
    finally:
        config.parameters["set_sha256"].string_value = before
    assert refused.exit_code == 4
    assert "of another set_sha256, 000000000000" in refused.stderr
    assert running.servicer.asked == []


@pytest.mark.parametrize("wrong", [1.001, np.nan])
@pytest.mark.parametrize(
    ("output", "what"),
    [
        ("image_embedding", "image embedding"),
        ("patch_embeddings", "patch embedding"),
        ("scores", "score Z"),
    ],
)
def test_a_server_that_computes_something_else_gets_no_patient(
    running: Running,
    bundle: Path,
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    output: str,
    what: str,
    wrong: float,
) -> None:
    models = running.servicer.models
    right = models.infer

    def other(name: str, given: Any) -> dict[str, Any]:
        found = right(name, given)
        return found | {key: found[key] * np.float32(wrong) for key in {output} & set(found)}

    monkeypatch.setattr(models, "infer", other)
    refused = client(running.url, bundle, site / "study.dcm")
    assert refused.exit_code == 5
    assert f"golden vectors: {what} differs" in refused.stderr
    assert 1 not in {rows for _, rows in running.servicer.asked}


def test_scores_that_are_not_finite_are_none(
    running: Running, bundle: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = running.servicer.models
    right = models.infer

    def later(name: str, given: Any) -> dict[str, Any]:
        late = len(running.servicer.asked) > 2  # past the golden vectors
        found = right(name, given)
        return {key: array * np.float32(np.nan if late else 1) for key, array in found.items()}

    monkeypatch.setattr(models, "infer", later)
    result = client(running.url, bundle, site / "study.dcm", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["studies"][0]["images"][0]["reason"] == "not_finite"


def test_a_server_that_is_gone_is_one_sentence(bundle: Path, site: Path, tmp_path: Path) -> None:
    models = spread(tmp_path, make_repository(load_bundle(bundle), [PLAIN]).files)
    with serving(models) as running:
        running.stop()
        gone = client(running.url, bundle, site / "study.dcm")
    assert gone.exit_code == 6
    assert gone.stderr.startswith(f"triton_client: the Triton server at {running.url} gives no")
    assert gone.stderr.count("\n") == 1
    assert gone.stdout == ""


def test_a_server_without_the_set_is_one_sentence(bundle: Path, site: Path, tmp_path: Path) -> None:
    models = spread(tmp_path, make_repository(load_bundle(bundle), [PLAIN]).files)
    with serving(models) as running:
        missing = client(running.url, bundle, site / "study.dcm", "--queries", POOLED)
    assert missing.exit_code == 6
    assert f"unknown model: 'tier_{POOLED}'" in missing.stderr


def test_wrong_usage(running: Running, bundle: Path, site: Path, tmp_path: Path) -> None:
    unknown = client(running.url, bundle, site / "study.dcm", "--queries", "heart")
    assert unknown.exit_code == 2
    assert f"'heart' is not in the bundle; it has {PLAIN}" in unknown.stderr
    assert client(running.url, tmp_path / "none", site / "study.dcm").exit_code == 2
    assert client(running.url, bundle, tmp_path / "none.dcm").exit_code == 2
    assert CliRunner().invoke(MAIN, ["study.dcm"]).exit_code == 2
