"""Two and three gloo processes compute what one does: losses, norms, weights, checkpoints in every direction."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import worker

from keepwarm.engine.parallel import World, alone, micro_batches
from keepwarm.engine.weights import weights_sha256
from keepwarm.lineage.manifest import read_manifest, verify_files

WORKER = Path(worker.__file__)


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict[str, dict]:
    """What each process of worlds of one, two and three saw, as `SIZE-RANK`; and the folder of their checkpoints."""
    folder = tmp_path_factory.mktemp("worlds")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    (folder / "rank-1-0.json").write_text(json.dumps(worker.observe(alone(), folder)))
    torch.set_num_threads(threads)
    for size in (2, 3):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
        done = subprocess.run([*torchrun, str(WORKER), str(folder)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    files = folder.glob("rank-*.json")
    return {path.stem.removeprefix("rank-"): json.loads(path.read_text()) for path in files} | {"folder": folder}


def close(found, expected, relative):
    flat = [value for pair in found for value in pair]
    return flat == pytest.approx([value for pair in expected for value in pair], rel=relative)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("key", ["tied", "untied"])
def test_a_sharded_model_begins_with_the_weights_that_one_process_draws(seen, size, key):
    for rank in range(size):
        assert seen[f"{size}-{rank}"][f"{key} drawn"] == seen["1-0"][f"{key} drawn"]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("key", ["tied", "untied"])
def test_losses_norms_and_weights_are_those_of_one_process(seen, size, key):
    """Also where the rows of a batch divide unevenly, or are fewer than the processes."""
    one = seen["1-0"]
    for rank in range(size):
        here = seen[f"{size}-{rank}"]
        assert close(here[f"{key} steps"] + here[f"{key} more"], one[f"{key} steps"] + one[f"{key} more"], 1e-5)
    for mine, theirs in zip(seen[f"{size}-0"][f"{key} weights"], one[f"{key} weights"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("who", ["1-0", "2-0", "2-1", "3-2"])
@pytest.mark.parametrize("key", ["tied", "untied"])
def test_going_on_from_a_checkpoint_is_the_same_run_bit_for_bit(seen, who, key):
    here = seen[who]
    assert here[f"{key} loaded"] == here[f"{key} saved"]
    assert here[f"{key} resumed"] == here[f"{key} more"] and here[f"{key} bitwise"]


@pytest.mark.parametrize("size", [2, 3])
def test_a_checkpoint_of_one_process_goes_on_in_several(seen, size):
    for rank in range(size):
        here = seen[f"{size}-{rank}"]
        assert here["of one: loaded"] == seen["1-0"]["tied saved"]
        assert close(here["of one: resumed"], seen["1-0"]["tied more"], 1e-6)


@pytest.mark.parametrize("size", [2, 3])
def test_a_checkpoint_of_several_processes_goes_on_in_one(seen, size):
    folder = seen["folder"] / f"{size}-tied"
    net, optimizer = worker.restored(folder, alone())
    assert weights_sha256(net.model.state_dict()) == read_manifest(folder).weights_sha256
    assert close(worker.trained(net, optimizer, range(2, 4)), seen[f"{size}-0"]["tied more"], 1e-6)


@pytest.mark.parametrize("size", [2, 3])
def test_each_process_writes_and_hashes_its_own_file(seen, size):
    folder = seen["folder"] / f"{size}-tied"
    made = read_manifest(folder)
    verify_files(folder, made, deep=True)
    shards = sorted(name for name in made.files if name.endswith(".distcp"))
    assert shards == [f"state/__{rank}_0.distcp" for rank in range(size)]
    assert {"config.json", "state/.metadata"} <= set(made.files)


@pytest.mark.parametrize("size", [2, 3])
def test_held_out_windows_are_measured_by_all_and_known_to_all(seen, size):
    for rank in range(size):
        here = seen[f"{size}-{rank}"]
        assert here["windows"] == pytest.approx(seen["1-0"]["windows"], rel=1e-5)
        assert here["one window"] == pytest.approx(here["windows"][:1], rel=1e-6)


@pytest.mark.parametrize("size", [1, 2])
def test_activation_checkpointing_changes_no_number(seen, size):
    here = seen[f"{size}-0"]
    assert close(here["recomputed"], here["tied steps"], 1e-6)


@pytest.mark.parametrize("size", [1, 2])
def test_in_bf16_the_products_alone_are_rounded(seen, size):
    here = seen[f"{size}-0"]
    assert here["bf16 kept in"] == "{torch.float32}"
    assert here["bf16"] != here["tied steps"] and close(here["bf16"], here["tied steps"], 2e-2)


def test_words_and_sums_go_round(seen):
    assert [seen[f"3-{rank}"]["shared"] for rank in range(3)] == [0, 0, 0]
    assert [seen[f"3-{rank}"]["total"] for rank in range(3)] == [4.5, 4.5, 4.5]
    assert [seen[f"3-{rank}"]["part"] for rank in range(3)] == [
        [[0, 0], [0, 0], [0, 2]], [[0, 0], [0, 1], [2, 4]], [[0, 1], [1, 2], [4, 7]],
    ]  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("rows", [1, 6, 7, 100])
@pytest.mark.parametrize("micro", [1, 4, 100])
def test_processes_take_part_in_as_many_micro_batches_and_every_row_is_computed_once(size, rows, micro):
    worlds = [World(rank, size, size, torch.device("cpu"), None, None) for rank in range(size)]
    parts = [world.part(rows) for world in worlds]
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(rows))
    cuts = [micro_batches(p.stop - p.start, w.largest_part(rows), micro) for p, w in zip(parts, worlds, strict=True)]
    assert len({len(cut) for cut in cuts}) == 1
    for part, cut in zip(parts, cuts, strict=True):
        assert [row for first, stop in cut for row in range(first, stop)] == list(range(part.stop - part.start))
        assert all(stop - first <= micro for first, stop in cut)
