"""Text that the base writes itself: the same from the same seed, kept batch by batch, never sampled twice."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from keepwarm.corpora.generated import write_generated
from keepwarm.corpora.hashing import derive_key
from keepwarm.corpora.indexed import open_indexed, read_sidecar
from keepwarm.corpora.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from keepwarm.engine.generate import sample
from keepwarm.errors import KeepwarmError
from keepwarm.plan.corpus import GenerateSpec


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Dice:
    """Writes documents of dice; remembers the seeds it was asked for, and is killed at one of them."""

    facts: dict = field(default_factory=lambda: {"path": "dice", "weights_sha256": "1"})
    killed_at: int | None = None
    seeds: list[int] = field(default_factory=list)

    def documents(self, seed: int) -> list[list[int]]:
        if len(self.seeds) == self.killed_at:
            raise Killed
        self.seeds.append(seed)
        dice = random.Random(seed)
        return [[*(dice.randint(1, 200) for _ in range(dice.randint(1, 9))), 0] for _ in range(3)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(iter(["the state of the union is strong"] * 20), 300, path)
    return load_tokenizer(path)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.fixture
def write(tmp_path, tokenizer):
    """Write to a prefix of this test's own; returns what wrote it, and the bytes of the pair."""

    def written(
        dice: Dice | None, name: str = "train", *, tokens: int = 100, seed: int = 1
    ) -> tuple[dict, list[bytes]]:
        heard.clear()
        make = None if dice is None else lambda spec, tokenizer: dice
        prefix = tmp_path / name
        found = write_generated(
            "d0", GenerateSpec(tokens=tokens), make, tokenizer, prefix, seed=seed, tell=heard.append
        )
        return found, [Path(f"{prefix}.{end}").read_bytes() for end in ("bin", "idx", "meta.json")]

    heard: list[str] = []
    written.heard = heard
    return written


def ids(prefix: Path) -> list[int]:
    opened = open_indexed(prefix)
    return [token for number in range(opened.n_documents) for token in opened.document(number).tolist()]


def test_it_holds_the_tokens_asked_for_and_who_wrote_them(write, tmp_path, tokenizer):
    dice = Dice()
    facts, _ = write(dice)
    whole = [token for seed in dice.seeds for document in Dice().documents(seed) for token in document]
    assert ids(tmp_path / "train") == whole[:100]
    assert dice.seeds == [derive_key("generate", 1, number) for number in range(len(dice.seeds))]
    sidecar = read_sidecar(tmp_path / "train")
    assert sidecar.tokens == 100 and sidecar.source_files == [facts]
    assert sidecar.text_bytes == tokenizer.text_bytes(whole[:100])
    assert facts["path"] == "dice" and facts["temperature"] == 1.0 and facts["seed"] == 1
    assert facts["sampled_tokens"] == len(whole) and facts["sampled_tokens"] >= 100
    assert write.heard[0] == "d0: the base writes 100 tokens at temperature 1"
    assert write.heard[-1].startswith("d0: 100 of 100 tokens sampled, ")


def test_the_same_seed_writes_the_same_bytes_and_another_one_others(write):
    assert write(Dice(), "a") == write(Dice(), "b")
    assert write(Dice(), "c", seed=2)[1][0] != write(Dice(), "a")[1][0]


def test_a_longer_text_begins_with_the_shorter_one(write, tmp_path):
    write(Dice(), "short", tokens=60)
    write(Dice(), "long", tokens=200)
    assert ids(tmp_path / "long")[:60] == ids(tmp_path / "short")


