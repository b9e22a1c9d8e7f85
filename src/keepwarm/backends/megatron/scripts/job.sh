#!/bin/bash --login
@@{header}
# Trains until iteration @@{end} is saved. Each job submits the one behind it, which waits for its end, however it ends.
# Exit status: 0 saved to the end; 75 cut off, the job behind it goes on; 1 it can't go on, and says why.
@@{setup}
set -uo pipefail
launch=@@{launch} save=@@{save} load=@@{load} pointed=@@{pointed} begins=@@{begins} follows=@@{follows}
begin=@@{begin} end=@@{end} most=@@{most}
prepare=(@@{prepare})
at_once=(@@{at_once})
behind=(@@{behind})
next=
cd "$launch" || exit 1
mkdir -p logs
job="@@{job_id}"
job="${job:-$$}"
number=$(find logs -name '*.log' | wc -l)
log=$(printf 'logs/%03d-%s.log' $((number + 1)) "${job%%[.;]*}")

say() { echo "keepwarm: $*" | tee -a "$log"; }
stop() {
  say "$*"
  cancel_next
  exit 1
}
saved() { # the iteration that a resume would go on from; nothing before the first is saved
  local name
  [ -f "$save/latest" ] || return 0
  name=$(<"$save/latest")
  if [[ $name =~ ^global_step([0-9]+)$ && -d $save/$name ]]; then echo "${BASH_REMATCH[1]}"; fi
}
reached() {
  local at
  at=$(saved)
  echo "${at:-$begin}"
}
submit_next() {
  [ ${#behind[@]} -gt 0 ] || return 0
  if next=$("${behind[@]}" job.sh); then
    say "submitted $next behind this job"
  else
    next=
    say "no job could be submitted behind this one"
  fi
  "${behind[@]}" evaluate.sh >/dev/null || say "the evaluation was not submitted: ${at_once[*]} $launch/evaluate.sh"
}
cancel_next() { [ -z "$next" ] || @@{cancel} "$next"; }
check_start() { # what is not found, the trainer replaces by random weights, with exit status 0
  case $begins in
    trunk) return 0 ;;
    resume) stop "nothing is saved in $save: the launch before this one comes first" ;;
    cooldown)
      [ -d "$load/$pointed" ] || stop "$load/$pointed is missing: it is what the cooldown begins from"
      return 0
      ;;
  esac
  if [ ${#prepare[@]} -gt 0 ] && [ ! -f "$load/latest_universal" ]; then
    command -v "${prepare[0]}" >/dev/null || stop "${prepare[0]} is not on PATH: put it there by run.megatron.setup"
    "${prepare[@]}" 2>&1 | tee -a "$log"
    [ "${PIPESTATUS[0]}" -eq 0 ] || stop "the start could not be converted"
  fi
  [ -f "$load/latest_universal" ] || stop "$load/latest_universal is missing: nothing says which checkpoint to begin from"
  [ -z "$pointed" ] || [ "$(<"$load/latest_universal")" = "$pointed" ] ||
    stop "$load/latest_universal names $(<"$load/latest_universal"), not $pointed"
}
finish() { # and go on with the launch behind this one, once
  say "iteration $(reached) of $end is saved"
  cancel_next
  if [ -n "$follows" ] && mkdir next-begun 2>/dev/null; then
    cd "$follows" || exit 1
    if [ ${#at_once[@]} -gt 0 ]; then "${at_once[@]}" job.sh; else exec bash job.sh; fi
  fi
  exit 0
}

@@{hosts}
[ ! -f "$save/latest" ] || [ -n "$(saved)" ] || stop "$save/latest names $(<"$save/latest"), and there is no such step"
[ "$(reached)" -lt "$end" ] || finish
[ -n "$(saved)" ] || check_start
[ "$(reached)" -ge "$begin" ] || stop "iteration $(reached) is saved, this launch begins behind $begin"
submit_next
while :; do
  before=$(reached)
  bash train.sh 2>&1 | tee -a "$log"
  status=${PIPESTATUS[0]}
  [ "$(reached)" -lt "$end" ] || {
    [ ${#behind[@]} -gt 0 ] || bash evaluate.sh 2>&1 | tee -a logs/evaluate.out
    finish
  }
  if [ "$(reached)" -gt "$before" ]; then
    rm -f without-progress
  else
    echo x >>without-progress
    count=$(wc -l <without-progress)
    say "nothing was saved (the trainer's script ended with $status): $count of $most jobs in a row"
    [ "$count" -lt "$most" ] || stop "stopped: look into $launch/$log, then remove without-progress and submit job.sh again"
  fi
  [ ${#behind[@]} -gt 0 ] || continue
  [ -n "$next" ] || next=$("${at_once[@]}" job.sh) || stop "cut off at iteration $(reached) of $end, and no job could be submitted"
  say "cut off at iteration $(reached) of $end, goes on in $next"
  exit 75
done
