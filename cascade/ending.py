"""The end of a process that was in a process group.

gloo's threads let go of tensors that Python knows, for which they need Python's lock. A thread that asks for it while
the interpreter takes itself apart is ended by it, and the process with it: "terminate called without an active
exception", after all work was done. DeepSpeed's engines hold the group, so it cannot be destroyed before. Such a
process therefore ends where Python would begin to take itself apart.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from types import TracebackType


class Ending:
    """`with Ending():` around all that a process does. Its exit code is what a shell sees of Python's own."""

    def __init__(self) -> None:
        self._code = 1  # of an exception that nobody catches
        atexit.register(self._leave)  # runs last: handlers run in the opposite order

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self._code = 0
        elif isinstance(error, KeyboardInterrupt):
            self._code = 128 + signal.SIGINT
        elif isinstance(error, SystemExit):
            self._code = error.code if isinstance(error.code, int) else int(error.code is not None)

    def _leave(self) -> None:
        distributed = sys.modules.get("torch.distributed")
        if distributed is None or not distributed.is_initialized():
            return
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self._code)
