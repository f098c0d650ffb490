"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_atomic(file: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old one or the new one whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".tmp")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(partial, file)
    except OSError:
        # On a full disk the part that was written only takes up room.
        partial.unlink(missing_ok=True)
        raise


def write_json(file: Path, data: Any) -> None:
    """Write JSON atomically."""
    write_atomic(file, json.dumps(data, indent=1) + "\n")
