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


def die_with_parent() -> None:
    """The kernel kills this process when the thread that started it ends. Linux only; elsewhere nothing happens."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def end_with_parent(parent: int) -> None:
    """`die_with_parent`, also where the parent has ended before the kernel was told: then there is another by now."""
    die_with_parent()
    if sys.platform == "linux" and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Runs vLLM's own server in this process with the arguments of the command line."""
    end_with_parent(int(os.environ[PARENT]))
    runpy.run_module(API_SERVER, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
