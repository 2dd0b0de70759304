"""python -m pytest tests/test_privacy.py -- nothing that a header says ever comes out.

Canaries (tests/canary.py) stand in every element of the data dictionary, in the wrong places, in
broken files and in pictures. They are looked for in everything that the commands print, log and
write. `--debug` is left out: it says itself that it may show file content. Known exceptions: paths
as the user gave them, and the names of the files in a folder or an archive.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import logging
import os
import re
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, PngImagePlugin
from pydicom import Dataset

from tests import canary
from tests.canary import NEEDLES, WORD, infected, leaks, leaks_in_folder, looked_at
from tests.conftest import DATA
from tests.infer.encodings.base import dataset, pack
from tests.infer.encodings.refuse_files import files
from tests.infer.encodings.refuse_pixels import pixels
from tests.infer.encodings.refuse_rules import film, rules
from tests.trained import BIN
from tier_infer.errors import RefusedImage, TierError
from tier_infer.images import load_bytes, load_image
from tier_infer.reader import Reader

SOURCES = Path(__file__).parent.parent / "tier_infer" / "dicom"
HARMLESS = {  # the reader looks at them, and a canary there does not change what it decides
    *("AcquisitionDate", "CodeMeaning", "CodeValue", "DerivationDescription", "Manufacturer"),
    *("PatientBirthDate", "SeriesDescription", "StudyDate"),
}
DEBUG_LOGS = """
import logging, os, warnings
logging.basicConfig(level=logging.DEBUG, filename=os.environ["WATCHED_LOG"])
warnings.simplefilter("always")
"""


@dataclass
class Watched:
    """Runs commands in a place of their own, where every file that they leave can be seen."""

    place: Path
    work: Path

    def run(self, command: str, *args: object, codes: tuple[int, ...] = (0,)) -> str:
        """Standard output of the command; fails when any of its traces holds a canary."""
        for name in ("home", "temp", "site", "log"):
            (self.place / name).mkdir(exist_ok=True)
        (self.place / "site/sitecustomize.py").write_text(DEBUG_LOGS)
        foreign = ("TIER_", "XDG_")  # TIER_CACHE is then in this home, and watched
        environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        environment |= {
            "HOME": str(self.place / "home"),
            "TMPDIR": str(self.place / "temp"),
            "PYTHONPATH": str(self.place / "site"),
            "WATCHED_LOG": str(self.place / "log/debug.log"),
        }
        done = subprocess.run(
            [str(BIN / command), *map(str, args)],
            cwd=self.work,
            env=environment,
            capture_output=True,
            check=False,
        )
        assert done.returncode in codes, done.stderr.decode(errors="replace")
        assert b"Traceback" not in done.stderr
        found = leaks(done.stdout, "stdout") + leaks(done.stderr, "stderr")
        assert found + leaks_in_folder(self.place) == []
        return done.stdout.decode()


@pytest.fixture
def watched(tmp_path: Path, site: Path) -> Watched:
    (tmp_path / "place").mkdir()
    return Watched(tmp_path / "place", site)


def packed(ds: Dataset) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of the canaries that we write
        return pack(ds)


def planted() -> Dataset:
    return canary.plant(dataset(film()), looked_at(SOURCES) - HARMLESS)


def without(*keywords: str, **tags: str) -> bytes:
    """A film of somebody, without these elements."""
    ds = dataset(film(), PatientName=WORD, PatientID=canary.PATIENT_ID, **tags)
    for keyword in keywords:
        if keyword in ds:
            del ds[keyword]
    return pack(ds)


@pytest.fixture(scope="session")
def whole() -> bytes:
    """A film that is scored, with a canary in thousands of elements."""
    return packed(planted())


@pytest.fixture(scope="session")
def collection(whole: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of file, under names that say nothing: scored, refused and broken ones."""
    folder = tmp_path_factory.mktemp("files")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of the canaries that we write
        for number, (suffix, data) in enumerate(_files(whole)):
            (folder / f"{number:04d}{suffix}").write_bytes(data)
    with zipfile.ZipFile(folder / "study.zip", "w") as archive:
        archive.comment = WORD.encode()
        member = zipfile.ZipInfo("inner.dcm")
        member.comment = WORD.encode()
        archive.writestr(member, whole)
    (folder / "locked.zip").write_bytes((folder / "study.zip").read_bytes()[:-200])
    return folder


