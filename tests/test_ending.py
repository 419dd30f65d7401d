"""A process that has done its work ends with its own exit code, whatever the threads of its group still do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.processes import ROOT, environment


@pytest.mark.parametrize("code", [0, 3])
def test_threads_of_the_group_do_not_change_the_exit_code(code: int) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    done = subprocess.run(
        [sys.executable, *launcher, "tests/ending_ranks.py", str(code)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "terminate called" not in done.stderr
    assert done.returncode == bool(code), done.stderr[-3000:]
    assert done.stdout.count("an exit handler") >= 1 + (not code)  # torchrun stops the others when one has failed
    if not code:
        assert done.stdout.count("a word that is not flushed") == 2
    else:
        assert f"exitcode  : {code} " in done.stderr
