"""The encodings, the files to refuse and the files to flag, through the readers of today.

    .uv/bin/uv venv PEERS
    .uv/bin/uv pip install --python PEERS/bin/python \\
        torchxrayvision monai hi-ml-multimodal highdicom pyjpegls 'pylibjpeg[all]'
    python -m benchmarks.dicom_peers PEERS/bin/python WORK_FOLDER [DICOM_FOLDER]

Each reader is compared with itself: its picture of an encoding against its picture of the plain
MONOCHROME2 file, both in its own scale at 224 x 224. A mean absolute difference of at most 0.03 is
`same`, more is `wrong`. DICOM_FOLDER is a folder with an index.csv like that of `dicom_table.py`.
The cases are our own choice; how often each occurs in hospitals is unknown, so these counts are no
error rates. The readers are libraries: a script built on them could refuse more.
"""

from __future__ import annotations

import base64
import csv
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.dicom_readers import READERS, SIZE
from tests.infer.encodings.__main__ import write_all
from tests.infer.encodings.reference import small
from tier_infer.errors import RefusedImage
from tier_infer.images import load_image

SAME = 0.03
PLAIN = "derived/d_00_base_explicit_le.dcm"
EQUAL = (  # of derived/: the picture of d_00, exactly or nearly
    *(f"d_0{i}" for i in range(1, 10)),
    "d_10", "d_11", "d_13", "d_14", "d_17", "d_18", "d_19", "d_20", "d_33", "d_36",
)  # fmt: skip
BROKEN = ("d_12", "d_30", "d_31", "d_32", "d_34", "d_35", "d_37")
OWN = {"tier-infer voi": "voi", "tier-infer mimic-jpg": "mimic-jpg"}
PEERS = ["torchxrayvision", "monai", "hi-ml-multimodal", "highdicom", "pydicom", "torch"]
LISTED = "the 35 of the first comparison"


@dataclass(frozen=True)
class Answer:
    kind: str  # picture, refused, hang, died
    grey: NDArray[np.float32] | None = None  # [224, 224]
    flags: frozenset[str] = frozenset()  # of a peer: its warnings
    error: str = ""


def versions(python: str) -> str:
    program = f"import importlib.metadata as m; print(*(n + ' ' + m.version(n) for n in {PEERS}))"
    done = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True)
    return done.stdout


def ask_peer(python: str, reader: str, paths: list[Path], work: Path) -> dict[Path, Answer]:
    """A reader that dies is started again behind the file that killed it."""
    asked, told = work / "paths.json", work / f"{reader.replace(' ', '_')}.jsonl"
    asked.write_text(json.dumps([str(path) for path in paths]))
    told.unlink(missing_ok=True)
    found: dict[Path, Answer] = {}
    script = Path(__file__).with_name("dicom_readers.py")
    while len(found) < len(paths):
        command = [python, str(script), reader, str(asked), str(told), str(len(found))]
        with told.with_suffix(".log").open("a") as log:
            subprocess.run(command, check=False, stdout=log, stderr=log)
        before = len(found)
        lines = told.read_text().splitlines() if told.exists() else []
        for line in lines[sum(a.kind != "died" for a in found.values()) :]:
            row = json.loads(line)
            found[Path(row["path"])] = _answer(row)
        if len(found) < len(paths):
            if len(found) == before == 0:
                raise SystemExit(f"{reader} does not start; see {told.with_suffix('.log')}")
            found[paths[len(found)]] = Answer("died")
    always = found[paths[0]].flags  # what it says of the plain file is no warning of any other
    return {path: replace(answer, flags=answer.flags - always) for path, answer in found.items()}


def _answer(row: dict[str, Any]) -> Answer:
    if row["answer"] != "picture":
        return Answer(row["answer"], error=row.get("error", ""))
    grey = np.frombuffer(base64.b64decode(row["grey"]), np.float32).reshape(SIZE, SIZE)
    return Answer("picture", grey, frozenset(row["said"]))


def ask_tier(preset: str, paths: list[Path]) -> dict[Path, Answer]:
    found = {}
    for path in paths:
        try:
            image = load_image(path, preset)
            grey = (small(image.grey) / 255).astype(np.float32)
            frontal = image.view not in ("lateral", "oblique")  # what a bundle does with the view
            if frontal and max(image.grey.shape) <= 4 * min(image.grey.shape):
                found[path] = Answer("picture", grey, frozenset(image.flags))
            else:
                found[path] = Answer("refused", error="view or aspect_ratio")
        except RefusedImage as refusal:
            found[path] = Answer("refused", error=refusal.reason)
    return found


