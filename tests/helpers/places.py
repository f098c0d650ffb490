"""Where a test runs: what stands in for a dLLM here reads it, and the fixture ``device`` sets it."""

from __future__ import annotations

import torch

here = torch.device("cpu")
"""Device of the test that runs now."""


def card() -> torch.device | None:
    """Return the graphics card, if there is one, or what is pretended to be one (see `pretended_card`)."""
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    pretended = torch._C._get_privateuse1_backend_name()
    return None if pretended == "privateuseone" else torch.device(pretended, 0)
