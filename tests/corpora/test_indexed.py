"""`.bin/.idx`: byte for byte the reference's, every damage refused."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.corpora.indexed import (
    IndexedWriter,
    best_dtype,
    index_bytes,
    open_indexed,
    read_sidecar,
    sidecar_path,
    source_id,
)  # fmt: skip
from keepwarm.errors import DataError

GOLDEN = Path(__file__).parents[1] / "golden" / "data"
RECORDED = json.loads((GOLDEN / "documents.json").read_text())


@pytest.mark.parametrize("name", ["a0", "a1", "b0", "c0"])
def test_reads_what_the_reference_wrote(name):
    opened = open_indexed(GOLDEN / name)
    documents = RECORDED["documents"][name]
    assert [opened.document(i).tolist() for i in range(opened.n_documents)] == documents
    assert opened.n_tokens == sum(map(len, documents)) == len(opened.tokens)


@pytest.mark.parametrize("name", ["a0", "a1", "b0", "c0"])
def test_writes_what_the_reference_wrote(name, tmp_path):
    with IndexedWriter(tmp_path / name, open_indexed(GOLDEN / name).dtype) as writer:
        for document in RECORDED["documents"][name]:
            writer.add(np.array(document))
    for suffix in (".bin", ".idx"):
        assert (tmp_path / (name + suffix)).read_bytes() == (GOLDEN / (name + suffix)).read_bytes()


def test_documents_of_several_sequences(tmp_path):
    opened = open_indexed(GOLDEN / "multi")
    assert [opened.document(i).tolist() for i in range(3)] == [[1, 2, 3, 4, 5], [6], [7, 8, 9, 10, 11, 12]]
    with IndexedWriter(tmp_path / "multi", opened.dtype) as writer:
        for document in RECORDED["multi"]:
            for number, sequence in enumerate(document):
                writer.add(np.array(sequence), end_document=number == len(document) - 1)
    for suffix in (".bin", ".idx"):
        assert (tmp_path / ("multi" + suffix)).read_bytes() == (GOLDEN / ("multi" + suffix)).read_bytes()


@given(st.lists(st.lists(st.integers(0, 65535), max_size=20), max_size=30))
def test_round_trip(documents):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        with IndexedWriter(Path(folder) / "x", "u2") as writer:
            for document in documents:
                writer.add(np.array(document, dtype=np.int64))
        opened = open_indexed(Path(folder) / "x.bin")
        assert [opened.document(i).tolist() for i in range(opened.n_documents)] == documents


def test_the_reference_border_of_uint16():
    for vocab, dtype in RECORDED["best_fitting_dtype"]:
        assert best_dtype(vocab).name == dtype


def test_an_id_that_does_not_fit_is_refused_where_the_reference_wraps(tmp_path):
    with (
        pytest.raises(DataError, match="token id 70,000 does not fit uint16"),
        IndexedWriter(tmp_path / "x", "u2") as writer,
    ):
        writer.add(np.array([1, 70_000]))
    assert os.listdir(tmp_path) == []


def test_an_existing_prefix_is_refused(tmp_path):
    with IndexedWriter(tmp_path / "x", "u2") as writer:
        writer.add(np.array([1]))
    with pytest.raises(DataError, match="x.bin: exists already"):
        IndexedWriter(tmp_path / "x", "u2")


def test_nothing_appears_when_writing_fails(tmp_path):
    with pytest.raises(RuntimeError), IndexedWriter(tmp_path / "x", "u2") as writer:
        writer.add(np.array([1]))
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_a_killed_writer_leaves_nothing_that_looks_whole(tmp_path):
    code = (
        "import numpy, os, signal\nfrom keepwarm.corpora.indexed import IndexedWriter\n"
        f"with IndexedWriter({str(tmp_path / 'x')!r}, 'u2') as writer:\n"
        "    writer.add(numpy.arange(1000)); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    with pytest.raises(DataError, match="x.idx: no such file"):
        open_indexed(tmp_path / "x")
    with IndexedWriter(tmp_path / "x", "u2") as writer:
        writer.add(np.array([1]))
    assert sorted(os.listdir(tmp_path)) == ["x.bin", "x.idx"]


KILLED = """
import os, signal, sys
import numpy as np
from keepwarm import files
from keepwarm.corpora import names
from keepwarm.corpora.indexed import IndexedWriter, Sidecar
write = files.write_bytes

def killed(path, *given, **named):
    if str(path).endswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, *given, **named)

files.write_bytes = killed
with IndexedWriter(sys.argv[1], "u2") as writer:
    writer.add(np.arange(1000))
    writer.hashes = np.zeros(1, np.uint64)
    writer.sidecar = Sidecar(tokenizer_sha256="", vocab_size=9, eod=0, documents=1, tokens=1000, text_bytes=1, content_id="")
