"""Run a module in a process that exits when the process that started it is gone.

`python -m local.runtimes.exit_with_parent MODULE ARGUMENT...` does what `python -m MODULE ARGUMENT...` does. Its
standard input must be a pipe from the supervisor. The end of this pipe is the only sign of a `kill -9` of the
supervisor that works on both Linux and macOS. Without it a function that is working would live on until it next calls
the Runtime API.
"""

import os
import runpy
import sys
import threading


def _exit_at_end_of(pipe: int) -> None:
    while os.read(pipe, 4096):
        pass
    os._exit(1)


def main() -> None:
    """Give the module an empty standard input, as on Lambda, and run it."""
    pipe = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_exit_at_end_of, args=[pipe], daemon=True, name="supervisor").start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
