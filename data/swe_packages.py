"""The packages that SWE tasks are made of: source distributions of PyPI, pinned by version and hash.

Chosen because their suites are quick, need nothing but pytest, and pass without a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cascade.errors import ConfigError
from cascade.naming import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A source distribution and how its suite is run, e.g. `Package(name="schema", version="0.7.8", ...)`."""

    name: str
    version: str
    sha256: str  # of the source distribution
    licence: str
    home: str  # as `owner/name` on GitHub
    options: tuple[str, ...] = ()  # of pytest: those of its own settings that decide how tests are found
    tests: tuple[str, ...] = ("tests",)  # files and folders, as pytest is given them

    @property
    def title(self) -> str:
        return f"{self.name}-{self.version}"


PACKAGES = {
    package.name: package
    for package in (
        Package(
            name="schema",
            version="0.7.8",
            sha256="e86cc08edd6fe6e2522648f4e47e3a31920a76e82cce8937535422e310862ab5",
            licence="MIT",
            home="keleshev/schema",
            tests=("test_schema.py",),
        ),
        Package(
            name="isodate",
            version="0.7.2",
            sha256="4cd1aa0f43ca76f4a6c6c0292a85f40b35ec2e43e315b59f06e6d32171a953e6",
            licence="BSD-3-Clause",
            home="gweis/isodate",
        ),
        Package(
            name="inflection",
            version="0.5.1",
            sha256="1a29730d366e996aaacffb2f1f1cb9593dc38e2ddd30c91250c6dde09ea9b417",
            licence="MIT",
            home="jpvanhal/inflection",
            tests=("test_inflection.py",),
        ),
        Package(
            name="semver",
            version="3.1.1",
            sha256="149b26cabada6f63212f97e94505d21578cb1d280cf714827f328d5e70765fea",
            licence="BSD-3-Clause",
            home="python-semver/python-semver",
            options=("--import-mode=importlib",),
        ),
        Package(
            name="toolz",
            version="1.2.0",
            sha256="9667a038e9d6ecba37995e26cb2f59ec6420b6ad8dd9677de59db9b956b08490",
            licence="BSD-3-Clause",
            home="pytoolz/toolz",
            tests=("toolz",),
        ),
        Package(
            name="cachetools",
            version="8.0.1",
            sha256="deb1d376d4d28c2f33f3e3058043b005e0af75c35c094bd54053e27d2906ad95",
            licence="MIT",
            home="tkem/cachetools",
        ),
    )
}


def chosen(packages: Sequence[str | Package]) -> list[Package]:
    """The packages of these names; all where there is none. Raises `ConfigError` for an unknown name."""
    for name in packages:
        if isinstance(name, str) and name not in PACKAGES:
            raise ConfigError(f"There is no package `{name}` to make tasks of.", nearest(name, PACKAGES, "package"))
    return [PACKAGES[name] if isinstance(name, str) else name for name in packages or PACKAGES]
