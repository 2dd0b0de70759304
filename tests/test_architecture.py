"""python -m pytest tests/test_architecture.py -- the promises of the layout, as tests."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tier_infer import wire

ROOT = Path(__file__).parent.parent
WALL = """
import sys
FORBIDDEN = {"torch", "transformers", "onnx", "onnxscript", "sklearn", "tokenizers", "matplotlib",
             "tier_train", "tier_export"}
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} is behind the wall")
sys.meta_path.insert(0, Wall())
from tier_infer.cli import main
main()
"""


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The three packages and their contracts, to be broken."""
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    for package in ("tier_infer", "tier_train", "tier_export"):
        for path in (ROOT / package).rglob("*.py"):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return tmp_path


def test_the_import_contracts_hold(checkout: Path) -> None:
    done = lint_imports(checkout)
    assert done.returncode == 0, done.stdout
    assert "3 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("tier_infer/scoring.py", "import torch"),
        ("tier_infer/dicom/read.py", "import torch"),
        ("tier_infer/metrics.py", "def late():\n    from sklearn import metrics"),
        ("tier_infer/bundle.py", "import tier_train.loss"),
        ("tier_infer/engine.py", "def late():\n    import tokenizers"),  # sentences.py alone may
        ("tier_infer/sentences.py", "def late():\n    import transformers"),
        ("tier_train/train.py", "import tier_export.parity"),
        ("tier_train/model.py", "import onnx"),
    ],
)
def test_a_forbidden_import_breaks_them(checkout: Path, file: str, line: str) -> None:
    path = checkout / file
    path.write_text(f"{path.read_text()}\n{line}\n")
    done = lint_imports(checkout)
    assert done.returncode != 0
    assert "BROKEN" in done.stdout


