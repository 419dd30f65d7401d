"""Run in two processes: rank 1 fails, or sleeps, while rank 0 waits for it in a collective.

python tests/launch/two_peers.py fails|sleeps RUN_DIR
"""

from __future__ import annotations

import sys
import time

from cascade import parallel
from cascade.config import LaunchConfig
from cascade.ending import Ending
from cascade.errors import CascadeError
from cascade.launching.peers import watched_peers

with Ending():
    mode, run_dir = sys.argv[1:]
    launch = LaunchConfig(kind="torchrun", processes=2, collective_timeout_s=4.0)
    parallel.start(1, launch.collective_timeout_s, 60)
    try:
        with watched_peers(launch, run_dir):
            parallel.barrier()
            if parallel.rank() == 1 and mode == "fails":
                raise OSError("the disk is gone")
            if parallel.rank() == 1:
                time.sleep(12)
            parallel.barrier()
    except CascadeError as error:
        print(f"caught: {error}", flush=True)
        sys.exit(1)
