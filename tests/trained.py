"""A small trained site, made the way a user makes one: phantoms, checkpoint, bundle, study.dcm.

python tests/trained.py FOLDER
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
TRAIN, VAL, TEST = 320, 60, 200
RECIPE = ("--recipe", "demo", "--set", "steps=60", "--set", "validate_every=30", "--threads", "1")


def make_site(folder: Path) -> Path:
    """FOLDER/manifest.csv, images/, study.dcm, ckpt.pt, bundle/ with both encoders."""
    counts = ["--train", str(TRAIN), "--val", str(VAL), "--test", str(TEST)]
    run("tier-train", "data", "phantoms", "-o", str(folder), *counts, cwd=Path.cwd())
    run("tier-train", "run", *RECIPE, cwd=folder)
    run("tier-export", "--fp16", "ckpt.pt", cwd=folder)
    return folder


def run(command: str, *args: str, cwd: Path) -> None:
    done = subprocess.run(
        [str(BIN / command), *args], cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command} {' '.join(args)} failed: {done.stderr}")


if __name__ == "__main__":
    make_site(Path(sys.argv[1]).resolve())
