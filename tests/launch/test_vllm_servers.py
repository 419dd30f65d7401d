"""The command for servers that users start is the one that Cascade starts servers with."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
import torch

from cascade.config import PolicyConfig, RolloutConfig
from cascade.serving.arguments import served_arguments, served_environment

README = Path(__file__).parents[2] / "launch" / "vllm" / "README.md"


def command() -> list[str]:
    block = README.read_text().split("```bash\n")[1].split("```")[0]
    return shlex.split(block.replace("\\\n", " "))


def test_the_command_has_the_arguments_of_our_own_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    rollout = RolloutConfig(engine="vllm_server", transport="nccl")
    policy = PolicyConfig(dtype="bf16")
    ours = served_arguments(Path("/shared/start"), 8000, max_tokens=8192, policy=policy, rollout=rollout)
    ours[ours.index("--host") + 1] = "10.0.0.2"
    words = command()
    theirs = words[words.index("vllm.entrypoints.openai.api_server") + 1 :]
    assert theirs == ours


def test_the_command_sets_the_variables_that_a_server_of_any_machine_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VLLM_")]:
        monkeypatch.delenv(name)
    ours = served_environment(0, RolloutConfig(engine="vllm_server"))
    needed = {name: ours[name] for name in ours if name.startswith("VLLM_") and not name.startswith("VLLM_CPU_")}
    assert dict(word.split("=") for word in command() if word.startswith("VLLM_")) == needed
