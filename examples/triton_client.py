"""Scores of a Triton server for DICOM studies; reading and preprocessing stay here.

    python examples/triton_client.py --url HOST:8001 --bundle bundle study/

Needs `pip install tier-cxr 'tritonclient[grpc]'`, the bundle that the server's model repository was
written from (`tier-export triton`), and no inference engine. Only crops of pixels leave this
machine, no header and no path; gRPC does not encrypt them, so let nobody else on the wire.
Research use only, not for diagnostic use.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tier_infer import output
from tier_infer.bundle import NOTICE, Bundle, load_bundle
from tier_infer.errors import DeviceError, IntegrityError, ParityError, UsageError
from tier_infer.golden import read_golden
from tier_infer.guard import guarded, printable
from tier_infer.inputs import find_images
from tier_infer.reader import Reader
from tier_infer.scores import Scores
from tier_infer.scoring import ImageResult, crops_of, presets_of
from tier_infer.studies import StudyResult, group_studies

SECONDS = 60.0  # for one batch
Floats = NDArray[np.float32]


class Served:
    """The model tier_SET of one server, which is the bundle's or is not used."""

    device = asked = "triton"  # what tier-infer --json tells of an engine

    def __init__(
        self, client: InferenceServerClient, url: str, bundle: Bundle, set_id: str
    ) -> None:
        self._client, self._url, self.model = client, url, f"tier_{set_id}"
        with Answering(url):
            config = client.get_model_config(self.model, client_timeout=SECONDS).config
        told = {key: value.string_value for key, value in config.parameters.items()}
        wanted = {
            "bundle_sha256": bundle.manifest.bundle_sha256,
            "set_sha256": bundle.manifest.label_sets[set_id]["sha256"],
        }
        for key, value in wanted.items():
            if told.get(key) != value:
                raise IntegrityError(
                    f"{url} serves {self.model} of another {key}, {told.get(key, 'none')[:12]}; "
                    f"the bundle here has {value[:12]}; write the repository again with "
                    "tier-export triton, or name the server's own bundle"
                )
        self.precision = told["precision"]

    def scores(self, crops: NDArray[np.uint8]) -> Floats:
        """pixels: uint8 [N, H, W] → Z, float32 [N, L]."""
        return self._ask(self.model, crops, "scores")[0]

    def embeddings(self, crops: NDArray[np.uint8]) -> list[Floats]:
        """pixels: uint8 [N, H, W] → images float32 [N, D], patches float32 [N, g, g, D]."""
        return self._ask("tier_encoder", crops, "image_embedding", "patch_embeddings")

    def _ask(self, model: str, crops: NDArray[np.uint8], *outputs: str) -> list[Floats]:
        pixels = InferInput("pixels", list(crops.shape), "UINT8").set_data_from_numpy(crops)
        asked = [InferRequestedOutput(name) for name in outputs]
        with Answering(self._url):
            found = self._client.infer(model, [pixels], outputs=asked, client_timeout=SECONDS)
        return [found.as_numpy(name) for name in outputs]


class Answering:
    """A server that is gone, or refuses, in one sentence; never an answer from elsewhere."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, InferenceServerException):
            words = printable(str(error.message())).split("\n")[0]
            raise DeviceError(
                f"the Triton server at {self._url} gives no scores: {words}; is it ready, and does "
                "it serve what tier-export triton wrote?"
            ) from None


def prove(served: Served, bundle: Bundle, set_id: str) -> None:
    """The bundle's golden vectors, before any patient's pixels: whatever the server runs on must
    compute what PyTorch did."""
    golden = read_golden(bundle)
    if golden is None:
        raise UsageError("the bundle has no golden vectors, which prove a server; export it again")
    image, patches = served.embeddings(golden.crops)
    gate, known = golden.gates[served.precision], golden.scores.get(set_id)
    apart = [
        ("image embedding", image - golden.image, gate["max_dz"]),
        ("patch embedding", patches - golden.patches, gate["max_dcell"]),
    ]
    if known and known.sha256 == bundle.manifest.label_sets[set_id]["sha256"]:
        apart.append(("score Z", served.scores(golden.crops) - known.z, gate["max_dz"]))
    for what, difference, allowed in apart:
        found = float(np.abs(difference).max())
        if not found <= allowed:  # NaN is none either
            raise ParityError(
                f"the server does not give the bundle's golden vectors: {what} differs by "
                f"{found:.1e}, allowed {allowed:g}; no image was sent"
            )


def score(
    paths: list[str], bundle: Bundle, set_id: str, served: Served, reader: Reader
) -> list[StudyResult]:
    """Read, crop and refuse as `tier-infer` does; Z comes from the server."""
    places = {str(name): at for at, name in enumerate(bundle.manifest.label_sets[set_id]["labels"])}
    results: list[ImageResult] = []
    for waiting in crops_of(paths, presets_of(bundle), reader):
        crops = [crop for _, crop in waiting if crop is not None]
        rows: Iterator[Floats] = iter(served.scores(np.stack(crops)) if crops else ())
        for result, crop in waiting:
            if crop is not None:
                z = next(rows)
                result.scores = Scores(places, z)
                if not np.isfinite(z).all():
                    result.refuse("failed", "not_finite", "the server's scores are not finite")
            results.append(result)
    return group_studies(results)


def table(studies: list[StudyResult]) -> str:
    lines = [f"{NOTICE}  Scores are zero-shot margins Z in [-2, 2], not probabilities."]
    for study in studies:
        lines += ["", study.id, *(f"  {name:<28} {z:+.4f}" for name, z in study.scores.items())]
        for image in study.images:
            remark = image.message or " ".join((image.view, *image.flags))
            lines.append(f"  {printable(image.path)}  {image.status}: {remark}")
    return "\n".join(lines)


def to_json(studies: list[StudyResult], bundle: Bundle, served: Any) -> str:
    """That of tier-infer --json, under a name of its own: the device is none of tier-infer's."""
    found = json.loads(output.to_json(studies, bundle, served))
    return json.dumps(found | {"schema": "tier-triton-client/1"}, indent=1)


@click.command()
@click.argument("study", nargs=-1, required=True)
@click.option("--url", required=True, metavar="HOST:PORT", help="The server's gRPC endpoint.")
@click.option("--bundle", "folder", default="bundle", show_default=True, metavar="DIR")
@click.option("--queries", metavar="SET", help="Label set; default: the bundle's default set.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, like tier-infer --json.")
@click.pass_context
def main(
    ctx: click.Context,
    study: tuple[str, ...],
    url: str,
    folder: str,
    queries: str | None,
    as_json: bool,
) -> None:
    """Score chest radiographs on a Triton server. Exit codes are those of tier-infer."""

    def run() -> None:
        bundle = load_bundle(Path(folder))
        set_id = queries or bundle.manifest.default_set
        if set_id not in bundle.manifest.label_sets:
            known = ", ".join(bundle.manifest.label_sets)
            raise UsageError(f"label set {set_id!r} is not in the bundle; it has {known}")
        with InferenceServerClient(url) as client, Reader() as reader:
            served = Served(client, url, bundle, set_id)
            prove(served, bundle, set_id)
            paths = find_images(study, reader.members)
            studies = score(paths, bundle, set_id, served, reader)
        click.echo(to_json(studies, bundle, served) if as_json else table(studies))
        ctx.exit(output.exit_code(studies))

    guarded("triton_client", ctx, run)


if __name__ == "__main__":
    main()
