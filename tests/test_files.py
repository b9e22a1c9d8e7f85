"""Atomic writing: whole or not at all, nothing overwritten silently, one owner a run folder."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keepwarm import files
from keepwarm.errors import KeepwarmError


def test_write_and_rewrite_of_the_same_content(tmp_path):
    files.write_text(tmp_path / "a" / "f.txt", "one")
    files.write_text(tmp_path / "a" / "f.txt", "one")
    assert (tmp_path / "a" / "f.txt").read_text() == "one"
    assert os.listdir(tmp_path / "a") == ["f.txt"]


def test_other_content_is_refused_unless_asked_for(tmp_path):
    files.write_text(tmp_path / "f", "one")
    with pytest.raises(KeepwarmError, match="exists already with other content"):
        files.write_text(tmp_path / "f", "two")
    assert (tmp_path / "f").read_text() == "one"
    files.write_text(tmp_path / "f", "two", replace=True)
    assert (tmp_path / "f").read_text() == "two"


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    files.write_text(tmp_path / "f", "one")

    def full(_):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeepwarmError, match="the disk is full"):
        files.write_text(tmp_path / "f", "two", replace=True)
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_text() == "one"


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with files.new_folder(tmp_path / "made") as aside:
        (aside / "x").write_text("x")
        assert not (tmp_path / "made").exists()
    assert os.listdir(tmp_path / "made") == ["x"]
    with pytest.raises(RuntimeError), files.new_folder(tmp_path / "broken") as aside:
        raise RuntimeError
    assert os.listdir(tmp_path) == ["made"]


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    (tmp_path / "made.partial").mkdir()
    (tmp_path / "made.partial" / "half").write_text("half")
    with files.new_folder(tmp_path / "made") as aside:
        (aside / "x").write_text("x")
    assert os.listdir(tmp_path / "made") == ["x"]


def test_an_existing_folder_is_refused(tmp_path):
    with pytest.raises(KeepwarmError, match="exists already"), files.new_folder(tmp_path):
        raise AssertionError("the block must not run")


def test_a_run_folder_has_one_owner(tmp_path):
    code = (
        f"from keepwarm.files import run_lock; from pathlib import Path\nwith run_lock(Path({str(tmp_path)!r})): pass"
    )
    with files.run_lock(tmp_path):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert other.returncode != 0
        assert f"another keepwarm works in this run folder (process {os.getpid()})" in other.stderr
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_owned_file_that_was_removed_is_not_taken_for_the_new_one(tmp_path, monkeypatch):
    first = files.owned(tmp_path / "f")
    with pytest.raises(BlockingIOError):
        files.owned(tmp_path / "f")
    lock = fcntl.flock

    def after_its_owner_ended(file, how):
        if not first.closed:
            (tmp_path / "f").unlink()
            first.close()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", after_its_owner_ended)
    with files.owned(tmp_path / "f") as second:
        second.write(b"second")
    assert (tmp_path / "f").read_bytes() == b"second"


def test_a_folder_that_can_not_be_made():
    with pytest.raises(KeepwarmError, match="/proc/x/f: there is no such folder, and none can be made"):
        files.write_text(Path("/proc/x/f"), "one")


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "f", {"x": float("nan")})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("late", [0.0, 0.02])
def test_a_file_is_hashed_while_it_is_written(tmp_path, late):
    """From its first byte to its last, whenever the writer pauses, begins or ends."""
    path, whole, content = tmp_path / "growing", threading.Event(), random.Random(1).randbytes(3_000_001)
    with ThreadPoolExecutor(1) as beside:
        found = beside.submit(files.facts_while, path, whole)
        time.sleep(late)
        with open(path, "wb", buffering=0) as file:
            for start in range(0, len(content), 700_000):
                file.write(content[start : start + 700_000])
                time.sleep(late)
        whole.set()
        assert found.result() == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert files.facts_while(tmp_path / "never", whole) is None
