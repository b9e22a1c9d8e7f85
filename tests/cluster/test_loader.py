"""The stub trainer's reading of a list, against the samples that the reference's loader gave."""

import json
from pathlib import Path

import numpy as np
import pytest

from cluster.loader import Blend

GOLDEN = Path(__file__).parents[1] / "golden/data"
BLENDS = {
    "shuffle": "mix", "noshuffle": "mix", "single": "single", "interleaved_corpora": "interleaved",
    "unnormalized": "mix_unnormalized",
}  # fmt: skip


@pytest.mark.parametrize("name", BLENDS)
@pytest.mark.parametrize(("part", "samples"), [("train", 2000), ("valid", 20)])
def test_every_recorded_sample_is_read(name, part, samples, monkeypatch):
    monkeypatch.chdir(GOLDEN)
    recorded = json.loads((GOLDEN / f"blend_{name}.json").read_text())
    config, found = recorded["config"], recorded["splits"][part]
    blend = Blend(
        GOLDEN / f"list_{BLENDS[name]}.txt", samples, config["seq_length"], part=("train", "valid").index(part),
        seed=config["seed"], split=config["split"], shuffled=config["shuffle_sample_in_corpus"],
    )  # fmt: skip
    assert blend.size == found["len"] and len(found["samples"]) == 21
    within = [each for each in found["samples"] if each["i"] < samples]
    assert len(within) >= 20
    for each in within:
        assert blend.turns[each["i"], 0] == each["dataset_idx"]
        assert blend[each["i"]].tolist() == each["text"]
    turns = np.load(GOLDEN / f"blend_{name}.npz")[f"{part}_dataset_index"]
    assert turns[:samples].tolist() == blend.turns[:, 0].tolist()
