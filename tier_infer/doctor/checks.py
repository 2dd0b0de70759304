"""tier-infer doctor: everything a score rests on, tried out rather than looked up, one line each.

Lines go from cause to consequence. The exit code is that of the first line that failed: 2 something
is missing or installed wrongly, 3 the decode child does not do its work, 4 the bundle is not what
was exported, 5 this machine computes other numbers than the export did, 6 the device that was asked
for is not there; 1, a bug of ours, only when nothing else failed. Warnings do not change it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from tier_infer import gpu
from tier_infer.bundle import Bundle, load_bundle
from tier_infer.doctor import decode_checks, installation
from tier_infer.doctor.installation import Check, guarded
from tier_infer.engine import Engine
from tier_infer.errors import DeviceError
from tier_infer.golden import read_golden, replay
from tier_infer.guard import printable
from tier_infer.sessions import PROVIDERS, open_session

SCHEMA = "tier-infer-doctor/1"
NOT_TRIED = "not tried: there is no engine, see above"


def run_doctor(bundle_dir: Path, device: str = "auto", precision: str = "auto") -> list[Check]:
    """Every check, whatever the others found; none raises."""
    patient = _Patient(bundle_dir, device, precision)
    found: list[Check] = []
    for name, check in (
        ("packages", installation.packages),
        ("imagecodecs", installation.jpeg_lossless),
        ("onnxruntime", installation.runtime),
        ("processor", installation.processor),
        ("memory", installation.memory),
        ("disk", installation.disk),
        ("decoders", decode_checks.decoders),
        ("decode child", decode_checks.decode_child),
        ("bundle", patient.bundle_integrity),
        ("device", patient.device_used),
        ("gpu", patient.gpu),
        ("golden vectors", patient.golden_vectors),
    ):
        found += guarded(name, check)
    return found


def exit_code(found: Iterable[Check]) -> int:
    codes = [check.code for check in found if check.status == "fail"]
    return next((code for code in codes if code != 1), 1 if codes else 0)


def to_lines(found: Iterable[Check]) -> str:
    """One line each: status, name, sentence."""
    return "\n".join(
        f"{check.status:<4}  {check.name:<22}  {printable(check.sentence)}" for check in found
    )


def to_json(found: list[Check]) -> str:
    rows = [{k: v for k, v in asdict(check).items() if k != "code"} for check in found]
    report = {"schema": SCHEMA, "exit_code": exit_code(found), "checks": rows}
    return json.dumps(report, indent=1, allow_nan=False)


class _Patient:
    """The bundle and the session on it, which later checks build upon."""

    def __init__(self, bundle_dir: Path, device: str, precision: str) -> None:
        self._bundle_dir, self._device, self._precision = bundle_dir, device, precision
        self._bundle: Bundle | None = None
        self._engine: Engine | None = None

    def bundle_integrity(self) -> Iterator[Check]:
        self._bundle = load_bundle(self._bundle_dir, unused=True)
        manifest = self._bundle.manifest
        count = len(manifest.files) + len(manifest.label_sets) + len(manifest.golden)
        identity = f"{manifest.name} {manifest.bundle_sha256[:12]}"
        yield Check("bundle", "ok", f"{identity}, {count} files are what was exported")

    def device_used(self) -> Iterator[Check]:
        if self._bundle is None:
            yield Check("device", "warn", "not tried: there is no bundle to run, see above")
            return
        try:
            self._engine = Engine(self._bundle, self._device, self._precision, unproven=True)
        except DeviceError as error:
            raise DeviceError(_without_paths(str(error))) from None
        engine = self._engine
        yield Check("device", "ok", f"{engine.device} {engine.precision} runs this bundle")

    def gpu(self) -> Iterator[Check]:
        """Used, or every reason why not; a GPU that stands idle is a warning."""
        if self._engine is not None and self._engine.device == "cuda":
            yield Check("gpu", "ok", f"used, by {PROVIDERS['cuda']}")
            return
        missing = gpu.obstacles()
        reasons = [*missing, *self._onnxruntime_obstacles()]
        if not reasons and self._device == "cpu":
            yield Check("gpu", "ok", "not used: --device cpu was asked for")
            return
        words = "; ".join(reasons) or "no reason was found"
        yield Check("gpu", "ok" if missing else "warn", f"not used: {words}")

    def _onnxruntime_obstacles(self) -> list[str]:
        try:
            import onnxruntime
        except ImportError:
            return ["no onnxruntime can be loaded"]
        if PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
            return ["the installed onnxruntime is a CPU build"]
        if self._bundle is None:
            return []
        try:
            open_session(self._bundle.encoder("fp32"), "cuda")
        except DeviceError as error:
            return [_without_paths(str(error))]
        return []

    def golden_vectors(self) -> Iterator[Check]:
        if self._bundle is None or self._engine is None:
            yield Check("golden vectors", "warn", NOT_TRIED)
            return
        golden = read_golden(self._bundle)
        if golden is None:
            sentence = "the bundle has no golden vectors; export again with this tier-export"
            yield Check("golden vectors", "warn", sentence)
            return
        found = replay(self._bundle, self._engine, golden)
        where = f"{self._engine.device} {self._engine.precision} against {golden.source}"
        if found.breaches:
            yield Check("golden vectors", "fail", f"{where}: {'; '.join(found.breaches)}", 5)
            return
        scores = "" if found.max_dz is None else f", max |dZ| {found.max_dz:.1e}"
        gate = f"allowed {found.allowed_dz:g}"
        sentence = f"{where}: max |d embedding| {found.max_dembedding:.1e}{scores}, {gate}"
        yield Check("golden vectors", "ok", sentence)
        if found.replaced:
            sets = ", ".join(found.replaced)
            words = f"of {sets} not compared: the set was replaced after the export"
            yield Check("golden scores", "ok", words)


def _without_paths(message: str) -> str:
    """A loader's message names folders of this machine: its libraries alone are kept."""
    sentence, colon, rest = message.partition("can't run this bundle: ")
    if not colon:
        return message
    libraries = ", ".join(gpu.missing_libraries(rest))
    reason = f"{libraries} can't be loaded" if libraries else "onnxruntime refuses the session"
    return f"{sentence}can't run this bundle: {reason}; pip install 'tier-cxr[gpu]' brings CUDA"
