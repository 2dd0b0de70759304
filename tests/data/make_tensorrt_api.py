"""Record the Python API of TensorRT, so that code is held against versions that no machine has.

    pip download --no-deps tensorrt_cu13_bindings==11.4.0.106   (and the other versions)
    python tests/data/make_tensorrt_api.py WHEEL… > tests/data/tensorrt_api.json

A wheel of bindings imports without NVIDIA's libraries when small ones stand in for them that
define the symbols it wants; a C compiler makes them. What is installed of tensorrt_rtx is recorded
as it is. Run with the Python that the wheels are for.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

CLASSES = [
    "Builder",
    "IBuilderConfig",
    "OnnxParser",
    "ParserError",
    "ITimingCache",
    "IProgressMonitor",
    "ILogger",
    "Logger",
    "INetworkDefinition",
    "ILayer",
    "ITensor",
    "IOptimizationProfile",
    "EngineInspector",
    "ICudaEngine",
    "IExecutionContext",
    "IRuntimeConfig",
    "IRuntimeCache",
    "Runtime",
    "IHostMemory",
    "Dims",
    "IOutputAllocator",
    "ISerializationConfig",
    "IStreamReader",
    "IStreamReaderV2",
    "IProfiler",
    "Profiler",
]
ENUMS = [
    "BuilderFlag",
    "NetworkDefinitionCreationFlag",
    "HardwareCompatibilityLevel",
    "ComputeCapability",
    "ProfilingVerbosity",
    "DataType",
    "LayerType",
    "TensorIOMode",
    "TensorLocation",
    "LayerInformationFormat",
    "CudaGraphStrategy",
    "DynamicShapesKernelSpecializationStrategy",
    "ExecutionContextAllocationStrategy",
    "MemoryPoolType",
    "PreviewFeature",
    "TempfileControlFlag",
    "RuntimePlatform",
    "EngineValidity",
    "EngineStat",
    "SerializationFlag",
    "OnnxParserFlag",
    "ErrorCode",
    "TilingOptimizationLevel",
]
STOOD_IN = re.compile(r"^(createInfer|createNv|get(Builder)?Plugin|getNv|initLibNv)\w+$")


def main() -> None:
    tables = [recorded(Path(wheel)) for wheel in sys.argv[1:]]
    table = {key: rows for part in [*tables, introspect("tensorrt_rtx")] for key, rows in part}
    lines = [f"{json.dumps(key)}: {{\n{rows_of(rows)}\n}}" for key, rows in sorted(table.items())]
    print("{" + ",\n".join(lines) + "}")


def rows_of(rows: dict[str, Any]) -> str:
    return ",\n".join(f" {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())


def recorded(wheel: Path) -> list[tuple[str, dict[str, Any]]]:
    """In a process of its own: two versions do not import into one."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        (library,) = Path(folder).glob("tensorrt_bindings/tensorrt.*so")
        stand_in(library, Path(folder))
        command = [sys.executable, __file__, "--inside", "tensorrt_bindings"]
        paths = {"PYTHONPATH": folder, "LD_LIBRARY_PATH": folder}
        done = subprocess.run(
            command, env=os.environ | paths, check=True, capture_output=True, text=True
        )
    return [(key, rows) for key, rows in json.loads(done.stdout)]


def stand_in(library: Path, folder: Path) -> None:
    """Libraries of NVIDIA's names that define what `library` takes from them."""
    told = subprocess.run(["nm", "-D", "-u", library], check=True, capture_output=True, text=True)
    symbols = [line.split()[-1] for line in told.stdout.splitlines()]
    code = "".join(f"void *{s}(void) {{ return 0; }}\n" for s in symbols if STOOD_IN.match(s))
    (folder / "stub.c").write_text(code)
    told = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True)
    for name in re.findall(r"\[(libnv[\w.]+)\]", told.stdout):
        command = ["cc", "-shared", "-fPIC", "-w", "-o", folder / name, folder / "stub.c"]
        subprocess.run(command, check=True)


def introspect(name: str) -> list[tuple[str, dict[str, Any]]]:
    module = importlib.import_module(name)
    rows: dict[str, Any] = {}
    for kind in CLASSES:
        if inspect.isclass(found := getattr(module, kind, None)):
            rows[kind] = class_row(found)
    for kind in ENUMS:
        if found := getattr(module, kind, None):
            rows[kind] = {"values": values(found)}
    short = name.removesuffix("_bindings")
    return [(f"{short} {module.__version__}", rows)]


def class_row(kind: type) -> dict[str, Any]:
    """calls: signatures, one per overload; read: properties with their type, write: those that may
    be set; values: of an enum inside the class."""
    base = kind.__mro__[1].__name__
    row: dict[str, Any] = {"calls": {}, "read": {}, "write": {}, "values": {}}
    row["base"] = base if base in CLASSES else ""
    for name in dir(kind):
        member = getattr(kind, name)
        if name == "Severity":
            row["values"] = values(member)
        elif isinstance(member, property):
            told = (member.fget.__doc__ or "").strip().rpartition("-> ")[2]
            row["write" if member.fset else "read"][name] = unqualified(told) or "object"
        elif callable(member) and (name == "__init__" or name[0] != "_"):
            row["calls"][name] = signatures(name, inspect.getdoc(member) or "")
    layer = re.compile("add_(?!optimization_profile)")  # 70 kinds, added by no hand
    row["calls"] = {n: told for n, told in row["calls"].items() if told and not layer.match(n)}
    return {key: value for key, value in row.items() if value}


def values(kind: Any) -> dict[str, int]:
    return {name: int(value) for name, value in kind.__members__.items()}


def signatures(name: str, doc: str) -> list[str]:
    """pybind's own, without self: "(flag: BuilderFlag) -> bool"."""
    lines = re.findall(rf"^(?:\d+\. )?{re.escape(name)}(\(.*)$", doc, re.MULTILINE)
    lines = [line for line in lines if "*args, **kwargs" not in line] or lines
    return [re.sub(r"^\((?:self|arg0): \w+(?:, )?", "(", unqualified(line)) for line in lines]


def unqualified(told: str) -> str:
    return re.sub(r"\b[A-Za-z_]\w*(?:\.|::)(?=\w)", "", told)


if __name__ == "__main__":
    if sys.argv[1] == "--inside":
        print(json.dumps(introspect(sys.argv[2])))
    else:
        main()
