"""python -m pytest tests/train/figures/test_localisation_figure.py -- maps against masks."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.train.figures.twins import SEED, SIZE, truth_of
from tier_infer.errors import UsageError
from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.datasets import open_cohort
from tier_infer.evaluation.localisation import cells_of_mask
from tier_infer.label_sets import LabelSet, load_label_set
from tier_train.checkpoint import Checkpoint
from tier_train.cli.data import data
from tier_train.cli.figures import figures
from tier_train.figures import localisation, localisation_files
from tier_train.figures.drawing import new_figure
from tier_train.figures.localisation_files import as_markdown
from tier_train.figures.masks import open_masks, read_mask
from tier_train.figures.pair import NAMES, Pair
from tier_train.phantoms.phantom import FINDINGS, draw_phantom

LABELS = load_label_set("chexpert")


@pytest.fixture(scope="module")
def cohort(manifest: Path) -> Cohort:
    return open_cohort(f"manifest:{manifest}")


def _command(twins: tuple[Path, Path], manifest: Path, output: Path, *more: str) -> Result:
    args = ["localisation", "--regularized", str(twins[0]), "--unregularized", str(twins[1])]
    args += ["--dataset", f"manifest:{manifest}", "-o", str(output), "--threads", "1", *more]
    return CliRunner().invoke(figures, args)


def _planted(pair: Pair, cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps that are the masks themselves, and for the unregularized model their opposite."""
    rows = [i for i in range(len(cohort)) if (cohort.truth[i] == 1).any()]
    waiting = {id(one): iter(rows) for one in pair}

    def cells_of(one: Checkpoint, table: Any, crops: Any) -> Any:
        cells = np.zeros((len(crops), len(LABELS.labels), 7, 7), np.float32)
        for place in range(len(crops)):
            masks = draw_phantom(SEED, next(waiting[id(one)]), SIZE).masks
            for column, label in enumerate(LABELS.labels):
                if label.id in masks:
                    share = cells_of_mask(masks[label.id], pair.presets.geometry, 7)
                    cells[place, column] = share if one is pair.regularized else -share
        return np.zeros(cells.shape[:2]), cells

    monkeypatch.setattr(localisation, "cells_of", cells_of)


