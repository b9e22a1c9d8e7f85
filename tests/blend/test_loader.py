"""Reading ahead changes no batch, keeps few files open, and tells what goes wrong."""

from __future__ import annotations

import os
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.blend.boundaries import document_positions
from keepwarm.blend.loader import Loader
from keepwarm.blend.mixture import combine
from keepwarm.blend.stream import Segment, Stream
from keepwarm.corpora.source import WindowReader
from keepwarm.errors import DataError


@pytest.fixture
def stream(make_source):
    documents = [[[100 * k + d, *range(d % 7), 0] for d in range(60)] for k in range(5)]
    sources = [make_source(f"s{k}", documents[k], held_out=[3, 4, 17]) for k in range(5)]
    mixture = combine([(Fraction(1), {source.id: Fraction(k + 1) for k, source in enumerate(sources)})])
    return Stream([Segment(0, mixture)], {source.id: source for source in sources}, 1, 8)


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_the_batches_are_the_streams(stream):
    expected = [stream.batch(k * 6, k * 6 + 6) for k in range(3, 40)]
    before = open_files()
    with Loader(stream, lambda batch: 6 * batch, 3, 40, ahead=2) as loader:
        found = [tuple(each.copy() for each in loader.next()) for _ in range(37)]
    for (tokens, sources), (wanted_tokens, wanted_sources) in zip(found, expected, strict=True):
        assert (tokens == wanted_tokens).all() and (sources == wanted_sources).all()
    assert open_files() < before  # the stream's files were closed with it
    assert "loader" not in [thread.name for thread in threading.enumerate()]


def test_a_batch_is_good_until_the_next_is_asked_for(stream):
    expected = [stream.batch(k * 6, k * 6 + 6)[0] for k in range(40)]
    with Loader(stream, lambda batch: 6 * batch, 0, 40, ahead=1) as loader:
        for wanted in expected:
            tokens, _ = loader.next()
            time.sleep(0.002)  # the loader goes on reading meanwhile, as far as it may
            assert (tokens == wanted).all()


def test_leaving_early_ends_the_thread(stream):
    with Loader(stream, lambda batch: 6 * batch, 0, 1000, ahead=1) as loader:
        loader.next()
    assert "loader" not in [thread.name for thread in threading.enumerate()]


def test_a_file_that_is_cut_short_while_it_is_read(stream):
    stream.batch(0, 1)
    for source in stream.sources.values():
        os.truncate(f"{source.prefix}.bin", 40)
    with (
        Loader(stream, lambda batch: 6 * batch, 0, 10) as loader,
        pytest.raises(DataError, match=r"\.bin: (ends before token|truncated)"),
    ):
        for _ in range(10):
            loader.next()


def test_a_file_that_is_gone(stream):
    os.unlink(f"{next(iter(stream.sources.values())).prefix}.bin")
    with (
        Loader(stream, lambda batch: 64 * batch, 0, 1) as loader,
        pytest.raises(DataError, match="s0.bin: no such file"),
    ):
        loader.next()


def test_no_more_files_are_open_than_allowed(stream):
    sources = list(stream.sources.values())
    reader, row = WindowReader(sources, 8, open_files=2), np.empty(9, dtype=np.int32)
    before = open_files()
    wanted = [np.concatenate([np.fromfile(f"{s.prefix}.bin", "<u2")[a:b] for a, b in s.kept]) for s in sources]
    for turn in range(3):
        for number in range(len(sources)):
            reader.read(np.array([number]), np.array([turn]), row[None])
            assert (row == wanted[number][turn * 8 : turn * 8 + 9]).all()
            assert open_files() <= before + 2
    reader.close()
    assert open_files() == before


@given(st.lists(st.lists(st.integers(0, 3), min_size=7, max_size=7), min_size=1, max_size=4), st.integers(0, 3))
def test_positions_restart_behind_each_document_end(rows, eod):
    tokens = np.array(rows)
    found = document_positions(tokens, eod)
    for row, positions in zip(rows, found.tolist(), strict=True):
        at = 0
        for token, position in zip(row, positions, strict=True):
            assert position == at
            at = 0 if token == eod else at + 1
