"""A vLLM server that ends when the process that started it does: `python -m cascade.serving.serve ARGUMENTS`."""

from __future__ import annotations

import os
import runpy

from cascade.processes import end_with_parent

PARENT = "CASCADE_PARENT"
"""The environment variable with the process id of the starter."""
API_SERVER = "vllm.entrypoints.openai.api_server"


def main() -> None:
    """Runs vLLM's own server in this process with the arguments of the command line."""
    end_with_parent(int(os.environ[PARENT]))
    runpy.run_module(API_SERVER, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
