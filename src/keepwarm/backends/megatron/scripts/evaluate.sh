#!/bin/bash --login
@@{header}
# The losses of every saved checkpoint that was not measured yet, on every corpus's held-out windows.
@@{setup}
set -uo pipefail
cd @@{folder} || exit 1
exec @@{command}
