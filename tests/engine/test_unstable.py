"""Steps that break, through the command line: skipped, rewound or given up, traced to the document, the same after a kill."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from keepwarm import pipeline
from keepwarm.attempt.records import read_metrics
from keepwarm.attempt.rewinds import read_rewinds
from keepwarm.cli.main import main
from keepwarm.corpora.indexed import open_indexed
from keepwarm.engine import loop
from keepwarm.engine.loop import Training
from keepwarm.engine.network import Network
from keepwarm.engine.weights import weights_sha256

STAGE2 = "cookbook/stage2/00-replay"
BASE = "cookbook/base/00-base"
LADDER = "ladder: [{rung: replay, shares: [5%, 25%]}]"
TIMES = ("tokens_per_second", "mfu", "memory_bytes")  # of a train record: other ones every time


class Killed(BaseException):
    """kill -9: nothing is caught, nothing is saved."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, real_text, one_stage_text):
    """A folder where the base is trained, and the batch of every step of stage 2 as a clean run is fed it."""
    folder, fed = tmp_path_factory.mktemp("trained"), {}
    (folder / "text").symlink_to(real_text)
    text = one_stage_text.replace("tokens: 5_120", "tokens: 10_240").replace(LADDER, LADDER.replace(", 25%", ""))
    (folder / "plan.yaml").write_text(text)
    gradient, number = loop.gradient, iter(range(1, 1000))

    def noting(network, tokens, *more):
        fed[next(number)] = tokens.copy()
        return gradient(network, tokens, *more)

    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "gradient", noting)
        assert main(["run", "plan.yaml", "--stage", "stage2"]) == 0
        shutil.rmtree("run/arms/cookbook/stage2")
        shutil.copytree("run/arms", "arms")
    assert len(fed) == 80
    return folder, {("base" if step <= 40 else "stage2", (step - 1) % 40 + 1): each for step, each in fed.items()}


@pytest.fixture
def place(trained, monkeypatch):
    """That folder as the current one, with the base alone trained; gives a function that adds a `stability` to the plan."""
    folder, _ = trained
    monkeypatch.chdir(folder)
    text = Path("plan.yaml").read_text()
    back_to_base()

    def with_stability(words: str, *pairs: tuple[str, str]) -> None:
        changed = text
        for old, new in (*pairs, ("run: {folder", f"stability: {{{words}}}\nrun: {{folder")):
            assert old in changed, old
            changed = changed.replace(old, new)
        Path("plan.yaml").write_text(changed)

    yield with_stability
    Path("plan.yaml").write_text(text)


def back_to_base() -> None:
    for made in ("run/arms", "run/buffer"):
        shutil.rmtree(made, ignore_errors=True)
    shutil.copytree("arms", "run/arms")


@pytest.fixture
def poison(trained, monkeypatch):
    """Make the loss of a sample NaN, or `times` as high, wherever it is fed, as a broken document's would be: one of the
    batch of a step, which is given."""
    rows: dict[bytes, float] = {}
    losses = Network.token_losses

    def poisoned(self, windows):
        times = [rows.get(each.numpy().astype(np.int32).tobytes(), 1.0) for each in windows]
        return losses(self, windows) * torch.tensor(times)[:, None]

    monkeypatch.setattr(Network, "token_losses", poisoned)

    def add(step: int, stage: str = "stage2", times: float = math.nan) -> np.ndarray:
        corpus = {"base": "d0", "stage2": "d1"}[stage]
        tokens = next(row for row in trained[1][stage, step] if len(places(row, corpus)) == 1)
        rows[tokens.tobytes()] = times
        return tokens

    return add


@pytest.fixture
def kill(monkeypatch):
    """Be killed where step `step` of a stage would begin, once."""
    train_step = Training._train_step

    def at(step: int, stage: str = "stage2", times: int = 1) -> None:
        left = [times]

        def killed(self, loader):
            if (self.attempt.stage, self.step + 1) == (stage, step) and left[0]:
                left[0] -= 1
                if not left[0]:
                    raise Killed
            return train_step(self, loader)

        monkeypatch.setattr(Training, "_train_step", killed)

    return at


def run(code: int = 0, *more: str) -> None:
    assert main(["run", "plan.yaml", "--stage", "stage2", *more]) == code


