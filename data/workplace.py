"""`python -m data.workplace [--out DIR] [--wheel FILE]`: the databases of NVIDIA's workplace assistant.

They lie in the wheel of `nemo-gym`, which needs a newer Python than Cascade: it is downloaded and not installed.
Licence: Apache-2.0.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from cascade.environments.workplace.office import DIRECTORY, FILES, read_office
from cascade.errors import CascadeError, DataError
from data.wheels import downloaded_wheel

OUT = Path(__file__).resolve().parent / "workplace"
PACKAGE = "nemo-gym==0.4.0"
INSIDE = PurePosixPath("resources_servers/workplace_assistant/csv_data")


def main(arguments: list[str] | None = None) -> int:
    """Fetch once; 0 when the folder is complete, 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m data.workplace", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder to write (default {OUT})")
    parser.add_argument("--wheel", type=Path, help=f"the wheel of {PACKAGE}, where it lies already")
    asked = parser.parse_args(arguments)
    try:
        if not all((asked.out / name).is_file() for name in (*FILES, DIRECTORY)):
            with tempfile.TemporaryDirectory() as folder:
                wheel = asked.wheel or downloaded_wheel(PACKAGE, Path(folder), "--python-version", "3.12")
                _extract(wheel, asked.out)
        office = read_office(asked.out)
    except CascadeError as error:
        print(f"{error.what}\n{error.fix}", file=sys.stderr)
        return 1
    sizes = {"emails": office.emails.rows, "events": office.events.rows, "visits": office.visits}
    sizes |= {"tasks": office.tasks.rows, "customers": office.customers.rows, "colleagues": office.staff}
    print(f"{asked.out}: {', '.join(f'{len(rows)} {name}' for name, rows in sizes.items())}")
    return 0


def _extract(wheel: Path, out: Path) -> None:
    """The CSV files of the wheel into the folder, whole or not at all."""
    members = {name: INSIDE / "processed" / name for name in FILES} | {DIRECTORY: INSIDE / "raw" / DIRECTORY}
    try:
        with zipfile.ZipFile(wheel) as archive:
            contents = {name: archive.read(str(member)) for name, member in members.items()}
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{wheel} has no workplace databases: {error}.", f"Give the wheel of {PACKAGE}.") from None
    out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        partial = out / f".{name}.partial"
        partial.write_bytes(content)
        partial.replace(out / name)


if __name__ == "__main__":
    sys.exit(main())
