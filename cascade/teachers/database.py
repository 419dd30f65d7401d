"""The SQLite file behind the registry: its tables, how it is opened, how a transaction is written.

A kill at any moment loses at most the transaction that was running: rollback journal, synced in full. Not WAL: its
shared memory does not work on the network file systems runs lie on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cascade.errors import RegistryError

LOCK_TIMEOUT_S = 30.0
VERSION = 1
SCHEMA = (
    """CREATE TABLE checkpoints (
    position INTEGER PRIMARY KEY AUTOINCREMENT, identity TEXT NOT NULL UNIQUE, stage TEXT NOT NULL,
    step INTEGER NOT NULL, kind TEXT NOT NULL, parent TEXT, path TEXT NOT NULL, config_hash TEXT NOT NULL,
    data_fingerprint TEXT NOT NULL, weights_sha256 TEXT NOT NULL, versions TEXT NOT NULL, created_at TEXT NOT NULL)""",
    """CREATE TABLE scores (
    identity TEXT NOT NULL REFERENCES checkpoints (identity), split TEXT NOT NULL, domain TEXT NOT NULL,
    mean REAL NOT NULL, stderr REAL NOT NULL, n INTEGER NOT NULL, k INTEGER NOT NULL, pass_at_k REAL,
    evaluation_hash TEXT NOT NULL, PRIMARY KEY (identity, split, domain))""",
    """CREATE TABLE gates (
    identity TEXT NOT NULL REFERENCES checkpoints (identity), rule TEXT NOT NULL, domain TEXT NOT NULL,
    threshold REAL, value REAL, passed INTEGER NOT NULL, action TEXT NOT NULL)""",
    "CREATE TABLE events (time TEXT NOT NULL, stage TEXT NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL)",
    f"PRAGMA user_version = {VERSION}",
)


def connect(path: Path) -> sqlite3.Connection:
    """Open the registry file, with its tables when it is new. Raises `RegistryError` when it is something else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, isolation_level=None)
    database.row_factory = sqlite3.Row
    try:
        database.execute("PRAGMA synchronous = EXTRA")
        database.execute("PRAGMA foreign_keys = ON")
        if _version(database) == 0:
            _create(database)
        found = _version(database)
    except sqlite3.DatabaseError as error:
        database.close()
        raise RegistryError(
            f"{path} cannot be opened as a registry ({error}).",
            "Wait for the process that holds it, or restore the file from a copy.",
        ) from error
    if found != VERSION:
        database.close()
        raise RegistryError(
            f"{path} has registry format {found}, this Cascade reads {VERSION}.", "Use the Cascade that made the run."
        )
    return database


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Everything inside happens or nothing. Raises `RegistryError` when another process keeps the file locked."""
    try:
        database.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        raise RegistryError(
            f"The registry could not be written within {LOCK_TIMEOUT_S:.0f} s ({error}).",
            "Stop the other process that writes to this run.",
        ) from error
    with database:  # commits, or rolls back on an exception
        yield database


def _version(database: sqlite3.Connection) -> int:
    return database.execute("PRAGMA user_version").fetchone()[0]


def _create(database: sqlite3.Connection) -> None:
    with transaction(database):
        if _version(database) == 0:  # another process may have been first
            for statement in SCHEMA:
                database.execute(statement)