def records(attempt: str = STAGE2, folder: str = "run") -> list[dict]:
    """What is on record of an attempt, but for what a kill adds and what a clock says."""
    found = read_metrics(Path(folder) / "arms" / attempt / "metrics.jsonl")
    kept = [each for each in found if each.get("event") != "resumed"]
    return [{key: value for key, value in each.items() if key not in TIMES} for each in kept]


def events(name: str, attempt: str = STAGE2) -> list[dict]:
    return [each for each in records(attempt) if each.get("event") == name]


def trained_steps(attempt: str = STAGE2) -> list[int]:
    return [each["step"] for each in records(attempt) if each["kind"] == "train"]


def weights(attempt: str = STAGE2) -> dict[str, str]:
    folder = Path("run/arms") / attempt / "checkpoints"
    return {each.name: json.loads((each / "manifest.json").read_text())["weights_sha256"] for each in folder.iterdir()}


@functools.cache
def token_file(corpus: str) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of a corpus's documents in a row, and where each ends: read as they are, without the order of data."""
    opened = open_indexed(Path(f"run/tokens/{corpus}/train"))
    every = [opened.document(number) for number in range(opened.n_documents)]
    return np.concatenate(every), np.cumsum([len(each) for each in every])


def places(tokens: np.ndarray, corpus: str) -> np.ndarray:
    """Where a sample's tokens stand in a corpus's token file."""
    views = np.lib.stride_tricks.sliding_window_view(token_file(corpus)[0], len(tokens))
    return np.flatnonzero((views == tokens).all(axis=1))


def document_of(tokens: np.ndarray, corpus: str = "d1") -> int:
    """The document that a sample's tokens are from, found by looking for them in all documents."""
    (at,) = places(tokens, corpus)
    return int(np.searchsorted(token_file(corpus)[1], at, "right"))


def test_a_broken_sample_costs_its_step_and_is_traced_to_its_document(place, poison, monkeypatch):
    tokens, states = poison(7), {}
    train_step = Training._train_step

    def noting(self, loader):
        before = state_of(self)
        went_on = train_step(self, loader)
        states[self.attempt.stage, self.step] = (before, state_of(self))
        return went_on

    monkeypatch.setattr(Training, "_train_step", noting)
    run()
    (event,) = events("skipped")
    assert (event["step"], event["tokens"], event["samples"]) == (7, 7 * 256, [48, 56])
    assert (event["why"], event["loss"], event["grad_norm"]) == ("non-finite loss", None, None)
    (where,) = event["located"]
    document = document_of(tokens)
    assert (where["source"], where["culprit"], where["loss"]) == ("d1", True, None)
    assert [part["document"] for part in where["parts"]] == [document]
    assert f"in d1 document {document} (tokens " in event["text"]
    assert trained_steps() == [step for step in range(1, 41) if step != 7]
    changed = {step: before != after for (stage, step), (before, after) in states.items() if stage == "stage2"}
    assert changed == {step: step != 7 for step in range(1, 41)}  # weights and moments are those of the step before
    verdict = json.loads(Path(f"run/arms/{STAGE2}/verdict.json").read_text())
    assert verdict["accepted"] and verdict["reasons"][-1].startswith("no update at 1 step: step 7: the loss is not a ")
    assert sum(row["fed_tokens"] for row in verdict["fed"]) == 10_240  # its batch counts as fed


def state_of(training: Training) -> tuple:
    """The weights, and all moments of the optimizer."""
    moments = [value.sum().item() for each in training.optimizer.state.values() for value in each.values()]
    return weights_sha256(training.network.model.state_dict()), tuple(moments)


@pytest.mark.parametrize("step", [8, 14])  # with the skipped step to be trained again, and behind it
def test_a_killed_run_skips_the_same_steps_and_ends_in_the_same_bits(place, poison, kill, step):
    poison(7)
    run()
    alone, records_alone = weights(), records()
    back_to_base()
    kill(step)
    with pytest.raises(Killed):
        run()
    assert len(trained_steps()) < 40
    run()
    assert weights() == alone and records() == records_alone


