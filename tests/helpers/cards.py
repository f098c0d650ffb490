"""What the model cards of the checkpoints that ship say."""

from __future__ import annotations

import re
from pathlib import Path


def accuracies(folder: Path) -> dict[str, tuple[float, float]]:
    """Return each task's accuracy in %, one token per step and all positions in one step."""
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) % \(.*?\) \| ([\d.]+) %", (folder / "README.md").read_text(), re.M)
    return {task: (float(slow), float(fast)) for task, slow, fast in rows}
