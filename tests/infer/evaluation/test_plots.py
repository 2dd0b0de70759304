"""python -m pytest tests/infer/evaluation/test_plots.py -- pictures of an evaluation."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.infer.evaluation.fakes import GreyScorer, cohort, random_scores, random_truth
from tier_infer.errors import UsageError
from tier_infer.evaluation.plots import BLUE, ORANGE, PANELS, _decisions, check_installed, draw
from tier_infer.evaluation.run import Evaluated, Plan, evaluate

N, V = 30, 20


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """With thresholds and another model; one label has one class and no picture."""
    folder = tmp_path_factory.mktemp("images")
    labels = ("edema", "effusion", "fracture")
    truth = random_truth(N + V, 1, 3)
    truth[:, 2] = 0
    z = random_scores(truth, 2, 1.0)
    test = cohort(folder, truth[:N].tolist(), columns=labels)
    valid = cohort(folder, truth[N:].tolist(), first=N, columns=labels)
    evaluate(test, GreyScorer(-z, labels), Plan(draws=0), folder / "other")
    plan = Plan(draws=40, validation=valid, against=folder / "other")
    return evaluate(test, GreyScorer(z, labels), plan, None)


def shown(path: Path, colour: str) -> bool:
    """Whether many pixels have this colour."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((pixels == wanted).all(axis=2).sum()) > 100


def test_pictures_show_both_models_and_are_the_same_again(found: Evaluated, tmp_path: Path) -> None:
    paths = draw(found, tmp_path)
    assert [path.name for path in paths] == ["roc.png", "reliability.png", "decisions.png"]
    assert all(shown(path, BLUE) for path in paths)
    assert [shown(path, ORANGE) for path in paths] == [True, False, False]
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in draw(found, tmp_path)] == before


def test_bars_reach_from_end_to_end_and_units_are_the_read_ones(found: Evaluated) -> None:
    """A resampled interval need not hold its figure; Figure 7 counts what all readers read."""
    report = deepcopy(found.report)
    section = report["decisions"]
    rows = [row for row in section["labels"] if not row["excluded"]]
    rows[0]["mcc"] |= {"value": 0.5, "interval": [0.6, 0.9]}
    rows[1]["mcc"] |= {"value": 0.5, "interval": None}
    side = {"labels": {row["label"]: row for row in rows}, "mean": section["mean"]}
    report["radiologists"] = {
        "model": side, "mean_radiologist": side, "readers": [], "units": 7, "of": 2, "labels": rows,
    }  # fmt: skip
    figure = _decisions(report, rows)
    (bars, _) = figure.axes[0].collections[:2]
    assert [x for x, _ in bars.get_segments()[0]] == [0.6, 0.9]
    assert len(bars.get_segments()) == 1 + (section["mean"]["mcc"]["interval"] is not None)
    assert any(f"per_image, 7 of {N} units" in text.get_text() for text in figure.texts)


def test_many_labels_take_several_pages(tmp_path: Path) -> None:
    labels = tuple(f"label_{i}" for i in range(PANELS + 1))
    truth = random_truth(N, 1, len(labels))
    images = cohort(tmp_path, truth.tolist(), columns=labels)
    many = evaluate(images, GreyScorer(random_scores(truth, 2), labels), Plan(draws=0), None)
    assert [path.name for path in draw(many, tmp_path)] == ["roc-1.png", "roc-2.png"]


def test_without_the_extra_its_install_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"pip install 'tier-cxr\[plots\]'"):
        check_installed()
