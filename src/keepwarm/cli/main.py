"""The `keepwarm` command: commands by name, each imported only when it is called; errors as three lines.

Exit codes: 0 done, 1 the work failed (a stage exhausted its ladder), 2 bad input, 75 stopped by the scheduler or the time
limit, 130 stopped by Ctrl-C. After the last two the same command goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import App
from cyclopts.exceptions import CycloptsError

from keepwarm import __version__
from keepwarm.cli import arguments as command_line
from keepwarm.errors import KeepwarmError, WorkFailed
from keepwarm.exits import BAD_INPUT, FAILED, INTERRUPTED, REQUEUE, Requeue, ToSubmit

_COMMANDS = {
    "demo": "four stages on real text on this CPU, in minutes",
    "plan": "a plan in exact numbers, before anything is trained",
    "run": "train a plan's stages; goes on from what is on disk",
    "launch": "the next attempt as jobs of Megatron-DeepSpeed",
    "observe": "what its jobs logged: warnings, verdict, the next command",
    "eval": "a checkpoint's losses on every corpus's held-out windows",
    "decide": "a person's word on an attempt: accept, reject, next RUNG",
    "adopt": "a line trained by hand becomes lineage and ledger",
    "ladder": "the order of candidates that earlier runs suggest",
    "forecast": "what each replay share would come to, from short pilots",
    "judge": "the verdict on a metrics file or a trainer's log",
    "explain": "what a rung, schedule, guard or verdict is, and its source",
    "report": "the run as one HTML file that opens from disk",
    "status": "what was tried, what was kept, what comes next",
    "lineage": "the checkpoints as a tree; prune deletes what nothing needs",
    "convert": "a checkpoint in another format: Hugging Face, universal, ours",
    "doctor": "what goes wrong silently around the reference trainer",
    "mix": "mix file lists by weight",
    "tokenize": "text to .bin/.idx token files",
    "data": "token files: show, verify, merge, split, overlap, blend, materialize",
    "buffer": "what the replay buffer B holds",
    "lr": "the learning rate, step by step",
    "schema": "the plan file's JSON schema, for editors",
}

app = App(
    name="keepwarm",
    help="Continual pre-training of language models: plan, mix, train, judge, go on, and show why.",
    version=__version__,
    help_on_error=False,
    suppress_keyboard_interrupt=False,  # main() says what a stopped run means
)
for _name, _help in _COMMANDS.items():
    app.command(f"keepwarm.cli.{_name}:{_name}", name=_name, help=_help)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return (as a script: exit with) its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    command_line.given = list(words)
    try:
        result = app(words, exit_on_error=False, print_error=False, result_action="return_value")
        return result if isinstance(result, int) else 0
    except CycloptsError as error:
        return _fail(_of_usage(error), debug)
    except KeepwarmError as error:
        return _fail(error, debug)
    except ToSubmit as job:
        print(f"\n{job}")
        return 0
    except WorkFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away (a pager closed): nothing to say, nobody to tell
        return 0
    except Requeue as reason:
        print(f"stopped before the job's end ({reason}): saved, the same command goes on", file=sys.stderr)
        return REQUEUE
    except KeyboardInterrupt:
        print("stopped; nothing is lost, the same command goes on or starts over", file=sys.stderr)
        return INTERRUPTED


def _of_usage(error: CycloptsError) -> KeepwarmError:
    what = " ".join(str(error).split())
    return KeepwarmError(what, "the command line was not understood, nothing was done", "keepwarm --help")


def _fail(error: KeepwarmError, debug: bool) -> int:
    if debug:
        raise error
    print(f"error: {error}", file=sys.stderr)
    return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
