"""python -m pytest tests/infer/test_warmup.py -- before the first patient, and what is refused."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.infer.test_proof import Fake, exchanged, replaced_set, reseal
from tests.infer.tiny_bundle import write_bundle
from tier_infer import golden as golden_module
from tier_infer import proof
from tier_infer import warmup as warmup_module
from tier_infer.bundle import load_bundle
from tier_infer.cli.warmup import warmup
from tier_infer.engine import Engine
from tier_infer.errors import DeviceError, IntegrityError, ParityError, TierError, UsageError
from tier_infer.gpu import obstacles
from tier_infer.warmup import Asked, to_json, to_lines, warm_up

no_gpu = pytest.mark.skipif(not obstacles(), reason="this machine has an NVIDIA GPU")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", "small-112", 7)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*args: object) -> Result:
    return CliRunner().invoke(warmup, [str(a) for a in args])


def refused(result: Result, kind: type[TierError], words: str) -> None:
    """The command itself raises; `guarded` turns that into a sentence and its exit code."""
    assert isinstance(result.exception, kind), result.exception
    assert words in str(result.exception)
    assert result.stdout == ""


# On a processor


def test_the_verb(site: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And scoring afterwards replays nothing."""
    from tier_infer.cli import main

    monkeypatch.chdir(site)
    shown = run("--device", "cpu")
    assert shown.exit_code == 0, shown.output
    rows = {line[:11].strip(): line[11:] for line in shown.stdout.splitlines()}
    assert rows["device"].startswith("cpu fp32, opened in ")
    assert "6 golden vectors" in rows["proof"]
    assert f"kept in TIER_CACHE ({own_cache})" in rows["proof"]
    assert rows["one image"].endswith(" ms")
    assert "Research use only" in shown.stdout
    assert "replays the golden vectors" in shown.stderr

    def never(*_: Any) -> None:
        raise AssertionError("replayed")

    monkeypatch.setattr(proof, "replay", never)
    assert CliRunner().invoke(main, ["study.dcm"]).exit_code == 0


@no_gpu
def test_auto_on_a_machine_without_a_gpu_warms_the_cpu_and_says_why(folder: Path) -> None:
    shown = run("--bundle", folder, "--json")
    assert shown.exit_code == 0, shown.output
    told = json.loads(shown.stdout)
    assert (told["schema"], told["device"], told["precision"]) == ("tier-warmup/1", "cpu", "fp32")
    assert list(told["passed_over"]) == ["tensorrt", "tensorrt-ep", "cuda"]
    assert set(told["passed_over"].values()) == {"; ".join(obstacles())}
    assert told["engine"] is None
    assert told["golden"]["max_dz"] <= told["golden"]["allowed_dz"]
    assert told["remembered"] is True
    assert set(told["seconds"]) == {"make", "open", "prove", "image"}
    assert min(told["seconds"].values()) >= 0
    table = run("--bundle", folder).stdout
    assert "device cpu, chosen by auto; tensorrt, tensorrt-ep, cuda: there is no" in table


