"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomic(file: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old one or the new one whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replaced(file) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replaced(file: Path) -> Iterator[Path]:
    """Give a new file to write, which takes the place of another one when it is done, and is gone if it isn't."""
    partial = file.with_name(file.name + ".tmp")
    # What a killed process left, or a stranger's link to a file that is not to be written.
    partial.unlink(missing_ok=True)
    try:
        yield partial
        os.replace(partial, file)
    except BaseException:
        # On a full disk the part that was written only takes up room.
        partial.unlink(missing_ok=True)
        raise


def write_json(file: Path, data: Any) -> None:
    """Write JSON atomically."""
    write_atomic(file, json.dumps(data, indent=1) + "\n")
