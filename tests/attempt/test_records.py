"""Metrics survive kills; verdicts are written once."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

from keepwarm.attempt.records import MetricsWriter, keep_until, read_metrics, read_verdict, write_verdict
from keepwarm.errors import KeepwarmError, LineageError


def write(path, *steps):
    writer = MetricsWriter(path)
    writer.write({"kind": "header", "steps": 9})
    for step in steps:
        writer.write({"kind": "train", "step": step, "tokens": step * 10, "loss": 1.5})
    writer.close()


def test_records_are_read_back(tmp_path):
    write(tmp_path / "m.jsonl", 1, 2)
    assert [record.get("step") for record in read_metrics(tmp_path / "m.jsonl")] == [None, 1, 2]


def test_a_line_cut_by_a_kill_is_dropped(tmp_path):
    path = tmp_path / "m.jsonl"
    write(path, 1, 2)
    path.write_bytes(path.read_bytes()[:-9])
    assert [record.get("step") for record in read_metrics(path)] == [None, 1]


def test_a_damaged_line_inside_is_an_error_with_its_place(tmp_path):
    path = tmp_path / "m.jsonl"
    write(path, 1, 2)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:-4], lines[2]]) + "\n")
    with pytest.raises(LineageError, match=r"m.jsonl:2: not a metrics record"):
        read_metrics(path)


def test_going_on_drops_what_was_written_after_the_checkpoint(tmp_path):
    path = tmp_path / "m.jsonl"
    write(path, 1, 2, 3, 4)
    assert [record.get("step") for record in keep_until(path, 2)] == [None, 1, 2]
    assert [json.loads(line).get("step") for line in path.read_text().splitlines()] == [None, 1, 2]


def test_nan_never_reaches_the_file(tmp_path):
    writer = MetricsWriter(tmp_path / "m.jsonl")
    with pytest.raises(ValueError, match="JSON"):
        writer.write({"kind": "train", "loss": float("nan")})
    writer.close()
    assert (tmp_path / "m.jsonl").read_bytes() == b""


def test_a_full_disk_is_explained_and_leaves_no_half_line(tmp_path):
    """A file size limit stands for the full disk: the kernel cuts the write in the middle of a record."""
    code = f"""
import signal
from pathlib import Path
from keepwarm.attempt.records import MetricsWriter
from keepwarm.errors import KeepwarmError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = MetricsWriter(Path({str(tmp_path / "m.jsonl")!r}))
try:
    for step in range(1000):
        writer.write({{"kind": "train", "step": step}})
except KeepwarmError as error:
    print(error)
"""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    done = subprocess.run([sys.executable, "-c", code], preexec_fn=limit, capture_output=True, text=True, check=True)
    assert "m.jsonl: the" in done.stdout and "fix:" in done.stdout
    content = (tmp_path / "m.jsonl").read_text()
    assert len(content) > 400 and content.endswith("}\n")


def test_a_verdict_is_written_once(tmp_path):
    assert read_verdict(tmp_path) is None
    write_verdict(tmp_path, {"outcome": "recovered", "accepted": True})
    assert read_verdict(tmp_path)["outcome"] == "recovered"
    with pytest.raises(KeepwarmError, match="nothing is overwritten silently"):
        write_verdict(tmp_path, {"outcome": "diverged", "accepted": False})


def test_a_damaged_verdict_is_an_error(tmp_path):
    (tmp_path / "verdict.json").write_text("{")
    with pytest.raises(LineageError, match="damaged"):
        read_verdict(tmp_path)
