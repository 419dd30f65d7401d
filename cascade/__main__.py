"""`cascade`, `python -m cascade`, and what torchrun, accelerate and deepspeed start."""

from typing import NoReturn

from cascade import cli
from cascade.ending import Ending


def main() -> NoReturn:
    """Runs one command as a process of its own, and exits."""
    with Ending():
        cli.main()


if __name__ == "__main__":
    main()