def test_it_goes_back_before_the_suspect_steps_and_passes_them_over(place, poison, kill):
    place("non_finite: rewind, rewind_steps: 3")
    tokens = poison(13)
    run()
    (made,) = read_rewinds(Path("run/arms") / STAGE2)
    assert (made.number, made.first_step, made.last_step, made.to_step, made.done) == (1, 11, 13, 10, True)
    (event,) = events("rewound")
    assert event["step"] == 10 and event["located"][0]["parts"][0]["document"] == document_of(tokens)
    assert event["text"].startswith("to step 10: at step 13 the loss is not a finite number; steps 11 to 13 are passed")
    assert [(each["step"], each["why"], each["rewind"]) for each in events("skipped")] == [
        (step, "rewind", 1) for step in (11, 12, 13)
    ]
    assert trained_steps() == [*range(1, 11), *range(14, 41)]
    assert json.loads(Path(f"run/arms/{STAGE2}/verdict.json").read_text())["accepted"]
    alone, records_alone = weights(), records()
    for step, times in (
        (11, 1),
        (11, 2),
        (13, 2),
    ):  # before the finding, right after the rewind, at the same step again
        back_to_base()
        kill(step, times=times)
        with pytest.raises(Killed):
            run()
        run()
        assert weights() == alone and records() == records_alone, (step, times)


def test_a_base_that_goes_back_to_its_start_is_drawn_anew(place, poison, kill):
    """Without a checkpoint before the failure: the same weights are drawn again and the suspect batches left out."""
    place("non_finite: rewind, rewind_steps: 2")
    poison(4, stage="base")
    found = []
    for killed in (None, 3, 1):
        shutil.rmtree("run/arms")
        if killed is not None:
            kill(killed, stage="base", times=2)  # the second time that it is come to: behind the rewind
            with pytest.raises(Killed):
                run()
        run()
        assert trained_steps(BASE) == [1, 2, *range(5, 41)]
        assert [each["to_step"] for each in events("rewound", BASE)] == [0]
        found.append((weights(BASE), records(BASE)))
    assert found[0] == found[1] == found[2]
    clean = read_metrics(Path("arms") / BASE / "metrics.jsonl")
    assert before_step_3(found[0][1]) == before_step_3(clean)


def before_step_3(found: list[dict]) -> list[object]:
    return [each["loss"] for each in found if each["kind"] in ("train", "eval") and each["step"] < 3]


def test_killed_between_the_decision_and_the_way_back(place, poison, monkeypatch):
    place("non_finite: rewind, rewind_steps: 3")
    poison(13)
    run()
    alone, records_alone = weights(), records()
    back_to_base()
    finish = loop.rewinds.finish

    def killed(folder):
        if any(not each.done for each in read_rewinds(folder)):
            raise Killed
        return finish(folder)

    monkeypatch.setattr(loop.rewinds, "finish", killed)
    with pytest.raises(Killed):
        run()
    assert [each.done for each in read_rewinds(Path("run/arms") / STAGE2)] == [False]
    monkeypatch.setattr(loop.rewinds, "finish", finish)
    run()
    assert weights() == alone and records() == records_alone


GIVEN_UP = [
    ("non_finite: stop", (7,), "at step 7 the loss is not a finite number; in d1 document"),
    ("most_skipped: 0%", (7,), "0 steps skipped already, most_skipped: 0%"),
    ("most_skipped: 5%", (7, 9, 10), "2 steps skipped already, most_skipped: 5%"),
    ("non_finite: rewind, rewind_steps: 1, most_rewinds: 1", (7, 9), "1 rewind already, most_rewinds: 1"),
]


@pytest.mark.parametrize(("words", "steps", "said"), GIVEN_UP, ids=[each[0] for each in GIVEN_UP])
def test_an_attempt_that_is_given_up_names_the_document_and_what_shows_it(place, poison, capsys, words, steps, said):
    place(words)
    tokens = [poison(step) for step in steps][-1]
    run(1)
    out = capsys.readouterr().out
    assert "stage2 replay 5%: diverged" in out and said in out
    assert [each["step"] for each in events("non-finite")] == [steps[-1] - 1] and steps[-1] not in trained_steps()
    document = document_of(tokens)
    assert f"in d1 document {document} (tokens " in out
    command = re.search(rf"keepwarm (data show \S+ --document {document})", out)
    assert command is not None
    capsys.readouterr()
    assert main([*shlex.split(command[1]), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["tokens"]
    at = int(re.search(rf"document {document} \(tokens ([\d,]+)-", out)[1].replace(",", ""))
    assert shown[at : at + len(tokens)] == tokens.tolist()
    run(1)  # what is decided stays so
    assert main(["status", "plan.yaml", "--json"]) == 0


def test_killed_before_its_verdict_it_is_given_up_again(place, poison, monkeypatch):
    """Also where the record of the end stands at the step of the newest checkpoint, so that it is kept."""
    place("non_finite: stop")
    poison(11)

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "judged", killed)
        with pytest.raises(Killed):
            run()
    first = records()
    run(1)
    assert records() == first and [each["step"] for each in events("non-finite")] == [10]


def test_stopped_before_its_first_step_it_ends_in_the_same_bits(place, monkeypatch):
    place("non_finite: skip")
    run()
    base, alone, records_alone = weights(BASE), weights(), records()
    for path in ("run/arms", "run/buffer"):
        shutil.rmtree(path)
    evaluate = Training._evaluate

    def interrupted(self, *, full):
        if self.step == 0:
            os.kill(os.getpid(), signal.SIGINT)
        evaluate(self, full=full)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "_evaluate", interrupted)
        run(130)
    run()
    assert {name: each for name, each in weights(BASE).items() if name in base} == base
    assert weights() == alone and records() == records_alone
    assert [each["kind"] for each in records(BASE)][:3] == ["header", "eval", "train"]


