"""A real Triton server on what `tier-export triton` writes, held against tier-infer.

    pip download --no-deps nvidia-pytriton==0.7.0
    python benchmarks/triton_server.py nvidia_pytriton-0.7.0-*.whl bundle study/

The wheel (Linux, glibc 2.35) holds NVIDIA's server 2.51.0 with its core, scheduler, ensembles and
gRPC, but of the backends only Python's. So each ONNX model is run by twenty lines of Python over
onnxruntime; nothing else of the repository is changed. Prints what agrees, then how a server
without a GPU takes --device cuda.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

ROOT = Path(__file__).parents[1]
STARTING = 60.0  # seconds
CLIENT = "examples/triton_client.py"
TIER_INFER = "from tier_infer.cli import main; main()"
RUNNER = """
import json, os, sys
sys.path.insert(0, {packages!r})
import numpy as np, onnxruntime
import triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.given = [row["name"] for row in config["input"]]
        self.gives = [row["name"] for row in config["output"]]
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        return [pb.InferenceResponse(self.run(request)) for request in requests]

    def run(self, request):
        # DLPack: the wheel's own conversion is older than NumPy 2
        tensors = {{n: pb.get_input_tensor_by_name(request, n) for n in self.given}}
        feeds = {{n: np.from_dlpack(tensor).copy() for n, tensor in tensors.items()}}
        found = self.session.run(self.gives, feeds)
        return [pb.Tensor.from_dlpack(n, a) for n, a in zip(self.gives, found)]
"""


def main(wheel: str, bundle: str, *study: str) -> None:
    sets = json.loads((Path(bundle) / "manifest.json").read_text())["label_sets"]
    with tempfile.TemporaryDirectory() as folder:
        server = unpacked(Path(wheel), Path(folder) / "wheel")
        models = repository(bundle, Path(folder) / "models", "cpu")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        process = started(server, models, port)
        try:
            url = f"127.0.0.1:{port}"
            print("server", wait(url, process).version)
            for set_id, entry in sets.items():
                labels = ",".join(f"{set_id}:{label}" for label in entry["labels"])
                asked = ("--bundle", bundle, "--json", *study)
                mine = run(CLIENT, "--url", url, "--queries", set_id, *asked)
                cpu = ("--device", "cpu", "--precision", "fp32")
                theirs = run("-c", TIER_INFER, "--labels", labels, *cpu, *asked)
                plain = json.loads(theirs.replace(f'"{set_id}:', '"'))["studies"]
                same = json.loads(mine)["studies"] == plain
                print(f"{set_id}: {len(entry['labels'])} labels, equal to the bit: {same}")
        finally:
            process.terminate()
            process.wait()
        strict = repository(bundle, Path(folder) / "strict", "cuda")
        code = started(server, strict, port).wait(STARTING)
        print(f"--device cuda: the server's exit code is {code}")


def unpacked(wheel: Path, folder: Path) -> Path:
    zipfile.ZipFile(wheel).extractall(folder)
    server = folder / "pytriton/tritonserver"
    version = ".".join(platform.python_version_tuple()[:2])
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, server / "backends/python")
    for program in (server / "bin/tritonserver", server / "backends/python" / stub.name):
        program.chmod(0o755)
    return server


def repository(bundle: str, out: Path, device: str) -> Path:
    run("-m", "tier_export.cli", "triton", bundle, str(out), "--device", device)
    for graph in out.glob("*/1/model.onnx"):
        runner = RUNNER.format(packages=sysconfig.get_path("purelib"))
        graph.with_name("model.py").write_text(runner)
        config = graph.parents[1] / "config.pbtxt"
        text = config.read_text().replace('platform: "onnxruntime_onnx"', 'backend: "python"')
        config.write_text(text)
    return out


def started(server: Path, models: Path, port: int) -> subprocess.Popen[bytes]:
    libraries = [server.parents[1] / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
    options = [
        f"--model-repository={models}",
        f"--backend-directory={server}/backends",
        "--disable-auto-complete-config",
        "--allow-http=false",
        "--allow-metrics=false",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
    ]
    return subprocess.Popen(
        [str(server / "bin/tritonserver"), *options],
        env=os.environ | {"LD_LIBRARY_PATH": ":".join(map(str, libraries))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait(url: str, process: subprocess.Popen[bytes]) -> Any:
    deadline = time.monotonic() + STARTING
    with InferenceServerClient(url) as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if client.is_server_ready():
                    return client.get_server_metadata()
            except InferenceServerException:
                pass
            time.sleep(0.2)
    raise SystemExit("the server did not become ready")


def run(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


if __name__ == "__main__":
    main(sys.argv[1], *(str(Path(path).resolve()) for path in sys.argv[2:]))
