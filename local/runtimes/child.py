"""Run a module in a function's process, and end the process when the one that started it is gone.

`python -m local.runtimes.child MODULE ARGUMENT...` is `python -m MODULE ARGUMENT...` in a process whose standard input
is a pipe from the supervisor. The pipe's end is the one sign that even `kill -9` of the supervisor gives on Linux and
macOS alike: a function in the middle of its work would else live on until it next called the Runtime API.
"""

import os
import runpy
import sys
import threading


def _end_with(pipe: int) -> None:
    while os.read(pipe, 4096):
        pass
    os._exit(1)


def main() -> None:
    """Give standard input back to the module, empty as it is on Lambda, and run the module."""
    pipe = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_end_with, args=[pipe], daemon=True, name="supervisor").start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
