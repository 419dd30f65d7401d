"""One rank that ends while gloo still works: `ending_ranks.py EXIT_CODE`, started by torchrun."""

from __future__ import annotations

import atexit
import sys

import torch

from cascade import parallel
from cascade.ending import Ending

with Ending():
    atexit.register(lambda: print("an exit handler", flush=True))
    parallel.start(1)
    tensors = [torch.ones(1000) for _ in range(64)]
    for tensor in tensors:
        torch.distributed.all_reduce(tensor, async_op=True)
    del tensor, tensors  # gloo's threads have the last reference now
    print("a word that is not flushed")
    sys.exit(int(sys.argv[1]))
