"""Seeds by name: the same on every machine, and different for everything that must not repeat."""

from __future__ import annotations

import hashlib


def derived_seed(*parts: object) -> int:
    """A 63-bit seed from a name, e.g. `derived_seed(0, "if_rl")`."""
    digest = hashlib.blake2b("\x00".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
