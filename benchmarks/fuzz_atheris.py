"""Coverage-guided fuzzing of `load_bytes`: anything but a picture or a RefusedImage is a finding.

    pip install atheris==3.0.0                                        (no dependency of the project)
    python benchmarks/fuzz_atheris.py CORPUS -max_total_time=300 [-artifact_prefix=FOLDER/]

CORPUS is a folder, filled with the small seeds of `benchmarks/fuzz` when empty; further options are
libFuzzer's. Half of the mutations are libFuzzer's own, half know the structure of DICOM files.
No child and no caps here: this looks for exceptions, `fuzz_dicom.py` for what the reader makes of
them. A finding is written as a file; what it shows belongs into tests/data/fuzz.
"""

from __future__ import annotations

import contextlib
import random
import struct
import sys
import zlib
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["tier_infer", "pydicom"]):
    from tier_infer.errors import RefusedImage
    from tier_infer.images import load_bytes
    from tier_infer.intensity import PRESETS

from benchmarks.fuzz import elements
from benchmarks.fuzz.headers import CHANGES
from benchmarks.fuzz.seeds import all_seeds

MAX_SEED = 6000  # bytes


def one_input(data: bytes) -> None:
    """The last byte chooses the preset, so that a finding is one file."""
    preset = PRESETS[data[-1] % len(PRESETS)] if data else PRESETS[0]
    with contextlib.suppress(RefusedImage):
        load_bytes(data, ".dcm", preset, display=True)


def changed(data: bytes, max_size: int, seed: int) -> bytes:
    rng = random.Random(seed)
    if rng.random() < 0.5:
        return bytes(atheris.Mutate(data, max_size))
    try:
        file = elements.read(data)
        for _ in range(rng.choice((1, 1, 2, 3))):
            rng.choice(CHANGES)(file, rng)
        return elements.written(file)[:max_size]
    except (ValueError, IndexError, struct.error, zlib.error, RecursionError):  # no DICOM any more
        return bytes(atheris.Mutate(data, max_size))


def main() -> None:
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    if not any(corpus.iterdir()):
        for number, seed in enumerate(s for s in all_seeds() if s.suffix != ".zip"):
            if len(seed.data) <= MAX_SEED:
                (corpus / f"seed{number}").write_bytes(seed.data)
    options = ["-max_len=8192", "-timeout=20", "-rss_limit_mb=2048", *sys.argv[2:]]
    atheris.Setup([sys.argv[0], str(corpus), *options], one_input, custom_mutator=changed)
    atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main()
