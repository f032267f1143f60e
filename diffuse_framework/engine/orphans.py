"""Workers end with the process that started them, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time

_PR_SET_PDEATHSIG = 1
_LOOK_S = 0.5


def end_with_parent(parent: int) -> None:
    """Have this process killed when its parent is gone, even if that was killed itself.

    On Linux the kernel sees to it. Elsewhere a thread looks every half second.

    Args:
        parent: process number of the parent; this process ends at once if it is gone already.
    """
    if not _kernel_watches():
        threading.Thread(target=_watch, args=(parent,), name="parent", daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def _kernel_watches() -> bool:
    try:
        return ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0
    except (AttributeError, OSError):
        return False


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)
