"""Becomes the command it is given, tied to the life of the process that started it.

Run as a script, `guard.py PARENT LIFELINE COMMAND…`, never imported. With no LIFELINE ("-") the
kernel's parent-death signal does it (Linux). Else LIFELINE is the reading end of a pipe only the
parent holds open, and a watcher forked here kills the command when that pipe ends. A pre-exec hook
in the parent would save these 20 ms, but forks a process that may be large and threaded.
"""

import os
import select
import signal
import sys

PR_SET_PDEATHSIG = 1
POLL_MS = 200


def main() -> None:
    parent, lifeline, *command = sys.argv[1:]
    if lifeline == "-":
        die_with_parent(int(parent))
    else:
        start_watcher(int(lifeline))
    try:
        os.execvp(command[0], command)
    except OSError as failure:  # not a program, or one for another machine
        sys.exit(f"{command[0]}: {failure.strerror}")


def die_with_parent(parent: int) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the request was in place
        os._exit(0)


def start_watcher(lifeline: int) -> None:
    command = os.getpid()  # kept through exec, so probes and signals reach the command itself
    if os.fork() == 0:
        watch(lifeline, command)
        os._exit(0)
    os.set_inheritable(lifeline, False)


def watch(lifeline: int, command: int) -> None:
    release_standard_streams()
    ended = select.poll()
    ended.register(lifeline, select.POLLIN | select.POLLHUP)
    while os.getppid() == command:
        if ended.poll(POLL_MS):
            os.kill(command, signal.SIGKILL)
            return


def release_standard_streams() -> None:
    """So that whoever reads the command's output sees its end when the command ends."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


if __name__ == "__main__":
    main()
