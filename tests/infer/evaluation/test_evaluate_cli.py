"""python -m pytest tests/infer/evaluation/test_evaluate_cli.py -- `evaluate` as users type it."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.infer.tiny_bundle import write_bundle
from tier_infer.cli import main
from tier_infer.evaluation.scores import read_scores

BIN = Path(sys.executable).parent
TEST, VALID = 24, 16
Evaluate = Callable[..., Result]
COLUMNS = ("image_path", "patient_id", "study_id", "split", "ward", "Bright", "Dark")


def write_manifest(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path


def draw(folder: Path, number: int) -> str:
    """The higher the number, the lighter the picture, on both sides of a slope."""
    slope = np.linspace(-40, 40, 128)
    pixels = np.tile(slope + 60 + 3 * number, (128, 1))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03d}.png")
    return f"{number:03d}.png"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mine.csv, radiologists/ and two bundles. The lighter pictures are `bright`."""
    folder = tmp_path_factory.mktemp("place")
    write_bundle(folder / "bundle", "small-112")
    write_bundle(folder / "again", "small-112")
    rows = []
    for i in range(TEST + VALID):
        split = "test" if i % 5 < 3 else "valid"
        bright = int(i > 20)
        rows.append((draw(folder, i), f"PATIENT{i}", f"PATIENT{i}/STUDY1", split, "NS"[i % 2],
                     bright, 1 - bright))  # fmt: skip
    write_manifest(folder / "mine.csv", rows)
    (folder / "radiologists").mkdir()
    for k, name in enumerate(("bc4", "bc6")):
        with (folder / "radiologists" / f"{name}.csv").open("w", newline="") as file:
            read = [("Study", "Dark", "Bright")]
            read += [(row[2], row[6] ^ (i % (5 + k) == 0), row[5]) for i, row in enumerate(rows)]
            csv.writer(file).writerows(read)
    return folder