"""


@pytest.fixture(params=[".meta.json", ".hash.npy", ".idx"])
def killed(request, tmp_path):
    """The prefix of a writer that was killed after it had named `.bin`, before it wrote one of the others."""
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "x"), request.param]).returncode == -9
    assert (tmp_path / "x.bin").exists() and not (tmp_path / "x.idx").exists()
    return tmp_path / "x"


def test_what_a_killed_writer_named_is_cleared_by_the_next(killed):
    with IndexedWriter(killed, "u2") as writer:
        writer.add(np.array([1]))
    assert sorted(os.listdir(killed.parent)) == ["x.bin", "x.idx"]
    assert open_indexed(killed).document(0).tolist() == [1]


def test_somebodys_bin_is_no_killed_writers(killed):
    content = Path(f"{killed}.bin").read_bytes()
    Path(f"{killed}.bin").unlink()
    Path(f"{killed}.bin").write_bytes(content)
    with pytest.raises(DataError, match="x.bin: exists already") as refused:
        IndexedWriter(killed, "u2")
    assert refused.value.fix == f"--output {killed}-2"
    assert Path(f"{killed}.bin").read_bytes() == content


def test_a_pair_that_was_whole_before_the_kill_stays(tmp_path):
    with IndexedWriter(tmp_path / "x", "u2") as writer:
        writer.add(np.array([1]))
    os.link(tmp_path / "x.bin", tmp_path / "x.bin.partial")
    with pytest.raises(DataError, match="exists already"):
        IndexedWriter(tmp_path / "x", "u2")
    assert open_indexed(tmp_path / "x").document(0).tolist() == [1]


def test_of_two_writers_the_second_is_refused(tmp_path):
    with IndexedWriter(tmp_path / "x", "u2") as writer:
        writer.add(np.array([1]))
        with pytest.raises(DataError, match="x.bin: another keepwarm is writing it"):
            IndexedWriter(tmp_path / "x.bin", "u2")
    assert sorted(os.listdir(tmp_path)) == ["x.bin", "x.idx"]


@pytest.mark.parametrize("suffix", [".bin", ".idx", ".meta.json", ".hash.npy"])
def test_a_name_that_was_taken_meanwhile_is_not_overwritten(tmp_path, suffix):
    with pytest.raises(DataError, match=f"x{suffix}: exists already"), IndexedWriter(tmp_path / "x", "u2") as writer:
        writer.add(np.array([1]))
        (tmp_path / f"x{suffix}").write_bytes(b"mine")
    assert os.listdir(tmp_path) == [f"x{suffix}"]
    assert (tmp_path / f"x{suffix}").read_bytes() == b"mine"


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with IndexedWriter(tmp_path / "x", "u2") as writer:
        writer.add(np.array([1]))
    assert sorted(os.listdir(tmp_path)) == ["x.bin", "x.idx"]
    monkeypatch.setattr("keepwarm.files.write_bytes", no_links)
    with pytest.raises(PermissionError), IndexedWriter(tmp_path / "y", "u2"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["x.bin", "x.idx"]


def test_a_length_that_the_index_can_not_hold_is_refused():
    index_bytes(np.dtype("u1"), [5, 2**31 - 1], [0, 1, 2])
    with pytest.raises(DataError, match="sequence 1 has 2,147,483,653 tokens"):
        index_bytes(np.dtype("u1"), [5, 2**31 + 5], [0, 1, 2])


@pytest.fixture
def made(tmp_path):
    with IndexedWriter(tmp_path / "x", "<i4") as writer:
        for document in ([1, 2, 0], [3, 0], [4, 5, 6, 0]):
            writer.add(np.array(document))
    return tmp_path / "x"


def edit(path: Path, place: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[place : place + len(data)] = data
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("suffix", "change", "said"),
    [
        (".bin", lambda p: p.unlink(), "x.bin: no such file"),
        (".idx", lambda p: p.unlink(), "x.idx: no such file"),
        (".idx", lambda p: edit(p, 0, b"TNTIDX"), "wrong magic"),
        (".idx", lambda p: edit(p, 9, struct.pack("<Q", 2)), "version 2; version 1 is known"),
        (".idx", lambda p: edit(p, 17, b"\x07"), "dtype code 7 is not an integer type"),
        (".idx", lambda p: p.write_bytes(p.read_bytes()[:-3]), "its header promises"),
        (".idx", lambda p: p.write_bytes(b"MMIDIDX"), "truncated: 7 bytes"),
        (".idx", lambda p: edit(p, 34, struct.pack("<i", -1)), "negative lengths"),
        (".idx", lambda p: edit(p, 34 + 12, struct.pack("<q", 2)), "not at a token"),
        (".idx", lambda p: edit(p, 34 + 36 + 8, struct.pack("<q", 9)), "do not rise from 0"),
        (".bin", lambda p: p.write_bytes(p.read_bytes()[:-4]), "x.bin: truncated: 32 bytes, the index points to byte 36"),
        (".bin", lambda p: p.write_bytes(p.read_bytes() + b"1234"), "x.bin: 40 bytes, the index counts 36"),
    ],
)  # fmt: skip
def test_damage_is_named(made, suffix, change, said):
    change(Path(f"{made}{suffix}"))
    with pytest.raises(DataError) as refused:
        open_indexed(made)
    assert said in refused.value.what


def test_the_reference_tokenizers_off_by_one_is_recognised(made):
    """--append-eod there writes the document end and does not count it."""
    Path(f"{made}.idx").write_bytes(index_bytes(np.dtype("<i4"), [2, 1, 3], [0, 1, 2, 3]))
    with pytest.raises(DataError, match="one token per document more than .* counts \\(3 documents\\)") as refused:
        open_indexed(made)
    assert "every document is shifted" in refused.value.why
    assert refused.value.fix == f"keepwarm data verify {made} --repair"


def test_tokens_outlive_the_file_object(made):
    tokens = open_indexed(made).tokens
    assert tokens[:3].tolist() == [1, 2, 0]


def test_identity_without_a_sidecar_follows_the_content(made, tmp_path):
    first = source_id(made)
    assert len(first) == 16 and source_id(made) == first
    edit(Path(f"{made}.bin"), 0, b"\x09")
    assert source_id(made) != first


def test_a_damaged_sidecar_is_an_error(made):
    assert read_sidecar(made) is None
    sidecar_path(made).write_text("{}")
    with pytest.raises(DataError, match="damaged"):
        read_sidecar(made)
