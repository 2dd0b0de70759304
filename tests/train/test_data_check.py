"""python -m pytest tests/train/test_data_check.py -- what check counts, and both commands whole."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.train.mimic_tree import LABELS, STUDIES, image_path, picture, plain, write_tree
from tier_infer.errors import UsageError
from tier_train.cli import main
from tier_train.data import data_check
from tier_train.data.datasets import guess_spec, open_dataset
from tier_train.recipe import Recipe

ALL = STUDIES + plain(40)
SECRETS = [str(v) for s in ALL for v in (s.subject, s.number, s.dicom(0))]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("mimic") / "root", ALL)


@pytest.fixture
def site(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the tree as ./root, to be damaged."""
    shutil.copytree(tree, tmp_path / "root")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _data(*args: object) -> Result:
    result = CliRunner().invoke(main, ["data", *map(str, args)])
    assert "Traceback" not in result.output
    assert not any(secret in result.output for secret in SECRETS)
    return result


def _json(*args: object, code: int = 0) -> dict[str, Any]:
    result = _data("check", *args, "--json")
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def _refused(result: Result, words: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert re.search(words, result.stderr), result.stderr


def test_everything_is_counted(site: Path) -> None:
    found = _json("root", "--set", "split_by=official", code=2)
    assert found["dataset"]["kind"] == "mimic"
    assert found["ready"] is False, "18 training pairs, the paper's batches have 32"
    assert found["pairs"] == 46
    assert found["left_out"] == {
        "no row in the chexpert table": 1,
        "no report": 1,
        "empty impression": 2,
    }
    assert (found["missing"], found["decoded"]) == (0, 46)
    assert found["views"] == {"frontal": 43, "lateral": 3}
    # plain: 40 patients, 14 train, 13 val, 13 test; traps: 3 patients and 4 images train
    assert found["splits"] == {
        "train": {"pairs": 18, "patients": 17},
        "val": {"pairs": 14, "patients": 14},
        "test": {"pairs": 14, "patients": 14},
    }
    assert list(found["labels"]) == list(LABELS)
    assert found["labels"]["Edema"] == {"positive": 23, "negative": 20, "unknown": 3}
    assert found["labels"]["Pneumonia"] == {"positive": 0, "negative": 0, "unknown": 46}


def test_the_text_says_the_same(site: Path) -> None:
    result = _data("check", "root", "--set", "batch_size=8")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("root (mimic), sha256 ")
    assert lines[1:3] == ["pairs     46", "views     frontal 43, lateral 3"]
    assert re.fullmatch(r"splits    train \d+ of \d+ patients, val \d+ of \d+ patients", lines[3])
    assert "left out  2: empty impression" in lines
    assert f"{'Edema':<26}        23        20         3" in lines
    at = lines.index("note      line 4: no report (1 images, left out)")
    assert lines[at + 1].startswith("          → unpack mimic-cxr-reports.zip")
    assert lines[-1] == "ready to train on"


def test_missing_and_corrupt_images_stop_a_run(site: Path) -> None:
    for i, study in enumerate(plain(9)):
        path = image_path(site / "root", study)
        if i < 6:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:300])
    found = _json("root", "--set", "batch_size=8", code=2)
    assert (found["missing"], found["decoded"]) == (6, 40)
    stops = [problem for problem in found["problems"] if problem["stops"]]
    assert len(stops) == 9
    assert stops[0]["what"] == "line 12 of the metadata table: no such file"
    assert "can't be decoded" in stops[6]["what"]
    result = _data("check", "root", "--set", "batch_size=8")
    assert result.exit_code == 2
    assert result.stdout.count("problem   ") == 5, "the first five"
    assert "… and 7 more; --json lists all" in result.stdout
    assert result.stdout.splitlines()[-1] == "not ready: 9 problems to mend first"


def test_the_recipe_decides_what_a_pair_is(site: Path) -> None:
    assert _json("root", "--recipe", "released_code", code=0)["left_out"]["empty impression"] == 2
    frontal = _json("root", "--set", "views=frontal")
    assert frontal["left_out"]["lateral view"] == 3
    assert frontal["views"] == {"frontal": 43}
    assert _json("root", "--set", "impressions=chexzero")["pairs"] == 47