def test_maps_that_are_the_masks_always_hit_and_their_opposite_never(
    pair: Pair, cohort: Cohort, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _planted(pair, cohort, monkeypatch)
    masks = open_masks(cohort, manifest.parent / "masks")
    found = localisation.localise(pair, cohort, LABELS, masks)
    report = localisation.report_of(pair, cohort, found, 100, 0)
    rows = truth_of(manifest)
    assert [row["n"] for row in report["labels"]] == [
        sum(row[label.id] == "1" for row in rows) for label in LABELS.labels
    ]
    for row in report["labels"]:
        assert [row["hit"][name]["mean"] for name in NAMES] == [1, 0]
        assert row["hit"]["difference"] == {"mean": 1, "interval": None}, "too few"
        assert [row["brighter_inside"][name]["mean"] for name in NAMES] == [1, 0]
        assert row["cnr"]["difference"]["mean"] == pytest.approx(0, abs=1e-9), "CNR has no sign"
        assert 0 < row["area"] < row["chance"] < 1


def test_the_figures_are_those_of_loops_over_the_csv(
    twins: tuple[Path, Path], manifest: Path, tmp_path: Path
) -> None:
    masks = str(manifest.parent / "masks")
    done = _command(twins, manifest, tmp_path, "--masks", masks, "--draws", "50")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "localisation.json").read_text())
    with (tmp_path / "localisation.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    truth = truth_of(manifest)
    assert all(truth[int(line["line"]) - 2][line["label"]] == "1" for line in lines)
    assert len(lines) == sum(row[name] == "1" for row in truth for name in FINDINGS)
    for row in report["labels"]:
        own = [line for line in lines if line["label"] == row["label"]]
        assert row["n"] == len(own)
        for measure in ("hit", "cnr", "iou", "brighter_inside"):
            for name in NAMES:
                values = [float(line[f"{name}_{measure}"]) for line in own]
                mean = sum(values) / len(values)
                assert row[measure][name]["mean"] == pytest.approx(mean, abs=1e-8)
                assert row[measure][name]["interval"] is None, "fewer than ten images"
    assert done.stdout == (tmp_path / "localisation.md").read_text()
    assert "Research use only" in done.stdout
    with Image.open(tmp_path / "localisation.png") as picture:
        assert picture.info["Software"] == "tier-infer"


def _found(line: int, group: str, hit: float) -> localisation.Found:
    first = dict.fromkeys(localisation.MEASURES, 1.0)
    return localisation.Found(line, group, 0.5, 0.5, (first, first | {"hit": hit}))


@pytest.mark.parametrize(("images", "patients"), [(9, 9), (12, 9), (10, 10)])
def test_few_images_or_patients_and_equal_draws_have_no_interval(
    images: int, patients: int
) -> None:
    found = [_found(i, str(i % patients), i % 2) for i in range(images)]
    report = localisation.measured({}, {"edema": found}, {"edema": {}}, 200, 0)
    hit = report["labels"][0]["hit"]
    assert hit["regularized"] == {"mean": 1, "sd": 0, "interval": None}, "always hit"
    for entry in (hit["unregularized"], hit["difference"]):
        if min(images, patients) < 10:
            assert entry["interval"] is None
        else:
            assert 0 <= entry["interval"][0] < 0.5 < entry["interval"][1] <= 1


def test_a_bar_goes_from_end_to_end_of_its_interval() -> None:
    figure = new_figure(4, 4, "x")
    axis = figure.add_subplot()
    entry = {"mean": 0.9, "interval": [0.2, 0.6]}
    localisation_files._points(axis, [{"hit": {"regularized": entry}}], "hit", "regularized", [0])
    (bar,) = axis.collections
    assert bar.get_segments()[0][:, 0] == pytest.approx([0.2, 0.6])


def test_all_of_it_is_computed_again_from_the_csv(
    twins: tuple[Path, Path], manifest: Path, tmp_path: Path
) -> None:
    done = _command(twins, manifest, tmp_path / "a", "--masks", str(manifest.parent / "masks"))
    assert done.exit_code == 0, done.output
    args = ["localisation", "--from", f"{tmp_path}/a", "-o", f"{tmp_path}/b"]
    again = CliRunner().invoke(figures, args)
    assert again.exit_code == 0, again.output
    assert again.stdout == done.stdout
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    table = (tmp_path / "a/localisation.csv").read_text()
    assert not any(f",{row['patient_id']}," in table for row in truth_of(manifest))
    (tmp_path / "a/localisation.csv").write_text(table + "edema,2,1,0.5,0.5,x\n")
    broken = CliRunner().invoke(figures, [*args[:3], "-o", f"{tmp_path}/c"])
    assert broken.exit_code == 2
    assert "does not hold what" in broken.stderr
    seeded = CliRunner().invoke(figures, [*args[:3], "--seed", "1", "-o", f"{tmp_path}/c"])
    assert seeded.exit_code == 2, "its draws are those of the first run"
    both = _command(twins, manifest, tmp_path / "c", "--from", f"{tmp_path}/a")
    assert both.exit_code == 2
    assert "leave theirs out" in both.stderr


def test_what_is_left_out_is_counted_by_its_reason(
    pair: Pair, cohort: Cohort, manifest: Path
) -> None:
    drawn = open_masks(cohort, manifest.parent / "masks")
    (label,) = (label for label in LABELS.labels if label.id == "edema")
    positive = [i for i in range(len(cohort)) if cohort.truth_of(label.id)[i] == 1]
    assert len(positive) == 5
    beyond = np.zeros((SIZE, SIZE), bool)
    beyond[0, 0] = True  # the crop begins at pixel 8
    wrong = {
        positive[0]: None,
        positive[1]: beyond,
        positive[2]: np.ones((SIZE, 2 * SIZE), bool),
    }

    def masks(row: int, label_id: str) -> Any:
        return wrong[row] if row in wrong else drawn(row, label_id)

    cases = list(cohort.cases)
    cases[positive[3]] = replace(cases[positive[3]], place="films/none.png")
    found = localisation.localise(
        pair, replace(cohort, cases=tuple(cases)), LabelSet("one", (label,)), masks
    )
    assert found.left_out[label.id] == {
        "no mask": 1,
        "mask outside of the crop": 1,
        "mask of another shape than the image": 1,
        "image refused": 1,
    }
    assert len(found.found[label.id]) == 1


def test_a_mask_over_everything_has_no_contrast_and_a_flat_map_no_iou() -> None:
    cells, share = np.arange(4.0).reshape(2, 2), np.ones((2, 2))
    assert np.isnan(
        [localisation.measures(cells, share)[k] for k in ("cnr", "brighter_inside")]
    ).all()
    share = np.array([[1.0, 0], [0, 0]])
    flat = localisation.measures(np.zeros((2, 2)), share)
    assert np.isnan([flat["cnr"], flat["iou"]]).all()
    assert flat["hit"] == 0, "of equally high cells all must hold mask"


def test_a_label_without_a_mask_has_a_row_and_no_figures(
    pair: Pair, cohort: Cohort, manifest: Path
) -> None:
    drawn = open_masks(cohort, manifest.parent / "masks")
    found = localisation.localise(
        pair, cohort, LABELS, lambda row, label: drawn(row, label) if label == "edema" else None
    )
    report = localisation.report_of(pair, cohort, found, 0, 0)
    empty = next(row for row in report["labels"] if row["label"] == "consolidation")
    assert empty == {"label": "consolidation", "n": 0, "left_out": {"no mask": 3}} | dict.fromkeys(
        ("area", "chance", "hit", "cnr", "iou", "brighter_inside")
    )
    table = [line for line in as_markdown(report).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert "consolidation: 3 no mask" in as_markdown(report)


def test_a_label_that_nobody_drew_is_refused(pair: Pair, cohort: Cohort) -> None:
    with pytest.raises(UsageError, match=r"has a mask within the crop: \d+ no mask"):
        localisation.localise(pair, cohort, LABELS, lambda row, label: None)


def test_masks_of_the_dataset_itself(cohort: Cohort, manifest: Path) -> None:
    row = next(i for i in range(len(cohort)) if cohort.truth_of("edema")[i] == 1)
    places = [""] * len(cohort)
    places[row] = f"masks/edema/films/{row}.png"
    masks = open_masks(replace(cohort, masks={"edema": tuple(places)}), None)
    expected = draw_phantom(SEED, row, SIZE).masks["edema"]
    assert np.array_equal(masks(row, "edema"), expected)  # type: ignore[arg-type]
    assert masks(row - 1, "edema") is None
    assert masks(row, "atelectasis") is None


def test_masks_of_chexlocalize_are_found_by_their_study(cohort: Cohort, tmp_path: Path) -> None:
    case = replace(cohort.cases[0], image_path="CheXpert/test/patient1/study1/view1_frontal.jpg")
    held = replace(cohort, cases=(case, *cohort.cases[1:]))
    code = {"size": [2, 3], "counts": "123"}  # columns: one 0, two 1, three 0
    path = tmp_path / "gt_segmentations_test.json"
    path.write_text(json.dumps({"patient1_study1_view1_frontal": {"Edema": code}}))
    masks = open_masks(held, path)
    assert masks(0, "edema").tolist() == [[0, 1, 0], [1, 0, 0]]  # type: ignore[union-attr]
    assert masks(1, "edema") is None


@pytest.mark.parametrize("make", [lambda m: m, lambda m: m * 255, lambda m: m * 254 + 1])
def test_a_mask_of_any_two_greys(tmp_path: Path, make: Callable[[np.ndarray], np.ndarray]) -> None:
    mask = np.eye(5, dtype=np.uint8)
    Image.fromarray(make(mask)).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png"), mask > 0)  # type: ignore[arg-type]


def test_a_black_mask_is_none_and_other_files_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png") is None
    (tmp_path / "m.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UsageError, match="is no mask"):
        read_mask(tmp_path / "m.png")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "comes without masks"),
        (("--masks", "{manifest}"), "no JSON of masks"),
        (("--masks", "{folder}", "--labels", "edeema"), "'edeema' is not in label set"),
        (("--masks", "{folder}", "--queries", "pneumonia"), "none of the labels of pneumonia"),
    ],
)
def test_what_can_not_be_measured_is_refused(
    twins: tuple[Path, Path], manifest: Path, tmp_path: Path, more: tuple[str, ...], words: str
) -> None:
    filled = [w.format(manifest=manifest, folder=manifest.parent / "masks") for w in more]
    done = _command(twins, manifest, tmp_path / "a", *filled)
    assert done.exit_code == 2
    assert words in done.stderr
    assert not (tmp_path / "a").exists()


def test_phantoms_leave_the_masks_that_figures_take(tmp_path: Path) -> None:
    folder = tmp_path / "phantoms"
    args = ["phantoms", "-o", str(folder), "--train", "6", "--val", "0", "--test", "0", "--masks"]
    done = CliRunner().invoke(data, args)
    assert done.exit_code == 0, done.output
    cohort = open_cohort(f"manifest:{folder}/manifest.csv")
    masks = open_masks(cohort, folder / "masks")
    for row in range(len(cohort)):
        drawn = draw_phantom(0, row).masks
        for label in FINDINGS:
            found = masks(row, label)
            assert (found is not None) == (label in drawn) == (cohort.truth_of(label)[row] == 1)
            assert found is None or np.array_equal(found, drawn[label])