def test_a_study_is_scored_behind_an_import_wall(site: Path) -> None:
    command = [sys.executable, "-c", WALL, "study.dcm", "--json", "--labels", "edema"]
    done = subprocess.run(command, cwd=site, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["studies"][0]["images"][0]["status"] == "scored"


LISTING = """
import atexit, sys
atexit.register(lambda: print("MODULES", *sorted(sys.modules), file=sys.stderr))
from tier_infer.cli import main
main()
"""
# What reads files belongs to the child; what trains belongs nowhere near.
READING = {"pydicom", "jpeg_ls", "imagecodecs", "zipfile", "tier_infer.images", "tier_infer.dicom"}
TRAINING = {"torch", "transformers", "onnx", "onnxscript", "sklearn", "tokenizers", "matplotlib"}


def modules_after(site: Path, *args: str) -> set[str]:
    command = [sys.executable, "-c", LISTING, *args]
    done = subprocess.run(command, cwd=site, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("MODULES"))
    return set(line.split()[1:])


@pytest.mark.parametrize("option", [(), ("--json",), ("--heatmaps",), ("--report",), ("--zip",)])
def test_the_process_with_the_model_parses_no_input(
    site: Path, tmp_path: Path, option: tuple[str, ...]
) -> None:
    study, args = "study.dcm", list(option)
    if option == ("--heatmaps",):
        args.append(str(tmp_path / "heat"))
    elif option == ("--report",):
        args.append(str(tmp_path / "page.html"))
    elif option == ("--zip",):
        args, study = [], str(tmp_path / "study.zip")
        with zipfile.ZipFile(study, "w") as archive:
            archive.write(site / "study.dcm", "study.dcm")
    loaded = modules_after(site, study, *args)
    assert not loaded & TRAINING
    assert not loaded & (READING - {"zipfile"})
    if not args:  # Pillow's fonts and importlib.metadata want zipfile for packages, not for inputs
        assert "tier_infer.archive" not in loaded


def test_help_loads_neither_engine_nor_reader(site: Path) -> None:
    loaded = modules_after(site, "--help")
    assert not loaded & {*TRAINING, *READING, "onnxruntime", "tier_infer.report.page"}


@pytest.fixture(scope="module")
def query(site: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments that ask a sentence of a bundle with its text tower."""
    from tests.spoken import speaking  # imports what trains

    bundle = speaking(site, tmp_path_factory.mktemp("speaking") / "bundle")
    return ["study.dcm", "--bundle", str(bundle), "--query", "Edema.", "--against", "No edema."]


def test_a_sentence_loads_its_tokenizer_and_nothing_of_training(
    site: Path, query: list[str]
) -> None:
    loaded = modules_after(site, *query)
    assert "tokenizers" in loaded
    assert not loaded & ({*TRAINING, *READING, "huggingface_hub", "ssl"} - {"tokenizers"})


def test_no_socket_is_opened(site: Path, query: list[str]) -> None:
    """Neither by the process with the model nor by the child that reads."""
    hook = "import sys; sys.addaudithook(lambda e, a: e.startswith('socket') and sys.exit(99))\n"
    for args in (["study.dcm"], query):
        command = [sys.executable, "-c", hook + "from tier_infer.cli import main; main()", *args]
        done = subprocess.run(command, cwd=site, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    child = [sys.executable, "-c", hook + "from tier_infer.reader_child import main; main()"]
    asked = wire.request(
        path="study.dcm",
        display=True,
        intensity="mimic-jpg",
        seconds=20.0,
        high_byte=False,
    )
    answered = subprocess.run(
        [*child, str(2**30)], cwd=site, input=asked, capture_output=True, check=False
    )
    assert answered.returncode == 0
    assert b'"view": "PA"' in answered.stdout[:10_000]


def test_the_wheel_holds_three_packages_and_their_data(tmp_path: Path) -> None:
    """Built from the files that git knows or would add, as a clone would have them."""
    source, listing = tmp_path / "source", ("ls-files", "-co", "--exclude-standard", "-z")
    listed = subprocess.run(["git", *listing], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file() and name.split("/")[0] not in ("tests", "benchmarks"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "-q", "--wheel", "--no-isolation"]
    subprocess.run([*build, "--outdir", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    top = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"tier_infer", "tier_train", "tier_export"}
    for data in ("tier_infer/label_sets/chexpert.toml", "tier_train/recipes/small.toml"):
        assert data in names
    assert {"tier_infer/report/report.css", "tier_infer/report/report.js"} <= names
    assert {n for n in names if n.startswith("tier_infer/chest_template.")}
    assert {"tier_infer/dicom/read.py", "tier_infer/dicom/__init__.py"} <= names
    assert "tier_infer/py.typed" in names
    assert "tier_infer/schema/tier-infer-1.json" in names
    for package in top:  # whatever a module reads beside itself came along
        beside = {path for path in (ROOT / package).rglob("*") if path.is_file()}
        kept = {str(p.relative_to(ROOT)) for p in beside if p.suffix not in (".pyc", "")}
        assert kept <= names


def test_the_base_install_is_the_runtime_alone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = {name.partition(">")[0] for name in project["dependencies"]}
    assert base == {"numpy", "pillow", "pydicom", "click", "pyjpegls"}
    extras = project["optional-dependencies"]
    assert [name.partition(">")[0] for name in extras["cpu"]] == ["onnxruntime"]
    assert [name.partition(">")[0] for name in extras["query"]] == ["tokenizers"]


def test_constraints_name_no_address_and_hash_everything_but_torch() -> None:
    text = (ROOT / "ci/constraints.txt").read_text()
    assert "://" not in text
    pins = [line.split("==")[0] for line in text.splitlines() if "==" in line and line[0] != " "]
    blocks = text.split("\n")
    hashed = {b.split("==")[0] for b in blocks if "==" in b and b.rstrip().endswith("\\")}
    assert set(pins) - hashed == {"torch"}
    assert {"onnxruntime", "onnxruntime-gpu", "numpy", "pydicom", "click", "pillow"} <= hashed
