"""python -m pytest tests/infer/test_proof.py -- no answer before the golden vectors are passed."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.infer.tiny_bundle import write_bundle
from tier_infer import golden as golden_module
from tier_infer import proof
from tier_infer.bundle import ENCODERS, Bundle, Manifest, load_bundle, parse_manifest, sha256
from tier_infer.cache import Cache
from tier_infer.cli import main
from tier_infer.embeddings import Embeddings
from tier_infer.engine import Engine
from tier_infer.errors import ParityError, UsageError
from tier_infer.golden import read_golden
from tier_infer.proof import prove, replay_now


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", "small-112", 7)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Fake:
    """An encoder of another device: the real one on the CPU, plus `off`."""

    def __init__(self, bundle: Bundle, device: str = "cuda", off: float = 0.0) -> None:
        self.device, self.precision, self.off, self.runs = device, "fp32", off, 0
        self.identity = {"device": device, "driver": "580.65.06"}
        self.real = Engine(bundle, "cpu", "fp32", unproven=True)

    def encode(self, pixels: NDArray[np.uint8]) -> Embeddings:
        self.runs += 1
        found = self.real.encode(pixels)
        return replace(found, image=found.image + np.float32(self.off))


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The device of every replay."""
    seen: list[str] = []
    real = golden_module.replay

    def counted(bundle: Bundle, engine: Any, golden: Any) -> Any:
        seen.append(engine.device)
        return real(bundle, engine, golden)

    monkeypatch.setattr(proof, "replay", counted)
    return seen


