"""python -m pytest tests/export/test_traces.py -- equal bytes anywhere, no trace of a machine."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx

from tier_infer.bundle import load_bundle


def test_a_fresh_process_elsewhere_gives_the_same_bytes_and_leaves_no_trace(
    site: Path, tmp_path: Path
) -> None:
    """Another hash seed, folder, user and home; none of them stands in a file of the bundle."""
    home = tmp_path / "canary-home"
    work, temporary = home / "canary-work", home / "canary-tmp"
    work.mkdir(parents=True)
    temporary.mkdir()
    shutil.copy(site / "ckpt.pt", work / "canary-name.pt")
    user = dict.fromkeys(("USER", "LOGNAME", "USERNAME", "HOSTNAME"), "canary-user")
    folders = {"HOME": str(home), "USERPROFILE": str(home), "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-m", "tier_export.cli", "--fp16", "--text", "canary-name.pt"],
        cwd=work, env={**os.environ, **user, **folders, "PYTHONHASHSEED": "1"}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    bundle = work / "bundle"
    for graph in (*bundle.glob("*.onnx"), *bundle.glob("queries/*.onnx")):
        name = graph.relative_to(bundle)
        assert graph.read_bytes() == (site / "bundle" / name).read_bytes(), name
    written = [path for path in bundle.rglob("*") if path.is_file()]
    assert {path.suffix for path in written} == {".onnx", ".json", ".npy"}
    for path in written:
        for trace in traces():
            assert trace not in path.read_bytes(), (path.name, trace)
        if path.suffix == ".onnx":
            words = without_weights(path)
            assert not re.search(rb"stack_trace|\.py\b|[/\\][A-Za-z_]{3}", words), path.name
            data = load_bundle(bundle).manifest.training_data.encode()
            assert data not in words


def traces() -> list[bytes]:
    """Of this machine, in spellings too long to arise in weights by chance."""
    here = {str(Path(__file__).parents[2]), sys.prefix, sys.base_prefix, socket.gethostname()}
    here |= {str(Path.home()), f"/{getpass.getuser()}/", tempfile.gettempdir() + "/"}
    here |= {"canary", "site-packages", "tier_export/", "/home/", "/root/", "\\Users\\"}
    return [trace.encode() for trace in here if len(trace) > 4]


def without_weights(path: Path) -> bytes:
    """The file's words: in a megabyte of weights any three letters stand somewhere."""
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
    for node in model.graph.node:
        node.ClearField("name")  # /words/… is a module of the network
        del node.input[:], node.output[:]
    return bytes(model.SerializeToString())
