"""What BlendCorpus fed, by corpus and by file, held against the orders that it made."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.blend import blendcorpus
from keepwarm.blend.blendcorpus import BlendCorpus, shared_out
from keepwarm.corpora.filelist import read_filelist

GOLDEN = Path(__file__).parents[1] / "golden/data"
BLENDS = {
    "shuffle": "mix", "noshuffle": "mix", "interleaved_corpora": "interleaved", "unnormalized": "mix_unnormalized",
}  # fmt: skip


@pytest.mark.parametrize("name", BLENDS)
@pytest.mark.parametrize(("start", "stop"), [(0, 2000), (0, 7), (13, 999), (500, 501), (1000, 2000)])
def test_every_count_is_the_recorded_one(name, start, stop):
    recorded = np.load(GOLDEN / f"blend_{name}.npz")
    entries = read_filelist(GOLDEN / f"list_{BLENDS[name]}.txt")
    order = BlendCorpus(entries, 2000, 1234, shuffled=name != "noshuffle", blended=False)
    found = order.fed(start, stop)
    corpora = recorded["train_dataset_index"][start:stop]
    assert [corpus.samples for corpus in found] == np.bincount(corpora, minlength=len(found)).tolist()
    for number, corpus in enumerate(found):
        samples = recorded["train_dataset_sample_index"][start:stop][corpora == number]
        shuffle = recorded[f"train_corpus{number}_shuffle_index"]
        files = recorded[f"train_corpus{number}_dataset_index"][shuffle[samples]]
        assert [file.samples for file in corpus.files] == np.bincount(files, minlength=len(corpus.files)).tolist()
        assert corpus.exact and all(file.exact for file in corpus.files)


def test_weights_of_zero_are_fed_as_the_reference_does():
    order = BlendCorpus(
        read_filelist(GOLDEN / "list_mix_zero.txt", zeros=True), 2000, 1234, shuffled=True, blended=False
    )
    assert [(corpus.name, corpus.samples) for corpus in order.fed(0, 2000)] == [("A", 1999), ("B", 0), ("C", 1)]


def test_without_the_shuffle_files_have_expected_shares_and_say_so(monkeypatch):
    entries = read_filelist(GOLDEN / "list_mix.txt")
    for order in (
        BlendCorpus(entries, 2000, None, shuffled=True, blended=False),
        BlendCorpus(entries, 2000, 1234, shuffled=True, blended=True),
    ):
        first, second, _ = order.fed(0, 1000)
        assert [(file.samples, file.exact) for file in first.files] == [(500, False), (100, False)]
        assert first.exact and second.files[0].exact
    monkeypatch.setattr(blendcorpus, "MOST_SHUFFLED", 100)
    order = BlendCorpus(entries, 2000, 1234, shuffled=True, blended=False)
    assert not order.fed(0, 1000)[0].files[0].exact


def test_without_the_runs_length_no_count_is_exact():
    order = BlendCorpus(read_filelist(GOLDEN / "list_mix.txt"), None, 1234, shuffled=True, blended=False)
    found = order.fed(0, 1000)
    assert [corpus.samples for corpus in found] == [600, 300, 100]
    assert not any(corpus.exact or file.exact for corpus in found for file in corpus.files)


@given(st.integers(0, 10**6), st.lists(st.integers(0, 10**6), min_size=1, max_size=9).filter(any))
def test_whole_parts_add_up_and_stray_by_less_than_one(total, sizes):
    parts = shared_out(total, sizes)
    assert sum(parts) == total
    assert all(abs(part - total * size / sum(sizes)) < 1 for part, size in zip(parts, sizes, strict=True))
