"""The files that are mutated: every transfer syntax, small pictures, real headers, real files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom import Dataset
from pydicom.uid import ExplicitVRBigEndian

from tests.infer.dicom_files import dx, picture
from tests.infer.encodings import base, codecs

DATA = Path(__file__).parents[2] / "tests" / "data"
REAL = ("d_08_j2k_lossy20.dcm", "d_07_j2k_lossless.dcm")
DEFLATED, IMPLICIT, BIG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2", ExplicitVRBigEndian
RLE = "1.2.840.10008.1.2.5"
ROWS, COLUMNS = 40, 36
Pixels = NDArray[Any]


@dataclass(frozen=True)
class Seed:
    """`weight`: how often it is drawn; large files are slow."""

    name: str
    suffix: str  # .dcm, .png, .jpg, .zip
    data: bytes
    weight: float = 1.0


def all_seeds(folders: Iterable[Path] = ()) -> list[Seed]:
    """`folders`: further files to mutate, those below them that look like DICOM or pictures."""
    seeds = [Seed(f"{name}-{kind}", ".dcm", data) for name, kind, data in _dicom()]
    seeds += [Seed(name, Path(name).suffix, data) for name, data in _pictures()]
    seeds += [Seed(name, ".zip", data) for name, data in _zips(seeds[0].data, seeds[-1].data)]
    for name, weight in zip(REAL, (1.0, 0.2), strict=True):
        seeds.append(Seed(name, ".dcm", (DATA / name).read_bytes(), weight))
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            if path.suffix.lower() in (".dcm", ".png", ".jpg", ".zip"):
                data = path.read_bytes()
                seeds.append(Seed(path.name, path.suffix.lower(), data, 1 / (1 + len(data) / 1e5)))
    return seeds


def _dicom() -> Iterator[tuple[str, str, bytes]]:
    for name, header in (("made", rich), ("real", real)):
        for syntax, data in _every_syntax(header):
            yield name, syntax, data
    eight = (picture() >> 4).astype(np.uint8)
    colour = np.repeat(eight[..., None], 3, 2)
    yield "made", "rgb", base.pack(_colour(colour, "RGB", 0))
    planes = np.ascontiguousarray(colour.transpose(2, 0, 1))
    yield "made", "rgb_planar", base.pack(_colour(planes, "RGB", 1))
    ybr = _colour(colour, "YBR_FULL_422", 0)
    jpeg = codecs._pillow(colour, "JPEG", quality=95)
    yield "made", "ybr_jpeg", base.pack(base.compressed(ybr, codecs.JPEG_BASELINE, jpeg))
    yield "made", "palette", base.pack(_palette(eight))
    signed = (picture().astype(np.int32) - 2048).astype(np.int16)
    yield "made", "signed", base.pack(rich(signed, 12, RescaleIntercept="2048"))
    lut = dx(ModalityLUTSequence=[_lut(0, np.arange(4096))], PixelPaddingValue=0)
    yield "made", "modality_lut", base.pack(lut)
    yield "made", "no_meta", base.pack(dx())[132:]
    stream = codecs.jpeg_ls_stream(picture())
    parts = [stream[i : i + 500] for i in range(0, len(stream), 500)]
    yield "made", "fragments", base.pack(base.compressed(dx(), codecs.JPEG_LS, *parts))


def rich(pixels: Pixels | None = None, bits: int = 12, **tags: Any) -> Dataset:
    """A scored dataset with nearly every tag that the reader asks for."""
    view = Dataset()
    view.CodeValue, view.CodeMeaning = "R-10214", "postero-anterior"
    more: dict[str, Any] = {"RescaleSlope": "1", "RescaleIntercept": "0", "NumberOfFrames": 1}
    more |= {"WindowCenter": ["2048", "900"], "WindowWidth": ["4096", "800"]}
    more |= {"PatientOrientation": ["L", "F"], "PixelAspectRatio": [1, 1], "ViewPosition": None}
    more |= {"ViewCodeSequence": [view], "BurnedInAnnotation": "NO", "PatientAge": "060Y"}
    more |= {"VOILUTSequence": [_lut(1800, np.arange(512) * 8)], "VOILUTFunction": "LINEAR"}
    more |= {"PresentationLUTShape": "IDENTITY", "PresentationIntentType": "FOR PRESENTATION"}
    more |= {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 4095}
    more |= {
        "LossyImageCompression": "00",
        "ImageType": ["DERIVED", "PRIMARY", ""],
        "SpecificCharacterSet": "ISO_IR 192",
    }
    more |= {"PixelSpacing": [0.2, 0.2], "StudyDate": "20200102", "PatientBirthDate": "19500101"}
    return dx(pixels, bits, **(more | tags))


def real(pixels: Pixels | None = None, bits: int = 12, **tags: Any) -> Dataset:
    """The header of a real file round a small picture made of its own pixels."""
    source = pydicom.dcmread(DATA / REAL[0])
    grey = source.pixel_array.astype(np.float64)
    step = (grey.shape[0] // ROWS, grey.shape[1] // COLUMNS)
    small = grey[:: step[0], :: step[1]][:ROWS, :COLUMNS]
    small = np.rint((small - small.min()) / np.ptp(small) * (2**bits - 1))
    del source["PixelData"]
    made = dx(small.astype(np.uint16 if bits > 8 else np.uint8), bits)
    for element in source:
        if element.tag not in made:
            made[element.tag] = element
    for keyword, value in tags.items():
        setattr(made, keyword, value)
    return made


def _every_syntax(make: Any) -> Iterator[tuple[str, bytes]]:
    """`make(pixels, bits)` gives the dataset, whose pixels stand uncompressed in it."""
    ds = make()
    deep = np.frombuffer(ds.PixelData, np.uint16).reshape(ds.Rows, ds.Columns)
    flat = (deep >> 4).astype(np.uint8)
    for name, syntax in (("explicit", None), ("implicit", IMPLICIT), ("deflated", DEFLATED)):
        ds = make()
        if syntax:
            ds.file_meta.TransferSyntaxUID = syntax
        yield name, base.pack(ds)
    big = make()
    big.file_meta.TransferSyntaxUID = BIG
    base.set_pixels(big, deep.byteswap().tobytes())
    for lut in big.get("VOILUTSequence", []):
        lut.LUTData = np.frombuffer(lut.LUTData, np.uint16).byteswap().tobytes()
    yield "big", base.pack(big)
    yield "rle", base.pack(codecs.rle(make()))
    shallow = rich(flat, 8, VOILUTSequence=None) if make is rich else make(bits=8)
    stream = codecs.jpeg_baseline(flat)
    yield "jpeg", base.pack(base.compressed(shallow, codecs.JPEG_BASELINE, stream))
    streams = {
        "jpegls": (codecs.JPEG_LS, codecs.jpeg_ls_stream(deep)),
        "jpegls_near": (codecs.JPEG_LS_NEAR, codecs.jpeg_ls_stream(deep, near=2)),
        "j2k": (codecs.J2K_LOSSLESS, codecs.jpeg_2000(deep)),
        "j2k_lossy": (codecs.J2K, codecs.jpeg_2000(deep, ratio=4, box=True)),
    }
    if codecs.imagecodecs is not None:
        streams |= {
            "extended": (codecs.JPEG_EXTENDED, codecs.jpeg_extended(deep)),
            "lossless": (codecs.JPEG_LOSSLESS, codecs.jpeg_lossless(deep, 12, predictor=4)),
            "lossless_sv1": (codecs.JPEG_LOSSLESS_SV1, codecs.jpeg_lossless(deep, 12)),
            "htj2k": (codecs.HTJ2K_LOSSLESS, codecs.htj2k(deep)),
            "htj2k_lossy": (codecs.HTJ2K, codecs.htj2k(deep, step=0.01)),
        }
    for name, (syntax, stream) in streams.items():
        yield name, base.pack(base.compressed(make(), syntax, stream))


def _colour(pixels: Pixels, photometric: str, planar: int) -> Dataset:
    ds = dx(bits=8, pixels=np.zeros((ROWS, COLUMNS), np.uint8), SamplesPerPixel=3)
    ds.PhotometricInterpretation, ds.PlanarConfiguration = photometric, planar
    return base.set_pixels(ds, pixels.tobytes())


def _palette(pixels: Pixels) -> Dataset:
    ds = dx(pixels, 8, PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        table = (np.arange(256) * 257).astype("<u2").tobytes()
        setattr(ds, f"{colour}PaletteColorLookupTableData", table)
    return ds


def _lut(first: int, table: Pixels) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(table), first, 12]
    item.LUTData = table.astype("<u2").tobytes()
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"
    return item


def _pictures() -> Iterator[tuple[str, bytes]]:
    grey = (picture() >> 4).astype(np.uint8)
    image = Image.fromarray(grey)
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngInfo()
    text.add_text("Title", "film")
    made = {
        "grey.png": (image, {"pnginfo": text}),
        "deep.png": (Image.fromarray(picture() << 4), {}),
        "rgb.png": (image.convert("RGB"), {}),
        "palette.png": (image.convert("P"), {}),
        "interlaced_alpha.png": (image.convert("LA"), {}),
        "grey.jpg": (image, {"exif": exif}),
        "rgb.jpg": (image.convert("RGB"), {}),
        "progressive.jpg": (image, {"progressive": True}),
    }
    for name, (shown, options) in made.items():
        buffer = io.BytesIO()
        shown.save(buffer, "PNG" if name.endswith("png") else "JPEG", **options)
        yield name, buffer.getvalue()


def _zips(first: bytes, second: bytes) -> Iterator[tuple[str, bytes]]:
    methods = {"deflated.zip": zipfile.ZIP_DEFLATED, "stored.zip": zipfile.ZIP_STORED}
    for name, method in methods.items():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.comment = b"films"
            for member, data in (("a/one.dcm", first), ("two.jpg", second), ("README", b"words")):
                archive.writestr(zipfile.ZipInfo(member), data, method)
        yield name, buffer.getvalue()
