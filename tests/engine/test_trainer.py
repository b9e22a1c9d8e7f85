"""The stock Trainer with our adapter against our own loop: the same losses and rates, step by step."""

from __future__ import annotations

import contextlib
import json
import pickle
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

from keepwarm import KeepwarmError, open_attempt
from keepwarm.attempt.line import open_stream
from keepwarm.attempt.opened import OpenAttempt
from keepwarm.attempt.stability import STANDARD
from keepwarm.attempt.steering import Pole, Steering
from keepwarm.blend.boundaries import document_positions
from keepwarm.cli.main import main
from keepwarm.engine.trainer import AttemptDataset, trainer_parts, training_arguments
from keepwarm.lineage.foreign_hugging_face import hugging_face
from keepwarm.schedule.batch import BatchRamp

STAGE = "tokens: 5_120, ladder: [{rung: replay, shares: [5%, 25%]}]"
RAMPED = "tokens: 5_120, ramp: 50%, ladder: [{rung: replay, shares: [25%]}]"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, real_text, one_stage_text) -> Path:
    """A run folder: a base with a warm-up, a stage whose mix is ramped up, its cooldown; micro batches of 4 of 8."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text").symlink_to(real_text)
    text = one_stage_text.replace(STAGE, RAMPED).replace("batch_size: 8", "batch_size: 8\nmicro_batch_size: 4")
    (folder / "plan.yaml").write_text(text)
    with contextlib.chdir(folder):
        assert main(["run", "plan.yaml"]) == 0
    return folder / "run"


def records(attempt: Path) -> list[tuple[int, float, float, float]]:
    found = [json.loads(line) for line in (attempt / "metrics.jsonl").read_text().splitlines()]
    return [(r["step"], r["loss"], r["lr"], r["grad_norm"]) for r in found if r["kind"] == "train"]


def trainer_of(parts, output: Path, *callbacks: TrainerCallback, **more) -> Trainer:
    arguments = {"logging_steps": 1, "report_to": "none", "use_cpu": True, "disable_tqdm": True} | more
    return Trainer(
        parts.model,
        TrainingArguments(str(output), **parts.arguments | arguments),
        train_dataset=parts.dataset,
        optimizers=(parts.optimizer, parts.scheduler),
        callbacks=[parts.callback, *callbacks],
    )


def logged(trainer: Trainer) -> list[tuple[int, float, float, float]]:
    history = [each for each in trainer.state.log_history if "loss" in each]
    return [(each["step"], each["loss"], each["learning_rate"], each["grad_norm"]) for each in history]


def assert_same(found, expected) -> None:
    assert [row[0] for row in found] == [row[0] for row in expected]
    assert [row[2] for row in found] == [row[2] for row in expected]  # LR: to the bit
    assert np.array(found)[:, 1] == pytest.approx(np.array(expected)[:, 1], rel=1e-6)
    assert np.array(found)[:, 3] == pytest.approx(np.array(expected)[:, 3], rel=1e-4)


@pytest.mark.parametrize("name", ["base/00-base", "stage2/00-replay", "stage2/01-cooldown"])
def test_the_trainer_takes_the_same_steps_as_our_loop(trained, tmp_path, name):
    folder = trained / "arms/cookbook" / name
    opened = open_attempt(folder)
    assert (len(opened.attempt.segments) > 1) == (name == "stage2/00-replay")
    trainer = trainer_of(trainer_parts(opened), tmp_path, save_strategy="no")
    assert trainer.args.gradient_accumulation_steps == 2
    trainer.train()
    assert_same(logged(trainer), records(folder))


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **given):
        control.should_training_stop = state.global_step == self.step


def test_the_trainer_resumes_in_the_middle(trained, tmp_path):
    """Stopped behind its checkpoint, within the ramp of the mix; the rest by other parts, as in another process."""
    folder = trained / "arms/cookbook/stage2/00-replay"
    trainer_of(trainer_parts(open_attempt(folder)), tmp_path, StopAt(9), save_steps=7).train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-7"]
    found = hugging_face(tmp_path / "checkpoint-7")
    assert (found.lr, found.lr_max, found.phase, found.moments) == (3e-3, 3e-3, "peak", True)
    trainer = trainer_of(trainer_parts(open_attempt(folder)), tmp_path, save_strategy="no")
    trainer.train(resume_from_checkpoint=True)
    assert_same(logged(trainer), records(folder))


@pytest.fixture
def opened(trained):
    return open_attempt(trained / "arms/cookbook/stage2/00-replay")


def test_a_sample_is_the_attempts_whoever_asks_for_it_and_when(opened):
    stream = open_stream(opened.attempt, opened.feed)
    dataset = AttemptDataset(opened.attempt, stream)
    expected = stream.batch(0, len(dataset))[0]
    assert len(dataset) == 20 * 8 and dataset[0]["input_ids"].shape == (33,)
    for number in (159, 3, 80, 0):
        assert dataset[number]["input_ids"].tolist() == dataset[number]["labels"].tolist() == expected[number].tolist()
    assert pickle.loads(pickle.dumps(dataset))[17]["labels"].tolist() == expected[17].tolist()
    workers = DataLoader(dataset, batch_size=8, num_workers=2)
    assert torch.equal(torch.cat([batch["input_ids"] for batch in workers]), torch.from_numpy(expected).long())
    with pytest.raises(IndexError):
        dataset[160]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_every_step_has_the_same_samples_whatever_the_number_of_processes(opened, processes):
    """accelerate deals the batches out: those of one optimizer step, in all processes together, are samples k*8..k*8+7."""
    asked = training_arguments(opened.attempt, processes=processes, micro_batch_size=1)
    accumulated, micro = asked["gradient_accumulation_steps"], asked["per_device_train_batch_size"]
    stream = open_stream(opened.attempt, opened.feed)
    dataset = AttemptDataset(opened.attempt, stream)
    dealt = [
        list(
            prepare_data_loader(
                DataLoader(dataset, batch_size=micro, sampler=SequentialSampler(dataset)),
                num_processes=processes, process_index=index, put_on_device=False,
            )
        )
        for index in range(processes)
    ]  # fmt: skip
    for step in range(20):
        mine = slice(step * accumulated, (step + 1) * accumulated)
        found = torch.cat([batch["input_ids"] for batches in dealt for batch in batches[mine]]).tolist()
        assert sorted(found) == sorted(stream.batch(8 * step, 8 * step + 8)[0].tolist())
    assert {len(batches) for batches in dealt} == {20 * accumulated}


def test_documents_are_kept_apart_where_the_plan_asks(opened):
    """The loss of windows with a document's end in them: by the definition, and not that of documents run together."""
    eod = opened.feed.tokenizer.eod_id
    parts = trainer_parts(changed(opened, document_eod=eod))
    windows = torch.from_numpy(open_stream(opened.attempt, opened.feed).batch(0, 160)[0]).long()
    ended = (windows[:, 4:28] == eod).any(dim=1).nonzero()[:, 0].tolist()
    inputs, targets = windows[ended, :-1], windows[ended, 1:]
    positions = torch.from_numpy(document_positions(inputs.numpy(), eod))
    with torch.no_grad():
        loss = parts.model(**default_data_collator([parts.dataset[number] for number in ended])).loss.item()
        apart = parts.model(input_ids=inputs, position_ids=positions).logits
        together = parts.model(input_ids=inputs).logits
    assert loss == pytest.approx(cross_entropy(apart.transpose(1, 2), targets).item(), rel=1e-6)
    assert loss != pytest.approx(cross_entropy(together.transpose(1, 2), targets).item(), rel=1e-5)


