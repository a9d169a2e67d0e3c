"""Become a service's program that ends when its supervisor does: `python -I -S child.py SUPERVISOR_PID PROGRAM ...`.

Run by its path, so that it imports nothing of imagekin and costs milliseconds. A `preexec_fn` could do the same, but is
not safe in a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(supervisor: int, *program: str) -> None:
    """Ask for a SIGTERM at the supervisor's death, then replace this process by the program."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # The supervisor may have died before the request; the kernel does not tell later.
    if os.getppid() != supervisor:
        sys.exit("the supervisor is gone")
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.exit(f"cannot run {program[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
