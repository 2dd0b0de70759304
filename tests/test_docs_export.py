"""docs/export.md says what the code does: files, signatures, options, gates; its program runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import onnx
import pytest

from tests.spoken import speaking
from tests.test_docs import ROOT
from tests.test_readme import leaf
from tier_export import LAST_OPSET, OPSET, parity, text_graph
from tier_export.cli import VERBS, main
from tier_infer.bundle import ENCODERS
from tier_infer.errors import TierError
from tier_infer.golden import GOLDEN_GATES

TEXT = (ROOT / "docs/export.md").read_text(encoding="utf-8")
SHOWN = sorted(set(re.findall(r"^    (tier-(?:export|infer) .+)$", TEXT, re.M)))
TYPES = {"FLOAT": "float32", "UINT8": "uint8", "INT64": "int64"}


def rows(heading: str, table: int = 0) -> dict[str, list[str]]:
    """First cell → the others, of one table below a heading."""
    section = next(p for p in re.split(r"^## ", TEXT, flags=re.M) if p.startswith(heading))
    tables = re.findall(r"(?:^\|.*\n)+", section, re.M)
    lines = [line.strip("| ").split(" | ") for line in tables[table].splitlines()[2:]]
    return {cells[0].strip(): [c.strip() for c in cells[1:]] for cells in lines}


@pytest.mark.parametrize("line", SHOWN)
def test_every_command_shown_takes_its_arguments(line: str) -> None:
    command, rest = leaf(shlex.split(line))
    options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    assert {word.partition("=")[0] for word in rest if word.startswith("-")} <= options


def test_every_option_is_told() -> None:
    everywhere = {"--debug", "--json", "--help", "--bundle"}
    for verb in ("export", *VERBS):
        for param in main.commands[verb].params:
            if isinstance(param, click.Option) and not everywhere & set(param.opts):
                assert any(re.search(rf"(?<![\w-]){name}\b", TEXT) for name in param.opts), (
                    param.opts
                )


@pytest.fixture(scope="module")
def talking(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speaking(site, tmp_path_factory.mktemp("docs") / "bundle")


def test_every_kind_of_file_is_listed(site: Path, talking: Path) -> None:
    listed = " ".join(rows("Files of a bundle"))
    for folder in (site / "bundle", talking):
        for path in folder.rglob("*"):
            name = path.relative_to(folder).as_posix()
            if path.is_file():
                kind = re.sub(r"golden/.*", "golden/", re.sub(r"queries/\w+", "queries/SET", name))
                assert f"`{kind}`" in listed
    assert all(f"`{file}`" in listed for file in ENCODERS.values())


def test_signatures_and_metadata_are_those_of_the_graphs(talking: Path) -> None:
    """Names and types; fixed sizes stand for letters."""
    said, told = rows("Signatures"), rows("Signatures", 1)
    graphs = {"encoder": "image_encoder.onnx", "query": "queries/chexpert.onnx"}
    for kind, file in (graphs | {"text": "text/encoder.onnx"}).items():
        model = onnx.load(str(talking / file))
        for cell, values in zip(said[kind], (model.graph.input, model.graph.output), strict=True):
            found = re.findall(r"`?(\w+): (\w+) \[([^\]]+)\]", cell)
            assert [(name, dtype) for name, dtype, _ in found] == [
                (v.name, TYPES[onnx.TensorProto.DataType.Name(v.type.tensor_type.elem_type)])
                for v in values
            ]
            for (_, _, axes), value in zip(found, values, strict=True):
                shape = [d.dim_param for d in value.type.tensor_type.shape.dim]
                names = axes.split(", ")
                assert len(names) == len(shape)
                assert [n for n in names if n in "NMT"] == [s for s in shape if s]
        keys = {row.key for row in model.metadata_props}
        assert keys == set(re.findall(r"`(\w+)`", told[kind][0])) - {"combined"}


def test_the_gates_are_those_of_the_code() -> None:
    said = rows("Gates")

    def row(words: str) -> list[str]:
        return next(cells for name, cells in said.items() if name.startswith(words))

    def number(cell: str) -> float | None:
        return None if cell == "reported" else float(cell)

    for words, key in (
        ("largest difference in Z", "max_dz"),
        ("largest difference in a heatmap cell", "max_dcell"),
        ("decisions that flip", "flips"),
        ("AUC", "max_dauc"),
    ):
        gates = [parity.GATES[precision].get(key) for precision in ("fp32", "fp16", "int8")]
        assert [number(cell) for cell in row(words)] == gates
    assert row("rank correlation of the other labels") == [str(parity.MIN_RANK)] * 3
    assert row("difference in Z on fewer images")[:2] == [str(parity.MAX_SHARE)] * 2
    assert row("rank correlation of a label's heatmap")[2] == str(parity.MIN_CELL_RANK)
    assert {float(cell) for cell in row("norm of an embedding")} == {parity.MAX_DNORM}
    assert float(row("text tower: largest")[0]) == text_graph.GATE
    assert f"≥ {parity.MIN_PAIRS:,} positive" in TEXT
    assert f"≥ {parity.MIN_RANKED} images" in TEXT
    for precision, words in (
        ("fp32", "images to {} and patches to {}"),
        ("fp16", "FP16: {} and {}"),
    ):
        limits = [f"{GOLDEN_GATES[precision][key]:.0e}" for key in ("max_dz", "max_dcell")]
        short = [limit.replace("e-0", "e-") for limit in limits]
        assert words.format(*short) in TEXT
    assert f"opset {OPSET}" in TEXT
    assert f"({OPSET} to {LAST_OPSET})" in TEXT


def test_exit_codes_of_an_export_are_listed() -> None:
    codes = {error.exit_code for error in TierError.__subclasses__()} - {3, 6}  # of tier-infer
    assert {int(code) for code in rows("Gates", 1)} == codes | {0, 1, 130}


def test_the_program_runs_and_needs_nothing_of_ours(site: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert "tier" not in program
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=site, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cardiomegaly" in done.stdout
    assert done.stdout.rstrip().endswith("(6, 7, 7, 5)")


def test_what_was_never_executed_is_said() -> None:
    section = TEXT[TEXT.index("## Never executed") :]
    for word in ("GPU", "TensorRT", "Triton", "VNNI", "Windows", "Published weights", "power cut"):
        assert word in section
