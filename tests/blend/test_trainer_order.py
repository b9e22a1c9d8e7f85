"""The reference loader's shuffles, from its recordings."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.blend.trainer_order import FEWEST_TRAINING, drawn, shuffled_file, training_part, validating_for

GOLDEN = Path(__file__).parents[1] / "golden/data"


@pytest.mark.parametrize(
    ("name", "given_samples"), [("shuffle", [1006, 201]), ("noshuffle", [1006, 201]), ("single", [2010])]
)
def test_the_row_of_a_corpus_is_the_recorded_one(name, given_samples):
    recorded = np.load(GOLDEN / f"blend_{name}.npz")
    row = recorded["train_corpus0_shuffle_index"]
    file, number = drawn(given_samples, shuffled=name != "noshuffle")
    assert len(file) == sum(given_samples) and len(row) >= 1207
    starts = np.cumsum([0, *given_samples])[:-1]
    assert (starts[file] + number)[: len(row)].tolist() == row.tolist()


def test_the_shuffles_of_a_file_are_the_recorded_ones():
    """c0 is read in two epochs, shuffled apart: the first is what a file of one epoch gets, its samples come after both."""
    recorded = np.load(GOLDEN / "blend_noshuffle.npz")
    sequences, _ = shuffled_file(18, 2)
    assert sequences.tolist() == recorded["train_c2_f0_c0_doc_idx"][:18].tolist()
    random = np.random.RandomState(1234)
    for _ in range(2):
        random.shuffle(np.arange(18))
    samples = np.arange(171)
    random.shuffle(samples)
    assert samples.tolist() == recorded["train_c2_f0_c0_shuffle_idx"][:171].tolist()


@given(st.integers(FEWEST_TRAINING, 10**8))
def test_the_validating_part_leaves_just_the_training_part(training):
    count = validating_for(training)
    assert training_part(training + count) == training and count >= 1
    ends = [0]  # as the reference rounds: three shares, and the rest taken back from every border
    for share in (990 / 1000, 10 / 1000, 0 / 1000):
        ends.append(ends[-1] + round(share * float(training + count)))
    assert ends[1] - (ends[-1] - training - count) == training
