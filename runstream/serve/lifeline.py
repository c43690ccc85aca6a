"""A child process does not outlive the supervisor that started it, however that one ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
PARENT_VARIABLE = "RUNSTREAM_PARENT_PID"


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the supervisor named in the environment ends (Linux).

    Without it a supervisor killed by ``kill -9`` would leave children that hold the port and the data folder, and
    the next start would fail. The setting survives ``exec``. Does nothing for a process started by hand.
    """
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):  # it ended before the call
        os._exit(1)
