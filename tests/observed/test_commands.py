"""`keepwarm observe` and `keepwarm eval` as they are typed, on a plan whose base was launched."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from keepwarm import observing
from keepwarm.attempt.records import read_metrics
from keepwarm.backends.megatron.evaluate import read_evaluations
from keepwarm.cli.main import main
from observed.make import line

ON_A_CLUSTER = """\
run:
  folder: run
  backend: megatron
  megatron:
    {trainer: trainer, scheduler: none, gpus_per_node: 2, nodes: 1, architecture: AuroraGPT-7B,
     tokenizer: {type: HFTokenizer, model: tok}}
"""
BASE = "run/arms/cookbook/base/00-base"
STEPS = 40


def logged(first: int, last: int) -> str:
    """Lines of the base: 8 samples of 32 tokens a step, warmed up over 2 of 40 steps."""
    return "".join(
        line(i, STEPS, samples=8 * i, tokens=256 * i, lr=min(3e-3, 1.5e-3 * i), loss=6.0 - i / 100)
        for i in range(first, last + 1)
    )


@pytest.fixture(scope="module")
def launched_base(tmp_path_factory, real_text, plan_text):
    """A folder with plan.yaml and its base launched."""
    folder = tmp_path_factory.mktemp("launched")
    (folder / "text").symlink_to(real_text)
    text = plan_text.replace("run: {folder: run, threads: 1}\n", ON_A_CLUSTER).replace("precision: fp32\n", "")
    (folder / "plan.yaml").write_text(text)
    with contextlib.chdir(folder):
        assert main(["launch", "plan.yaml", "--write"]) == 0
    return folder


@pytest.fixture
def place(launched_base, monkeypatch, capsys):
    """place(name, text) writes a log of the base's launch in the current folder; it is gone afterwards."""
    monkeypatch.chdir(launched_base)
    base = launched_base / BASE
    capsys.readouterr()

    def log(name: str, text: str) -> None:
        (base / "launches/1-train/logs" / name).write_text(text)

    yield log
    for path in [*(base / "launches/1-train/logs").glob("*.log"), base / "metrics.jsonl"]:
        path.unlink(missing_ok=True)


