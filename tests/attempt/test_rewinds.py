"""Rewinds: what they pass over, and that a run killed between any two writes ends as one that was not."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace
from fractions import Fraction
from itertools import count

import pytest

from keepwarm import files
from keepwarm.attempt.passed_over import (
    broken_words,
    given_up_event,
    passed_over_event,
    passed_over_words,
    skipped_event,
    skipped_steps,
)
from keepwarm.attempt.records import MetricsWriter, keep_until, read_metrics
from keepwarm.attempt.rewinds import begin, finish, passed_over_by, read_rewinds, untold, untouched_steps
from keepwarm.attempt.spikes import Finding, Recent
from keepwarm.attempt.stability import STANDARD
from keepwarm.blend.mixture import combine
from keepwarm.blend.stream import Segment
from keepwarm.errors import LineageError
from keepwarm.lineage.manifest import Manifest, checkpoint_name, checkpoints_of, read_manifest, write_record
from keepwarm.schedule.batch import batches

ONE = (Segment(0, combine([(Fraction(1), {"a": Fraction(1)})])),)
BROKEN = Finding("non-finite loss", math.nan, 2.0, "the loss is not a finite number")
POLICY = replace(STANDARD, non_finite="rewind", rewind_steps=4)


class Killed(BaseException):
    """kill -9"""


class Toy:
    """An attempt whose weights are the steps they were trained by. One trained by a poisonous step breaks later."""

    def __init__(self, folder, *, steps=60, save=10, poison=(), bad=(), policy=POLICY):
        self.folder, self.steps, self.save = folder, steps, save
        self.poison, self.bad, self.policy, self.cut = poison, bad, policy, batches(2)

    def run(self):
        self.go_on = True
        while self.go_on:
            self.go_on = False
            self.restore()
            while self.step < self.steps and not self.go_on and not self.ended:
                self.one_step()
            self.writer.close()
        return self.weights

    def restore(self):
        self.rewinds = finish(self.folder)
        path, saved = self.folder / "metrics.jsonl", checkpoints_of(self.folder)
        self.step, self.weights = 0, ()
        if saved:
            self.step = read_manifest(saved[-1]).step
            self.weights = tuple(json.loads((saved[-1] / "weights").read_text()))
            keep_until(path, self.step)
        else:
            path.unlink(missing_ok=True)
        self.writer = MetricsWriter(path)
        if not saved:
            self.writer.write({"kind": "header", "steps": self.steps})
        for event in untold(self.rewinds, read_metrics(path)):
            self.event(event)
        self.recent = Recent(self.policy, self.cut, ONE, read_metrics(path))
        self.ended = broken_words(read_metrics(path)) is not None

    def loss(self, step):
        if step in self.bad or any(each in self.weights and step >= each + 2 for each in self.poison):
            return math.nan
        return 2.0 + 0.01 * (step * 7 % 5)

    def one_step(self):
        step = self.step + 1
        samples = (self.cut.samples(self.step), self.cut.samples(step))
        if by := passed_over_by(self.rewinds, step):
            return self.advance(passed_over_event(by, samples))
        loss = self.loss(step)
        finding = self.recent.find(step, loss, 1.0)
        if finding is None:
            self.weights = (*self.weights, step)
            return self.advance({"kind": "train", "loss": loss, "grad_norm": 1.0})
        answer, why = self.policy.answer(
            finding.kind, steps=self.steps, rewinds=len(self.rewinds),
            skipped=skipped_steps(read_metrics(self.writer.path)),
        )  # fmt: skip
        if answer == "skip":
            return self.advance(skipped_event(finding, samples))
        if answer == "stop":
            self.ended = True
            return self.event(given_up_event(finding, why, step=step, samples=samples))
        saved = [read_manifest(path).step for path in checkpoints_of(self.folder)]
        begin(self.folder, finding, step=step, rewind_steps=self.policy.rewind_steps, saved_steps=saved)
        self.go_on = True
        return None

    def advance(self, record):
        self.step += 1
        record = {"kind": "event", "step": self.step, "tokens": self.step * 8, **record}
        self.writer.write(record)
        self.recent.add(record)
        if self.step % self.save == 0:
            folder = self.folder / "checkpoints" / checkpoint_name(self.step * 8, "peak")
            with files.new_folder(folder) as aside:
                (aside / "weights").write_text(json.dumps(self.weights))
                write_record(aside, manifest(self.step))

    def event(self, event):
        self.writer.write({"kind": "event", "step": self.step, "tokens": self.step * 8, **event})

    def records(self):
        return read_metrics(self.folder / "metrics.jsonl")


def manifest(step):
    return Manifest(
        id=f"checkpoints/{step}", parent=None, arm="a", stage="b", rung="c", attempt="d", plan="e", step=step,
        samples=step * 2, attempt_tokens=step * 8, line_tokens=step * 8, lr=1.0, lr_max=1.0, phase="peak",
    )  # fmt: skip


def trained(records):
    return [record["step"] for record in records if record["kind"] == "train"]


def test_it_goes_back_before_the_steps_that_it_passes_over(tmp_path):
    toy = Toy(tmp_path, poison={32})  # breaks at 34: 31 to 34 are passed over, from the checkpoint at 30
    assert toy.run() == (*range(1, 31), *range(35, 61))
    (made,) = read_rewinds(tmp_path)
    assert (made.number, made.first_step, made.last_step, made.to_step, made.done) == (1, 31, 34, 30, True)
    assert (made.why, made.loss, made.grad_norm) == ("non-finite loss", None, 1.0)
    records = toy.records()
    assert sorted([*trained(records), 31, 32, 33, 34]) == list(range(1, 61))
    assert [r["step"] for r in records if r.get("event") == "skipped"] == [31, 32, 33, 34]
    assert skipped_steps(records) == 0
    text = "rewound to step 30: at step 34 the loss is not a finite number; steps 31 to 34 are passed over"
    assert passed_over_words(records) == (text,)
    assert [read_manifest(path).step for path in checkpoints_of(tmp_path)] == [10, 20, 30, 40, 50, 60]
    assert untouched_steps(tmp_path) == 30


def test_a_checkpoint_within_the_suspect_steps_is_given_up(tmp_path):
    toy = Toy(tmp_path, poison={30})  # breaks at 32: 29 to 32 are passed over, so the checkpoint at 30 is no good
    assert toy.run() == (*range(1, 29), *range(33, 61))
    assert read_rewinds(tmp_path)[0].to_step == 20
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if "rewound" in path.name] == []
    at_30 = tmp_path / "checkpoints" / checkpoint_name(240, "peak") / "weights"
    assert json.loads(at_30.read_text()) == list(range(1, 29))


def test_without_a_checkpoint_it_goes_back_to_where_the_attempt_began(tmp_path):
    toy = Toy(tmp_path, poison={5})
    assert toy.run() == (*range(1, 4), *range(8, 61))
    assert passed_over_words(toy.records())[0].startswith("rewound to where the attempt began: at step 7 ")
    assert [r["kind"] for r in toy.records()[:3]] == ["header", "event", "train"]


def test_no_rewind_meets_the_same_failure_again_and_they_are_bounded(tmp_path):
    toy = Toy(tmp_path, bad=range(30, 60))  # at every checkpoint the same batches break it
    weights = toy.run()
    assert [(each.first_step, each.last_step, each.to_step) for each in read_rewinds(tmp_path)] == [
        (27, 30, 20), (28, 31, 20), (29, 32, 20),
    ]  # fmt: skip
    assert weights == tuple(range(1, 27))
    said = "at step 33 the loss is not a finite number; 3 rewinds already, most_rewinds: 3"
    assert broken_words(toy.records()) == said
    assert toy.records()[-1] | {"event": "non-finite", "step": 32} == toy.records()[-1]
    # the events of all three are told, though going back dropped the first two of them
    assert len(passed_over_words(toy.records())) == 3


def test_a_later_rewind_that_goes_further_back_tells_the_earlier_one_again(tmp_path):
    toy = Toy(tmp_path, poison={21, 42}, save=20, policy=replace(POLICY, rewind_steps=25))
    toy.run()
    assert [(each.first_step, each.to_step) for each in read_rewinds(tmp_path)] == [(1, 0), (20, 0)]
    assert [r["number"] for r in toy.records() if r.get("event") == "rewound"] == [1, 2]


def test_a_skipped_step_is_its_event(tmp_path):
    toy = Toy(tmp_path, bad={7, 33}, policy=replace(POLICY, non_finite="skip"))
    assert toy.run() == tuple(each for each in range(1, 61) if each not in (7, 33))
    records = toy.records()
    assert [r["step"] for r in records[1:]] == list(range(1, 61))  # one record a step
    assert records[7] == {
        "kind": "event", "step": 7, "tokens": 56, "event": "skipped", "why": "non-finite loss", "loss": None,
        "grad_norm": 1.0, "samples": [12, 14], "located": [], "text": "no update: the loss is not a finite number",
    }  # fmt: skip
    assert skipped_steps(records) == 2
    words = "the loss is not a finite number"
    assert passed_over_words(records) == (f"no update at 2 steps: step 7: {words}; step 33: {words}",)


def test_one_step_too_many_ends_it(tmp_path):
    toy = Toy(tmp_path, bad={7, 8, 9, 10}, policy=replace(POLICY, non_finite="skip"))
    toy.run()
    said = "at step 10 the loss is not a finite number; 3 steps skipped already, most_skipped: 5%"
    assert broken_words(toy.records()) == said
    assert toy.run() == toy.weights and broken_words(toy.records()) == said  # also when it is asked again


SCENES = {
    "suspect steps": {"poison": {32}},
    "suspect checkpoint": {"poison": {30}},
    "no checkpoint": {"poison": {5}},
    "further back": {"poison": {21, 42}, "save": 20},
    "over the bound": {"bad": range(30, 60)},
    "twice to the start": {"poison": {32}, "bad": {12}, "policy": replace(POLICY, rewind_steps=30)},
}


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())
def test_killed_between_any_two_writes_it_ends_as_one_that_was_not(scene, tmp_path, monkeypatch):
    """Every rename and removal, and every line that tells a rewind, is a place to be killed at: before it and after it."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the disk is not what is killed here
    alone = Toy(tmp_path / "alone", **scene)
    weights, records, rewinds = alone.run(), alone.records(), read_rewinds(alone.folder)
    for number in count():
        killed = Toy(tmp_path / "killed", **scene)
        with monkeypatch.context() as patched:
            come_to = kill_at(patched, number)
            try:
                killed.run()
            except Killed:
                killed.writer.close()
        assert killed.run() == weights
        assert killed.records() == records and read_rewinds(killed.folder) == rewinds
        shutil.rmtree(killed.folder)
        if come_to[0] <= number:
            assert number > 20
            return


