"""One small picture in every transfer syntax, to prove that this installation decodes it.

Encoders of the base install write most of them on the spot. For those that no base package can
write there are codestreams below, of the same `picture`, made once with imagecodecs 2026.3.6
(libjpeg-turbo 3.1.3, OpenJPH 0.26.3): `jpeg8_encode(picture(12), level=80, bitspersample=12)`,
`jpeg8_encode(picture(12), lossless=True, bitspersample=12, predictor=1 or 6)` and
`htj2k_encode(picture(8), reversible=True, resolutions=2)`; JFIF headers were cut away.
"""

from __future__ import annotations

import base64
import io
import warnings

import numpy as np
from numpy.typing import NDArray

EXTENDED = """
/9j/2wBDAAYEBQYFBAYGBQYHBwYIChAKCgkJChQODwwQFxQYGBcUFhYaHSUfGhsjHBYWICwgIyYnKSopGR8tMC0oMCUo
KSj/wQALDAAQABABAREA/8QAFQABAQAAAAAAAAAAAAAAAAAACgv/xAAnEAABBAICAQEJAAAAAAAAAAACAwQFBgEHCAkK
RBESExUiJSZjcf/aAAgBAQAAPwCVt1Z+PZxj1vwViPxHTL3YjzW4enjLDKy0nKRn8JWLcsFlP1mmaPqMuftzRODvjn8S
YWnVfWFag9ENn01ZK7UVJCP+US6gtQl2armfKaD25aJmgKwKDkxH4ahpkmmLbLmQYT1H9INfheu5KA1BQLnPPm+qzYvl
aZRZdJqKj6IyEyU46Ua4QUTb5JbIqgZp+6mkSZNxTc5kGj8G+kDXT3S8JW6pTbmtplayViEnbBA69nGlXbVpCcYL4fvc
LshMnpGAj9OCMzNTGDVFVq1Y/wD/2Q==
"""
LOSSLESS_SV1 = """
/9j/wwALDAAQABABAREA/8QAGQAAAwEBAQAAAAAAAAAAAAAABwgJCgYM/9oACAEBAAEAAPP/AJJJJIJJJJJJJBJJJJJJ
IJJJZJ0XRdJ0XRdHIq6LpOi6LpOjkVdFkatVaq1mdq1VnM9VqrNWsztWqtZnatMleK8UJrxQmvHCW8d4oTXihNeKE14m
R01yu01yv01SvldprldprldprldK/TUyWvNN0315pum6b6803TbXom6bJvrzZLb3wA/H/AD8f7fB/wAAPx+P+A2+MiSS
SSSQSSSSSSSCSSSSSSQSWSdF0XSdF0XSyKOk6Louk6Lo5FXRZGrVWqtZnatVazO1aq1VnM9VqrOZ6rLJXivHCW8cJbxw
mvFeKE14oTXihNeNktNUr9NUr9NcrpXaa5Xaa5Xaa5Xyu01sjrzTdN9eabpum+vNN0315pum6ba9GS2+D8f8APx+P9vg
/wCAH4/4Af7fGRJJJJJJJBJJJJJJIJJJJJJJDJOi6Toui6LpZFXRdF0nRdF0ciro/wD/2Q==
"""
LOSSLESS = """
/9j/wwALDAAQABABAREA/8QAGgAAAwEBAQEAAAAAAAAAAAAACAkKBwMGDP/aAAgBAQAGAAD5/wD0nSdI0nSdJ0nSNJ0n
SdJ0jSdJJI0WKtbc8+KiZVxpMWa0558dE6rzRJE0mLNani66SRxpMVa1PF00kjTSJI0WKzO2+Im0ojDSYtM9b4ibSSON
EkTSlZs4njvATURxoys2cTxXgJqI40SSNFi0z1vaJ9JI40WLTO2+om0kjTSJI0WLNani66SRppMVa3PD00kjjSJGRYNx
8z/ppJHSKhuPfgOulEZIqSRosVa0598VE6rjSYs1pz74qJlXmiSJpMWa1PF10kjjRYs1qeLrpJHGiSRosWmdt9RLpJHG
ixWZ63tE2kkaaZJGjKzZxPFeCmojTSlZs4nivATWRpokiaTFZnre0TaSRxosWmet8RNpJGmkSRpMWa1PH10kjTSYq1qe
LppJHGiSMiobj5n/AE0kjpFQ4HrwHXSSOkUJI0WLNac8+OidV5osVa2558VEyrjS/9k=
"""
HTJ2K = """
/0//UQApQAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAABBwEB/1AACAACAAAAAv9SAAwAAgABAAIEBEAB
/1wACiBIUFBQSEhI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAARIAAf+TwC1g+Y9YM3U7H8KGifDhpRn+
BS0AAAc3AMAWhAFoQBaQVIsMVaslWdKx/hniVLqWABTRWROZIBsHivUAbRIJlgCKSrVpwDjvAL6pmvAANMlxtgDALuoB
d3ALtFBtwNUE5uUoiCopqV6xt5txUEbBeMXQY3bbhVcjywqvGJVBAUF1gS2Fw3IAuBTlIE7U4QD5YNyTnwB9TBpZi3CU
CjGaSsBzWWb1TAUVh6q6wqCKijMmq3AkREaoApUpmThsh/wJFSJAcdAMpCgqAg5BiWhRAV2nznYCGAdnhi4LugDnAizo
gJ3D2hzWXVe9A8ABWre3rjsMxn+Y7FOpvB486b6CzuSkUgH/2Q==
"""
SIDE = 16
EXPLICIT = "1.2.840.10008.1.2.1"
BASELINE_LOSS, EXTENDED_LOSS = 8, 64  # grey levels, of 8 and of 12 bits
EMBEDDED = {  # transfer syntax → codestream, bits, largest difference
    "1.2.840.10008.1.2.4.51": (EXTENDED, 12, EXTENDED_LOSS),
    "1.2.840.10008.1.2.4.57": (LOSSLESS, 12, 0),
    "1.2.840.10008.1.2.4.70": (LOSSLESS_SV1, 12, 0),
    "1.2.840.10008.1.2.4.201": (HTJ2K, 8, 0),
    "1.2.840.10008.1.2.4.202": (HTJ2K, 8, 0),  # OpenJPH writes RPCL, which .202 asks for
    "1.2.840.10008.1.2.4.203": (HTJ2K, 8, 0),
}
NATIVE = (EXPLICIT, "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")


