"""Speed of one image through PyTorch and the exported encoders, side by side.

    python benchmarks/encoders.py [CKPT.pt BUNDLE]…   default: demo/regularized/ckpt.pt demo/bundle

Outputs are checked equal first. The encoders then take turns in one process, one thread each, so
that a machine whose speed drifts treats them alike. Printed: median CPU milliseconds and the ratio
to PyTorch. onnxruntime on a CPU computes the FP16 graph in float32: its row shows no GPU's gain.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

from tier_train.cli.process import prepare_process

ROUNDS, WARM_UP = 30, 3


def main(pairs: list[str]) -> None:
    prepare_process(1)
    import numpy as np
    import onnxruntime

    from tier_export.crops import phantom_crops
    from tier_export.members import members_of
    from tier_infer.bundle import ENCODERS, load_bundle
    from tier_train.checkpoint import load_checkpoint

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for ckpt, folder in zip(pairs[::2], pairs[1::2], strict=True):
        checkpoint, bundle = load_checkpoint(Path(ckpt)), load_bundle(Path(folder))
        members = members_of([checkpoint])
        pixels = phantom_crops(members.geometry, checkpoint.intensity, 1).pixels
        encoders = {"PyTorch fp32": members.encode}
        for precision, file in ENCODERS.items():
            if file in bundle.manifest.files:
                session = onnxruntime.InferenceSession(
                    bundle.encoder(precision), options, providers=["CPUExecutionProvider"]
                )
                encoders[f"ONNX {precision}"] = lambda x, s=session: s.run(None, {"pixels": x})
        reference = encoders["PyTorch fp32"](pixels)[0]
        for name, encode in encoders.items():
            assert np.abs(encode(pixels)[0] - reference).max() < 5e-3, name
        spent: dict[str, list[float]] = {name: [] for name in encoders}
        for turn in range(ROUNDS + WARM_UP):
            for name, encode in encoders.items():
                start = time.process_time()
                encode(pixels)
                if turn >= WARM_UP:
                    spent[name].append(1000 * (time.process_time() - start))
        base = statistics.median(spent["PyTorch fp32"])
        print(f"{checkpoint.recipe.arch}, {pixels.shape[-1]} px, batch 1, {ROUNDS} rounds")
        for name, times in spent.items():
            median = statistics.median(times)
            print(f"  {name:<14} {median:8.2f} ms CPU   {base / median:5.2f} x PyTorch")


if __name__ == "__main__":
    arguments = sys.argv[1:] or ["demo/regularized/ckpt.pt", "demo/bundle"]
    if not all(Path(name).exists() for name in arguments):
        sys.exit(f"{' '.join(arguments)}: not all there; run `make demo` first")
    main(arguments)
