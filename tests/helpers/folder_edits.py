"""Editing a policy's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def edit(**changes: Any) -> Callable[[Path], object]:
    """Change fields of config.json; "network.x" is the x of its network, ... removes the field."""

    def damage(folder: Path) -> None:
        data = json.loads((folder / "config.json").read_text())
        for key, value in changes.items():
            place = data["network"] if key.startswith("network_") else data
            place[key.removeprefix("network_")] = value
            if value is ...:
                del place[key.removeprefix("network_")]
        (folder / "config.json").write_text(json.dumps(data))

    return damage