def test_a_manifest_is_checked_line_by_line(site: Path) -> None:
    Image.fromarray(picture(0)).save(site / "a.png")
    (site / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    head = "image_path,patient_id,split,text,view,intensity,Edema\n"
    rows = "a.png,p,train,x,PA,minmax,1\nno.png,q,train,x,,minmax,\nbad.png,r,val,y,LL,minmax,0\n"
    (site / "manifest.csv").write_text(head + rows)
    for place in (".", "manifest.csv", "manifest:manifest.csv"):
        found = _json(place, "--set", "batch_size=2", code=2)
        assert [problem["what"].split(":")[0] for problem in found["problems"]] == [
            "line 3, no.png",
            "line 4, bad.png",
            "1 training pairs are fewer than the recipe's batch_size, 2",
        ]
    assert found["views"] == {"frontal": 1, "lateral": 1}


def test_chexpert_is_ready_to_validate_on(site: Path) -> None:
    path = site / "valid/patient1/study1/view1_frontal.jpg"
    path.parent.mkdir(parents=True)
    Image.fromarray(picture(0)).save(path)
    (site / "valid.csv").write_text(
        "Path,Edema\nCheXpert-v1.0/valid/patient1/study1/view1_frontal.jpg,1\n"
    )
    assert _data("check", "valid.csv").stdout.splitlines()[-1] == "ready to validate on"


def test_a_cache_is_compared_with_its_digests(site: Path) -> None:
    result = _data("cache", "root", "-o", "cache", "--recipe", "small", "--workers", "1")
    assert result.exit_code == 0, result.output
    assert "next: tier-train run --data cache:cache" in result.stdout
    small = ("--recipe", "small", "--set", "batch_size=8")
    assert _json("cache", *small)["pairs"] == 46
    told = _data("check", "cache", *small).stdout
    assert "note      left out, no report: 1 (first: line 4)" in told
    pixels = site / "cache/pixels-00000.u8"
    pixels.write_bytes(pixels.read_bytes()[:-1] + b"\0")
    found = _json("cache:cache", *small, code=2)
    assert "pixels-00000.u8 is not as written" in found["problems"][0]["what"]
    assert _data("cache", "root", "-o", "cache", "--recipe", "small").exit_code == 0
    assert _json("cache", *small)["ready"]


def test_the_cache_command_takes_the_recipe_of_the_paper(site: Path) -> None:
    result = _data("cache", "root", "-o", "cache", "--workers", "2")
    assert result.exit_code == 0, result.output
    asked = "--recipe paper --set image_file=FILE --set text_folder=DIR"
    assert result.stdout.strip().endswith(asked), "what run will ask for"
    plan = json.loads((site / "cache/plan.json").read_bytes())
    assert plan["resized"]["resize"] == 256
    assert plan["recipe"]["impressions"] == "mimic"
    assert "left out, no report: 1 (first: line 4)" in result.stderr
    assert _data("cache", "root", "-o", "c96", "--size", "96").exit_code == 0
    assert json.loads((site / "c96/plan.json").read_bytes())["resized"]["resize"] == 96
    args = ("--recipe", "released_code", "--set", "views=frontal")
    assert _data("cache", "mimic:root", "-o", "released", *args).exit_code == 0
    recipe = json.loads((site / "released/plan.json").read_bytes())["recipe"]
    assert recipe == {"impressions": "tier", "split_by": "released_code", "views": "frontal"}


def test_skip_bad_leaves_more_than_a_twentieth_out(site: Path) -> None:
    for study in plain(3):
        image_path(site / "root", study).write_bytes(b"\xff\xd8\xff")
    args = ("cache", "root", "-o", "cache", "--size", "64")
    _refused(_data(*args), r"3 of 46 images are refused, more than 5%.*--skip-bad")
    result = _data(*args, "--skip-bad")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("wrote 43 pictures to cache")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["check"], "Missing argument"),
        (["check", "nowhere"], "no file or folder nowhere"),
        (["check", "."], r"holds no mimic-cxr-2\.\*-metadata\.csv\[\.gz\], no manifest\.csv"),
        (["check", "mimic:nowhere"], "no folder nowhere"),
        (["check", "mimic:root,reports=nowhere"], "no folder nowhere"),
        (["check", "cache:root"], r"holds no cache\.json"),
        (["check", "root", "--recipe", "nope"], "neither packaged"),
        (["check", "root", "--set", "impresions=tier"], "did you mean impressions"),
        (["check", "root", "--set", "impressions=chexpert"], "allowed: mimic, tier, chexzero"),
        (["check", "root", "--yaml"], "No such option"),
        (["cache", "root"], "Missing option '-o'"),
        (["cache", "root", "-o", "root"], "-o root is not empty and holds no cache"),
        (["cache", "root", "-o", "c", "--size", "8"], "not in the range"),
        (["cache", "root", "-o", "c", "--workers", "0"], "not in the range"),
        (["cache", "root", "-o", "c", "--recipe", "nope"], "neither packaged"),
        (["cache", "root", "-o", "c", "--set", "split_by=chance"], "allowed: patients"),
        (
            ["cache", "root", "-o", "c", "--size", "64", "--set", "geometry=medclip-224"],
            "--size is a short side",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_option_is_a_sentence(site: Path, args: list[str], words: str) -> None:
    _refused(_data(*args), words)
    assert not (site / "c").exists()


def test_a_cache_of_a_cache_is_refused(site: Path) -> None:
    assert _data("cache", "root", "-o", "one", "--size", "64").exit_code == 0
    _refused(_data("cache", "one", "-o", "two"), "is a cache already")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("x.csv", r"--data takes manifest:FILE\.csv, mimic:ROOT.*got 'x\.csv'"),
        ("manifest:", "--data takes manifest"),
        ("xrv:x.csv", "cache:DIR or chexpert:FILE"),
        ("manifest:no.csv", r"no file no\.csv"),
        ("chexpert:.", "no file ."),
    ],
)
def test_an_unknown_kind_names_the_kinds(spec: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        open_dataset(spec, Recipe())


def test_a_place_is_what_it_holds(site: Path) -> None:
    assert guess_spec("root") == "mimic:root"
    (site / "v.csv").write_text("Path,Edema\n")
    (site / "m.csv").write_text("image_path,Edema\n")
    assert [guess_spec(name) for name in ("v.csv", "m.csv")] == ["chexpert:v.csv", "manifest:m.csv"]
    assert guess_spec("chexpert:m.csv") == "chexpert:m.csv"


def test_large_datasets_are_decoded_here_and_there(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_check, "DECODED", 10)
    assert _json("root")["decoded"] == 10  # every fifth of 46


def test_debug_shows_the_error(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["tier-train", "--debug"])
    for args in (["check", "nowhere"], ["cache", "nowhere", "-o", "c"]):
        result = CliRunner().invoke(main, ["data", *args, "--debug"])
        assert isinstance(result.exception, UsageError)
