"""Manifests: written whole, read back equal, damage named."""

from __future__ import annotations

import json

import pytest

from keepwarm.errors import LineageError
from keepwarm.lineage import manifest as manifests
from keepwarm.lineage.graph import all_manifests, ancestors, newest_at_peak
from keepwarm.lineage.manifest import Manifest


def make(folder, **changes):
    facts = dict(
        id=str(folder), parent=None, arm="cookbook", stage="base", rung="base", attempt="a", plan="p", step=1, samples=1,
        attempt_tokens=10, line_tokens=10, lr=3e-3, lr_max=3e-3, phase="peak", cursors={"s": 3}, allowed=("peak-start",),
    )  # fmt: skip
    made = Manifest(**facts | changes)
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"0123456789")
    manifests.write_manifest(folder, made)
    return made


def test_round_trip_lists_the_files(tmp_path):
    made = make(tmp_path / "c")
    read = manifests.read_manifest(tmp_path / "c")
    assert read.cursors == {"s": 3} and read.allowed == ("peak-start",) and read.id == made.id
    assert read.files["weights"]["bytes"] == 10
    manifests.verify_files(tmp_path / "c", read, deep=True)


def test_a_truncated_file_is_named(tmp_path):
    make(tmp_path / "c")
    (tmp_path / "c" / "weights").write_bytes(b"01234")
    with pytest.raises(LineageError, match="weights: has 5 bytes, not 10"):
        manifests.verify_files(tmp_path / "c", manifests.read_manifest(tmp_path / "c"))


def test_changed_bytes_are_found_when_looked_at_deeply(tmp_path):
    make(tmp_path / "c")
    (tmp_path / "c" / "weights").write_bytes(b"0123456780")
    read = manifests.read_manifest(tmp_path / "c")
    manifests.verify_files(tmp_path / "c", read)
    with pytest.raises(LineageError, match="other content than when it was saved"):
        manifests.verify_files(tmp_path / "c", read, deep=True)


def test_a_missing_file_is_named(tmp_path):
    make(tmp_path / "c")
    (tmp_path / "c" / "weights").unlink()
    with pytest.raises(LineageError, match="weights: is missing"):
        manifests.verify_files(tmp_path / "c", manifests.read_manifest(tmp_path / "c"))


@pytest.mark.parametrize("content", ["", "{}", '{"format": 99}', "[1]", '{"format": 1, "id": "x"}'])
def test_a_damaged_manifest_is_a_three_line_error(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(LineageError, match="not a keepwarm manifest"):
        manifests.read_manifest(tmp_path)


def test_no_manifest_is_a_three_line_error(tmp_path):
    with pytest.raises(LineageError, match="no such file"):
        manifests.read_manifest(tmp_path)


def test_only_whole_checkpoints_are_listed(tmp_path):
    attempt = tmp_path / "arms" / "cookbook" / "base" / "00-base"
    older, newer = (attempt / "checkpoints" / manifests.checkpoint_name(n, "peak") for n in (5, 20))
    make(newer, line_tokens=20)
    make(older, line_tokens=5)
    (attempt / "checkpoints" / (older.name + ".partial")).mkdir()
    (attempt / "checkpoints" / manifests.checkpoint_name(30, "peak")).mkdir()  # no manifest: not whole
    assert manifests.checkpoints_of(attempt) == [older, newer]
    assert [m.line_tokens for m in all_manifests(tmp_path)] == [5, 20]


def test_ancestors_and_newest_at_peak(tmp_path):
    base = make(tmp_path / "base", id="base", line_tokens=10)
    stage = make(tmp_path / "s2", id="s2", parent="base", line_tokens=20)
    cooled = make(tmp_path / "cool", id="cool", parent="s2", line_tokens=25, phase="cooled", lr=0.0)
    everything = [base, stage, cooled]
    assert [m.id for m in ancestors(cooled, everything)] == ["s2", "base"]
    newest = newest_at_peak(everything)
    assert newest is not None and newest.id == "s2"
    assert newest_at_peak([cooled]) is None


def test_the_manifest_is_readable_json(tmp_path):
    make(tmp_path / "c")
    assert json.loads((tmp_path / "c" / "manifest.json").read_text())["phase"] == "peak"
