"""Files in the run folder through which the parts of a job find each other: written whole, awaited with a deadline."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade.atomic import write_json
from cascade.errors import EngineError
from cascade.launching.environment import LAUNCH

POLL_S = 0.5
ENDED = "ended"
"""The file that is there when the run has come to its end."""


def meeting_folder(run_dir: str) -> Path:
    """Of this start of the job: what an earlier one has left there lies elsewhere. Raises `EngineError`."""
    if LAUNCH not in os.environ:
        raise EngineError(f"{LAUNCH} is not set: this is no part of a job.", "Submit the job by `cascade run`.")
    return Path(run_dir).absolute() / "launch" / "parts" / os.environ[LAUNCH]


def leave(folder: Path, name: str, value: Any) -> None:
    """Lets the other parts read `value` under `name`."""
    write_json(folder / f"{name}.json", value)


def left(folder: Path, names: Sequence[str], timeout_s: float) -> Mapping[str, Any]:
    """name -> what was left there, once all of them are. Raises `EngineError` naming those that never came."""
    until = time.monotonic() + timeout_s
    missing = list(names)
    while missing := [name for name in missing if not (folder / f"{name}.json").exists()]:
        if time.monotonic() > until:
            raise EngineError(
                f"{', '.join(missing)} did not come to {folder} in {timeout_s:.0f} s.",
                f"See the logs of that part in {folder.parents[1] / 'logs'}; `launch.start_timeout_s` is the deadline.",
            )
        time.sleep(POLL_S)
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}


def own_address() -> str:
    """This node's address as the other parts see it: of the pod, or on the way to the node where the job began."""
    if "POD_IP" in os.environ:
        return os.environ["POD_IP"]
    towards = os.environ.get("SLURM_LAUNCH_NODE_IPADDR") or socket.gethostname()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent
        probe.connect((towards, 9))
        return probe.getsockname()[0]


def own_number() -> tuple[int, int]:
    """Which task of its part this is, over all nodes and on its own one. Raises `EngineError`."""
    number = os.environ.get("SLURM_PROCID") or os.environ.get("JOB_COMPLETION_INDEX")
    if number is None:
        raise EngineError("Neither SLURM nor Kubernetes has started this process.", "Submit the job by `cascade run`.")
    return int(number), int(os.environ.get("SLURM_LOCALID", "0"))
