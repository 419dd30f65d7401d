"""The Python that runs programs: the one that runs Cascade, with its standard library and no packages."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

SYSTEM = Path("/usr")
PLACE = "/.python"
"""Where an interpreter that is no part of the system lies inside: nobody else may enter its real place."""


def home() -> Path:
    """The installation behind virtual environments and links."""
    return Path(os.path.realpath(sys.base_prefix))


def is_of_system() -> bool:
    """Whether every room shows it anyhow."""
    return home().is_relative_to(SYSTEM)


def binary() -> str:
    """Its path inside."""
    real = Path(os.path.realpath(sys.executable))
    return str(real) if is_of_system() else f"{PLACE}/{real.relative_to(home())}"


def variables() -> dict[str, str]:
    """What it needs in the environment, where its library is found by a path that is not there inside."""
    shared = bool(sysconfig.get_config_var("Py_ENABLE_SHARED"))
    return {"LD_LIBRARY_PATH": f"{PLACE}/lib"} if shared and not is_of_system() else {}
