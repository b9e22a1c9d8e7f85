"""Where a launch runs, in exact numbers: a plan's block over its machine's defaults, and the batch cut over processes."""

from __future__ import annotations

from dataclasses import dataclass

from keepwarm.errors import PlanError
from keepwarm.plan.machines import MACHINES, Dtype, Scheduler
from keepwarm.plan.megatron import MegatronSpec
from keepwarm.plan.model import Plan

VOCABULARY_MULTIPLE = 128  # --make-vocab-size-divisible-by, times the tensor-parallel processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A machine and what a job of it is given."""

    spec: MegatronSpec
    machine: str
    host: str  # how its compute nodes' names begin
    scheduler: Scheduler
    account: str | None
    queue: str | None
    filesystems: str | None
    constraint: str | None
    gpus_per_node: int
    dtype: Dtype
    tensor_parallel: int

    @property
    def world_size(self) -> int:
        """Processes of a training job."""
        return self.spec.nodes * self.gpus_per_node

    @property
    def shards(self) -> int:
        """Processes that hold one copy of the model together."""
        return self.tensor_parallel * self.spec.pipeline_parallel

    def accumulation(self, global_batch_size: int) -> int:
        """GRAD_ACC_STEPS that brings the processes to exactly `global_batch_size`.

        The script does not check it: DeepSpeed's configuration would contradict itself, or the batch would be another.
        PlanError with the numbers that fit.
        """
        copies, rest = divmod(self.world_size, self.shards)
        asked, micro = self.spec.gradient_accumulation_steps, self.spec.micro_batch_size
        step = copies * micro
        if rest:
            raise PlanError(
                f"run.megatron: {self.world_size} processes are no multiple of tensor_parallel {self.tensor_parallel} x "
                f"pipeline_parallel {self.spec.pipeline_parallel}",
                "each copy of the model is held by that many processes",
                f"nodes: {self._nodes_of(self.shards)}, or other sizes of the cut",
            )
        found = global_batch_size // step if asked == "auto" else asked
        if found * step == global_batch_size and found:
            return found
        low = max(1, global_batch_size // step)
        fits = sorted({low * step, (low + 1) * step})
        of = f"{copies} copies of the model x micro_batch_size {micro}"
        of += "" if asked == "auto" else f" x gradient_accumulation_steps {asked} = {found * step}"
        raise PlanError(
            f"global_batch_size {global_batch_size} is not what {self.spec.nodes} nodes of {self.machine} make: {of}",
            "the trainer takes GLOBAL_BATCH as it is, and DeepSpeed's configuration then contradicts it",
            f"global_batch_size: {' or '.join(map(str, fits))} with {self.spec.nodes} nodes"
            + (f"; or nodes: {', '.join(map(str, nodes))}" if (nodes := self._fitting(global_batch_size)) else ""),
        )

    def padded_vocabulary(self, vocab_size: int) -> int:
        """Rows of the trainer's embedding for a tokenizer of `vocab_size` entries."""
        multiple = VOCABULARY_MULTIPLE * self.tensor_parallel
        return -(-vocab_size // multiple) * multiple

    def _fitting(self, global_batch_size: int) -> list[int]:
        """Numbers of nodes near the plan's, up to three, that make the batch."""
        found = []
        for nodes in range(1, global_batch_size * self.shards // self.gpus_per_node + 1):
            copies, rest = divmod(nodes * self.gpus_per_node, self.shards)
            if not rest and copies and global_batch_size % (copies * self.spec.micro_batch_size) == 0:
                found.append(nodes)
        return sorted(sorted(found, key=lambda nodes: abs(nodes - self.spec.nodes))[:3])

    def _nodes_of(self, shards: int) -> int:
        nodes = self.spec.nodes
        while nodes * self.gpus_per_node % shards:
            nodes += 1
        return nodes


def site_of(plan: Plan, scheduler: Scheduler | None = None, machine: str | None = None) -> Site:
    """The plan's site; another `machine` brings its own defaults, what the plan says itself stays.

    PlanError where the plan has another backend, or lacks what the scheduler needs.
    """
    spec = plan.run.megatron
    if spec is None:
        raise PlanError(
            "run.backend: native", "Megatron-DeepSpeed is launched by what run.megatron says of the trainer and the machine",
            "run: {backend: megatron, megatron: {trainer: /lus/Megatron-DeepSpeed, machine: aurora, ...}}",
        )  # fmt: skip
    name = machine or spec.machine
    known = MACHINES[name]
    chosen = scheduler or (known.scheduler if machine else spec.scheduler or known.scheduler)
    queue, gpus = spec.queue or known.queue, spec.gpus_per_node or known.gpus_per_node
    needed = {"account": spec.account, "queue": queue, "walltime": spec.walltime} if chosen != "none" else {}
    missing = [key for key, value in {**needed, "gpus_per_node": gpus}.items() if value is None]
    if missing or gpus is None:
        raise PlanError(
            f"run.megatron: lacks {', '.join(missing)} for {chosen} on machine {name}",
            "the scheduler takes no job without", f"megatron: {{{', '.join(f'{key}: ...' for key in missing)}}}",
        )  # fmt: skip
    return Site(
        spec=spec, machine=name, host=known.host, scheduler=chosen, account=spec.account, queue=queue,
        filesystems=spec.filesystems or known.filesystems, constraint=spec.constraint or known.constraint,
        gpus_per_node=gpus, dtype=spec.dtype or (known.dtype if plan.precision == "auto" else "bf16"),
        tensor_parallel=spec.tensor_parallel or known.tensor_parallel,
    )  # fmt: skip
