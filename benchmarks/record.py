"""Run a benchmark and put what it prints into docs/benchmarks.md, between the markers of its name.

    python benchmarks/record.py blending [OPTIONS OF THE BENCHMARK]

Exits as the benchmark does. A table that is not all it should be is recorded too: it says so itself.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from keepwarm import __version__

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def put(name: str, text: str) -> None:
    """Replace what stands between a name's markers."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    page = PAGE.read_text(encoding="utf-8")
    start, stop = page.index(begin), page.index(end)
    PAGE.write_text(f"{page[:start]}{begin}\n{text.strip()}\n{page[stop:]}", encoding="utf-8")


def machine() -> str:
    """The line below a table: what it was measured with."""
    return (
        f"keepwarm {__version__}, Python {platform.python_version()}, numpy {version('numpy')}, {platform.machine()}, "
        f"{os.cpu_count()} cores, CPU only."
    )


def main() -> int:
    name, *options = sys.argv[1:]
    script = Path(__file__).with_name(f"{name}.py")
    done = subprocess.run([sys.executable, str(script), *options], stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    put(name, f"{done.stdout.strip()}\n\n{machine()}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
