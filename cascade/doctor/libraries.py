"""The packages of the core, at the versions the tests run with, and the login that one of them needs."""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterator, Mapping

from cascade.doctor.finding import Finding, version_of

TESTED: Mapping[str, str] = {
    "torch": "2.13.0", "transformers": "5.19.0", "deepspeed": "0.19.8", "accelerate": "1.15.0", "datasets": "5.2.0",
    "safetensors": "0.8.0", "hydra-core": "1.3.8", "omegaconf": "2.3.1", "pydantic": "2.14.3", "pyarrow": "26.0.1",
    "httpx": "0.28.1", "rich": "15.0.0", "wandb": "0.31.0", "ninja": "1.13.2",
}  # fmt: skip
"""The core at the versions the tests run with (launch/cpu/requirements.txt)."""

UNINSTALL_TORCHVISION = "pip uninstall -y torchvision torchaudio torchcodec"


def libraries() -> Iterator[Finding]:
    """One finding a package of `TESTED`."""
    for package, tested in TESTED.items():
        version = version_of(package)
        if version is None:
            yield Finding(package, "missing", "not installed", f'pip install "{package}=={tested}"')
        elif version.split("+")[0] != tested:
            fix = f'If something misbehaves: pip install "{package}=={tested}"'
            yield Finding(package, "warning", f"{version}, tested with {tested}", fix)
        else:
            yield Finding(package, "ok", version)


def torchvision() -> Finding:
    """The torchvision of PyPI is built for CUDA; beside a CPU torch it breaks every import of transformers' Trainer."""
    torch, vision = version_of("torch") or "", version_of("torchvision")
    if vision and torch.endswith("+cpu") and not vision.endswith("+cpu"):
        return Finding("torchvision", "missing", f"{vision} does not load beside torch {torch}", UNINSTALL_TORCHVISION)
    return Finding("torchvision", "ok", vision or "not installed, and not needed")


def wandb_login() -> Finding:
    """Whether wandb's online mode would find a key, in the environment or in the netrc."""
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        return Finding("wandb login", "ok", f"not needed, WANDB_MODE={mode}")
    try:
        known = netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        known = False
    if known or "WANDB_API_KEY" in os.environ:
        return Finding("wandb login", "ok", "logged in")
    return Finding("wandb login", "warning", "not logged in; only a recipe with wandb needs it", "wandb login")
