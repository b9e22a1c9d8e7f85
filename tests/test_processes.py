"""`keepwarm run --nproc`: the same samples at another number of processes, signals, kills, and what the others say."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keepwarm.ahead import refuse_side_by_side
from keepwarm.cli.main import main
from keepwarm.engine.loop import Training
from keepwarm.errors import PlanError
from keepwarm.plan.judging import SearchSpec
from keepwarm.plan.load import load_plan

KEEPWARM = [sys.executable, "-m", "keepwarm.cli.main"]
BASE, STAGE = "run/arms/cookbook/base/00-base", "run/arms/cookbook/stage2/00-replay"
CALM = ("lr_max: 3e-3", "lr_max: 1e-3")  # where rounding grows slowly, so that worlds can be compared over many steps


def steps(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for line in lines if (record := json.loads(line))["kind"] == "train"]


def manifests(folder: Path) -> dict[str, dict]:
    paths = sorted(folder.glob("checkpoints/*/manifest.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def workplace(one: Path, folder: Path, monkeypatch) -> None:
    """The same plan and text in a folder of their own, which becomes the current one."""
    (folder / "text").symlink_to((one / "text").resolve())
    shutil.copy(one / "plan.yaml", folder)
    monkeypatch.chdir(folder)


def run(*words: str, processes: int = 2) -> subprocess.CompletedProcess:
    command = [*KEEPWARM, "run", "plan.yaml", *words, "--nproc", str(processes)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def one(tmp_path_factory, real_text, one_stage_text) -> Path:
    """The tiny plan up to stage 2, in one process."""
    folder = tmp_path_factory.mktemp("one")
    (folder / "text").symlink_to(real_text)
    (folder / "plan.yaml").write_text(one_stage_text.replace(*CALM))
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["run", "plan.yaml"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def begun(one, tmp_path, monkeypatch) -> Path:
    """The same plan, stopped by Ctrl-C in the middle of the base."""
    workplace(one, tmp_path, monkeypatch)
    shutil.copytree(one / "run/tokens", "run/tokens", symlinks=True)
    train_step = Training._train_step

    def interrupted(self, loader):
        if self.step == 13:
            os.kill(os.getpid(), signal.SIGINT)
        return train_step(self, loader)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "_train_step", interrupted)
        assert main(["run", "plan.yaml"]) == 130
    return tmp_path


def test_one_process_then_two_then_one_are_fed_the_same_samples(one, begun):
    """1 -> 2 in the middle of the base, 2 -> 1 behind the stage: the same losses to rounding."""
    done = run("--stage", "stage2")
    assert done.returncode == 0, done.stderr
    assert "resumed from step 14" in done.stdout
    for attempt in (BASE, STAGE):
        mine, theirs = steps(begun / attempt), steps(one / attempt)
        assert [(r["step"], r["tokens"], r["lr"], r["samples"]) for r in mine] == [
            (r["step"], r["tokens"], r["lr"], r["samples"]) for r in theirs
        ]
        assert [r["loss"] for r in mine] == pytest.approx([r["loss"] for r in theirs], rel=1e-3)
    assert steps(begun / BASE)[14]["loss"] == pytest.approx(steps(one / BASE)[14]["loss"], rel=1e-6)
    sizes = [made["world_size"] for made in manifests(begun / BASE).values()]
    assert sizes[:1] == [1] and sizes[-1] == 2 and {m["world_size"] for m in manifests(begun / STAGE).values()} == {2}
    last = list(manifests(begun / STAGE).values())[-1]
    other = list(manifests(one / STAGE).values())[-1]
    for same in ("samples", "cursors", "source_tokens", "line_tokens", "lr", "phase", "architecture_sha256"):
        assert last[same] == other[same]
    assert main(["run", "plan.yaml"]) == 0  # the cooldown, in one process again, from what two have saved
    cooled = "run/arms/cookbook/stage2/cooldown"
    cooled = next((begun / "run/arms/cookbook/stage2").glob("*cooldown")).relative_to(begun)
    mine, theirs = steps(begun / cooled), steps(one / cooled)
    assert mine[0]["loss"] == pytest.approx(theirs[0]["loss"], rel=1e-3)
    assert [r["samples"] for r in mine] == [r["samples"] for r in theirs]


def test_candidates_side_by_side_are_refused_in_several_processes(one, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.chdir(one)
    plan = load_plan(Path("plan.yaml")).model_copy(update={"search": SearchSpec(side_by_side=3)})
    with pytest.raises(PlanError, match="search.side_by_side: 3, in a run of 2 processes"):
        refuse_side_by_side(plan)


def test_no_process_and_more_than_the_launcher_started_are_refused(one, monkeypatch, capsys):
    monkeypatch.chdir(one)
    assert main(["run", "plan.yaml", "--nproc", "0"]) == 2
    assert "--nproc 0" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert main(["run", "plan.yaml", "--nproc", "2"]) == 2
    assert "a launcher has started 4 processes already" in capsys.readouterr().err


LONGER = ("--set", "base.tokens=102_400", "--set", "run.save_every=5k")


@pytest.mark.slow
def test_two_processes_killed_and_run_again_give_the_same_bits(one, tmp_path_factory, monkeypatch):
    """kill -9 of the command, which takes both processes with it; and the signals on which they save, by exit code."""
    straight, killed = (tmp_path_factory.mktemp(name) for name in ("straight", "killed"))
    workplace(one, straight, monkeypatch)
    assert run(*LONGER).returncode == 0
    workplace(one, killed, monkeypatch)
    codes = []
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        codes.append(stopped_by(number, Path(BASE) / "metrics.jsonl"))
    assert codes == [-signal.SIGKILL, 75, 75, 130]
    assert run(*LONGER).returncode == 0
    for attempt in (BASE, STAGE):
        mine, theirs = manifests(killed / attempt), manifests(straight / attempt)
        weights = {name: made["weights_sha256"] for name, made in mine.items()}
        assert {name: made["weights_sha256"] for name, made in theirs.items()}.items() <= weights.items()
        assert [r["loss"] for r in steps(killed / attempt)] == [r["loss"] for r in steps(straight / attempt)]


def stopped_by(number: int, metrics: Path) -> int:
    """Run in two processes until the metrics have grown by some steps, then send the signal; the exit code. Neither
    process is left."""
    before = metrics.stat().st_size if metrics.exists() else 0
    process = subprocess.Popen(
        [*KEEPWARM, "run", "plan.yaml", *LONGER, "--nproc", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while process.poll() is None and (not metrics.exists() or metrics.stat().st_size < before + 4000):
        time.sleep(0.005)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    process.send_signal(number)
    process.communicate()
    until = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    return process.returncode


@pytest.mark.slow
def test_a_killed_process_ends_the_run_with_words_and_it_goes_on(begun):
    command = [
        *KEEPWARM,
        "run",
        "plan.yaml",
        "--nproc",
        "2",
        "--set",
        "base.tokens=2_000_000",
        "--set",
        "max_epochs=99",
    ]
    shutil.rmtree("run/arms")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    path = begun / BASE / "metrics.jsonl"
    while process.poll() is None and not (path.exists() and len(path.read_bytes()) > 5000):
        time.sleep(0.01)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == 1
    assert "was ended by SIGKILL" in said and "Traceback" not in said
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


@pytest.mark.slow
def test_control_arms_are_computed_by_all_processes_one_after_another(one, tmp_path, monkeypatch):
    workplace(one, tmp_path, monkeypatch)
    done = run("--set", "control=no-replay")
    assert done.returncode == 0, done.stderr
    arm = list(manifests(tmp_path / "run/arms/no-replay/stage2/00-naive").values())
    assert {made["world_size"] for made in arm} == {2}
    assert "[no-replay]" in done.stdout


@pytest.mark.slow
def test_torchrun_itself_on_two_machines_of_one_process(one, tmp_path, monkeypatch):
    """Two launchers, each with one process, that meet at an address: what srun or torchrun does on two nodes."""
    workplace(one, tmp_path, monkeypatch)
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:29711", "--rdzv-id=keepwarm", "-m", "keepwarm.cli.main", "run", "plan.yaml",
    ]  # fmt: skip
    both = [subprocess.Popen(torchrun, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [r["samples"] for r in steps(tmp_path / STAGE)] == [r["samples"] for r in steps(one / STAGE)]


@pytest.mark.slow
def test_srun_s_environment_alone_is_enough(one, tmp_path, monkeypatch):
    """No launcher's store: it lies in the first process, which waits until the others have read that it is over."""
    workplace(one, tmp_path, monkeypatch)
    slurm = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_ID": "9713"}
    both = [
        subprocess.Popen(
            [*KEEPWARM, "run", "plan.yaml"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **slurm, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[1][0] == ""  # the leader alone tells
    assert [r["samples"] for r in steps(tmp_path / STAGE)] == [r["samples"] for r in steps(one / STAGE)]