@pytest.fixture
def evaluate(place: Path, runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """In that folder; however it ends, not with a traceback."""
    monkeypatch.chdir(place)

    def run(*args: object) -> Result:
        result = runner.invoke(main, ["evaluate", *map(str, args)])
        assert "Traceback" not in result.output
        return result

    return run


DATA = ("--dataset", "manifest:mine.csv")


def test_everything_at_once(evaluate: Evaluate, tmp_path: Path) -> None:
    first = evaluate("again", *DATA, "--split", "test", "--draws", 0, "-o", tmp_path / "other")
    assert first.exit_code == 0
    args = (
        "bundle", *DATA, "--split", "test", "--validation", "valid", "--group-by", "ward",
        "--radiologists", "radiologists", "--against", tmp_path / "other", "--draws", 50,
        "--protocol", "study_mean", "--plots", "-o", tmp_path / "out",
    )  # fmt: skip
    shown = evaluate(*args)
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout == (tmp_path / "out/report.md").read_text()
    assert "24 images" in shown.stderr
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {
        "plan.json", "scores.csv", "validation", "report.json", "report.csv", "report.md",
        "roc.png", "reliability.png", "decisions.png",
    }  # fmt: skip
    again = evaluate(*args, "--json")
    assert again.stdout == (tmp_path / "out/report.json").read_text()
    assert "24 of 24 images were scored before" in again.stderr
    report = json.loads(again.stdout)
    assert report["schema"] == "tier-evaluate/1"
    assert report["protocol"] == {"name": "study_mean", "units": TEST, "left_out": {}}
    bright = report["auc"]["labels"][0]
    assert (bright["label"], bright["n"], bright["auc"]) == ("bright", TEST, 1.0)
    assert report["comparison"]["images"]["of_same_pixels"] == TEST
    assert [row["max_dz"] for row in report["comparison"]["labels"]] == [0, 0]
    perfect = report["radiologists"]["readers"][0]["labels"]["bright"]["mcc"]
    assert perfect["value"] == pytest.approx(1)
    for text in (shown.output, again.output, (tmp_path / "out/report.csv").read_text()):
        assert "PATIENT" not in text
        assert "STUDY1" not in text


def test_a_csv_alone_is_a_manifest(evaluate: Evaluate) -> None:
    short = evaluate("mine.csv", "--draws", 20, "--json")
    long = evaluate(*DATA, "--bundle", "bundle", "--draws", 20, "--json")
    assert short.exit_code == long.exit_code == 0
    assert short.stdout == long.stdout
    assert evaluate("mine.csv", *DATA).exit_code == 2


def test_labels_and_seed(evaluate: Evaluate) -> None:
    one = evaluate("mine.csv", "--labels", "dark,dark", "--draws", 20, "--json")
    other = evaluate("mine.csv", "--labels", "dark", "--draws", 20, "--json", "--seed", 1)
    found = [json.loads(x.stdout)["auc"] for x in (one, other)]
    assert [row["label"] for row in found[0]["labels"]] == ["dark"]
    assert found[0]["mean"] == found[1]["mean"]
    assert (found[0]["seed"], found[1]["seed"]) == (0, 1)
    named = evaluate("mine.csv", "--queries", "light", "--labels", "dark", "--draws", 20, "--json")
    assert named.stdout == one.stdout


def test_exit_codes_tell_what_was_scored(evaluate: Evaluate, place: Path, tmp_path: Path) -> None:
    rows = [(str(place / f"{i:03d}.png"), "", "", "test", "", i % 2, 0) for i in range(4)]
    gone = [("gone.png", "", "", "test", "", 1, 0)]
    some = write_manifest(tmp_path / "some.csv", rows + gone)
    none = write_manifest(tmp_path / "none.csv", gone)
    for path, code, scored in ((some, 8, 4), (none, 3, 0)):
        found = evaluate(path, "--bundle", "bundle", "--draws", 0, "--json")
        assert found.exit_code == code
        assert json.loads(found.stdout)["images"]["scored"] == scored
        assert "1 images failed missing" in found.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "needs --dataset"),
        (("bundle",), "needs --dataset"),
        (("--dataset", "xray:here"), "--dataset takes chexpert:ROOT"),
        ((*DATA, "--radiologists", "radiologists"), "add --validation"),
        ((*DATA, "--plots"), "add -o DIR"),
        ((*DATA, "--group-by", "age"), "no column 'age' to group by; it has"),
        ((*DATA, "--protocol", "median"), "'median' is not one of 'per_image', 'first_frontal'"),
        ((*DATA, "--split", "night"), "night"),
        ((*DATA, "--split", "test", "--validation", "test"), "share 24 patients and 24 images"),
        ((*DATA, "--validation", "valid"), "share 16 patients and 16 images; add --split test"),
        ((*DATA, "--labels", "nodule"), "nodule"),
        ((*DATA, "--labels", " , "), "--labels names no label"),
        ((*DATA, "--queries", "heavy"), "'heavy' is not in the bundle; it has light"),
        ((*DATA, "--against", "mine.csv"), "is no scores.csv of an evaluation"),
        ((*DATA, "--against", "nowhere"), "does not exist"),
        ((*DATA, "--draws", "-1"), "-1 is not in the range"),
        ((*DATA, "-o", "radiologists"), "files that no evaluation wrote"),
        ((*DATA, "-o", "mine.csv"), "is a file"),
    ],
)
def test_what_can_not_be_done_is_refused(
    evaluate: Evaluate, args: tuple[str, ...], said: str
) -> None:
    result = evaluate(*args)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_pictures_of_another_protocol_do_not_stay(evaluate: Evaluate, tmp_path: Path) -> None:
    args = (*DATA, "--split", "test", "--draws", 0, "-o", tmp_path)
    assert evaluate(*args, "--validation", "valid", "--plots").exit_code == 0
    assert (tmp_path / "decisions.png").exists()
    assert evaluate(*args, "--protocol", "study_mean").exit_code == 0
    assert not list(tmp_path.glob("*.png"))
    assert "study_mean" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("split", "said"),
    [("test", "split test; none of its images"), ("train", "split train, its training images"),
     (None, "all of it, training images included")],
)  # fmt: skip
def test_a_bundle_says_that_it_was_trained_on_the_table(
    place: Path, evaluate: Evaluate, tmp_path: Path, split: str | None, said: str
) -> None:
    write_bundle(tmp_path / "seen", "small-112", training_data=f"b.csv, {place.name}/mine.csv")
    rows = [(str(place / f"{i:03d}.png"), "", "", ("test", "train")[i % 2], "", i // 2 % 2, 0)
            for i in range(8)]  # fmt: skip
    (tmp_path / place.name).mkdir()
    table = write_manifest(tmp_path / place.name / "mine.csv", rows)
    args = ("--dataset", f"manifest:{table}", "--draws", 0, *(("--split", split) * bool(split)))
    shown = evaluate(tmp_path / "seen", *args)
    expected = f"a checkpoint was trained on {place.name}/mine.csv, the table that is evaluated"
    for text in (shown.stderr, shown.stdout):
        assert expected in text
        assert said in text
    assert "| trained on " in shown.stdout
    assert "a checkpoint was trained" not in evaluate("bundle", *args).output


def test_laterals_are_cautioned_where_they_are_counted(
    place: Path, evaluate: Evaluate, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "frontal", "small-112", views=("frontal",))
    with (tmp_path / "v.csv").open("w", newline="") as file:
        rows = [(str(place / f"{i:03d}.png"), f"S{i // 2}", ("PA", "LL")[i % 2], i // 2 % 2, "")
                for i in range(8)]  # fmt: skip
        csv.writer(file).writerows([("image_path", "study_id", "view", "Bright", "Dark"), *rows])
    args = ("--dataset", f"manifest:{tmp_path / 'v.csv'}", "--draws", 0)
    said = "trained on frontal images; 4 images of the dataset are lateral"
    found = evaluate(tmp_path / "frontal", *args)
    assert said in found.stderr
    assert said in found.stdout
    for protocol in ("first_frontal", "study_mean"):
        assert said not in evaluate(tmp_path / "frontal", *args, "--protocol", protocol).output
    assert said not in evaluate("bundle", *args).output


def test_labels_without_truth_are_named(place: Path, evaluate: Evaluate, tmp_path: Path) -> None:
    with (tmp_path / "one.csv").open("w", newline="") as file:
        rows = [(str(place / f"{i:03d}.png"), i % 2) for i in range(4)]
        csv.writer(file).writerows([("image_path", "Dark"), *rows])
    args = ("--dataset", f"manifest:{tmp_path / 'one.csv'}", "--draws", 0)
    said = "no truth for 1 of the set's 2 labels: bright"
    assert said in evaluate("bundle", *args).stdout
    assert said not in evaluate("bundle", *args, "--labels", "dark").stdout


def test_a_folder_of_another_split_is_refused(evaluate: Evaluate, tmp_path: Path) -> None:
    assert evaluate(*DATA, "--split", "test", "--draws", 0, "-o", tmp_path).exit_code == 0
    before = (tmp_path / "report.json").read_bytes()
    result = evaluate(*DATA, "--split", "valid", "--draws", 0, "-o", tmp_path)
    assert result.exit_code == 2
    assert "its dataset differs" in result.stderr
    assert (tmp_path / "report.json").read_bytes() == before


def test_a_killed_run_goes_on_to_the_same_files(
    evaluate: Evaluate, place: Path, tmp_path: Path
) -> None:
    rows = []
    for i in range(400):
        (tmp_path / f"{i}.png").symlink_to(place / f"{i % 40:03d}.png")
        rows.append((f"{i}.png", "", "", "test", "", int(i % 40 > 20), int(i % 3 == 0)))
    table = write_manifest(tmp_path / "many.csv", rows)
    args = (str(table), "--bundle", str(place / "bundle"), "--draws", "20", "-o")
    assert evaluate(*args, tmp_path / "whole").exit_code == 0
    scores = tmp_path / "killed" / "scores.csv"
    child = subprocess.Popen(
        [str(BIN / "tier-infer"), "evaluate", *args, str(scores.parent)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while child.poll() is None and (not scores.exists() or scores.stat().st_size < 3000):
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert 0 < scores.stat().st_size < (tmp_path / "whole/scores.csv").stat().st_size
    assert not (scores.parent / "report.json").exists()
    assert evaluate(*args, scores.parent).exit_code == 0
    for name in ("scores.csv", "plan.json", "report.json", "report.csv", "report.md"):
        assert (scores.parent / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_pytorch_and_the_bundle_say_the_same(site: Path, tmp_path: Path) -> None:
    """One command shows it: the bundle's evaluation against PyTorch's scores."""
    data = ["--dataset", "manifest:manifest.csv", "--split", "test", "--draws", "100"]

    def run(*args: str) -> str:
        done = subprocess.run(
            [str(BIN / args[0]), *args[1:]], cwd=site, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    pytorch, bundle = tmp_path / "pytorch", tmp_path / "bundle"
    run("tier-train", "evaluate", "ckpt.pt", *data, "--threads", "1", "-o", str(pytorch))
    shown = run("tier-infer", "evaluate", "bundle", *data, "--device", "cpu", "--precision", "fp32",
                "--against", str(pytorch), "-o", str(bundle), "--json")  # fmt: skip
    a, b = read_scores(pytorch), read_scores(bundle)
    assert a.paths == b.paths
    assert a.labels == b.labels
    assert a.scored.all()
    assert b.scored.all()
    assert np.abs(a.z - b.z).max() < 1e-5
    compared = json.loads(shown)["comparison"]
    assert set(compared["same"].values()) == {True}  # prompts and checkpoints, too
    assert compared["images"]["of_same_pixels"] == len(a.paths)
    for row in compared["labels"]:
        assert row["auc"] == pytest.approx(row["auc_there"], abs=1e-12)
        assert row["decisions"]["flips"] == 0
