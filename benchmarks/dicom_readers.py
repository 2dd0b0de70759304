"""DICOM readers that chest X-ray work uses today, asked for one file after the other.

Run by `dicom_peers.py` in an environment of their own; nothing of tier_infer is imported here.

    PEER_PYTHON benchmarks/dicom_readers.py READER LIST.json OUT.jsonl [START]

LIST is a list of paths. For each, one line goes to OUT: {"path", "answer": "picture" | "refused" |
"hang", "error", "said", "grey"}; `said` are the beginnings of its warnings, `grey` the picture at
224 x 224 in the reader's own scale, as base64 of float32. A reader that dies leaves its line out.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

SIZE, SECONDS = 224, 40
WORDS = 40  # characters that tell one warning from another; what follows may be a path
Reader = Callable[[str], Any]


def torchxrayvision(path: str) -> Any:
    from torchxrayvision.utils import read_xray_dcm

    return (read_xray_dcm(path) + 1024) / 2048


def torchxrayvision_voi(path: str) -> Any:
    from torchxrayvision.utils import read_xray_dcm

    return (read_xray_dcm(path, voi_lut=True) + 1024) / 2048


def monai(path: str) -> Any:
    from monai.transforms import LoadImage, ScaleIntensity

    return np.asarray(ScaleIntensity()(LoadImage(reader="PydicomReader", image_only=True)(path)))


def hi_ml(path: str) -> Any:
    from pathlib import Path

    from health_multimodal.image.data.io import load_image

    return np.asarray(load_image(Path(path))) / 255


def pydicom_minmax(path: str) -> Any:
    """What a short script does: pixel_array, min-max, on to onnxruntime."""
    import pydicom

    return scaled(pydicom.dcmread(path).pixel_array)


def pydicom_careful(path: str) -> Any:
    """Rescale, window and MONOCHROME1, all by pydicom."""
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    ds = pydicom.dcmread(path)
    grey = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds).astype(float)
    return scaled(-grey if ds.PhotometricInterpretation == "MONOCHROME1" else grey)


def highdicom(path: str) -> Any:
    from highdicom import imread

    return scaled(imread(path).get_frame(1))


READERS: dict[str, Reader] = {
    "torchxrayvision": torchxrayvision,
    "torchxrayvision voi_lut": torchxrayvision_voi,
    "MONAI PydicomReader": monai,
    "hi-ml": hi_ml,
    "pydicom min-max": pydicom_minmax,
    "pydicom careful": pydicom_careful,
    "highdicom": highdicom,
}


def scaled(grey: Any) -> Any:
    grey = np.asarray(grey).astype(np.float64)
    return (grey - grey.min()) / (grey.max() - grey.min())


def small(grey: Any) -> Any:
    """[..., H, W, ...] → float32 [224, 224] by area; channels averaged, singletons dropped."""
    grey = np.squeeze(np.asarray(grey, np.float64))
    if grey.ndim == 3:  # colour, or frames
        grey = grey.mean(axis=int(np.argmin(grey.shape)))
    rows, columns = (shares(length) for length in grey.shape)
    with np.errstate(all="ignore"):
        return (rows @ grey @ columns.T).astype(np.float32)


def shares(length: int) -> Any:
    new = np.arange(SIZE + 1) * length / SIZE
    old = np.arange(length)[None]
    low, high = new[:-1, None], new[1:, None]
    return np.clip(np.minimum(old + 1, high) - np.maximum(old, low), 0, None) * SIZE / length


class _Hang(BaseException):
    """Past every `except Exception` of a library."""


def ask(reader: Reader, path: str) -> dict[str, Any]:
    def alarm(*_: Any) -> None:
        raise _Hang

    signal.signal(signal.SIGALRM, alarm)
    signal.alarm(SECONDS)
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            grey = small(reader(path))
        said += [str(warning.message) for warning in caught]
        data = base64.b64encode(grey.tobytes()).decode()
        return {"answer": "picture", "said": sorted({text[:WORDS] for text in said}), "grey": data}
    except _Hang:
        return {"answer": "hang"}
    except BaseException as error:
        return {"answer": "refused", "error": type(error).__name__}
    finally:
        signal.alarm(0)
        logging.getLogger().removeHandler(handler)


def main(name: str, paths_json: str, out: str, start: str = "0") -> None:
    with open(paths_json) as file:
        paths = json.load(file)
    with contextlib.suppress(Exception):
        READERS[name](paths[0])  # imports take longer than any file
    with open(out, "a") as lines:
        for path in paths[int(start) :]:
            print(json.dumps({"path": path} | ask(READERS[name], path)), file=lines, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