def test_where_it_lies_is_no_path_of_the_machine(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TIER_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    shown = run("--bundle", folder, "--device", "cpu")
    assert "kept in TIER_CACHE (~/.cache/tier-cxr)" in shown.stdout
    assert "somebody" not in shown.output
    assert (tmp_path / "somebody/.cache/tier-cxr/proofs").is_dir()


def test_it_replays_whatever_is_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = golden_module.replay

    def counted(*args: Any) -> Any:
        seen.append(1)
        return real(*args)

    monkeypatch.setattr(proof, "replay", counted)
    for _ in range(2):
        assert run("--bundle", folder, "--device", "cpu").exit_code == 0
    assert len(seen) == 2


def test_a_bundle_without_vectors(folder: Path, own_cache: Path) -> None:
    reseal(folder, golden={})
    shown = run("--bundle", folder, "--device", "cpu", "--json")
    told = json.loads(shown.stdout)
    assert (told["golden"], told["remembered"]) == (None, False)
    assert "the bundle has no golden vectors" in run("--bundle", folder, "--device", "cpu").stdout


def test_a_replaced_label_set_is_told(folder: Path) -> None:
    set_id = replaced_set(folder)
    shown = run("--bundle", folder, "--device", "cpu")
    assert f"scores of {set_id} not compared: replaced after the export" in shown.stdout


# Refusals


@no_gpu
@pytest.mark.parametrize("device", ["cuda", "tensorrt", "tensorrt-ep"])
def test_a_device_that_is_not_there(site: Path, device: str) -> None:
    """In a process of its own, with the exit code that a script sees."""
    import subprocess
    import sys

    code = (
        "import click, sys\n"
        "from tier_infer.cli.warmup import warmup\n"
        "from tier_infer.guard import guarded\n"
        "ctx = click.Context(warmup)\n"
        "guarded('tier-infer', ctx, lambda: warmup.main(sys.argv[1:], standalone_mode=False))\n"
    )
    args = ["--bundle", str(site / "bundle"), "--device", device]
    done = subprocess.run(
        [sys.executable, "-c", f"import click\ntry:\n  exec({code!r})\n"
         "except click.exceptions.Exit as e: raise SystemExit(e.exit_code)", *args],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 6, done.stderr
    assert done.stdout == ""
    assert f"device {device} is not available: " in done.stderr
    assert "libcuda.so.1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--device", "gpu"], "device 'gpu' is unknown; allowed: auto, cpu, cuda"),
        (["--version-compat"], "name --device tensorrt with them"),
        (["--hardware-compat", "ampere+", "--device", "cpu"], "not about --device cpu"),
        (["--hardware-compat", "same-cc", "--device", "cuda"], "not about --device cuda"),
        (["--version-compat", "--device", "tensorrt-ep"], "not about --device tensorrt-ep"),
        (["--rebuild", "--device", "cpu"], "--rebuild is about TensorRT's engines"),
        (["--rebuild", "--device", "cuda"], "--rebuild is about TensorRT's engines"),
        (["--precision", "int8", "--device", "cpu"], "the bundle has no int8 encoder"),
        (["--bundle", "nowhere"], "no bundle folder at nowhere"),
    ],
)
def test_what_can_not_be_granted(folder: Path, args: list[str], words: str) -> None:
    refused(run("--bundle", folder, *args), UsageError, words)


def test_an_unknown_compatibility() -> None:
    result = run("--hardware-compat", "turing")
    assert result.exit_code == 2
    assert "'none', 'ampere+', 'same-cc'" in result.stderr


def test_an_exchanged_graph(folder: Path, own_cache: Path) -> None:
    exchanged(folder)
    result = run("--bundle", folder, "--device", "cpu")
    refused(result, ParityError, "does not give the bundle's golden vectors")
    assert not (own_cache / "proofs").exists()


def test_a_cache_that_is_open_to_others(folder: Path, own_cache: Path) -> None:
    own_cache.mkdir(mode=0o755)
    refused(run("--bundle", folder, "--device", "cpu"), IntegrityError, 'chmod 700 "$TIER_CACHE"')


def test_a_proof_that_can_not_be_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scoring would go on; the warm-up would have been for nothing."""
    from tier_infer.cache import Cache

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Cache, "write", full)
    result = run("--bundle", folder, "--device", "cpu")
    assert isinstance(result.exception, OSError)
    assert result.exception.filename == "TIER_CACHE"
    assert "every run would replay the golden vectors" in str(result.exception.strerror)
    assert result.stdout == ""


# With a GPU, all but the GPU itself: its engines are stood in for


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine with a GPU. `there`: devices that open; `made`: what was built, with what wish."""
    from tier_infer import devices
    from tier_infer.trt import provider, store

    state = SimpleNamespace(there={"tensorrt"}, made=[], off=0.0)

    def opened(bundle: Any, device: str, precision: str) -> Any:
        if device == "cpu":
            return real(bundle, device, precision)
        if device not in state.there:
            raise DeviceError(f"device {device} is not available: libx.so can't be loaded")
        return Fake(bundle, device, state.off)

    def warm_engine(bundle: Any, precision: str, wish: Any, cache: Any, say: Any, rebuild: bool,
                    **_: Any) -> Any:  # fmt: skip
        if "tensorrt" not in state.there:
            raise DeviceError("no TensorRT: the package tensorrt is not installed")
        say("builds 1 of 3")
        state.made.append(("tensorrt", wish, rebuild))
        cache.write("engines/x/y.engine", b"plan")
        return store.Warmed("sm90-trt11.4.0.106-fp32.engine", sidecar(), True, 12.5, "")

    def warm_provider(bundle: Any, precision: str, cache: Any, say: Any, rebuild: bool) -> None:
        if "tensorrt-ep" not in state.there:
            raise DeviceError("device tensorrt-ep is not available: libnvinfer.so.10 can't be ...")
        state.made.append(("tensorrt-ep", precision, rebuild))

    real = devices.open_encoder
    for module in (devices, warmup_module):
        monkeypatch.setattr(module, "obstacles", list)
    monkeypatch.setattr(devices, "open_encoder", opened)
    monkeypatch.setattr(store, "warm_engine", warm_engine)
    monkeypatch.setattr(provider, "warm_provider", warm_provider)
    return state


