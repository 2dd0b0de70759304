"""python -m pytest tests/infer/test_auto_device.py -- what auto takes, and what it says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from tests.infer.device_runs import NO_GPU, driver, make_folder, no_gpu
from tier_infer import devices, proof, sessions
from tier_infer.bundle import Bundle, load_bundle
from tier_infer.cli import main
from tier_infer.devices import choice_words, choose
from tier_infer.embeddings import Embeddings, Encoder
from tier_infer.engine import Engine
from tier_infer.errors import DeviceError, IntegrityError, ParityError, TierError, UsageError
from tier_infer.sessions import OnnxEncoder

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("devices"))


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return load_bundle(folder / "bundle")


@pytest.fixture
def run(folder: Path, runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`tier-infer` in that folder, whose own TIER_CACHE is empty."""
    monkeypatch.chdir(folder)

    def ask(*args: object) -> Result:
        return runner.invoke(main, [str(arg) for arg in args])

    return ask


class Shifted:
    """A GPU that computes something else: every embedding is that of the next image."""

    device, precision = "cuda", "fp32"
    identity = {"device": "cuda", "precision": "fp32", "runtime": "none"}  # noqa: RUF012

    def __init__(self, bundle: Bundle) -> None:
        self._encoder = OnnxEncoder(bundle, "cpu", "fp32")

    def encode(self, pixels: NDArray[np.uint8]) -> Embeddings:
        found = self._encoder.encode(pixels)
        return Embeddings(np.roll(found.image, 1, 0), np.roll(found.patches, 1, 0))


# What auto says.


def test_auto_says_what_it_chose_and_why_not_the_others(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_gpu(monkeypatch)
    why = "; ".join(NO_GPU)
    line = f"tier-infer: device cpu, chosen by auto; tensorrt, tensorrt-ep, cuda: {why}\n"
    page = tmp_path / "page.html"
    result = run("study.dcm", "--json", "--report", page)
    assert result.exit_code == 0
    assert result.stderr.startswith(line)
    table = json.loads(result.stdout)
    assert (table["device"], table["precision"]) == ("cpu", "fp32")
    passed_over = dict.fromkeys(("tensorrt", "tensorrt-ep", "cuda"), why)
    assert table["device_choice"] == {"asked": "auto", "passed_over": passed_over}
    schema = json.loads(
        resources.files("tier_infer").joinpath("schema/tier-infer-1.json").read_text()
    )
    jsonschema.validate(table, schema)
    assert "device cpu, chosen by auto; tensorrt, tensorrt-ep, cuda: " in page.read_text()
    for args in (("study.dcm",), ("study.dcm", "--csv"), ("evaluate", "labels.csv", "--draws=0")):
        result = run(*args)
        assert result.exit_code == 0
        assert line in result.stderr
        assert "chosen by auto" not in result.stdout


def test_a_device_by_name_is_no_choice(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = run("study.dcm", "--json", "--device", "cpu", "--report", page)
    assert result.stderr == f"wrote {page}\n"
    assert "device_choice" not in json.loads(result.stdout)
    assert "chosen by auto" not in page.read_text()


def test_scores_are_the_same_whoever_chose(run: Run) -> None:
    one, other = (
        json.loads(run("study.dcm", "--json", "--device", d).stdout) for d in ("auto", "cpu")
    )
    del one["device_choice"]
    assert one == other


def test_equal_reasons_stand_together() -> None:
    words = choice_words(
        "cpu", {"tensorrt": "no engine", "tensorrt-ep": "a CPU build", "cuda": "a CPU build"}
    )
    assert (
        words == "device cpu, chosen by auto; tensorrt: no engine; tensorrt-ep, cuda: a CPU build"
    )
    assert choice_words("tensorrt", {}) == "device tensorrt, chosen by auto"


# What auto takes.


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, TierError]], list[str]]:
    """Devices in the order tried, where some raise; the others are there."""

    def setup(broken: dict[str, TierError]) -> list[str]:
        seen: list[str] = []

        def attempt(bundle: Bundle, device: str, _: str) -> Encoder:
            seen.append(device)
            if device in broken:
                raise broken[device]
            return OnnxEncoder(bundle, "cpu", "fp32")

        monkeypatch.setattr(devices, "open_encoder", attempt)
        return seen

    driver(monkeypatch)
    return setup