def kill_at(monkeypatch, number):
    """Be killed before a write (an even `number`) or after it; gives how many such places were come to."""
    come_to = [0]

    def counted(real, counts=lambda *args: True):
        def write(*args, **named):
            found = None
            for after in (False, True):
                come_to[0] += counts(*args)
                if come_to[0] > number:
                    raise Killed
                found = found if after else real(*args, **named)
            return found

        return write

    for module, name in ((os, "replace"), (os, "rename"), (shutil, "rmtree")):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    tells = counted(MetricsWriter.write, lambda writer, record: record.get("event") == "rewound")
    monkeypatch.setattr(MetricsWriter, "write", tells)
    return come_to


def test_a_damaged_record_is_refused(tmp_path):
    (tmp_path / "rewinds.json").write_text('{"rewinds": [{"number": 1}]}')
    with pytest.raises(LineageError, match=r"rewinds.json: damaged"):
        read_rewinds(tmp_path)


def test_the_words_name_what_stands_out_and_no_more_than_three():
    located = [{"words": f"papers document {n}", "culprit": n < 4} for n in range(5)]
    event = skipped_event(BROKEN, (0, 8), located)
    assert event["text"] == (
        "no update: the loss is not a finite number; in papers document 0, papers document 1, papers document 2 and more"
    )
    assert skipped_event(BROKEN, (0, 8), located[4:])["text"] == "no update: the loss is not a finite number"
    steps = [{"kind": "event", "step": n, **skipped_event(BROKEN, (0, 8))} for n in range(5)]
    assert passed_over_words(steps)[0].endswith("step 2: the loss is not a finite number; and 2 more")


def test_a_spike_too_many_is_diverged():
    spike = Finding("spike", 9.0, 3.0, "the loss 9.000 is far above")
    event = given_up_event(spike, "3 rewinds already, most_rewinds: 3", step=8, samples=(0, 2))
    assert event["event"] == "diverged"
    assert broken_words([event]) == "at step 8 the loss 9.000 is far above; 3 rewinds already, most_rewinds: 3"
    assert broken_words([{"event": "non-finite", "what": "a held-out loss", "step": 7}]) == (
        "a held-out loss was not a finite number at step 7"
    )
    assert broken_words([{"event": "skipped"}, {"event": "rewound"}]) is None
