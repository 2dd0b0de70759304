"""The INT8 encoder beside the fp32 one: time, file size and accuracy.

    python benchmarks/int8.py [--dataset FILE.csv] [--calibrate IMAGES] [--queries SET] CKPT.pt…

Rows: fp32; int8 as tier-export writes it, held against its gate; then every layer but the stem in 8
bits, with weights of 7 and of 8 bits, whatever that does to accuracy. onnxruntime on one thread;
the graphs take turns in one process, so that a machine whose speed drifts treats them alike.
Printed are medians of CPU milliseconds and the ratio to fp32. Differences are to PyTorch, on the
test rows of the dataset, else on phantoms.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from tier_train.cli.process import prepare_process

ROUNDS, WARM_UP = 30, 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("ckpt", nargs="+", type=Path)
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--calibrate", default="phantoms")
    parser.add_argument("--queries", help="label set; default: the checkpoint's")
    args = parser.parse_args()
    prepare_process(1)
    for ckpt in args.ckpt:
        compare(ckpt, args.dataset, args.calibrate, args.queries)


def compare(ckpt: Path, dataset: Path | None, calibrate: str, queries_of: str | None) -> None:
    from tier_export.crops import calibration_crops, manifest_crops, phantom_crops
    from tier_export.export import prover_of, query_files
    from tier_export.graphs import encoder_graph
    from tier_export.int8 import fit_int8
    from tier_export.members import members_of
    from tier_export.parity import onnx_encoder
    from tier_infer.errors import ParityError
    from tier_infer.label_sets import load_label_set
    from tier_train.checkpoint import load_checkpoint

    members = members_of([load_checkpoint(ckpt)])
    presets = (members.geometry, members.networks[0].intensity)
    crops = manifest_crops(dataset, *presets) if dataset else phantom_crops(*presets)
    calibration = calibration_crops(calibrate, *presets)
    labels = load_label_set(queries_of or members.prompts)
    tables, queries = query_files(members, [labels], 18, lambda _: None)
    prover = prover_of(members, [labels], tables, queries, crops)
    encoder = encoder_graph(members)
    print(
        f"{ckpt.name}: {members.networks[0].recipe.arch}, {members.geometry.crop} px, calibrated on"
        f" {calibration.source}, measured on {crops.source}"
    )
    graphs = {"fp32": encoder.SerializeToString()}
    for name, gated, reduce_range in (
        ("int8, exported", True, True),
        ("int8, all, 7-bit", False, True),
        ("int8, all, 8-bit", False, False),
    ):

        def judge(graph: bytes, gated: bool = gated) -> None:
            if gated:
                prover.prove("int8", "here", onnx_encoder(graph))

        start = time.process_time()
        try:
            graph, facts = fit_int8(encoder, calibration, judge, lambda _: None, reduce_range)
        except ParityError as error:
            print(f"  {name}: {error}")
            continue
        graphs[name] = graph.SerializeToString()
        print(f"  {name}: {facts['summary']} ({time.process_time() - start:.0f} s CPU)")
    times = {count: timed(graphs, crops.pixels[:count]) for count in (1, 8)}
    for name, graph in graphs.items():
        found = prover.held(prover.answers(onnx_encoder(graph)), name)[labels.id]
        cells = [
            f"{times[n][name]:7.2f} ms {times[n]['fp32'] / times[n][name]:5.2f} x" for n in times
        ]
        gated = {k: row["dauc"] for k, row in found["labels"].items() if row["dauc"] is not None}
        worst = f"|dAUC| {max(gated.values()):.1e}" if gated else "AUC not gated"
        print(
            f"  {name:<17} {len(graph) / 1e6:6.2f} MB  batch 1 {cells[0]}  batch 8 {cells[1]}  "
            f"|dZ| {found['max_dz']:.1e}  {worst}  rank {found['min_rank']:.5f}"
        )
        if name != "fp32" and gated:
            print("    " + ", ".join(f"{label} {value:.1e}" for label, value in gated.items()))


def timed(graphs: dict[str, bytes], pixels: object) -> dict[str, float]:
    """graph → median CPU milliseconds of one image."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {
        name: onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        for name, graph in graphs.items()
    }
    spent: dict[str, list[float]] = {name: [] for name in graphs}
    for turn in range(ROUNDS + WARM_UP):
        for name, session in sessions.items():
            start = time.process_time()
            session.run(None, {"pixels": pixels})
            if turn >= WARM_UP:
                spent[name].append(1000 * (time.process_time() - start) / len(pixels))
    return {name: statistics.median(each) for name, each in spent.items()}


if __name__ == "__main__":
    main()