@settings(max_examples=12)
@given(tokens=st.integers(40, 300), killed_at=st.integers(0, 12))
def test_killed_at_any_batch_it_goes_on_to_the_same_bytes(tmp_path_factory, tokenizer, tokens, killed_at):
    folder, spec, heard = tmp_path_factory.mktemp("killed"), GenerateSpec(tokens=tokens), []

    def write(dice: Dice, name: str) -> list[bytes]:
        write_generated("d0", spec, lambda spec, tokenizer: dice, tokenizer, folder / name, seed=1, tell=heard.append)
        return [Path(f"{folder / name}.{end}").read_bytes() for end in ("bin", "idx", "meta.json")]

    unbroken = Dice()
    expected = write(unbroken, "unbroken")
    killed, going_on = Dice(killed_at=killed_at), Dice()
    if killed_at < len(unbroken.seeds):
        with pytest.raises(Killed):
            write(killed, "broken")
        assert not list(folder.glob("broken.bin")) and not list(folder.glob("broken.idx"))
    else:
        write(killed, "broken")
    assert write(going_on, "broken") == expected
    assert killed.seeds + going_on.seeds == unbroken.seeds  # each batch was sampled once
    assert not list(folder.glob("*.partial"))
    assert (f"d0: going on, {killed_at} batches are there" in heard) == (0 < killed_at < len(unbroken.seeds))


def test_what_is_there_is_not_sampled_again(write):
    first = write(Dice())
    again = Dice()
    assert write(again) == first and again.seeds == []
    assert write(None) == first  # no model is needed for it


def test_other_settings_write_it_anew(write):
    write(Dice())
    again = Dice()
    write(again, tokens=120)
    assert again.seeds != []


def test_batches_of_another_model_are_thrown_away(write, tmp_path):
    with pytest.raises(Killed):
        write(Dice(killed_at=2))
    other = Dice(facts={"path": "dice", "weights_sha256": "2"})
    facts, _ = write(other)
    assert (
        "d0: the model or the settings of its text changed; nothing was trained yet, so it is begun again"
        in write.heard
    )
    assert other.seeds[0] == derive_key("generate", 1, 0) and facts["weights_sha256"] == "2"


def test_a_command_that_trains_nothing_says_what_makes_it(write):
    with pytest.raises(KeepwarmError) as caught:
        write(None)
    assert caught.value.what == "corpora.d0.generate: the text that the base wrote is not there yet"
    assert caught.value.fix == "keepwarm run PLAN makes it, and goes on"


def sampled(model, **more) -> list[list[int]]:
    settings = {"documents": 6, "longest": 20, "vocab_size": 60, "temperature": 1.0, "top_p": 1.0, "seed": 3}
    return sample(model, 1, {2, 3}, **{**settings, **more})


def test_a_model_writes_the_same_from_the_same_seed(model):
    assert sampled(model) == sampled(model) != sampled(model, seed=4)


def test_documents_end_with_an_end_or_where_they_are_longest(model):
    found = sampled(model, documents=200)
    for document in found:
        assert not {2, 3} & set(document[:-1])
        assert len(document) == 20 or document[-1] in (2, 3)
    assert {len(document) == 20 for document in found} == {True, False}
    assert max(token for document in found for token in document) < 60


def test_kept_keys_and_values_change_nothing(model):
    """The most probable token at each place, told from the whole document at once."""
    for document in sampled(model, top_p=1e-9, documents=3):
        read = torch.tensor([[1, *document[:-1]]])
        with torch.no_grad():
            logits = model(input_ids=read).logits[0, :, :60]
        assert logits.argmax(dim=-1).tolist() == document


def test_the_shares_of_what_is_sampled_are_the_models(model):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[1]])).logits[0, -1, :60]
    count = 5_000
    first = np.array([document[0] for document in sampled(model, documents=count, longest=1, temperature=0.5)])
    expected = (logits / 0.5).softmax(dim=-1).numpy()
    counts = np.bincount(first, minlength=60)
    assert np.all(np.abs(counts - count * expected) < 5 * np.sqrt(count * expected) + 5)


def test_top_p_leaves_the_rare_tokens_out(model):
    with torch.no_grad():
        shares = model(input_ids=torch.tensor([[1]])).logits[0, -1, :60].softmax(dim=-1)
    ordered = shares.argsort(descending=True).tolist()
    needed = int((shares[ordered].cumsum(0) < 0.3).sum()) + 1
    first = {document[0] for document in sampled(model, documents=5_000, longest=1, top_p=0.3)}
    assert first == set(ordered[:needed])


def test_a_model_without_finite_logits_is_refused():
    broken = LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    )
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    with pytest.raises(KeepwarmError, match="the base's logits are no finite numbers"):
        sampled(broken)