def picture(bits: int) -> NDArray[np.unsignedinteger]:
    """[16, 16] of 8 or 12 bits: a ramp with ripples, unlike its mirror images and its transpose."""
    y, x = np.mgrid[:SIDE, :SIDE]
    grey = 0.8 * (x + 2 * y) / 45 + 0.2 * (x * y % 7) / 6
    kind = np.uint8 if bits == 8 else np.uint16
    values: NDArray[np.unsignedinteger] = np.rint(grey * (2**bits - 1)).astype(kind)
    return values


def film(side: int = 256) -> NDArray[np.uint16]:
    """[side, side] of 12 bits: two dark fields in a bright body, as smooth as a radiograph."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    lungs = sum(np.exp(-(((x - at) / 0.3) ** 2 + (y / 0.55) ** 2) * 2) for at in (-0.45, 0.45))
    body = np.clip(1.3 - np.abs(x) ** 4, 0, 1) * (0.8 + 0.1 * y)
    grey: NDArray[np.uint16] = np.rint(4095 * np.clip(body - 0.6 * lungs, 0, 1)).astype(np.uint16)
    return grey


def probe_file(syntax: str) -> tuple[bytes, int, int] | None:
    """A DICOM file in this transfer syntax, its bits and the largest difference that is allowed.

    None for a syntax that nothing here can write.
    """
    if syntax in NATIVE:
        return dicom_file(picture(12), 12, syntax), 12, 0
    stream, bits, loss = _codestream(syntax)
    return None if stream is None else (dicom_file(picture(bits), bits, syntax, stream), bits, loss)


def dicom_file(
    pixels: NDArray[np.unsignedinteger], bits: int, syntax: str, stream: bytes | None = None
) -> bytes:
    """A DX chest image of nobody; `stream` is its compressed frame."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, generate_uid

    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["1"])
    ds.StudyInstanceUID = generate_uid(entropy_srcs=["2"])
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition = "DX", "CHEST", "PA"
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated = pixels.dtype.itemsize * 8
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits - 1, 0
    big = syntax == "1.2.840.10008.1.2.2"
    ds.PixelData = (pixels.byteswap() if big else pixels).tobytes()
    ds["PixelData"].VR = "OW"
    if stream is not None:
        ds.PixelData = encapsulate([stream])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _codestream(syntax: str) -> tuple[bytes | None, int, int]:
    """The compressed `picture`, its bits and the allowed difference."""
    import jpeg_ls
    from PIL import Image

    if syntax in EMBEDDED:
        text, bits, loss = EMBEDDED[syntax]
        return base64.b64decode(text), bits, loss
    if syntax == "1.2.840.10008.1.2.5":
        return _rle(picture(12)), 12, 0
    if syntax == "1.2.840.10008.1.2.4.80":
        return bytes(jpeg_ls.encode_array(picture(12))), 12, 0
    if syntax == "1.2.840.10008.1.2.4.81":
        return bytes(jpeg_ls.encode_array(picture(12), lossy_error=2)), 12, 2
    buffer = io.BytesIO()
    if syntax == "1.2.840.10008.1.2.4.50":
        Image.fromarray(picture(8)).save(buffer, "JPEG", quality=98)
        return buffer.getvalue(), 8, BASELINE_LOSS
    if syntax in ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"):
        Image.fromarray(picture(8)).save(buffer, "JPEG2000", irreversible=False, no_jp2=True)
        return buffer.getvalue(), 8, 0
    return None, 0, 0


def _rle(pixels: NDArray[np.unsignedinteger]) -> bytes:
    """PS3.5 annex G: one segment per byte plane, high bytes first; every row one literal run."""
    planes = pixels.astype(">u2").view(np.uint8).reshape(SIDE, SIDE, 2)
    runs = [b"".join(b"\x0f" + row.tobytes() for row in planes[..., i]) for i in (0, 1)]
    offsets = (2, 64, 64 + len(runs[0]), *[0] * 13)
    return b"".join(n.to_bytes(4, "little") for n in offsets) + b"".join(runs)
