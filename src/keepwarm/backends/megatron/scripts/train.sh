#!/bin/bash
# Launch @@{name} of the attempt @@{attempt}, as it is typed at the trainer.
# Once something is saved in SAVE, the same command goes on from there, on as many nodes as it is given.
set -euo pipefail
cd @@{trainer}
export PBS_O_WORKDIR=@@{trainer}
export \
@@{variables}
say() { echo "keepwarm: $*"; }
planned=$WORLD_SIZE
[ ! -s "${HOSTFILE:-}" ] || WORLD_SIZE=$(($(sort -u "$HOSTFILE" | wc -l) * NGPU_PER_HOST))
if [ "$WORLD_SIZE" != "$planned" ]; then # the batch stays, and so do the samples of every iteration
  at_once=$((WORLD_SIZE / TP / PP * MICRO_BATCH))
  if [ "$at_once" = 0 ] || [ $((GLOBAL_BATCH % at_once)) != 0 ]; then
    say "$WORLD_SIZE processes can't share a batch of $GLOBAL_BATCH sequences, $MICRO_BATCH at a time"
    exit 1
  fi
  GRAD_ACC_STEPS=$((GLOBAL_BATCH / at_once))
  say "$WORLD_SIZE processes, planned were $planned: GRAD_ACC_STEPS=$GRAD_ACC_STEPS, the batch stays $GLOBAL_BATCH"
fi
[ -f "$SAVE/latest" ] || exec bash train_alcf.sh @@{arguments}
step=$(<"$SAVE/latest")
shards=$(find "$SAVE/$step" -name '*zero_pp_rank_*_mp_rank_00_optim_states.pt' | wc -l)
if [ "$shards" = $((WORLD_SIZE / TP / PP)) ]; then
  export LOAD="$SAVE"
  exec bash train_alcf.sh @@{resume_arguments}
fi
say "$step is in the shards of $shards processes, which no other number of them can load: it goes on from a universal copy"
export LOAD=@@{launch}/"of-$shards-$step"
[ -f "$LOAD/latest_universal" ] || keepwarm convert "$SAVE/$step" "$LOAD/${step}_universal" --to universal --trust
exec bash train_alcf.sh --universal-checkpoint @@{resume_arguments}
