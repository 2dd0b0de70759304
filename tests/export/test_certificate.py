"""python -m pytest tests/export/test_certificate.py -- parity.json, figure by figure.

Recomputed from the files on disk with onnxruntime, torch, scipy and scikit-learn.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import platform
import re
import socket
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

import tier_export.certificate
from tier_export.certificate import Prover, certificate_file, summary, table
from tier_export.crops import phantom_crops
from tier_export.export import prove, prover_of
from tier_export.half import HalfEncoder
from tier_export.heads import TableScore
from tier_export.members import members_of
from tier_export.parity import GATES, Crops
from tier_infer.bundle import load_bundle
from tier_infer.golden import GOLDEN_GATES
from tier_infer.label_sets import load_label_set
from tier_train.checkpoint import load_checkpoint

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]  # [N, D], [N, g, g, D]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def certificate(site: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((site / "bundle/parity.json").read_bytes())
    return found


@pytest.fixture(scope="module")
def crops(site: Path) -> Crops:
    checkpoint = load_checkpoint(site / "ckpt.pt")
    return phantom_crops(members_of([checkpoint]).geometry, checkpoint.intensity)


@pytest.fixture(scope="module")
def encoded(site: Path, crops: Crops) -> dict[str, Pair]:
    """PyTorch, and what stands in the certificate, computed here without our code for it."""
    model = load_checkpoint(site / "ckpt.pt").model.eval()
    pixels = torch.from_numpy(crops.pixels)
    half = HalfEncoder(model)
    found = {}
    with torch.no_grad():
        for name, network in (("torch", model.encode_image), ("half", half)):
            image, patches = network(pixels)
            found[name] = image.numpy(), patches.numpy()
    for name, file in (("fp32", "image_encoder.onnx"), ("fp16", "image_encoder.fp16.onnx")):
        session = onnxruntime.InferenceSession(str(site / "bundle" / file))
        found[name] = session.run(None, {"pixels": crops.pixels})
    return found


@pytest.mark.parametrize(
    ("precision", "machine", "encoder"),
    [
        ("fp32", f"onnxruntime {onnxruntime.__version__} cpu", "fp32"),
        ("fp16", f"onnxruntime {onnxruntime.__version__} cpu", "fp16"),
        ("fp16", "torch cpu, half activations", "half"),
    ],
)
def test_every_figure_again(
    site: Path, certificate: dict[str, Any], crops: Crops, encoded: dict[str, Pair],
    precision: str, machine: str, encoder: str,
) -> None:  # fmt: skip
    """Within a last bit of float32: the site was exported by another process."""
    graph = onnx.load(str(site / "bundle/queries/chexpert.onnx")).graph
    q = numpy_helper.to_array(graph.initializer[0]).astype(np.float64)
    (image, patches), (image_b, patches_b) = encoded["torch"], encoded[encoder]
    before, after = image @ q.T, image_b @ q.T
    d = {
        "dembedding": np.abs(image_b - image),
        "dpatch": np.abs(patches_b - patches),
        "dz": np.abs(after - before),
        "dcell": np.abs((patches_b - patches) @ q.T),
    }
    found = certificate["precisions"][precision]["proofs"][machine]["chexpert"]
    for key, values in d.items():
        assert found[f"max_{key}"] == pytest.approx(values.max(), rel=0.1, abs=5e-7)
        assert found[f"p99_{key}"] == pytest.approx(np.percentile(values, 99), rel=0.1, abs=5e-7)
    assert list(found["labels"]) == sorted(load_bundle(site / "bundle").manifest.label_sets
                                           ["chexpert"]["labels"])  # fmt: skip
    for i, label in enumerate(x.id for x in load_label_set("chexpert").labels):
        row, y = found["labels"][label], crops.truth[label]
        a, b = before[:, i], after[:, i]
        one_swap = 1.01 / row["pairs"]
        assert row["pairs"] == int(y.sum() * (1 - y).sum())
        assert row["auc"] == pytest.approx([roc_auc_score(y, z) for z in (a, b)], abs=one_swap)
        assert row["dauc"] == abs(row["auc"][1] - row["auc"][0])
        assert row["rank"] == pytest.approx(spearmanr(a, b).statistic, abs=1e-5)
        assert row["max_dz"] == pytest.approx(d["dz"][:, i].max(), rel=0.1, abs=5e-7)
        assert row["max_dcell"] == pytest.approx(d["dcell"][..., i].max(), rel=0.1, abs=5e-7)
        t = row["threshold"]
        assert row["flips"] == ((a > t) != (b > t)).sum()
    rows = found["labels"].values()
    assert found["max_dauc"] == max(row["dauc"] for row in rows)
    assert found["min_rank"] == min(row["rank"] for row in rows)
    assert (found["flips"], found["crops"]) == (sum(row["flips"] for row in rows), 320)


def test_it_names_what_was_measured(site: Path, certificate: dict[str, Any], crops: Crops) -> None:
    bundle = load_bundle(site / "bundle")
    assert certificate["schema"] == "tier-parity/1"
    assert certificate["bundle_sha256"] == bundle.manifest.bundle_sha256
    assert certificate["checkpoints"] == [digest((site / "ckpt.pt").read_bytes())]
    assert certificate["text_sha256"] == load_checkpoint(site / "ckpt.pt").text_sha256
    query = (site / "bundle/queries/chexpert.onnx").read_bytes()
    assert certificate["label_sets"] == {"chexpert": digest(query)}
    for row in certificate["precisions"].values():
        data = (site / "bundle" / row["file"]).read_bytes()
        assert (row["sha256"], row["bytes"]) == (digest(data), len(data))
    assert set(certificate["precisions"]) == {"fp32", "fp16"}
    stated = certificate["crops"]
    assert (stated["source"], stated["count"]) == ("320 phantoms", 320)
    assert stated["sha256"] == digest(crops.pixels.tobytes())
    assert stated["each"] == [digest(crop.tobytes()) for crop in crops.pixels]
    assert certificate["gates"] == {
        "fp32": {"max_dz": 1e-5, "max_dcell": 1e-4, "flips": 0},
        "fp16": {"max_dz": 2e-3, "max_dcell": 1e-2, "max_dauc": 5e-4},
        "int8": {"max_dauc": 3e-3},
    }
    assert certificate["norm"] == {"max_dnorm": 1e-3}
    assert certificate["ranking"] == {"min_rank": 0.995, "min_crops": 100, "min_cell_rank": 0.98}
    assert certificate["few_crops"] == {"max_share": 0.1}
    assert certificate["auc"] == {"min_pairs": 2000}


def test_it_names_the_versions_and_the_machine(certificate: dict[str, Any]) -> None:
    assert certificate["reference"] == f"PyTorch {torch.__version__} fp32"
    assert certificate["versions"] == {
        "tier-cxr": "0.1.0",
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    described = certificate["machine"]
    assert (described["system"], described["architecture"]) == (
        platform.system(), platform.machine(),
    )  # fmt: skip
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    assert set(described["instruction_sets"]) <= set(flags)


def test_nobody_can_be_found_by_it(site: Path) -> None:
    text = (site / "bundle/parity.json").read_text()
    words = {socket.gethostname(), getpass.getuser(), site.parent.name}
    assert [word for word in words if re.search(rf"\b{re.escape(word)}\b", text)] == []
    assert "/" not in text.replace("tier-parity/1", "")


def test_the_runtime_judges_golden_vectors_by_the_same_gates() -> None:
    for precision, gate in GOLDEN_GATES.items():
        assert {key: GATES[precision][key] for key in ("max_dz", "max_dcell")} == gate


def test_its_text_is_canonical(site: Path, certificate: dict[str, Any]) -> None:
    text = (site / "bundle/parity.json").read_text()
    assert text == json.dumps(certificate, indent=1, sort_keys=True) + "\n"


def test_the_manifest_holds_the_worst_of_all_proofs(
    site: Path, certificate: dict[str, Any]
) -> None:
    parity = load_bundle(site / "bundle").manifest.parity
    for precision in ("fp32", "fp16"):
        proofs = certificate["precisions"][precision]["proofs"].values()
        for key in ("max_dz", "max_dcell", "max_dauc", "flips"):
            assert parity[precision][key] == max(row["chexpert"][key] for row in proofs)
    assert parity["crops"] == {k: certificate["crops"][k] for k in ("source", "sha256")}


def test_what_the_fp16_twin_is_made_of(site: Path, certificate: dict[str, Any]) -> None:
    half, exact = (
        onnx.load(str(site / "bundle" / f"image_encoder{end}.onnx")) for end in (".fp16", "")
    )
    facts = certificate["precisions"]["fp16"]["facts"]
    sizes = [(t.data_type, numpy_helper.to_array(t).size) for t in half.graph.initializer]
    share = sum(n for kind, n in sizes if kind == TensorProto.FLOAT16) / sum(n for _, n in sizes)
    assert facts["half_share"] == pytest.approx(share, abs=1e-12)
    files = [site / "bundle" / f"image_encoder{end}.onnx" for end in (".fp16", "")]
    assert facts["bytes"] == files[0].stat().st_size
    assert facts["ratio"] == files[0].stat().st_size / files[1].stat().st_size
    casts = [[n.op_type for n in m.graph.node].count("Cast") for m in (half, exact)]
    assert facts["casts_added"] == casts[0] - casts[1] == 2
    kinds = {
        v.name: v.type.tensor_type.elem_type for v in (*half.graph.value_info, *half.graph.output)
    }
    still = {"Cast", "Unsqueeze", "Transpose"}  # move or convert, compute nothing
    in_float = [n for n in half.graph.node if n.op_type not in still
                and kinds[n.output[0]] == TensorProto.FLOAT]  # fmt: skip
    assert [row["node"] for row in facts["kept"]] == [n.name for n in in_float]
    (conv,) = (row for row in facts["kept"] if row["op"] == "Conv")
    assert conv["weight"].endswith("trunk.conv1.weight")
    assert conv["reason"].startswith("stem: 9 weights per output")
    reasons = [row["reason"].partition(":")[0] for row in facts["kept"]]
    assert reasons[:3] == ["normalisation"] * 3
    assert reasons[3:6] == ["stem"] * 3
    assert [r["op"] for r in facts["kept"] if r["reason"] == "mean over patches"] == ["ReduceMean"]
    assert set(reasons[6:]) == {"unit norm", "mean over patches"}


def test_equal_proofs_are_equal_bytes(site: Path) -> None:
    """All of the export that parity.json depends on, twice; a thread more may move a last bit."""
    bundle, labels = load_bundle(site / "bundle"), load_label_set("chexpert")
    members = members_of([load_checkpoint(site / "ckpt.pt")])
    crops = phantom_crops(members.geometry, members.networks[0].intensity, 100)
    tables = {"chexpert": members.table(labels)}
    queries = {"chexpert": bundle.query_graph("chexpert")}
    files = {file: bundle.encoder(row["precision"]) for file, row in bundle.manifest.files.items()}

    def certificate() -> bytes:
        prover = prover_of(members, [labels], tables, queries, crops)
        for precision in ("fp32", "fp16"):
            prove(prover, members, precision, bundle.encoder(precision))
        return certificate_file(prover, files, bundle.manifest)

    assert certificate() == certificate()


# The table on screen, from small numbers made up here.


def small_prover(labels: dict[str, list[str]], truth: dict[str, NDArray[np.float32]]) -> Prover:
    """Four dimensions, 120 crops, `machine` off by a little."""
    rng = np.random.default_rng(0)
    image = unit(rng.standard_normal((120, 4)))
    patches = unit(rng.standard_normal((120, 2, 2, 4)))
    score = {s: TableScore(rng.standard_normal((len(n), 4)).astype(np.float32))
             for s, n in labels.items()}  # fmt: skip
    crops = Crops(np.zeros((120, 1, 1), np.uint8), truth, "120 made up")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tier_export.certificate, "GraphScore", score.__getitem__)
        prover = Prover("made up fp32", lambda _: (image, patches), score,
                        {s: s for s in labels}, labels, crops)  # type: ignore[misc]  # fmt: skip
    prover.prove("fp16", "a machine", lambda _: (unit(image + 1e-4), patches))
    return prover


def unit(v: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    row: NDArray[np.float32] = (v / np.linalg.norm(v, axis=-1, keepdims=True)).astype(np.float32)
    return row


def test_the_table_counts_what_is_gated() -> None:
    y = (np.arange(120) % 2).astype(np.float32)
    lines = table(small_prover({"one": ["a", "b"]}, {"a": y})).splitlines()
    assert lines[0].split() == ["against", "made", "up", "fp32", "max", "|dZ|", "p99", "|dZ|",
                                "cells", "|dAUC|", "rank", "flips"]  # fmt: skip
    assert lines[1].startswith("fp16, a machine ")
    assert "(1/2) " in lines[1]
    assert max(map(len, lines)) <= 100
    bare = table(small_prover({"one": ["a"]}, {"a": y * np.float32([1] * 40 + [np.nan] * 80)}))
    assert "not gated (400)" in bare  # 20 with, 20 without among the 40 known


def test_several_sets_have_their_own_lines_and_facts_stand_below() -> None:
    prover = small_prover({"one": ["a"], "two": ["b", "c"]}, {})
    prover.facts["fp16"] = {"summary": "half " * 30}
    prover.compared = [
        {"what": "member", "checkpoints": ["ab" * 32], "bytes": 10, "auc": {"a": 0.9},
         "mean_auc": 0.9, "rank": {"a": 0.97}},
        {"what": "ensemble", "checkpoints": ["ab" * 32, "cd" * 32], "bytes": 20, "auc": {},
         "mean_auc": None, "rank": {"a": 1.0}},
    ]  # fmt: skip
    lines = table(prover).splitlines()
    assert [line for line in lines if line.startswith("set ")] == ["set one", "set two"]
    assert max(map(len, lines)) <= 100
    assert sum(line.count("half") for line in lines) == 30
    assert lines[-2].startswith("member abababababab")
    assert "mean AUC 0.900 (1 labels)" in lines[-2]
    assert lines[-1].endswith("2.0 x")
    assert "AUC not measured" in lines[-1]
    worst = summary(prover)["fp16"]
    assert worst["max_dauc"] is None
    each = prover.proofs["fp16"]["a machine"]
    assert worst["max_dz"] == max(each["one"]["max_dz"], each["two"]["max_dz"])
