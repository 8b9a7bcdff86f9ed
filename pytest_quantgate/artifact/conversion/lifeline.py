"""A child process that does not outlive its parent, whatever the parent dies of."""

from __future__ import annotations

import os
import threading

_STDIN = 0


def hold() -> None:
    """End this process, at once, when its standard input ends: the parent holds the other end."""

    def wait() -> None:
        while os.read(_STDIN, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
