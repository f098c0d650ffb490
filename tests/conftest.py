from __future__ import annotations

import pytest
import torch

from envs.toy import ToyDenoiser

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy() -> ToyDenoiser:
    return ToyDenoiser()