def changed(opened, **parts) -> OpenAttempt:
    return replace(opened, attempt=replace(opened.attempt, **parts))


def test_what_a_trainer_can_not_do_is_refused(opened):
    pole = Pole("d0", opened.attempt.segments[0].mixture)
    steering = Steering("thermostat", pole, pole, Fraction(1, 4), Fraction(0), Fraction(1, 2))
    for parts, message in (
        ({"batch_ramp": BatchRamp(4, 4, 80)}, "replay 25%: its batch grows from 4 to 8 samples"),
        (
            {"steering": steering},
            r"replay 25%: its mix is steered while it trains \(d0 steered from 25% within 0% to 50%",
        ),
        ({"stability": replace(STANDARD, spike="off")}, r"when training becomes unstable \(stability\)"),
    ):
        with pytest.raises(KeepwarmError, match=message):
            trainer_parts(changed(opened, **parts))
    for numbers, message in (
        ({"processes": 3}, "micro batches of 2 in 3 processes do not make up a batch of 8 samples"),
        ({"processes": 2, "micro_batch_size": 3}, r"(?s)micro batches of 3 in 2 processes.*micro_batch_size=2\)"),
    ):
        with pytest.raises(KeepwarmError, match=message):
            training_arguments(opened.attempt, **numbers)


def test_without_accelerate_it_says_what_to_install(opened, monkeypatch):
    monkeypatch.setattr("keepwarm.engine.trainer.find_spec", lambda name: None)
    with pytest.raises(KeepwarmError, match=r'(?s)needs accelerate.*pip install "keepwarm\[trainer\]"'):
        trainer_parts(opened)


def test_a_table_of_positions_that_is_too_short_is_refused(opened):
    model = {"config": {"type": "gpt2", "hidden_size": 32, "layers": 1, "heads": 2, "max_position_embeddings": 32}}
    with pytest.raises(KeepwarmError, match="GPT2LMHeadModel has 32 positions, and a sample for a Trainer 33 tokens"):
        trainer_parts(replace(changed(opened, model=model), start=None))


def test_a_trainer_that_was_given_something_else_does_not_begin(opened, tmp_path):
    for other, message in (
        (
            {"max_grad_norm": 2.0, "train_sampling_strategy": "random"},
            "max_grad_norm is 2.0, not 1.0; train_sampling_strategy",
        ),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps is 4, not 2"),
    ):
        with pytest.raises(KeepwarmError, match=message):
            trainer_of(trainer_parts(opened), tmp_path, **other).train()
    parts = trainer_parts(opened)
    parts = replace(parts, scheduler=trainer_parts(opened).scheduler, dataset=trainer_parts(opened).dataset)
    with pytest.raises(KeepwarmError, match="train_dataset is another one; the scheduler of optimizers is another one"):
        trainer_of(parts, tmp_path).train()