def reseal(folder: Path, **changes: Any) -> None:
    manifest = parse_manifest((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(replace(manifest, **changes).to_json())


def replaced_set(folder: Path) -> str:
    """The bundle's label set in another version; its id."""
    manifest = load_bundle(folder).manifest
    (set_id,) = manifest.label_sets
    path = folder / manifest.label_sets[set_id]["path"]
    model = onnx.load(path)
    model.doc_string = "another version"
    data = model.SerializeToString()
    path.write_bytes(data)
    row = manifest.label_sets[set_id] | {"sha256": sha256(data), "bytes": len(data)}
    reseal(folder, label_sets={set_id: row})
    return set_id


def exchanged(folder: Path) -> None:
    """Another encoder, a weight of which differs, and every hash right again."""
    path = folder / ENCODERS["fp32"]
    model = onnx.load(path)
    for row in model.graph.initializer:
        if row.name == "white":
            row.CopyFrom(numpy_helper.from_array(np.array(250, np.float32), "white"))
    data = model.SerializeToString()
    path.write_bytes(data)
    manifest = parse_manifest((folder / "manifest.json").read_bytes())
    row = {"sha256": sha256(data), "bytes": len(data), "precision": "fp32"}
    reseal(folder, files=manifest.files | {ENCODERS["fp32"]: row})


# Once


def test_the_first_run_replays_and_the_second_remembers(folder: Path, replays: list[str]) -> None:
    for _ in range(3):
        Engine(load_bundle(folder), "cpu")
    assert replays == ["cpu"]


def test_the_command_says_the_same_with_and_without_a_proof(
    site: Path, replays: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site)
    first, second = (CliRunner().invoke(main, ["study.dcm", "--json"]) for _ in range(2))
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.stdout == second.stdout
    assert replays == ["cpu"]


def test_what_is_kept_is_one_sealed_file_that_names_nobody(folder: Path, own_cache: Path) -> None:
    Engine(load_bundle(folder), "cpu")
    (path,) = (own_cache / "proofs").glob("*.json")
    told = json.loads(path.read_text())
    assert path.stem == sha256(path.read_bytes())
    assert told["bundle"] == load_bundle(folder).manifest.bundle_sha256
    assert str(own_cache.parent) not in path.read_text()
    assert sorted(p.name for p in own_cache.iterdir()) == ["key", "proofs"]


def test_one_image_alone_is_proven_too(folder: Path) -> None:
    """A GPU takes other kernels for a batch of one."""
    bundle = load_bundle(folder)

    class Single(Fake):
        def encode(self, pixels: NDArray[np.uint8]) -> Embeddings:
            self.off = 1e-3 if len(pixels) == 1 else 0.0
            return super().encode(pixels)

    with pytest.raises(ParityError, match=r"image embedding differs by 1\.0e-03"):
        prove(bundle, Single(bundle))


# What a proof is bound to


def test_whatever_the_numbers_depend_on_makes_it_replay_again(
    folder: Path, replays: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(folder)
    encoder = Fake(bundle)

    def proven() -> int:
        del replays[:]
        prove(load_bundle(folder), encoder)
        prove(load_bundle(folder), encoder)
        return len(replays)

    assert proven() == 1
    assert proven() == 0
    for key, value in (("driver", "590.1"), ("gpu", "another board"), ("plan", "0" * 64)):
        encoder.identity = encoder.identity | {key: value}
        assert proven() == 1
    monkeypatch.setattr(proof, "runtime_version", lambda: "onnxruntime 99")
    assert proven() == 1
    monkeypatch.setattr(proof, "machine", lambda: "another processor")
    assert proven() == 1
    monkeypatch.setattr(proof, "SCHEMA", "tier-proof/99")
    assert proven() == 1
    manifest = bundle.manifest
    again = {name: dict(row) for name, row in manifest.golden.items()}
    table = json.loads((folder / golden_module.TABLE).read_text()) | {"source": "other phantoms"}
    data = json.dumps(table).encode()
    (folder / golden_module.TABLE).write_bytes(data)
    again[golden_module.TABLE] = {"sha256": sha256(data), "bytes": len(data)}
    reseal(folder, golden=again)
    assert proven() == 1


def test_of_a_replaced_label_set_the_embeddings_are_compared(
    folder: Path, replays: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(folder)
    Engine(bundle, "cpu")
    set_id = replaced_set(folder)
    after = load_bundle(folder)
    encoder = Fake(after)
    found = prove(after, encoder)
    assert found is not None
    assert (found.max_dz, found.replaced, found.breaches) == (None, (set_id,), [])
    assert replays == ["cpu", "cuda"]
    with pytest.raises(ParityError, match="image embedding differs"):
        prove(after, Fake(after, "tensorrt", off=1e-3))


# What is not believed


@pytest.mark.parametrize("part", ["proof", "seal", "key"])
def test_a_changed_byte_makes_it_replay_again(
    folder: Path, own_cache: Path, replays: list[str], part: str
) -> None:
    Engine(load_bundle(folder), "cpu")
    (path,) = (own_cache / "proofs").glob("*.json")
    changed = {"proof": path, "seal": path.with_name(f"{path.name}.seal"), "key": own_cache / "key"}
    whole = bytearray(changed[part].read_bytes())
    whole[10] ^= 1
    changed[part].write_bytes(whole)
    Engine(load_bundle(folder), "cpu")
    Engine(load_bundle(folder), "cpu")
    assert replays == ["cpu", "cpu"]


def test_proofs_of_another_installation(
    folder: Path, own_cache: Path, replays: list[str], tmp_path: Path
) -> None:
    """The same bundle on the same machine, its proof carried over without the key."""
    bundle = load_bundle(folder)
    prove(bundle, Fake(bundle), Cache(tmp_path / "other"))
    Cache(own_cache)
    shutil.copytree(tmp_path / "other/proofs", own_cache / "proofs")
    prove(bundle, Fake(bundle))
    assert replays == ["cuda", "cuda"]


def test_a_cache_open_to_others_is_not_asked(
    folder: Path, own_cache: Path, replays: list[str]
) -> None:
    Engine(load_bundle(folder), "cpu")
    own_cache.chmod(0o755)
    Engine(load_bundle(folder), "cpu")
    Engine(load_bundle(folder), "cpu")
    assert replays == ["cpu"] * 3


@pytest.mark.parametrize("place", ["/dev/null/cache", "/dev/full"])
def test_without_a_cache_every_run_proves(
    folder: Path, replays: list[str], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("TIER_CACHE", place)
    Engine(load_bundle(folder), "cpu")
    Engine(load_bundle(folder), "cpu")
    assert replays == ["cpu", "cpu"]


# A breach


def test_a_breach_is_told_and_never_remembered(
    folder: Path, own_cache: Path, replays: list[str]
) -> None:
    bundle = load_bundle(folder)
    for _ in range(2):
        words = r"^cuda fp32 does not give the bundle's golden vectors on this machine: image emb"
        with pytest.raises(ParityError, match=words):
            prove(bundle, Fake(bundle, off=1e-3))
    assert replays == ["cuda", "cuda"]
    assert not (own_cache / "proofs").exists()


def test_what_is_not_a_number_is_a_breach(folder: Path, own_cache: Path) -> None:
    bundle = load_bundle(folder)
    with pytest.raises(ParityError, match="differs by nan"):
        prove(bundle, Fake(bundle, off=float("nan")))
    assert not (own_cache / "proofs").exists()


def test_who_fails_later_is_forgotten(folder: Path, own_cache: Path) -> None:
    """A GPU that computed right and no longer does: the doctor replays whatever is remembered."""
    bundle, cache = load_bundle(folder), Cache()
    encoder, golden = Fake(bundle), read_golden(bundle)
    assert golden is not None
    prove(bundle, encoder, cache)
    assert len(os.listdir(own_cache / "proofs")) == 2
    encoder.off = 1e-3
    assert replay_now(bundle, encoder, golden, cache).breaches
    assert os.listdir(own_cache / "proofs") == []
    with pytest.raises(ParityError):
        prove(bundle, encoder, cache)


def test_an_exchanged_graph_scores_nothing(
    folder: Path, own_cache: Path, site: Path, runner: CliRunner
) -> None:
    """Every hash is right: only the vectors tell. Before, its own graph had been proven."""
    Engine(load_bundle(folder), "cpu")
    exchanged(folder)
    for _ in range(2):
        told = runner.invoke(main, [str(site / "study.dcm"), "--bundle", str(folder), "--json"])
        assert told.exit_code == 5
        assert told.stdout == ""
        assert "does not give the bundle's golden vectors" in told.stderr
    assert len(list((own_cache / "proofs").glob("*.json"))) == 1  # of the graph before
    doctor = runner.invoke(main, ["doctor", "--bundle", str(folder)])
    assert doctor.exit_code == 5, doctor.output
    assert "fail  golden vectors" in doctor.stdout
    assert len(list((own_cache / "proofs").glob("*.json"))) == 1


# A bundle of before golden vectors


def test_without_vectors_a_cpu_answers_and_nothing_else(folder: Path, own_cache: Path) -> None:
    reseal(folder, golden={})
    bundle = load_bundle(folder)
    assert isinstance(bundle.manifest, Manifest)
    assert prove(bundle, Fake(bundle, "cpu")) is None
    for device in ("cuda", "tensorrt", "tensorrt-ep"):
        words = f"no golden vectors, so nothing proves what {device} computes; export it again"
        with pytest.raises(UsageError, match=words):
            prove(bundle, Fake(bundle, device))
    assert not own_cache.exists()
