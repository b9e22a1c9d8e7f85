"""Megatron-DeepSpeed's learning-rate flags: what they really give, and flags for a schedule of ours.

    flags = parse_flags(words)                          # or flags_of_args(vars(checkpoint_args))
    found = reference_schedule(flags, state)            # its LR by step, its error and its findings
    words = to_flags(schedule, global_batch_size, sequence_length)

Everything was recorded from the reference itself (Megatron-DeepSpeed ffa3456d); its file:line numbers are of that commit.
"""

from __future__ import annotations

from keepwarm.schedule.megatron_findings import Finding
from keepwarm.schedule.megatron_flags import Flags, flags_of_args, parse_flags
from keepwarm.schedule.megatron_reverse import Match, nearest, to_flags
from keepwarm.schedule.megatron_scheduler import ReferenceSchedule, reference_schedule

__all__ = [
    "Finding", "Flags", "Match", "ReferenceSchedule", "flags_of_args", "nearest", "parse_flags", "reference_schedule", "to_flags",
]  # fmt: skip
