"""A process that starts a server and waits to be killed."""

from __future__ import annotations

import threading
from pathlib import Path

from cascade.rollout.vllm_server import VllmServerEngine
from tests.rollout.served import KIND, served_config
from tests.tiny_models import TOKENIZER, policy_config


def main(model: str, folder: str) -> None:
    """Serves `model` with its log in `folder`, for ever."""
    VllmServerEngine(policy_config(KIND), served_config(replicas=1), TOKENIZER, Path(folder)).load(Path(model))
    threading.Event().wait()
