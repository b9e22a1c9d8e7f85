"""File lists, data caches and token files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doctor.told import GOLDEN, names, only
from keepwarm.corpora.indexed import IndexedWriter
from keepwarm.doctor.lists import split_of

COLLISION = json.loads((GOLDEN / "data/cache_collision.json").read_text())


@pytest.fixture
def data(tmp_path) -> Path:
    """Token files a0, a1, b0, c0 with enough sequences for the default split, and a list of them."""
    for name in ("a0", "a1", "b0", "c0"):
        with IndexedWriter(tmp_path / name, np.uint16) as writer:
            for _ in range(60):
                writer.add(np.array([1, 2, 3]))
    return tmp_path


def listed(folder: Path, text: str) -> Path:
    (folder / "list.txt").write_text(text)
    return folder / "list.txt"


def test_a_good_list_has_none(data, doctor):
    assert doctor(listed(data, "0.4 a0 A\n0.2 a1 A\n\n0.4\tb0.bin B\n")) == []


@pytest.mark.parametrize(
    ("text", "name", "line", "evidence"),
    [
        ("0.9 a0 A\n# more\n# to come\n0.1 b0 B\n", "comment-in-list", 2, "2 comments, the first is # more"),
        ("0.9 a0 A\n0.1 my data/b0 B\n", "fields-in-list", 2, "4 fields, a space in the path?: 0.1 my data/b0 B"),
        ("0.9 a0 A # half\n0.1 b0 B\n", "fields-in-list", 1, "5 fields, a comment behind the line: 0.9 a0 A # half"),
        ("a0\n", "fields-in-list", 1, "1 field, weight, prefix and corpus are needed: a0"),
        ("1 a0 A\nnan b0 B\n", "weight-in-list", 2, "the weight is 'nan'"),
        ("1 a0 A\n-1 b0 B\n", "weight-in-list", 2, "the weight is '-1'"),
        ("0.5 a0 A\n0.5 a0 A\n", "listed-twice", 2, "a0 stands at"),
        ("0.5 a0 A\n0.5 nope B\n", "listed-file-missing", 2, "nope.idx and .bin: no such file"),
        ("0.6 a0 A\n0 b0 B\n", "zero-weight", 2, "1 of 2 files weigh 0 (b0); all weights sum to 0.6"),
        ("0.999960 a0 A\n0.000040 b0 B\n", "few-digits", 2, "1 of 2 weights are known to no better than 1 %; 0.000040 may be off by 1%"),
    ],
)  # fmt: skip
def test_a_spoiled_list(data, doctor, text, name, line, evidence):
    path = listed(data, text)
    trap = only(doctor(path), name)
    assert trap["where"] == f"{path}:{line}"
    assert evidence in trap["evidence"]


def test_a_corpus_without_weight_that_sorts_first_is_drawn_all_the_same(data, doctor):
    recorded = json.loads((GOLDEN / "data/zero_weight_first_corpus.json").read_text())
    assert recorded["n_failing"] == 1
    trap = only(doctor(listed(data, recorded["list"])), "zero-weight-first")
    assert trap["evidence"] == "corpus AA weighs 0 and sorts first of 3"
    assert "zero-weight-first" not in names(doctor(listed(data, recorded["list"].replace("AA", "ZZZ"))))


def test_the_recorded_empty_split(data, doctor):
    recorded = json.loads((GOLDEN / "data/blend_split990_10_0.json").read_text())
    assert recorded["exception"] == "TypeError(\"'NoneType' object is not subscriptable\")"
    for name in ("a0", "a1", "b0", "c0"):
        for suffix in (".bin", ".idx"):
            shutil.copy(GOLDEN / "data" / f"{name}{suffix}", data)
    shutil.copy(GOLDEN / "data/list_mix.txt", data)
    trap = only(doctor(data / "list_mix.txt"), "empty-split")
    assert trap["evidence"] == "40 sequences of a0 split 990,10,0 leave valid none; 4 files in all"


@given(st.integers(1, 5000), st.tuples(st.integers(1, 999), st.integers(0, 99), st.integers(0, 99)))
def test_a_split_adds_up(sequences, split):
    assert sum(split_of(sequences, split)) == sequences


def test_the_split_of_a_launch_is_used(data, doctor, monkeypatch):
    monkeypatch.chdir(data)
    listed(data, "1 a0 A\n")
    line = "DATA_FILE_LIST=list.txt LOAD=/elsewhere/a SAVE=/elsewhere/b TRAIN_ITERS=5 {} bash train_alcf.sh"
    assert doctor(line.format("")) == []
    assert names(doctor(line.format("TEST_SPLIT=1"))) == ["empty-split"]


def kept(folder: Path, corpus: str, counts: list[int]) -> Path:
    """A cache as BlendCorpus keeps it (blendcorpus/data/gpt_dataset.py, _cache_indices)."""
    cache = folder / "cache"
    cache.mkdir()
    (cache / "0f.dsc").write_text(
        f"{corpus}\n {sum(counts)} + blend_sample_in_corpus: False+ shuffle_sample_in_corpus: True"
    )
    np.save(cache / "0f_index.npy", np.repeat(np.arange(len(counts), dtype=np.int64), counts))
    return cache


def test_the_recorded_collision_of_caches(data, doctor):
    """l1 built the cache, l2 reads it: 322 of 2,010 samples fail."""
    assert COLLISION["l2_after_l1"]["samples_failing"] == 322
    cache = kept(data, "A", COLLISION["l1_fresh"]["corpusA_index_counts"])
    assert doctor(cache, listed(data, COLLISION["l1_fresh"]["list"])) == []
    trap = only(doctor(cache, listed(data, COLLISION["l2_after_l1"]["list"])), "stale-cache")
    assert trap["evidence"] == (
        f"corpus A, 1,206 samples: the cache has 804, 402 by file, {data / 'list.txt'}:1 asks for 402, 804"
    )
    assert trap["fix"] == f"rm -r {cache}, or another SAVE: the cache lies in it"


def test_a_cache_of_another_length_of_run_is_not_read(data, doctor):
    assert doctor(kept(data, "A", [900, 307]), listed(data, COLLISION["l2_after_l1"]["list"])) == []


def test_a_cache_that_two_lists_share(data, doctor):
    cache = kept(data, "B", [804])
    (cache / "1f.dsc").write_text(
        "Blendable dataset\n\nDatasets:\nCorpusDataset:a0,other,-1206-161234\n\nWeights: [1.]\n"
    )
    trap = only(doctor(cache, listed(data, COLLISION["l1_fresh"]["list"])), "shared-cache")
    assert trap["evidence"] == f"made for another list: other is not in {data / 'list.txt'}"


def test_token_files(data, doctor):
    assert doctor(data / "a0") == []
    assert doctor(data / "a0.idx", data / "a1.bin") == []
    with open(data / "a0.bin", "r+b") as file:
        file.truncate(100)
    (data / "a1.bin").write_bytes((data / "a1.bin").read_bytes() + b"xx")
    (data / "b0.bin").unlink()
    found = doctor(data / "a0", data / "a1", data / "b0")
    assert [(trap["name"], Path(trap["where"]).name) for trap in found] == [
        ("cut-off-bin", "a0"), ("bytes-behind-the-end", "a1"), ("half-a-pair", "b0"),
    ]  # fmt: skip
    assert found[0]["fix"] == f"keepwarm data verify {data / 'a0'} --repair  # to keep the complete documents"


def test_ids_that_wrapped_around(data, doctor):
    from keepwarm.corpora.indexed import Sidecar

    fields = dict.fromkeys(Sidecar.__dataclass_fields__)
    sidecar = Sidecar(**{**fields, "vocab_size": 256_000, "tokens": 180, "documents": 60, "content_id": "x"})
    from keepwarm.corpora.verify import verify
    from keepwarm.doctor.tokens import TokenFile
    from keepwarm.doctor.trap import traps_in

    (trap,) = traps_in("tokens", TokenFile(verify(data / "a0"), sidecar))
    assert (trap.name, trap.evidence) == (
        "uint16-overflow", "dtype uint16 holds ids below 65,536, the vocabulary has 256,000"
    )  # fmt: skip