def test_auto_takes_the_first_that_is_there(
    tried: Callable[[dict[str, TierError]], list[str]], bundle: Bundle
) -> None:
    order = ("tensorrt", "tensorrt-ep", "cuda", "cpu")
    for count, name in enumerate(order):
        gone = {d: DeviceError(f"device {d} is not available: no {d}") for d in order[:count]}
        seen = tried(dict(gone))
        _, passed_over = choose(bundle, "auto", "auto")
        assert seen == list(order[: count + 1])
        assert seen[-1] == name
        assert passed_over == {d: f"no {d}" for d in gone}


@pytest.mark.parametrize(
    "error", [IntegrityError("changed"), UsageError("unknown"), ParityError("x")]
)
def test_auto_swallows_no_other_error(
    tried: Callable[[dict[str, TierError]], list[str]], bundle: Bundle, error: TierError
) -> None:
    seen = tried({"tensorrt": DeviceError("not there"), "tensorrt-ep": error})
    with pytest.raises(type(error)):
        choose(bundle, "auto", "auto")
    assert seen == ["tensorrt", "tensorrt-ep"]


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_a_gpu_that_computes_something_else_is_no_reason_for_a_cpu(
    run: Run, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    driver(monkeypatch)

    def attempt(opened: Bundle, device: str, _: str) -> Encoder:
        if device == "cuda":
            return Shifted(opened)
        if device == "cpu":
            raise AssertionError("the CPU was asked")
        raise DeviceError("not there")

    monkeypatch.setattr(devices, "open_encoder", attempt)
    result = run("study.dcm", "--json", "--device", asked)
    assert (result.exit_code, result.stdout) == (5, "")
    assert "cuda fp32 does not give the bundle's golden vectors" in result.stderr
    assert "nothing was scored" in result.stderr
    engine = Engine(bundle, asked, unproven=True)  # `doctor` tells how far it is off
    assert engine.device == "cuda"


def test_a_gpu_that_gives_up_ends_the_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    encode = OnnxEncoder.encode
    calls: list[int] = []

    def lost(self: OnnxEncoder, pixels: NDArray[np.uint8]) -> Embeddings:
        calls.append(len(pixels))
        if len(calls) > 1:
            self._session.set_providers(["AzureExecutionProvider", "CPUExecutionProvider"])
        return encode(self, pixels)

    monkeypatch.setattr(OnnxEncoder, "encode", lost)
    monkeypatch.setenv("TIER_CACHE", str(tmp_path / "cache"))
    result = run("study.dcm", "--json")
    assert (result.exit_code, result.stdout) == (6, "")
    assert "AzureExecutionProvider" in result.stderr
    assert len(calls) == 2  # golden vectors, then the study


# The proof.


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    replay = proof.replay
    seen: list[str] = []

    def count(bundle: Bundle, encoder: Encoder, golden: Any) -> Any:
        seen.append(encoder.device)
        return replay(bundle, encoder, golden)

    monkeypatch.setattr(proof, "replay", count)
    return seen


def test_golden_vectors_are_replayed_once_and_remembered(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TIER_CACHE", str(tmp_path / "cache"))
    seen = counted(monkeypatch)
    Engine(bundle, "cpu", unproven=True)
    assert seen == []
    for _ in range(3):
        Engine(bundle, "cpu")
    assert seen == ["cpu"]
    monkeypatch.setattr(sessions, "runtime_version", lambda: "onnxruntime 99")
    Engine(bundle, "cpu")
    Engine(bundle, "cpu")
    assert seen == ["cpu"] * 2


@pytest.mark.skipif(os.name != "posix", reason="rights of a folder mean nothing elsewhere")
def test_a_cache_that_cannot_be_used_costs_a_replay_and_no_score(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    seen = counted(monkeypatch)
    for place in (tmp_path / "file", tmp_path / "file/below", open_to_all):
        monkeypatch.setenv("TIER_CACHE", str(place))
        for _ in range(2):
            assert run("study.dcm", "--device", "cpu", "--json").exit_code == 0
    assert seen == ["cpu"] * 6
    assert list(open_to_all.iterdir()) == []


def test_an_evaluation_names_device_and_engine(run: Run) -> None:
    model = json.loads(run("evaluate", "labels.csv", "--json", "--draws=0").stdout)["model"]
    assert (model["device"], model["precision"]) == ("cpu", "fp32")
    assert model["engine"] == f"onnxruntime {onnxruntime.__version__}"