def _files(whole: bytes) -> Iterator[tuple[str, bytes]]:
    yield ".dcm", whole
    yield ".dcm", whole[128 + 4 :]  # no preamble
    for cut in (140, 400, 1000, len(whole) // 4, len(whole) // 2, len(whole) - 50_000):
        yield ".dcm", whole[:cut]
    number = 0
    for keyword in sorted(looked_at(SOURCES)):
        for element in canary.misplaced(keyword).values():
            number += 1
            study = f"{canary.ROOT}.5{number}"
            yield ".dcm", canary.inserted(without(keyword, StudyInstanceUID=study), element)
    plain = pack(dataset(film()))
    for uid in (f"1.2.{canary.NUMBER}.1", f"{WORD}^{WORD}", f"1.2.840.10008.{WORD}"):
        syntax = b"1.2.840.10008.1.2.1\0"
        yield ".dcm", plain.replace(syntax, uid.encode().ljust(len(syntax), b"\0"), 1)
    for refusal in (*rules(), *pixels(), *files()):
        yield refusal.suffix, infected(refusal.data)
    yield ".txt", f"{WORD} {canary.NUMBER}".encode()
    grey = Image.fromarray((film() >> 4).astype(np.uint8))
    for name, data in canary.pictures(grey).items():
        yield Path(name).suffix, data


# The commands


def scored(report: str) -> list[str]:
    images = [i for study in json.loads(report)["studies"] for i in study["images"]]
    return [i["path"] for i in images if i["status"] == "scored"]


def options(command: str) -> str:
    from tier_infer.cli import main

    return CliRunner().invoke(main, [*command.split(), "--help"]).stdout


def test_scoring_as_json_with_pictures_and_report(watched: Watched, collection: Path) -> None:
    extra: list[object] = ["--heatmaps", watched.place / "heat"]
    if "--report" in options("score"):
        extra += ["--report", watched.place / "report.html", "--smooth"]
    files = [collection / "0000.dcm", collection / "study.zip"]
    files += sorted(collection.glob("00[0-4]*.dcm"))[1:]
    files += sorted(collection.glob("*.png")) + sorted(collection.glob("*.jpg"))
    report = watched.run("tier-infer", *files, "--json", *extra, codes=(0, 8))
    assert str(collection / "0000.dcm") in scored(report)
    assert list((watched.place / "heat").iterdir())


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_scoring_everything(watched: Watched, collection: Path, form: list[str]) -> None:
    """Every reason to refuse a file, in every form of output."""
    out = watched.run("tier-infer", collection, *form, codes=(8,))
    if form == ["--json"]:
        reasons = {i["reason"] for s in json.loads(out)["studies"] for i in s["images"]}
        assert len(reasons) > 25
        assert len(scored(out)) > 10


def test_nothing_scored(watched: Watched, collection: Path) -> None:
    (path,) = [p for p in collection.glob("*.txt") if p.stat().st_size < 50]
    watched.run("tier-infer", path, codes=(3,))


def test_evaluate(watched: Watched, collection: Path, site: Path) -> None:
    """Labels and patients of the CSV are the user's; an id of a patient is not shown either."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("image_path", "patient_id", "edema"))
    for number in range(20):
        path = site / f"images/phantom-{number:05d}.dcm"
        writer.writerow((path, f"{canary.PATIENT_ID}-{number}", number % 2))
    writer.writerow((collection / "0000.dcm", canary.PATIENT_ID, 1))
    writer.writerow((collection / "0005.dcm", canary.PATIENT_ID, 0))  # cut in the pixels
    (watched.place.parent / "labels.csv").write_text(table.getvalue())
    out = watched.place / "evaluated"
    args = ["evaluate", watched.place.parent / "labels.csv", "--draws", "10", "-o", out]
    watched.run("tier-infer", *args, codes=(8,))
    watched.run("tier-infer", *args, "--json", codes=(8,))
    assert str(collection / "0000.dcm") in (out / "scores.csv").read_text()


def test_doctor(watched: Watched) -> None:
    from tier_infer.doctor.checks import run_doctor, to_json

    assert leaks(to_json(run_doctor(watched.work / "bundle")).encode(), "doctor") == []
    if re.search(r"\bdoctor\b", options("")):
        watched.run("tier-infer", "doctor", codes=(0, 2))


def test_what_a_run_leaves_at_home_is_its_cache_alone(watched: Watched, collection: Path) -> None:
    """A key, and a proof that names bundle, libraries and processor, no study."""
    told = watched.run("tier-infer", "warmup", "--device", "cpu")
    assert str(watched.place) not in told
    watched.run("tier-infer", collection / "0000.dcm")
    home = watched.place / "home"
    left = sorted(str(p.relative_to(home)) for p in home.rglob("*") if p.is_file())
    assert [re.sub(r"\w{64}", "DIGEST", name) for name in left] == [
        ".cache/tier-cxr/key",
        ".cache/tier-cxr/proofs/DIGEST.json",
        ".cache/tier-cxr/proofs/DIGEST.json.seal",
    ]


def manifest(folder: Path, whole: bytes, bad: bytes | None = None) -> Path:
    """A data set of planted films; texts and labels are the researcher's own and carry none."""
    (folder / "set").mkdir()
    rows = ["image_path,patient_id,split,text,edema,intensity"]
    for number in range(14):
        split = ("train", "train", "val", "test")[number % 4] if number > 7 else "train"
        data = bad if bad is not None and number == 3 else whole
        (folder / f"set/{number}.dcm").write_bytes(data)
        patient = f"{canary.PATIENT_ID}-{number}"
        rows.append(f"{number}.dcm,{patient},{split},Edema number {number}.,{number % 2},mimic-jpg")
    (folder / "set/manifest.csv").write_text("\n".join(rows) + "\n")
    return folder / "set/manifest.csv"


TINY = [
    f"--set={item}"
    for item in (
        *("steps=2", "batch_size=8", "validate_every=1", "vocab_size=120"),
        *("embed_dim=16", "text_width=16", "text_layers=1"),
    )
]


def test_training_on_such_files(watched: Watched, whole: bytes, tmp_path: Path) -> None:
    data = manifest(tmp_path, whole)
    args = ["run", "--data", f"manifest:{data}", *TINY, "--threads", "1"]
    watched.run("tier-train", *args, "-o", watched.place / "ckpt.pt")
    assert (watched.place / "ckpt.pt").is_file()


def test_export_measured_on_such_files(
    watched: Watched, whole: bytes, tmp_path: Path, site: Path
) -> None:
    data = manifest(tmp_path, whole)
    with data.open("a") as rows:  # one picture alone proves nothing
        for number, path in enumerate(sorted((DATA / "nih").glob("*.jpg"))[:3]):
            rows.write(f"{path},nih-{number},test,Edema.,{number % 2},mimic-jpg\n")
    target = watched.place / "bundle"
    watched.run("tier-export", "--crops", data, "-o", target, site / "ckpt.pt")
    assert (target / "manifest.json").is_file()


def test_refused_files_of_a_data_set(whole: bytes, tmp_path: Path, site: Path) -> None:
    """Training and export name the line and the file, and say why."""
    import tier_export.cli
    import tier_train.cli

    data = manifest(tmp_path, whole, bad=whole[: len(whole) // 2])
    data.write_text(data.read_text().replace(",test,", ",train,"))
    args = [tmp_path / "out", "--data", f"manifest:{data}", *TINY]
    refused = CliRunner().invoke(tier_train.cli.main, ["run", "-o", *map(str, args)])
    assert refused.exit_code == 2
    data.write_text(data.read_text().replace(",val,", ",train,"))  # nothing held out: all are read
    args = [data, "-o", tmp_path / "bundle", site / "ckpt.pt"]
    export = CliRunner().invoke(tier_export.cli.main, ["--crops", *map(str, args)])
    assert export.exit_code == 2
    for output in (refused.output, export.output):
        assert "3.dcm" in output
        assert leaks(output.encode(), "the output") == []


# --with-uids, the only switch that shows anything of a header


def with_uids(watched: Watched, path: Path) -> tuple[dict[str, Any], str]:
    """The JSON report and the page; nothing else that the run says holds a canary."""
    page = watched.place.parent / "report.html"
    done = subprocess.run(
        [str(BIN / "tier-infer"), str(path), "--json", "--with-uids", "--report", str(page)],
        cwd=watched.work,
        capture_output=True,
        check=False,
    )
    assert done.returncode in (0, 3)
    assert leaks(done.stderr, "stderr") == []
    return json.loads(done.stdout), page.read_text() if page.exists() else ""


def test_with_uids_shows_two_uids_and_nothing_else(watched: Watched, collection: Path) -> None:
    report, page = with_uids(watched, collection / "0000.dcm")
    (study,) = report["studies"]
    assert study["study_instance_uid"] == canary.STUDY_UID
    assert study["images"][0]["sop_instance_uid"] == canary.INSTANCE_UID
    del study["study_instance_uid"], study["images"][0]["sop_instance_uid"]
    assert leaks(json.dumps(report).encode(), "the rest of the report") == []
    for uid in (canary.STUDY_UID, canary.INSTANCE_UID):
        page = page.replace(uid, "")
    assert leaks(page.encode(), "the rest of the page") == []


def test_with_uids_does_not_show_a_name_in_the_place_of_a_uid(
    watched: Watched, tmp_path: Path
) -> None:
    uids = ("StudyInstanceUID", "SOPInstanceUID")
    data = b"".join(canary.misplaced(keyword)["raw"] for keyword in uids)
    (tmp_path / "name.dcm").write_bytes(canary.inserted(without(*uids), data))
    report, page = with_uids(watched, tmp_path / "name.dcm")
    assert leaks(json.dumps(report).encode(), "the report") == []
    assert leaks(page.encode(), "the page") == []


# In this process: every logger at its loudest, every message, and a decode child that dies


def test_no_logger_and_no_message_repeats_a_value(
    collection: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Training and export read in their own process, where a host may have switched logs on."""
    caplog.set_level(logging.DEBUG)
    said = []
    refused = hidden_cause = 0
    for path in sorted(collection.iterdir()):
        try:
            image = load_image(path, "mimic-jpg")
            said.append(f"{image.view} {image.flags}")
        except RefusedImage as refusal:
            refused += 1
            said.append(f"{refusal.reason} {refusal.view} {refusal}")
            hidden_cause += refusal.__cause__ is None and (
                refusal.__suppress_context__ or refusal.__context__ is None
            )
    assert refused > 150
    assert hidden_cause == refused  # a log of the exception would show pydicom's own words
    assert leaks("\n".join(said).encode(), "messages and flags") == []
    assert leaks(caplog.text.encode(), "logs") == []
    printed = capfd.readouterr()
    assert leaks((printed.out + printed.err).encode(), "stdout and stderr") == []


def said_by(reader: Reader, path: Path) -> str:
    with pytest.raises(TierError) as caught:
        reader.read(str(path))
    return f"{getattr(caught.value, 'reason', '')}: {caught.value}"


def test_a_decode_child_that_is_killed_or_too_slow(
    collection: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = collection / "0000.dcm"
    with Reader("mimic-jpg") as reader:
        reader.read(str(path))
        child = reader._child
        assert child is not None
        os.kill(child.pid, 19)  # SIGSTOP: it will not answer
        reader._seconds = 0.05
        said = [said_by(reader, path)]
    with Reader("mimic-jpg", memory_bytes=2**20) as reader:
        said.append(said_by(reader, path))
    assert said[0].startswith("time_limit")
    printed = capfd.readouterr()
    everything = "\n".join([*said, printed.out, printed.err])
    assert leaks(everything.encode(), "what was said") == []


# The test of the test


def hidden(form: str) -> bytes:
    text = f"Name: {WORD}^X"
    if form == "png":
        info, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
        info.add_text("Comment", text, zip=True)
        Image.new("L", (9, 9)).save(buffer, "PNG", pnginfo=info)
        return buffer.getvalue()
    return {
        "plain": text.encode(),
        "lower": text.lower().encode(),
        "utf-16": text.encode("utf-16"),
        "utf-16-be": text.encode("utf-16-be"),
        "hex": text.encode().hex().upper().encode(),
        "base64": base64.b64encode(text.encode()),
        "base64+1": base64.b64encode(b"x" + text.encode()),
        "base64+2": base64.b64encode(b"xy" + text.encode()),
        "json": json.dumps({"a": [text]}).encode(),
        "date": f"born {canary.DASHED}".encode(),
        "uid": f"study {canary.ROOT}.44".encode(),
        "digest": f"patient {canary.DIGESTS[-1]}".encode(),
    }[form]


FORMS = "plain lower utf-16 utf-16-be hex base64 base64+1 base64+2 json date uid digest png"


@pytest.mark.parametrize("form", FORMS.split())
def test_a_planted_leak_is_found(form: str, tmp_path: Path) -> None:
    data = hidden(form)
    assert leaks(data, "data")
    page = b'<img src="data:image/png;base64,' + base64.b64encode(data) + b'">'
    assert leaks(page, "page")
    (tmp_path / "deep").mkdir()
    assert leaks_in_folder(tmp_path) == []
    (tmp_path / "deep" / f"{NEEDLES[0].lower()}.png").write_bytes(b"")
    assert leaks_in_folder(tmp_path)


def test_the_harness_fails_on_a_command_that_leaks(watched: Watched, tmp_path: Path) -> None:
    """A message that repeats a header value, from the real command."""
    (watched.place / "temp").mkdir()
    with pytest.raises(AssertionError, match="QQCNRY in stderr"):
        watched.run("tier-infer", "study.dcm", "--labels", WORD, codes=(2,))
    (watched.place / "temp/left-over.bin").write_bytes(hidden("utf-16"))
    with pytest.raises(AssertionError, match="left-over"):
        watched.run("tier-infer", "--version")


def test_a_reader_that_repeats_a_value_is_caught(
    whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tier_infer.dicom.rules as rules_module

    ds = dataset(film(), Modality=WORD)
    monkeypatch.setattr(rules_module, "named", lambda ds, keyword, *_: str(ds.get(keyword)))
    with pytest.raises(RefusedImage) as caught:
        load_bytes(packed(ds), ".dcm", "mimic-jpg")
    assert leaks(str(caught.value).encode(), "the message")


def test_the_canaries_stand_where_they_should(whole: bytes) -> None:
    assert len(planted()) > 4000
    assert len(looked_at(SOURCES)) > 30
    assert load_bytes(whole, ".dcm", "mimic-jpg").study_key == canary.STUDY_UID
    assert sys.version_info >= (3, 11)


@pytest.mark.parametrize("command", [["tier-infer", "study.dcm"], ["tier-export", "verify"]])
def test_no_device_id_and_no_queue_of_events_is_left(
    site: Path, tmp_path: Path, command: list[str]
) -> None:
    """Found in review: onnxruntime 1.32 kept a device id and events for its maker in ~/.cache."""
    folders = {"HOME": "home", "TMPDIR": "tmp", "XDG_CACHE_HOME": "cache"}
    for folder in folders.values():
        (tmp_path / folder).mkdir()
    places = {name: str(tmp_path / folder) for name, folder in folders.items()}
    kept = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]], cwd=site, env=kept | places,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == []
