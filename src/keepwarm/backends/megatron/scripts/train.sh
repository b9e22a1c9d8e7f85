#!/bin/bash
# Launch @@{name} of the attempt @@{attempt}, as it is typed at the trainer.
# Once something is saved in SAVE, the same command goes on from there.
set -euo pipefail
cd @@{trainer}
export PBS_O_WORKDIR=@@{trainer}
export \
@@{variables}
if [ -f "$SAVE/latest" ]; then
  export LOAD="$SAVE"
  exec bash train_alcf.sh @@{resume_arguments}
fi
exec bash train_alcf.sh @@{arguments}
