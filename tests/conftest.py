from __future__ import annotations

import os

# Before torch is imported, and for the processes that tests start: they share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from envs.models.toy import ToyDenoiser

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy() -> ToyDenoiser:
    return ToyDenoiser()
