"""A vLLM server that ends when the process that started it does: `python -m cascade.serving.serve ARGUMENTS`."""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

PARENT = "CASCADE_PARENT"
"""The environment variable with the process id of the starter."""
API_SERVER = "vllm.entrypoints.openai.api_server"


def end_with_parent(parent: int) -> None:
    """The kernel kills this process when the thread that started it ends. Linux only; elsewhere nothing happens.

    A parent that ended before the kernel was told goes unseen, so this process ends itself if it has another by now.
    """
    if sys.platform != "linux":
        return
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Runs vLLM's own server in this process with the arguments of the command line."""
    end_with_parent(int(os.environ[PARENT]))
    runpy.run_module(API_SERVER, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