def test_a_base_on_the_way(place, capsys):
    place("001-5.log", logged(1, 12))
    assert main(["observe", "plan.yaml"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("base: train the base, step 12 of 40 (")
    assert "1-train  iteration 12  of 40  1 log\n" in out
    assert "last point: step 12/40  loss 5.8800  LR 0.003  grad norm 0.500  4k tokens/s" in out
    assert "verdict: none, for it teaches nothing new" in out and "warning" not in out
    assert out.rstrip().endswith("launches/1-train && bash job.sh")
    assert [each["step"] for each in read_metrics(Path(BASE) / "metrics.jsonl")[1:]] == list(range(1, 13))
    assert main(["judge", f"{BASE}/metrics.jsonl"]) == 0 and main(["status", "plan.yaml"]) == 0
    assert main(["report", "plan.yaml"]) == 0


def test_json(place, capsys):
    place("001-5.log", logged(1, 3) + " iteration=       4/      40 | consumed_sam\n")
    assert main(["observe", "plan.yaml", "--stage", "base", "--rung", "00-base", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["step"], found["steps"], found["training_points"]) == (3, 40, 3)
    assert found["unread"] == ["launches/1-train/logs/001-5.log:4"] and found["warnings"][0]["event"] == "unread-lines"
    assert found["next"]["do"] == "resubmit" and found["verdict"]["outcome"] == "undecided"


def test_follow_prints_new_points_until_the_last_one(place, capsys, monkeypatch):
    place("001-5.log", logged(1, 8))
    parts = iter([logged(1, 20), logged(1, 40)])
    monkeypatch.setattr(observing.time, "sleep", lambda seconds: place("001-5.log", next(parts)))
    assert main(["observe", "plan.yaml", "--follow"]) == 0
    steps = [each.split()[1] for each in capsys.readouterr().out.splitlines() if each.startswith("step ")]
    assert steps == [f"{i}/40" for i in (*range(4, 9), *range(9, 41))]


def test_follow_ends_at_ctrl_c_with_what_it_has(place, capsys, monkeypatch):
    place("001-5.log", logged(1, 8))

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(observing.time, "sleep", interrupted)
    assert main(["observe", "plan.yaml", "--follow"]) == 0
    assert "base: train the base, step 8 of 40" in capsys.readouterr().out


def test_a_named_log_from_elsewhere(place, capsys, tmp_path):
    (tmp_path / "mine.log").write_text(logged(1, 5))
    assert main(["observe", "plan.yaml", str(tmp_path / "mine.log")]) == 0
    out = capsys.readouterr().out
    assert (
        "step 5 of 40" in out and f"mine.log is read now only; for keepwarm run as well: cp {tmp_path}/mine.log" in out
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--stage", "stage9"], "error: --stage stage9: the plan has no such stage"),
        (["--rung", "naive"], "error: --rung naive: no attempt was launched by that name"),
        (["--arm", "no-replay"], "no attempt of the arm no-replay was launched"),
        (["gone.log"], "error: gone.log: no such file or directory"),
    ],
)
def test_refusals(place, capsys, words, told):
    assert main(["observe", "plan.yaml", *words]) == 2
    assert told in capsys.readouterr().err


def test_nothing_was_launched(edit_plan, capsys):
    edit_plan()
    assert main(["observe", "plan.yaml"]) == 2
    err = capsys.readouterr().err
    assert "no attempt was launched" in err and "keepwarm launch PLAN --write" in err


def test_eval_of_a_published_model(publish_llama, edit_plan, capsys):
    folder = publish_llama(512)
    assert main(["eval", "plan.yaml", str(folder), "-o", "run/x/evaluations/iteration-000000000.json"]) == 0
    out = capsys.readouterr().out
    assert "hf: hugging-face, iteration 0, fp32" in out and out.count("\n  d") == 4
    content = json.loads(Path("run/x/evaluations/iteration-000000000.json").read_text())
    losses = read_evaluations(Path("run/x"), content["holdout"])[0]
    for each in losses.values():
        assert len(each["windows"]) > 50 and abs(each["loss"] - sum(each["windows"]) / len(each["windows"])) < 1e-5
        assert 6.0 < each["loss"] < 6.6  # ln 512 = 6.24: it has learned nothing
    assert main(["eval", "plan.yaml", str(folder), "--json"]) == 0
    (again,) = json.loads(capsys.readouterr().out)
    assert again["losses"] == {name: dict(each) for name, each in losses.items()} and again["written"] is None


def test_eval_refusals(publish_llama, capsys):
    folder = publish_llama(500)  # the plan's tokenizer has 512
    for words, told in (
        ([str(folder)], "hf: has 500 entries, the plan's tokenizer 512"),
        (["nowhere"], "nowhere: there is no such folder"),
        (["-o", "x.json"], "--out: without a checkpoint"),
        ([str(folder), "--stage", "base"], "--stage, --rung or --arm: with a checkpoint"),
        ([], "no attempt was launched"),
    ):
        assert main(["eval", "plan.yaml", *words]) == 2
        assert told in capsys.readouterr().err


def test_eval_of_an_attempt_without_new_checkpoints(place, capsys):
    assert main(["eval", "plan.yaml", "--stage", "base", "--rung", "00-base", "--trust"]) == 0
    assert capsys.readouterr().out == "every saved step was measured before\n"


def test_eval_measures_a_checkpoint_of_keepwarm_as_training_did(searched, capsys, monkeypatch):
    monkeypatch.chdir(searched)
    manifest = next((searched / "run/arms/cookbook/stage2").glob("*/checkpoints/*/manifest.json"))
    recorded = json.loads(manifest.read_text())["evaluation"]
    assert main(["eval", "plan.yaml", str(manifest.parent), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    for name, each in recorded.items():
        assert found["losses"][name]["loss"] == pytest.approx(each["loss"], abs=1e-6)
