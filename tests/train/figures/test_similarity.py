"""python -m pytest tests/train/figures/test_similarity.py -- figures 5 and 6."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from tests.train.figures.twins import truth_of
from tier_infer.errors import UsageError
from tier_infer.geometry import to_crop
from tier_train.cli.figures import figures
from tier_train.data.datasets import open_dataset
from tier_train.figures.pair import NAMES, Pair
from tier_train.figures.similarity import (
    Similarity,
    curve,
    curves,
    measure,
    read,
    rows_with_text,
    shares,
)


def _command(twins: tuple[Path, Path], manifest: Path, output: Path, *more: str) -> Result:
    args = ["similarity", "--regularized", str(twins[0]), "--unregularized", str(twins[1])]
    args += ["--dataset", f"manifest:{manifest}", "-o", str(output), "--threads", "1", *more]
    return CliRunner().invoke(figures, args)


def test_the_cosines_are_those_of_loops_over_patches(pair: Pair, manifest: Path) -> None:
    dataset = open_dataset(f"manifest:{manifest}", pair.regularized.recipe)
    split, rows = rows_with_text(dataset, None, 3)
    found, refused = measure(pair, dataset, rows)
    assert (split, refused) == ("test", 0)
    assert found.lines == (2, 3, 5), "the fourth line has no text"
    for name, checkpoint in zip(NAMES, pair, strict=True):
        for i, row in enumerate(rows):
            film = np.asarray(Image.open(manifest.parent / row.image_path))
            crop = torch.from_numpy(to_crop(film, pair.presets.geometry)[None])
            ids, mask = checkpoint.tokenizer([row.text])
            with torch.no_grad():
                _, patch_e = checkpoint.model.encode_image(crop)
                text_e = checkpoint.model.encode_text(ids, mask)[0, 0].double()
            expected = [
                sum(float(a) * float(b) for a, b in zip(patch.double(), text_e, strict=True))
                for line in patch_e[0]
                for patch in line
            ]
            assert len(expected) == 49
            assert found.cosines[name][i] == pytest.approx(expected, abs=1e-6)


def test_ranks_means_and_deviations_are_those_of_loops() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, (5, 6))
    got = curve(values)
    table = [sorted(map(float, row), reverse=True) for row in values]
    for rank in range(6):
        column = [row[rank] for row in table]
        mean = sum(column) / 5
        deviation = math.sqrt(sum((x - mean) ** 2 for x in column) / 5)
        assert got["mean"][rank] == pytest.approx(mean, abs=1e-12)
        assert got["sd"][rank] == pytest.approx(deviation, abs=1e-12)
    assert got["n"] == 5


def test_a_sum_of_zero_or_less_is_counted_and_left_out() -> None:
    kept = [[0.5, 0.25, 0.25], [0.75, -0.25, 0.5]]
    out = [[0.5, -0.5, 0.0], [-0.25, -0.25, 0.25]]
    assert shares(np.array([kept[0], *out, kept[1]])).tolist() == kept  # both already sum to 1
    similarity = Similarity(
        (2, 3, 4, 5), {"regularized": np.array([*kept, *out]), "unregularized": np.array(out * 2)}
    )
    found = curves(similarity)
    assert [found["figure5"][name]["n"] for name in NAMES] == [4, 4]
    assert [found["figure6"][name]["n"] for name in NAMES] == [2, 0]
    assert [found["figure6"][name]["left_out_sum_not_positive"] for name in NAMES] == [2, 4]
    assert found["figure6"]["regularized"]["mean"] == pytest.approx([0.625, 0.375, 0.0])
    assert found["figure6"]["unregularized"]["mean"] is None


def test_the_command_writes_what_it_draws_and_draws_it_again(
    twins: tuple[Path, Path], manifest: Path, tmp_path: Path
) -> None:
    done = _command(twins, manifest, tmp_path / "a", "--pairs", "5")
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "a/similarity.json").read_text())
    assert facts["pairs"] == {"asked": 5, "found": 5, "refused_images": 0}
    assert facts["dataset"]["split"] == "test"
    assert [len(m["checkpoint_sha256"]) for m in facts["models"]] == [64, 64]
    with (tmp_path / "a/similarity.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert [row[:2] for row in rows[1:]] == [[n, x] for n in NAMES for x in "23567"]
    table = np.array([row[2:] for row in rows[1:6]], float)
    assert facts["figure5"]["regularized"]["mean"] == pytest.approx(
        (-np.sort(-table, axis=1)).mean(axis=0), abs=1e-12
    )
    again = CliRunner().invoke(
        figures, ["similarity", "--from", f"{tmp_path}/a", "-o", f"{tmp_path}/b"]
    )
    assert again.exit_code == 0, again.output
    assert again.stdout == done.stdout
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    for name in ("figure5.png", "figure6.png"):
        with Image.open(tmp_path / "a" / name) as picture:
            assert picture.info["Software"] == "tier-infer"  # never scored as a film


def test_fewer_pairs_than_asked_for_are_said(
    twins: tuple[Path, Path], manifest: Path, tmp_path: Path
) -> None:
    done = _command(twins, manifest, tmp_path / "a")
    facts = json.loads((tmp_path / "a/similarity.json").read_text())
    frontal = [row for row in truth_of(manifest) if row["text"] and row["view"] == "PA"]
    assert len(frontal) == 11, "of 16 rows four have no text and one is lateral"
    assert facts["pairs"] == {"asked": 160, "found": 11, "refused_images": 0}
    assert done.stdout.splitlines()[1].startswith("regularized,figure5,11,0,")


def test_a_bad_image_stops_or_is_left_out_and_counted(
    twins: tuple[Path, Path], manifest: Path, tmp_path: Path
) -> None:
    for row in truth_of(manifest):
        path = tmp_path / row["image_path"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((manifest.parent / row["image_path"]).read_bytes())
    (tmp_path / "manifest.csv").write_bytes(manifest.read_bytes())
    (tmp_path / "films/1.png").write_bytes(b"no picture")
    stopped = _command(twins, tmp_path / "manifest.csv", tmp_path / "a", "--pairs", "3")
    assert stopped.exit_code == 2
    assert "line 3, films/1.png" in stopped.stderr
    done = _command(twins, tmp_path / "manifest.csv", tmp_path / "a", "--pairs", "3", "--skip-bad")
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "a/similarity.json").read_text())
    assert facts["pairs"] == {"asked": 3, "found": 2, "refused_images": 1}


def test_a_dataset_without_reports_is_refused(
    twins: tuple[Path, Path], manifest: Path, tmp_path: Path
) -> None:
    rows = truth_of(manifest)
    mute = manifest.with_name("mute.csv")
    with mute.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"text": ""} for row in rows)
    done = _command(twins, mute, tmp_path / "a")
    assert done.exit_code == 2
    assert "has no frontal image with a report" in done.stderr
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--split", "val"), "has no split 'val'; it has test"),
        (("--from", "{manifest}"), "leave theirs out"),
    ],
)
def test_what_is_not_there_is_refused(
    twins: tuple[Path, Path], manifest: Path, tmp_path: Path, more: tuple[str, ...], words: str
) -> None:
    filled = [word.format(manifest=manifest.parent) for word in more]
    done = _command(twins, manifest, tmp_path / "a", *filled)
    assert done.exit_code == 2
    assert words in done.stderr


def test_neither_checkpoints_nor_a_folder_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(figures, ["similarity", "-o", str(tmp_path / "a")])
    assert done.exit_code == 2
    assert "or --from DIR" in done.stderr


@pytest.mark.parametrize(
    "body",
    [
        "",
        "model,line,patch_0\n",
        "model,line,patch_0\nregularized,2,0.5\n",
        "model,line,patch_0\nregularized,2,0.5\nunregularized,3,0.5\n",
        "model,line,patch_0\nregularized,2,nan\nunregularized,2,0.5\n",
        "model,line,patch_0\nregularized,2,0.5\nunregularized,2,x\n",
        "model,line,patch_0\nregularized,2,0.5\nunregularized,2,0.5,0.5\n",
        "a,b,c\nregularized,2,0.5\nunregularized,2,0.5\n",
    ],
)
def test_a_table_of_another_kind_is_refused(tmp_path: Path, body: str) -> None:
    path = tmp_path / "similarity.csv"
    path.write_text(body)
    with pytest.raises(UsageError, match="is not what `tier-train figures similarity"):
        read(path)