SPIKES = [
    ("spike: skip", "skipped", 0),
    ("spike: stop", "diverged", 1),
    ("spike: rewind, rewind_steps: 2", "rewound", 0),
]


@pytest.mark.parametrize(("words", "name", "code"), SPIKES, ids=[each[1] for each in SPIKES])
def test_a_loss_that_jumps_is_answered_as_the_plan_says(place, poison, words, name, code):
    place(words)
    tokens = poison(38, times=10)
    run(code)
    (event,) = [each for each in events(name) if each["why"] == "spike"]
    assert re.match(
        r"(no update: |to step 30: at step 38 |at step 38 )the loss \d+\.\d+ is \d+ deviations above", event["text"]
    )
    assert event["loss"] > 9 > 6 > max(each["loss"] for each in records() if each["kind"] == "train")
    assert event["located"][0]["culprit"] and len(event["located"]) == 1
    assert [part["document"] for part in event["located"][0]["parts"]] == [document_of(tokens)]
    passed = {"skipped": [38], "rewound": [37, 38], "diverged": [38, 39, 40]}[name]
    assert trained_steps() == [step for step in range(1, 41) if step not in passed]


def test_spikes_are_trained_on_where_the_plan_says_so(place, poison):
    place("spike: off")
    poison(38, times=10)
    run()
    assert trained_steps() == list(range(1, 41)) and not events("skipped")


def test_status_report_and_judge_tell_what_was_passed_over(place, poison, capsys):
    place("non_finite: rewind, rewind_steps: 3")
    poison(13)
    run()
    capsys.readouterr()
    back = "rewound to step 10: at step 13 the loss is not a finite number; steps 11 to 13 are passed over"
    assert main(["status", "plan.yaml"]) == 0
    assert back in capsys.readouterr().out
    assert main(["judge", f"run/arms/{STAGE2}/metrics.jsonl"]) == 0
    assert back in capsys.readouterr().out
    assert main(["report", "plan.yaml"]) == 0
    assert back in Path("run/report.html").read_text()


def test_a_control_arm_skips_too_and_its_run_is_accepted(place, poison):
    place("non_finite: skip", ("control: none", "control: no-replay"))
    poison(7)
    run()
    arm = records("no-replay/stage2/00-naive")
    assert [each["kind"] for each in arm].count("train") + len([e for e in arm if e.get("event") == "skipped"]) == 40


def test_what_two_candidates_share_is_shared_with_its_skipped_steps(place, poison):
    """Decays to mixes with another share of D_0 are the same training before the mix: its skipped step is on both records."""
    ladder = "ladder: [{rung: decay-then-introduce, decay: [cosine], alpha_0: [60%, 70%]}]"
    place(
        "non_finite: skip", ("tokens: 10_240, ladder: [{rung: replay, shares: [5%]}]", f"tokens: 1_024, {ladder}"),
        ("control: none", "control: none\nsearch: {choose: best}"),
    )  # fmt: skip
    poison(33, stage="base")  # the decay begins at step 30 of the base, and is fed what the base was fed from there
    run()
    first, second = (f"cookbook/stage2/{number}-decay-then-introduce" for number in ("00", "01"))
    assert [each["step"] for each in events("skipped", first)] == [3]
    assert [each["step"] for each in events("shared", second)] == [10]
    until = [
        [each for each in records(name) if each["kind"] != "header" and each["step"] <= 10] for name in (first, second)
    ]
    assert until[0] == [each for each in until[1] if each.get("event") != "shared"]
    assert 3 not in trained_steps(second) and trained_steps(second)[-1] == 14
