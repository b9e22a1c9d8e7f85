"""The rooms of the house import one way only, and commands that need no torch do not load it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "keepwarm"
ORDER = [
    "errors", "exits", "units", "files", "processes", "plan", "corpora", "blend", "schedule", "lineage", "attempt", "evaluate", "strategy",
    "engine", "backends", "merge", "convert", "report", "doctor", "work", "shifts", "branches", "standing", "forecasts", "arms", "tries", "search", "launching", "materializing", "observing", "measuring", "ahead", "pipeline", "decisions", "api", "demo", "cli",
]  # fmt: skip
TORCH_ROOMS = {"engine", "merge", "convert"}


def _room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
    return found


FILES = sorted(path for path in SOURCE.rglob("*.py") if _room(path) != "__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_room_imports_only_from_rooms_above_it(path):
    room = ORDER.index(_room(path))
    for module in _imports(path):
        parts = module.split(".")
        if parts[0] == "keepwarm" and len(parts) > 1:
            assert ORDER.index(parts[1]) <= room, f"{path} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_torch_is_imported_where_training_happens_only(path):
    heavy = {module.split(".")[0] for module in _imports(path)} & {"torch", "transformers", "safetensors"}
    assert not heavy or _room(path) in TORCH_ROOMS, f"{path} imports {heavy}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_fits_the_head(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


LIGHT = [
    "keepwarm.cli.main", "keepwarm.cli.mix", "keepwarm.cli.plan", "keepwarm.cli.status", "keepwarm.cli.lr",
    "keepwarm.report.html", "keepwarm.report.numbers", "keepwarm.report.status", "keepwarm.plan.load", "keepwarm.pipeline",
]  # fmt: skip


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_neither_torch_nor_transformers(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
