"""Canaries: names, ids, dates and UIDs that exist nowhere else, planted in files and looked for
in everything that a command leaves behind.

A canary has to be found however it is spelled: in any case, as UTF-16, hex or base64, inside a
picture's text chunks or an HTML page's pictures, in a file's name, or as the bare hash of an id.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, PngImagePlugin
from pydicom import Dataset
from pydicom.datadict import DicomDictionary, keyword_dict, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.sequence import Sequence

WORD = "QQCNRY"  # six letters, so that it fits where "Nobody" stood
NUMBER = "73917359173"
DATE, DASHED = "17391107", "1739-11-07"
TIME = "173917.391739"
AGE = "917Y"
ROOT = f"1.2.826.0.1.{NUMBER}"
STUDY_UID, INSTANCE_UID = f"{ROOT}.501", f"{ROOT}.502"
PATIENT_ID = f"{WORD}-{NUMBER}"
DIGESTS = [  # a bare hash of an id can be looked up by trying all ids
    hashlib.new(kind, text.encode()).hexdigest()
    for kind in ("md5", "sha1", "sha256")
    for text in (PATIENT_ID, STUDY_UID, INSTANCE_UID, WORD, NUMBER)
]
NEEDLES = (WORD, NUMBER, DATE, DASHED, TIME, AGE, *DIGESTS)
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"

BY_VR: dict[str, object] = dict.fromkeys(("LO", "SH", "ST", "LT", "UT", "UC", "AE", "CS"), WORD)
BY_VR |= {"PN": f"{WORD}^{WORD}", "AS": AGE, "DA": DATE, "TM": TIME, "DT": DATE + TIME}
BY_VR |= {"UI": f"{ROOT}.7", "IS": NUMBER, "DS": NUMBER, "UR": f"http://{WORD}/{NUMBER}"}
BY_VR |= {"UN": WORD.encode(), "OB": WORD.encode(), "OW": WORD.encode(), "FD": float(NUMBER)}


# Looking


def leaks(data: bytes, where: str) -> list[str]:
    """'word in where as utf-16', one per canary and spelling; pictures inside are opened."""
    found = []
    for text, spelling in ((data, ""), (data.replace(b"\0", b""), " as utf-16")):
        low = text.lower()
        found += [f"{n} in {where}{spelling}" for n in NEEDLES if n.lower().encode() in low]
    for needle in (WORD, NUMBER, DATE):
        found += [f"{needle} in {where} as hex"] * (needle.encode().hex().encode() in data.lower())
        for form, case in ((needle, ""), (needle.lower(), " lower")):
            spelled = any(part in data for part in _base64_forms(form))
            found += [f"{needle} in {where} as base64{case}"] * spelled
    for number, inner in enumerate(_inside(data)):
        found += leaks(inner, f"{where}, part {number}")
    return list(dict.fromkeys(found))


def leaks_in_folder(folder: Path) -> list[str]:
    """In the names and the contents of everything below; the folder's own name is the test's."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found += leaks(name.encode("utf-8", "surrogateescape"), f"the name {name}")
        if path.is_file():
            found += leaks(path.read_bytes(), name)
    return found


def _base64_forms(text: str) -> list[bytes]:
    """What base64 makes of the text at each of its three offsets, without the mixed ends."""
    forms = []
    for skip in range(3):
        whole = base64.b64encode(b"\0" * skip + text.encode()).rstrip(b"=")
        forms.append(whole[4 if skip else 0 : -1])
    return forms


def _inside(data: bytes) -> Iterator[bytes]:
    """Compressed text of a PNG, and what data: URIs of a page hold."""
    if data.startswith(PNG):
        at = len(PNG)
        while at + 8 <= len(data):
            (size,) = struct.unpack(">I", data[at : at + 4])
            kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
            if kind in (b"zTXt", b"iTXt", b"iCCP") and b"x\x9c" in body:
                yield zlib.decompressobj().decompress(body[body.index(b"x\x9c") :])
            at += 12 + size
    for text in re.findall(rb"data:[\w/+.-]+;base64,([A-Za-z0-9+/=]+)", data):
        yield base64.b64decode(text)


# Planting


def plant(ds: Dataset, keep: set[str]) -> Dataset:
    """A canary into every element of the data dictionary but those that decide about pixels."""
    for number, (vr, _, _, _, keyword) in DicomDictionary.items():
        group, element = number >> 16, number & 0xFFFF
        fixed = group in (0x0000, 0x0002, 0x0004, 0x7FE0, 0xFFFC, 0xFFFE) or element == 0
        if fixed or not keyword or keyword in keep or vr.split(" ")[0] not in (*BY_VR, "SQ"):
            continue
        kind = vr.split(" ")[0]
        ds[number] = DataElement(number, kind, _items() if kind == "SQ" else BY_VR[kind])
    ds.PatientID, ds.StudyInstanceUID, ds.SOPInstanceUID = PATIENT_ID, STUDY_UID, INSTANCE_UID
    block = ds.private_block(0x0009, WORD, create=True)
    for offset, vr in enumerate(("LO", "PN", "UN", "DA", "UI", "OB"), start=1):
        block.add_new(offset, vr, BY_VR[vr])
    ds.add_new(0x60000022, "LO", WORD)  # OverlayDescription
    ds.add_new(0xFFFCFFFC, "OB", WORD.encode())  # DataSetTrailingPadding
    meta = ds.file_meta
    meta.SourceApplicationEntityTitle = meta.SendingApplicationEntityTitle = WORD
    meta.ReceivingApplicationEntityTitle = meta.ImplementationVersionName = WORD
    meta.ImplementationClassUID = meta.PrivateInformationCreatorUID = f"{ROOT}.8"
    meta.PrivateInformation = WORD.encode()
    ds.preamble = f"{WORD} {NUMBER}".encode().ljust(128, b"\0")
    return ds


