"""What --device says in an environment that has onnxruntime-gpu, and no GPU.

python benchmarks/strict_devices.py PYTHON BUNDLE STUDY

PYTHON is the interpreter of an environment with onnxruntime-gpu and what `tier-cxr` needs (numpy,
pillow, pydicom, click); the package itself is taken from this checkout. Each device is asked for
twice: as the machine is, and as if its driver offered a GPU, so that onnxruntime itself meets the
libraries that are missing. Every row must be exit 6, no byte on stdout, and one sentence of ours on
stderr: nothing that onnxruntime prints, and no crash. Exit 1 if one is not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEVICES = ("cuda", "tensorrt-ep", "tensorrt")
PROGRAM = "from tier_infer.cli import main; main()"
DRIVER = "import tier_infer.gpu; tier_infer.gpu.obstacles = list; "  # before anybody imports it


def main() -> int:
    python, bundle, study = sys.argv[1:]
    print(f"{_version(python)}\n")
    print("| device | driver | exit | bytes on stdout | sentence |\n|---|---|---|---|---|")
    sound = True
    for device in DEVICES:
        for pretended in (False, True):
            done = _ask(python, bundle, study, device, pretended)
            lines = done.stderr.strip().splitlines()
            right = done.returncode == 6 and not done.stdout and len(lines) == 1
            sound = sound and right and lines[0].startswith("tier-infer: device ")
            driver = "as if there were one" if pretended else "none"
            said = " / ".join(lines).replace("|", "\\|")
            print(f"| {device} | {driver} | {done.returncode} | {len(done.stdout)} | {said} |")
    return 0 if sound else 1


def _ask(
    python: str, bundle: str, study: str, device: str, pretended: bool
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TIER_CACHE": f"{cache}/tier"}
        program = (DRIVER if pretended else "") + PROGRAM
        command = [python, "-c", program, study, "--bundle", bundle, "--device", device]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=300
        )


def _version(python: str) -> str:
    asked = (
        "import onnxruntime as o; print(o.__version__, ', '.join(o.get_available_providers())); "
        "from importlib import metadata as m; print(*sorted(f'{d.name} {d.version}' for d in "
        "m.distributions() if d.name.startswith(('onnxruntime', 'tensorrt', 'nvidia', 'cuda'))))"
    )
    done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True)
    return f"onnxruntime {done.stdout.strip()}"


if __name__ == "__main__":
    raise SystemExit(main())