def sidecar() -> Any:
    from tier_infer.trt.sidecar import Sidecar

    return Sidecar(
        plan_sha256="0" * 64, plan_bytes=48_520_000, library="tensorrt", version="11.4.0.106",
        cuda="13.0", driver="580.65.06", gpu="NVIDIA H100", sm="sm90", precision="fp32",
        onnx_sha256="1" * 64, profiles=((1, 1, 1), (1, 8, 32)), hardware_compatibility="none",
        version_compatible=False, tf32=False,
    )  # fmt: skip


def test_tensorrt_is_built_opened_proven(folder: Path, board: SimpleNamespace) -> None:
    args = ("--hardware-compat", "ampere+", "--version-compat", "--rebuild")
    shown = run("--bundle", folder, "--device", "tensorrt", "--precision", "fp32", *args)
    assert shown.exit_code == 0, shown.exception
    ((device, wish, rebuild),) = board.made
    assert (device, wish.precision, rebuild) == ("tensorrt", "fp32", True)
    assert (wish.hardware_compatibility, wish.version_compatible) == ("ampere+", True)
    assert "tier-infer: builds 1 of 3" in shown.stderr
    assert "sm90-trt11.4.0.106-fp32.engine, 48.5 MB, built in 12.5 s, lies in TIER" in shown.stdout
    assert "golden vectors" in shown.stdout


def test_auto_takes_what_scoring_will_take(folder: Path, board: SimpleNamespace) -> None:
    bundle = load_bundle(folder)
    said: list[str] = []
    cases: tuple[tuple[set[str], str], ...] = (
        ({"tensorrt", "cuda"}, "tensorrt"),
        ({"tensorrt-ep", "cuda"}, "tensorrt-ep"),
        ({"cuda"}, "cuda"),
        (set(), "cpu"),
    )
    for there, device in cases:
        board.there, board.made = there, []
        warm = warm_up(bundle, Asked(), said.append)
        assert warm.engine.device == device == Engine(bundle, unproven=True).device
        assert [row[0] for row in board.made] == [device] * (device in warmup_module.BUILT)
        assert (warm.made is not None) == (device in warmup_module.BUILT)
        told = json.loads(to_json(warm, bundle))
        assert told["device"] == device
        if device == "cpu":
            no_library = "no TensorRT: the package tensorrt is not installed"
            assert told["passed_over"]["tensorrt"] == no_library
            assert no_library in to_lines(warm, bundle)
    assert any(text.startswith("tensorrt can't be had: no TensorRT") for text in said)


def test_an_engine_that_computes_something_else(
    folder: Path, board: SimpleNamespace, own_cache: Path
) -> None:
    """No cpu in its place, of auto neither, and nothing is remembered."""
    board.off = 1e-3
    for device in ("auto", "tensorrt"):
        result = run("--bundle", folder, "--device", device)
        refused(result, ParityError, "tensorrt fp32 does not give the bundle's golden vectors")
    assert not (own_cache / "proofs").exists()


def test_a_gpu_and_a_bundle_without_vectors(folder: Path, board: SimpleNamespace) -> None:
    reseal(folder, golden={})
    refused(run("--bundle", folder), UsageError, "nothing proves what tensorrt computes")


def test_int8_is_for_the_cpu(folder: Path, board: SimpleNamespace) -> None:
    refused(run("--bundle", folder, "--precision", "int8"), UsageError, "no int8 encoder")
    assert board.made == []


def test_the_help_of_the_whole_command_names_it() -> None:
    from tier_infer.cli import main

    assert "warmup" in CliRunner().invoke(main, ["--help"]).stdout
    shown = CliRunner().invoke(main, ["warmup", "-h"]).stdout
    for option in ("--device", "--precision", "--hardware-compat", "--version-compat", "--rebuild"):
        assert option in shown