def judge_same(answer: Answer, plain: Answer) -> str:
    """same, wrong, flagged (wrong, but said so), refused, died or hang."""
    if answer.grey is None or plain.grey is None:
        return answer.kind
    off = float(np.abs(answer.grey - plain.grey).mean())
    if off <= SAME:  # also False for a picture that is not finite
        return "same"
    return "flagged" if answer.flags else "wrong"


def count(kinds: list[str], order: tuple[str, ...]) -> str:
    counts = Counter(kinds)
    more = [k for k in counts if k not in order]
    return " ".join(f"{counts[k]:>4} {k}" for k in (*order, *more))


def main(python: str, work: str, dicom: str = "") -> None:
    folder = Path(work).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    cases = write_all(folder)
    for kind in cases:  # DICOM only: these readers do not read PNG
        cases[kind] = [case for case in cases[kind] if case["suffix"] == ".dcm"]
    cases["same"] = [case for case in cases["same"] if case["defined"]]
    cases["refuse"] = [case for case in cases["refuse"] if len(case["presets"]) == 4]
    paths = [folder / case["file"] for kind in cases.values() for case in kind]
    real: list[str] = []
    if dicom:
        with (Path(dicom) / "index.csv").open(newline="") as file:
            real = [row["file"] for row in csv.DictReader(file)]
    paths += [Path(dicom).resolve() / name for name in real]
    print(versions(python))
    table: dict[str, Any] = {}
    for reader in (*OWN, *READERS):
        if reader in OWN:
            answers = ask_tier(OWN[reader], paths)
        else:
            answers = ask_peer(python, reader, paths, folder)
        table[reader] = report(reader, cases, answers, folder, Path(dicom).resolve(), real)
        print(flush=True)
    (folder / "result.json").write_text(json.dumps(table, indent=1))


def report(
    reader: str,
    cases: dict[str, list[dict[str, Any]]],
    answers: dict[Path, Answer],
    folder: Path,
    dicom: Path,
    real: list[str],
) -> dict[str, dict[str, str]]:
    """Prints the counts of one reader; returns every single verdict."""
    plain = answers[folder / cases["same"][0]["file"]]
    same = {c["name"]: judge_same(answers[folder / c["file"]], plain) for c in cases["same"]}
    refuse = {c["name"]: _refused(answers[folder / c["file"]]) for c in cases["refuse"]}
    flag = {c["name"]: _flagged(answers[folder / c["file"]], reader, c) for c in cases["flag"]}
    listed = [same[c["name"]] for c in cases["same"] if c["listed"]]
    found = {"same": same, "refuse": refuse, "flag": flag}
    print(reader)
    order = ("same", "wrong", "refused")
    print(f"  {LISTED:<32} {count(listed, order)}")
    print(f"  {f'all {len(same)} encodings':<32} {count(list(same.values()), order)}")
    kinds = ("refused", "warned", "scored")
    print(f"  {f'must refuse, {len(refuse)}':<32} {count(list(refuse.values()), kinds)}")
    meant = [kind for kind in flag.values() if kind != "another preset"]
    print(f"  {f'must flag, {len(meant)}':<32} {count(meant, ('flagged', 'silent'))}")
    if real:
        base = answers[dicom / PLAIN]
        equal = [n for n in real if n.startswith("derived/") and Path(n).name[:4] in EQUAL]
        no = [n for n in real if n.startswith("other/") or Path(n).name[:4] in BROKEN]
        found["real same"] = {n: judge_same(answers[dicom / n], base) for n in equal}
        found["real refuse"] = {n: _refused(answers[dicom / n]) for n in no}
        died = sum(answers[dicom / n].kind in ("died", "hang") for n in real)
        equal_to = count(list(found["real same"].values()), order)
        refused = count(list(found["real refuse"].values()), kinds)
        print(f"  {f'real, {len(equal)} equal to d_00':<32} {equal_to}")
        print(f"  {f'real, {len(no)} to refuse':<32} {refused}; {died} of {len(real)} died or hung")
    return found


def _refused(answer: Answer) -> str:
    if answer.kind != "picture":
        return answer.kind
    return "warned" if answer.flags else "scored"


def _flagged(answer: Answer, reader: str, case: dict[str, Any]) -> str:
    """A refusal keeps a wrong score away as well, so it counts; a peer's any warning does."""
    if reader in OWN and OWN[reader] not in case["presets"]:
        return "another preset"
    said = case["flag"] in answer.flags if reader in OWN else bool(answer.flags)
    return "flagged" if said else "silent" if answer.kind == "picture" else "refused"


if __name__ == "__main__":
    main(*sys.argv[1:])
