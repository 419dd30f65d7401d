"""LiveCodeBench's hidden tests, which it packs: JSON in a pickle, compressed, in base 64."""

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib
from typing import Any

from cascade.errors import DataError

MAX_BYTES = 2**30  # of one row's tests, unpacked


class _TextOnly(pickle.Unpickler):
    """Reads text and refuses everything that would import or call."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise pickle.UnpicklingError(f"{module_name}.{global_name}")


def unpacked(told: Any) -> Any:
    """Tests as they are, or those packed. Raises `DataError` for what is neither."""
    if not isinstance(told, str) or told.lstrip()[:1] in ("[", "{", ""):
        return told
    try:
        unzipper = zlib.decompressobj()
        data = unzipper.decompress(base64.b64decode(told), MAX_BYTES)
        text = _TextOnly(io.BytesIO(data)).load()
        return json.loads(text)
    except (ValueError, zlib.error, pickle.UnpicklingError, EOFError, TypeError, LookupError) as error:
        raise DataError(f"The tests cannot be unpacked: {error}.", "Give JSON, or what LiveCodeBench gives.") from None
