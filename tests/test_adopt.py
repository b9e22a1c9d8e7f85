"""`keepwarm adopt`: a line trained by hand, from a real checkpoint, its log, its list and its token files."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from keepwarm import files
from keepwarm.cli.main import main
from keepwarm.lineage.graph import all_manifests, ancestors

GOLDEN = Path(__file__).parent / "golden"
LINE = """\
name: by-hand
stages:
  - name: stage1
    new: d0
    list: runs/list.txt
    checkpoints: [ckB/global_step10]
    logs: [logs/baseB*.log]
"""
STAGE2 = """\
  - name: stage2
    new: d1
    list: runs/list.txt
    checkpoints: [{folder: hf, iteration: 10}]
    logs: [logs/rung_cont_univ.log]
    phase: peak
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The recorded run's checkpoint, log, list and token files in the current folder, and a model's folder."""
    with tarfile.open(GOLDEN / "checkpoint/real_ckB.tar.gz") as archive:
        archive.extractall(tmp_path / "ckB", filter="data")
    (tmp_path / "ckB/latest").write_text("global_step10")
    shutil.copytree(GOLDEN / "runs/data", tmp_path / "runs")
    shutil.copytree(GOLDEN / "logs", tmp_path / "logs")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/config.json").write_text('{"vocab_size": 128}')
    (tmp_path / "hf/model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def adopt(place, capsys):
    """Adopt a text as LINE.yaml; gives the exit code, standard output and standard error."""

    def run(text: str, *options: str, folder: str = "run") -> tuple[int, str, str]:
        (place / "line.yaml").write_text(text)
        code = main(["adopt", "line.yaml", "--run", folder, *options])
        return code, *capsys.readouterr()

    return run


def test_a_real_checkpoint_becomes_a_manifest_with_its_ledger(adopt, place):
    code, printed, _ = adopt(LINE)
    assert code == 0
    (manifest,) = all_manifests(place / "run")
    assert manifest.id == "arms/cookbook/stage1/00-adopted/checkpoints/000000000001280-decaying"
    assert (manifest.location, manifest.weights) == (str(place / "ckB/global_step10"), "megatron-deepspeed")
    assert (manifest.lr, manifest.lr_max, manifest.lr_is) == (0.00011736481776669306, 2e-4, "measured")
    assert (manifest.phase, manifest.phase_is, manifest.optimizer_state) == ("decaying", "measured", True)
    assert (manifest.step, manifest.samples, manifest.line_tokens, manifest.sequence_length) == (10, 80, 1280, 16)
    named = {manifest.source_names[source]: tokens for source, tokens in manifest.source_tokens.items()}
    assert named == {"A:s0": 896, "B:s1": 384} and sum(manifest.cursors.values()) == 80
    assert (
        "global_step10  megatron-deepspeed         10        1,280  0.000117365  measured  decaying  measured"
        in printed
    )
    assert "the tokenizer it was trained with" in printed and "epochs" in printed


def test_the_same_again_is_there_already_and_another_line_is_refused(adopt, place):
    assert "written to run/adopted.json" in adopt(LINE)[1]
    before = {path: path.read_bytes() for path in (place / "run").rglob("*.json")}
    code, printed, _ = adopt(LINE)
    assert code == 0 and "is there already: run/adopted.json" in printed
    code, _, error = adopt(LINE.replace("by-hand", "other"))
    assert code == 2 and "another line was adopted there (guard append-only)" in error
    assert before == {path: path.read_bytes() for path in (place / "run").rglob("*.json")}


def test_a_kill_between_manifests_and_record_is_made_good(adopt, place):
    adopt(LINE)
    (place / "run/adopted.json").unlink()
    assert "written to run/adopted.json" in adopt(LINE)[1]


def test_a_dry_run_writes_nothing_and_json_has_all(adopt, place):
    code, printed, _ = adopt(LINE, "--dry-run", "--json")
    found = json.loads(printed)
    assert code == 0 and not (place / "run").exists() and found["written"] is False
    (stage,) = found["stages"]
    assert [(c["corpus"], c["tokens"], c["estimated"]) for c in stage["fed"]] == [("A", 896, False), ("B", 384, False)]
    assert stage["fed"][0]["files"][0]["epochs"] == pytest.approx(56 / 94)
    assert stage["logs"] == {"lines": 20, "restarts": 0, "last_iteration": 20}
    assert stage["checkpoints"][0]["log_lines"] == 1
    assert any(text.startswith("stage1: whether ") for text in found["could_not_be_established"])


def test_a_plans_run_folder_is_refused(adopt, place):
    (place / "run").mkdir()
    (place / "run/plan.yaml").write_text("name: x")
    assert "a plan is run there (guard append-only)" in adopt(LINE)[2]


def test_stages_are_chained_and_restarted_data_adds_up(adopt, place):
    code, printed, _ = adopt(LINE.replace("by-hand", "by-hand\nsequence_length: 16") + STAGE2)
    assert code == 0
    base, end = all_manifests(place / "run")
    assert end.parent == base.id and ancestors(end, [base, end]) == [base]
    assert (end.line_tokens, end.attempt_tokens, end.samples) == (2560, 1280, 80)
    assert (end.lr, end.lr_is, end.phase, end.phase_is) == (2e-4, "measured", "peak", "declared")
    assert sum(end.cursors.values()) == 160 and sum(end.source_tokens.values()) == 2560
    assert f"data: began at 0 ({place / 'logs/rung_cont_univ.log'}:20 is iteration 1)" in printed
    assert "the LR at which it ended" not in printed


def test_a_resumed_stage_goes_on_in_the_new_lists_order(adopt, place):
    lines = (place / "logs/baseB.log").read_text().splitlines(keepends=True)
    cut = next(number for number, line in enumerate(lines) if "iteration=      11/" in line)
    (place / "logs/baseB.log").write_text("".join(lines[:cut]))
    (place / "logs/more.log").write_text("".join(lines[cut:]))
    stage = STAGE2.replace("iteration: 10", "iteration: 20, lr_max: 1").replace(", lr_max: 1", "")
    stage = stage.replace("rung_cont_univ", "more").replace("phase: peak", "phase: cooled\n    lr_max: 2e-4")
    code, printed, error = adopt(LINE.replace("by-hand", "by-hand\nsequence_length: 16") + stage)
    assert code == 0, error
    end = all_manifests(place / "run")[-1]
    assert (end.line_tokens, end.samples, end.lr) == (2560, 80, 0.0)
    assert sum(end.cursors.values()) == 160
    assert "goes on after iteration 10" in printed


REFUSALS = {
    "a rate that is not the log's": (
        ("logs/baseB*.log", "logs/rung_cont_univ.log"), "holds LR 0.000117365",
    ),
    "a declared rate that the state contradicts": (
        ("    new: d0", "    new: d0\n    lr: 2e-4"), "LR: 0.0002 was declared, the checkpoint's own state says 0.000117365",
    ),
    "a declared phase that the state contradicts": (
        ("    new: d0", "    new: d0\n    phase: peak"), "peak was declared, the checkpoint's own state says decaying",
    ),
    "a declared length that the state contradicts": (
        ("name: by-hand", "name: by-hand\nsequence_length: 32"), "sequence_length: 32 was declared",
    ),
    "an iteration that the state contradicts": (
        ("[ckB/global_step10]", "[{folder: ckB/global_step10, iteration: 11}]"), "iteration: 11 was declared",
    ),
    "the same position twice": (
        ("[ckB/global_step10]", "[ckB/global_step10, ckB/global_step10_universal]"), "are the same position",
    ),
    "a checkpoint that is not there": (("global_step10", "global_step11"), "there is no such folder"),
    "a log that is not there": (("baseB*", "none*"), "stages.stage1.logs: no file matches"),
    "an unknown key": (("    logs:", "    log:"), "line.yaml:7:5  stages.0.log: unknown key, did you mean 'logs'?"),
    "an unknown kind of conflict": (
        ("    new: d0", "    new: d0\n    accept: [rate]"), "'rate' is not a kind of conflict; one of: lr, samples",
    ),
    "a start of the first stage": (("    new: d0", "    new: d0\n    start: 4"), "stages.stage1.start: there is no stage before"),
    "a first stage that went on": (
        ("    new: d0", "    new: d0\n    finetune: false"), "stages.stage1.finetune: there is no stage before",
    ),
    "a list that is no list": (("runs/list.txt", "logs/samples.txt"), "samples.txt:"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name, adopt, place):
    (old, new), message = REFUSALS[name]
    assert old in LINE
    code, _, error = adopt(LINE.replace(old, new))
    assert code == 2 and message in error and "Traceback" not in error
    assert not (place / "run").exists()


def test_conflicts_that_are_accepted_are_recorded_with_both_values(adopt, place):
    text = LINE.replace("baseB*", "rung_cont_univ")
    assert "accept: [lr]" in adopt(text)[2]
    code, printed, _ = adopt(text.replace("new: d0", "new: d0\n    accept: [lr]"))
    assert code == 0 and "accepted (lr): " in printed and "logs 0.0002" in printed
    (manifest,) = all_manifests(place / "run")
    assert manifest.lr == 0.00011736481776669306


def test_samples_that_the_log_counts_otherwise_are_a_conflict(adopt, place):
    path = place / "logs/baseB.log"
    path.write_text(path.read_text().replace("consumed_samples=          80 ", "consumed_samples=          81 "))
    assert "had consumed 80 samples" in (error := adopt(LINE)[2]) and "(conflict: samples)" in error


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("phase: peak", "finetune: false\n    phase: peak", "finetune: false was declared, but"),
        ("phase: peak", "lr: 3e-4\n    phase: peak", "LR: 0.0003 was declared, "),
        ("iteration: 10", "iteration: 10, samples: 90", "samples: 90 was declared, its log says 80"),
        (", iteration: 10", "", "nothing says how many samples it had consumed"),
        ("    logs: [logs/rung_cont_univ.log]\n", "    lr: 2e-4\n", "nothing says how many samples it had consumed"),
        ("phase: peak", "start: 7\n    phase: peak", "stage1 has no checkpoint of iteration 7"),
        ("name: stage2", "name: stage1", "two stages are named stage1"),
    ],
)
def test_refusals_of_a_second_stage(old, new, message, adopt):
    assert old in STAGE2
    text = LINE.replace("by-hand", "by-hand\nsequence_length: 16") + STAGE2.replace(old, new)
    code, _, error = adopt(text)
    assert code == 2 and message in error


def test_a_later_stage_that_found_no_checkpoint_is_a_conflict(adopt, place):
    with open(place / "logs/rung_cont_univ.log", "a") as file:
        file.write("    will not load any checkpoints and will start from random\n")
    error = adopt(LINE.replace("by-hand", "by-hand\nsequence_length: 16") + STAGE2)[2]
    assert "found no checkpoint and started from random weights (conflict: from-random)" in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (STAGE2, "nothing says how many tokens a sample had"),
        (STAGE2.replace("logs: [logs/rung_cont_univ.log]", "lr_max: 2e-4").replace("iteration", "samples"),
         "nothing says at which learning rate it ended"),
        (STAGE2.replace("logs: [logs/rung_cont_univ.log]\n    phase: peak", "lr: 2e-5").replace("iteration", "samples"),
         "nothing says what LR_max was"),
        (STAGE2.replace("rung_cont_univ", "baseB"), "peak at LR 0.000117365 was declared"),
    ],
)  # fmt: skip
def test_what_a_model_folder_does_not_say_must_be_declared(text, message, adopt):
    name = "name: x\n" if "tokens a sample" in message else "name: x\nsequence_length: 16\n"
    code, _, error = adopt(f"{name}stages:\n{text}")
    assert code == 2 and message in error


def test_a_stage_whose_data_may_have_begun_anew_is_not_booked(adopt, place):
    stage = STAGE2.replace("{folder: hf, iteration: 10}", "{folder: hf, samples: 160, lr: 2e-4}")
    stage = stage.replace("    logs: [logs/rung_cont_univ.log]\n", "")
    code, printed, _ = adopt(LINE.replace("by-hand", "by-hand\nsequence_length: 16") + stage)
    assert code == 0
    base, end = all_manifests(place / "run")
    assert (end.line_tokens, end.cursors) == (2560, base.cursors)
    assert "whether its data began anew: its tokens are counted as the least that fits" in printed


def test_files_that_are_not_here_are_booked_by_prefix_and_their_epochs_are_not_known(adopt, place):
    shutil.rmtree(place / "runs")
    (place / "runs").mkdir()
    (place / "runs/list.txt").write_text("0.7 s0 A\n0.3 s1 B\n")
    code, printed, _ = adopt(LINE)
    assert code == 0 and "epochs of 2 files that are not on this machine (s0 first)" in printed
    (manifest,) = all_manifests(place / "run")
    assert sorted(manifest.source_tokens.values()) == [384, 896]


def test_a_keepwarm_checkpoint_needs_no_adoption(adopt, place):
    adopt(LINE)
    inside = next((place / "run").glob("arms/*/*/*/checkpoints/*"))
    assert "is a keepwarm checkpoint" in adopt(LINE.replace("ckB/global_step10", str(inside)), folder="other")[2]


def test_lineage_shows_an_adopted_line(adopt, capsys):
    assert adopt(LINE.replace("by-hand", "by-hand\nsequence_length: 16") + STAGE2)[0] == 0
    assert main(["lineage", "run"]) == 0
    shown = capsys.readouterr().out
    assert "by-hand: 2 checkpoints" in shown and "● 1,280 tokens  decaying  LR 0.000117365" in shown
    assert "at peak (declared)" in shown and "used by stage2 adopted" in shown
    assert main(["lineage", "run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["line"] == [each["id"] for each in found["checkpoints"]]


def test_an_adoption_that_was_killed_is_finished_by_the_next(adopt, place, monkeypatch):
    original = files.write_json

    def killed(path, value, **how):
        if Path(path).name == "adopted.json":
            raise KeyboardInterrupt
        original(path, value, **how)

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_json", killed)
        assert adopt(LINE)[0] == 130
    assert not (place / "run/adopted.json").exists() and len(all_manifests(place / "run")) == 1
    code, _, told = adopt(LINE.replace("by-hand", "by-foot"))
    assert code == 2 and "another adoption" in told
    assert adopt(LINE)[0] == 0 and (place / "run/adopted.json").exists()
