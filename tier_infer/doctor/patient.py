"""The bundle on the device that was asked for, which the later checks build upon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tier_infer import gpu
from tier_infer.bundle import Bundle, load_bundle
from tier_infer.cache import Cache
from tier_infer.devices import GPU_DEVICES, choice_words, choose
from tier_infer.doctor import engines
from tier_infer.doctor.installation import Check
from tier_infer.engine import Engine
from tier_infer.errors import UsageError
from tier_infer.golden import read_golden
from tier_infer.proof import replay_now
from tier_infer.sessions import missing_package

NOT_TRIED = "not tried: there is no engine, see above"
NO_BUNDLE = "not tried: there is no bundle to run, see above"


class Patient:
    """What one check found is what the next one looks at."""

    def __init__(self, bundle_dir: Path, device: str, precision: str) -> None:
        self._bundle_dir, self._device, self._precision = bundle_dir, device, precision
        self._cache: Cache | None = None
        self._bundle: Bundle | None = None
        self._engine: Engine | None = None

    def cache_state(self) -> Iterator[Check]:
        self._cache, check = engines.open_cache()
        yield check

    def bundle_integrity(self) -> Iterator[Check]:
        self._bundle = load_bundle(self._bundle_dir, unused=True)
        manifest = self._bundle.manifest
        count = len(manifest.files) + len(manifest.label_sets) + len(manifest.golden)
        identity = f"{manifest.name} {manifest.bundle_sha256[:12]}"
        yield Check("bundle", "ok", f"{identity}, {count} files are what was exported")

    def engines(self) -> Iterator[Check]:
        if self._bundle is not None:
            yield from engines.engines(self._bundle, self._cache)

    def device_used(self) -> Iterator[Check]:
        if self._bundle is None:
            yield Check("device", "warn", NO_BUNDLE)
            return
        self._engine = Engine(self._bundle, self._device, self._precision, unproven=True)
        engine = self._engine
        words = f"{engine.device} {engine.precision} runs this bundle"
        if engine.choice:
            words += f", chosen by auto{_reasons(engine.device, engine.passed_over)}"
        yield Check("device", "ok", words)

    def gpu(self) -> Iterator[Check]:
        """Used, or every reason why not; a GPU that stands idle is a warning."""
        missing = gpu.obstacles()
        if missing:
            yield Check("gpu", "ok", f"not used: {'; '.join([*missing, *_no_package()])}")
            return
        here = gpu.gpu()
        board = f"{here.name}, {here.sm}, driver {here.driver or 'of unknown version'}"
        if self._engine is not None and self._engine.device in GPU_DEVICES:
            yield Check("gpu", "ok", f"{board}: used, by {self._engine.device}")
        elif self._bundle is None:
            yield Check("gpu", "ok", f"{board}: {NO_BUNDLE}")
        else:
            yield self._idle(self._bundle, board)

    def _idle(self, bundle: Bundle, board: str) -> Check:
        """Whether --device auto would take it."""
        encoder, passed_over = choose(bundle, "auto", self._precision)
        if encoder.device == "cpu" and self._precision != "int8":
            reasons = _reasons("cpu", passed_over)
            return Check("gpu", "warn", f"{board}: not used{reasons}")
        asked = "the int8 encoder" if self._precision == "int8" else f"--device {self._device}"
        return Check("gpu", "ok", f"{board}: not used, {asked} was asked for")

    def golden_vectors(self) -> Iterator[Check]:
        """On exactly the engine in use, whatever TIER_CACHE remembers."""
        if self._bundle is None or self._engine is None:
            yield Check("golden vectors", "warn", NOT_TRIED)
            return
        golden = read_golden(self._bundle)
        if golden is None:
            sentence = "the bundle has no golden vectors; export again with this tier-export"
            if self._engine.device != "cpu":
                sentence += f", nothing is scored on {self._engine.device} without"
            failed = self._engine.device != "cpu"
            yield Check("golden vectors", "fail" if failed else "warn", sentence, 2 * failed)
            return
        found = replay_now(self._bundle, self._engine, golden, self._cache)
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


def _reasons(device: str, passed_over: dict[str, str]) -> str:
    """; tensorrt, cuda: why not. Devices of one reason together."""
    _, semicolon, reasons = choice_words(device, passed_over).partition("; ")
    return f"{semicolon}not {reasons}" if reasons else ""


def _no_package() -> list[str]:
    try:
        missing = missing_package("cuda")
    except UsageError:
        return ["no onnxruntime can be loaded"]
    return [missing] if missing else []