def _items() -> Sequence:
    item = Dataset()
    item.PatientName, item.PatientID, item.PatientBirthDate = BY_VR["PN"], PATIENT_ID, DATE
    item.ReferencedSOPInstanceUID, item.CodeMeaning = f"{ROOT}.9", WORD
    return Sequence([item])


def misplaced(keyword: str) -> dict[str, bytes]:
    """The element of this keyword, explicit little endian, holding what does not belong there."""
    number = tag_for_keyword(keyword) or 0
    own = DicomDictionary[number][0].split(" ")[0].encode()
    person = _explicit(0x00100010, b"PN", f"{WORD}^{WORD}") + _explicit(0x00100030, b"DA", DATE)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(person)) + person
    return {
        "text": _explicit(number, b"LO", f"{WORD}^{WORD}"),
        "number": _explicit(number, b"LO", NUMBER),
        "unknown": _explicit(number, b"UN", f"{WORD} {NUMBER}"),
        "sequence": _explicit(number, b"SQ", item),
        "raw": _explicit(number, own, f"{WORD}^{DATE}"),
    }


def inserted(data: bytes, elements: bytes) -> bytes:
    """The file with more elements at the start of its dataset, behind the file meta group."""
    start = _start_of_dataset(data)
    return data[:start] + elements + data[start:]


def infected(data: bytes) -> bytes:
    """A file of `tests.infer.encodings`, whole or broken, with canaries of the same length."""
    for plain, canary in (
        (b"Nobody", WORD.encode()),
        (b"20200102", DATE.encode()),
        (b"060Y", AGE.encode()),
    ):
        data = data.replace(plain, canary)
    uid = b"1.2.826.0.1.3680043.8.498.7."
    data = data.replace(uid, f"1.2.8.0.{NUMBER}.98.77.".encode().ljust(len(uid), b"1")[: len(uid)])
    explicit = re.match(rb"\x08\x00[\x05\x08]\x00CS", data[_start_of_dataset(data) :])
    if data[128:132] != b"DICM" or not explicit:
        return data
    more = (
        (0x00080080, b"LO", WORD),
        (0x00080090, b"PN", WORD),
        (0x00081030, b"LO", f"{WORD} {NUMBER}"),
        (0x00100030, b"DA", DATE),
        (0x00090010, b"LO", WORD),
        (0x00091001, b"LO", NUMBER),
    )
    return inserted(data, b"".join(_explicit(*element) for element in more))


def _start_of_dataset(data: bytes) -> int:
    return 132 + 12 + int.from_bytes(data[140:144], "little")


def _explicit(tag: int, vr: bytes, value: str | bytes) -> bytes:
    """PS3.5 7.1.2: two bytes of length, or four behind two of nothing."""
    data = value if isinstance(value, bytes) else value.encode() + b" " * (len(value) % 2)
    size = "<2xI" if vr in (b"SQ", b"UN", b"OB", b"OW", b"UT", b"UC", b"UR") else "<H"
    return struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr) + struct.pack(size, len(data)) + data


def pictures(grey: Image.Image) -> dict[str, bytes]:
    """name → PNG and JPEG files with canaries in every place for text that they have."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", WORD)
    text.add_text("Comment", f"{WORD} {NUMBER}", zip=True)
    text.add_itxt("Title", WORD, zip=True)
    exif = Image.Exif()
    exif[0x013B], exif[0x010E], exif[0x0132] = WORD, NUMBER, "1739:11:07 00:00:00"
    exif[0x9286] = b"ASCII\0\0\0" + WORD.encode()
    png, jpeg = io.BytesIO(), io.BytesIO()
    grey.save(png, "PNG", pnginfo=text, exif=exif)
    grey.save(jpeg, "JPEG", comment=f"{WORD} {NUMBER}".encode(), exif=exif, xmp=WORD.encode())
    whole = {"text.png": png.getvalue(), "exif.jpg": jpeg.getvalue()}
    half = {f"cut_{name}": data[: len(data) * 2 // 3] for name, data in whole.items()}
    wrong = png.getvalue().replace(b"tEXt", b"tEXT", 1)  # its checksum is wrong now
    return {**whole, **half, "bad_chunk.png": wrong}


def looked_at(sources: Path) -> set[str]:
    """DICOM keywords that the reader names in its source: the ones that decide about a file."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(sources.rglob("*.py")))
    return {word for word in re.findall(r"\b[A-Z][A-Za-z0-9]{3,}\b", text) if word in keyword_dict}
