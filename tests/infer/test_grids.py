"""python -m pytest tests/infer/test_grids.py -- whole runs on bundles of every geometry and grid.

The encoders are of `tiny_bundle`: they measure how bright each part of their input is, so what a
run prints can be told by hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import tier_infer
from tests.infer.dicom_files import dx, film, write
from tests.infer.tiny_bundle import LABELS, NATURAL, write_bundle
from tier_infer.bundle import load_bundle
from tier_infer.cells import cell_boxes, clipped
from tier_infer.cli import main
from tier_infer.doctor.checks import exit_code, run_doctor
from tier_infer.engine import Engine
from tier_infer.errors import IntegrityError
from tier_infer.geometry import GEOMETRIES, to_crop
from tier_infer.golden import PATCHES, read_golden, replay
from tier_infer.scoring import heatmaps, select_labels

SCHEMA = json.loads((Path(tier_infer.__file__).parent / "schema/tier-infer-1.json").read_text())


def infer(*args: object) -> Result:
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module", params=list(NATURAL))
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"), request.param)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frontal of 150 x 120 pixels, its lateral, and a portrait PNG of its own."""
    folder = tmp_path_factory.mktemp("study")
    frontal = np.ascontiguousarray(film()[:, 10:130])
    write(dx(frontal), folder / "a.dcm")
    write(dx(film(1), SOPInstanceUID="1.2.3.9", ViewPosition="LL"), folder / "b.dcm")
    wide = (film(2).astype(np.uint32) * 16)[:, :110].astype(np.uint16)
    Image.fromarray(wide).save(folder / "c.png")
    return folder


def test_a_run_prints_every_cell_of_its_grid(bundle: Path, study: Path, tmp_path: Path) -> None:
    manifest = load_bundle(bundle).manifest
    result = infer(
        study, "--bundle", bundle, "--json", "--heatmaps", tmp_path / "heat", "--report",
        tmp_path / "page.html",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    table = json.loads(result.stdout)
    jsonschema.validate(table, SCHEMA)
    images = [image for study in table["studies"] for image in study["images"]]
    assert [image["status"] for image in images] == ["scored"] * 3
    assert [image["view"] for image in images] == ["PA", "lateral", "unknown"]
    assert [image["counted"] for image in images] == [True, False, True]
    for image in images:
        for name in LABELS:
            cells = np.array(image["heatmaps"][name])
            assert cells.shape == (manifest.cells, manifest.cells)
            assert np.abs(cells).max() <= 1.0001
            # brightness of the whole is the mean of its parts, so the score lies between them
            assert cells.min() <= image["scores"][name] <= cells.max()
        bright, dark = (np.array(image["heatmaps"][name]) for name in LABELS)
        assert np.allclose(bright, -dark)
    assert len(list((tmp_path / "heat").glob("*.png"))) == 3 * len(LABELS)
    page = (tmp_path / "page.html").read_text()
    assert f"{manifest.cells} x {manifest.cells} cells" in page
    assert f"{manifest.geometry['name']}, mimic-jpg" in page


def test_the_cells_are_those_of_the_crop(bundle: Path, study: Path) -> None:
    """Z of a cell by hand: m of the pixels that the geometry put there, along (m, 1 - m)."""
    table = json.loads(infer(study / "c.png", "--bundle", bundle, "--json").stdout)
    (image,) = table["studies"][0]["images"]
    loaded = load_bundle(bundle)
    geometry = loaded.manifest.resolved_geometry()
    wide = np.asarray(Image.open(study / "c.png")).astype(np.int64)
    grey = wide >> 8 if geometry.high_byte else np.minimum(wide // 255, 255)
    mean = to_crop(grey.astype(np.uint8), geometry).mean() / 255
    z = (2 * mean - 1) / np.hypot(mean, 1 - mean)
    assert image["scores"]["bright"] == pytest.approx(z, abs=1e-5)


@pytest.mark.parametrize("cells", [1, 7, 14, 15])
@pytest.mark.parametrize("preset", list(NATURAL))
def test_heat_lies_where_the_picture_is_bright(preset: str, cells: int, tmp_path: Path) -> None:
    """Through the engine: a cell painted white on black is the one that speaks for `bright`."""
    bundle = load_bundle(write_bundle(tmp_path, preset, cells))
    engine, selection = Engine(bundle, "cpu"), select_labels(bundle, ["bright"])
    geometry, shape = bundle.manifest.resolved_geometry(), (1300, 1100)
    inner = [(r, c) for r in {0, cells // 2, cells - 1} for c in {cells // 3, cells // 2}]
    pictures = []
    for row, column in inner:
        box = clipped(cell_boxes(*shape, geometry, cells)[row, column], *shape)
        left, top, right, bottom = (round(edge) for edge in box)
        picture = np.zeros(shape, np.uint8)
        picture[top:bottom, left:right] = 255
        pictures.append(to_crop(picture, geometry))
    heat = heatmaps(engine.encode(np.stack(pictures)), selection)[:, 0]
    assert heat.shape == (len(inner), cells, cells)
    for z, cell in zip(heat, inner, strict=True):
        assert np.unravel_index(z.argmax(), z.shape) == cell
        assert z[cell] > 0.75  # the cell of a grid of one holds the black frame, too
        assert (np.delete(z.ravel(), cell[0] * cells + cell[1]) < 0).all()


def test_evaluate_runs_on_every_geometry(bundle: Path, tmp_path: Path) -> None:
    """Bright films against dark ones, told apart without an error."""
    rows = ["image_path,bright,dark"]
    for number in range(6):
        light = number % 2
        grey = np.clip(film(number) / 4096 * 110 + (120 if light else 5), 0, 255).astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{light},{1 - light}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    asked = ("evaluate", tmp_path / "labels.csv", "--bundle", bundle, "--json", "--draws", "0")
    result = infer(*asked)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["images"]["scored"] == 6
    areas = {row["label"]: row["auc"] for row in report["auc"]["labels"]}
    assert areas == {"bright": 1.0, "dark": 1.0}


def test_doctor_replays_every_grid(bundle: Path) -> None:
    found = run_doctor(bundle, "cpu")
    told = {check.name: check for check in found}
    assert told["golden vectors"].status == "ok", told["golden vectors"].sentence
    assert exit_code(found) == 0


@pytest.mark.parametrize("cells", [1, 14, 15, 64])
def test_golden_vectors_have_the_manifests_grid(cells: int, tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path, "small-112", cells))
    golden = read_golden(bundle)
    assert golden is not None
    assert golden.patches.shape == (2, cells, cells, 2)
    assert replay(bundle, Engine(bundle, "cpu"), golden).breaches == []


def test_golden_vectors_of_another_grid_are_refused(tmp_path: Path) -> None:
    other = load_bundle(write_bundle(tmp_path / "a", "tier-224-imagenet", 14)).manifest
    folder = write_bundle(tmp_path / "b", "tier-224-imagenet", 7, golden=other.golden)
    for name in other.golden:
        (folder / name).write_bytes((tmp_path / "a" / name).read_bytes())
    with pytest.raises(IntegrityError, match=f"{PATCHES} is not an array N x 7 x 7 x 2"):
        read_golden(load_bundle(folder))


def test_a_grid_that_is_not_the_encoders_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "tier-224-imagenet", 7, grid=(14, 14))
    with pytest.raises(IntegrityError, match=r"\[7, 7, 2\] per image, the manifest says \[14, 14"):
        Engine(load_bundle(folder), "cpu")
    assert exit_code(run_doctor(folder, "cpu")) == 4


@pytest.mark.parametrize("grid", [(7, 8), (0, 0), (-7, -7), (65, 65), (7,), (7, 7, 7), (7.0, 7.0)])
def test_only_a_square_grid_of_1_to_64_is_read(grid: Any, tmp_path: Path) -> None:
    """Sealed: the digests fit, so only the numbers can tell."""
    folder = write_bundle(tmp_path, "small-112", 7, grid=grid)
    with pytest.raises(IntegrityError):
        load_bundle(folder)


def test_few_pixels_are_flagged_by_the_side_that_counts(tmp_path: Path) -> None:
    """150 x 110: enlarged for a short side of 224; CheXzero looks at the long side."""
    grey = (film(3)[:, :110] >> 4).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "small.png")
    Image.fromarray(grey).resize((400, 400)).crop((0, 0, 150, 400)).save(tmp_path / "long.png")
    flags: dict[str, Any] = {}
    for preset in ("tier-224-imagenet", "chexzero-320pad-224", "medclip-224"):
        bundle = write_bundle(tmp_path / preset, preset)
        for name in ("small.png", "long.png"):
            table = json.loads(infer(tmp_path / name, "--bundle", bundle, "--json").stdout)
            (image,) = table["studies"][0]["images"]
            flags[preset, name] = "enlarged" in image["flags"]
    assert [name for name, flagged in flags.items() if not flagged] == [
        ("chexzero-320pad-224", "long.png"), ("medclip-224", "long.png"),
    ]  # fmt: skip


def test_nothing_of_the_runtime_says_seven() -> None:
    """Help, schema and the words of the pages: the number of cells comes from the bundle."""
    text = infer("--help").output + json.dumps(SCHEMA)
    root = Path(tier_infer.__file__).parent
    text += "".join(path.read_text() for path in (root / "report").iterdir() if path.is_file())
    assert not re.search(r"\b7\s?[x×]\s?7\b|\b49\b", text)
    assert set(NATURAL) == set(GEOMETRIES)


@pytest.mark.parametrize(
    ("patches", "said"),
    [("not trained", True), ("trained through their mean", False), (None, False)],
)
def test_cells_that_nobody_trained_are_shown_with_a_warning(
    study: Path, tmp_path: Path, patches: str | None, said: bool
) -> None:
    """CheXzero has no patch head: its cells can be drawn, but prove nothing."""
    entry = {} if patches is None else {"patches": patches}
    folder = write_bundle(tmp_path / "b", "chexzero-320pad-224", checkpoint=[entry])
    scored = json.loads(infer(study, "--bundle", folder, "--json").stdout)
    shown = json.loads(
        infer(
            study, "--bundle", folder, "--json", "--heatmaps", tmp_path / "h", "--report",
            tmp_path / "page.html",
        ).stdout
    )  # fmt: skip

    def flags(table: dict[str, Any]) -> list[bool]:
        images = [image for study in table["studies"] for image in study["images"]]
        return ["patches_untrained" in image["flags"] for image in images]

    assert flags(scored) == [False] * 3  # no cell is shown, nothing to warn of
    assert flags(shown) == [said] * 3
    words = "its cells are no evidence of where a finding is"
    assert (words in (tmp_path / "page.html").read_text(encoding="utf-8")) is said
