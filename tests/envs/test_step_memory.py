"""What a decoding step takes of memory and time in half precision, measured against what is computed for it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import build
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from envs import DecodingBatch, DecodingSettings, MaskedLMDenoiser, load_denoiser
from envs.models import FAMILIES, step_memory
from envs.view import Action

FAMILY_BUILDERS = {"llada": "llada", "dream": "dream", "fast_dllm_v2": "fast_dllm_v2", "sdar": "sdar"}
FAMILY_BUILDERS |= {"a2d_mdlm": "a2d", "a2d_bd3lm": "a2d", "modernbert": "modernbert"}


class Linears(TorchFunctionMode):
    """Counts the layers that run, and those whose input is not in one piece."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.scattered: list[tuple[int, ...]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            self.seen += 1
            if not args[0].is_contiguous():
                self.scattered.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "features"),
    [
        *((name, features) for name in FAMILY_BUILDERS for features in ((), ("hidden",))),
        *((name, ("leave_one_out",)) for name in ("llada", "dream", "a2d_mdlm")),  # the others refuse it
    ],
)
def test_every_layer_gets_its_input_in_one_piece(tmp_path: Path, name: str, features: tuple[str, ...]) -> None:
    """In half precision on the CPU, a layer otherwise copies its weights once a row."""
    denoiser = load_denoiser(str(build(FAMILY_BUILDERS[name], tmp_path / "x")), family=name, dtype="bfloat16")
    assert isinstance(denoiser, MaskedLMDenoiser)
    block = 4 if FAMILIES[name].block_length else None
    batch = DecodingBatch(denoiser, 3, DecodingSettings(8, block, features=frozenset(features)))
    batch.load([0, 1, 2], [[5, 6, 7, 8], [5], [9, 9]])
    with Linears() as linears:
        while bool(batch.running.any()):
            batch.forward()
            batch.apply(Action(batch.eligible()))
    assert linears.seen > 10
    assert linears.scattered == []


MEASURE = """
import ctypes, gc, json, sys
import torch
from envs import Action, DecodingBatch, DecodingSettings, load_denoiser

torch.set_num_threads(1)
libc = ctypes.CDLL("libc.so.6")
# Memory that is let go goes back to the system, and is not counted again: M_MMAP_THRESHOLD is 65536.
assert libc.mallopt(-3, 65536) == 1


def resident(key):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


denoiser = load_denoiser(sys.argv[1], dtype="bfloat16")
found = {}
features = json.loads(sys.argv[2])
gc.freeze()  # modules, which each collection below would look through
for i, feature in enumerate(2 * features):
    sampled = feature == "sampled"
    settings = DecodingSettings(32, None, float(sampled), frozenset() if sampled else frozenset({feature} - {""}))
    batch = DecodingBatch(denoiser, 8, settings)
    batch.load(range(8), [[5] * (row + 1) for row in range(8)])
    gc.collect()
    libc.malloc_trim(0)
    before = resident("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")  # the highest mark starts anew
    # First one step each: what is set up once is not of a step.
    for step in range(1 + (i >= len(features))):
        batch.forward()
        batch.apply(Action(torch.arange(32).expand(8, 32) == step))
    found[feature] = resident("VmHWM") - before
    del batch
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system does not measure it")
@pytest.mark.parametrize("family", ["a2d_mdlm", "modernbert"])
def test_a_step_in_bfloat16_takes_what_was_computed(tmp_path: Path, family: str, python: str) -> None:
    """The peak of two steps, weights included, within a tenth: a wide head is the hard case.

    A masked language model's head runs on the prompt too.
    """
    rows = 40_000
    folder = build(FAMILY_BUILDERS[family], tmp_path / family, vocab_size=rows)
    if family == "a2d_mdlm":
        widen(folder, rows)
    features = ["", "entropy", "top", "token_probability", "best_probabilities", "hidden", "attention"]
    features += ["probabilities", "sampled"]
    program = tmp_path / "measure.py"
    program.write_text(MEASURE)
    answer = subprocess.run(
        [python, str(program), str(folder), json.dumps(features)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    measured = json.loads(answer.stdout.splitlines()[-1])
    config = load_denoiser(str(folder), dtype="bfloat16").model.config  # type: ignore[attr-defined]
    wrong = {}
    for feature in features:
        asked = frozenset({feature} - {"", "sampled"})
        parts = step_memory(config, 8, 8, 32, torch.bfloat16, asked, feature == "sampled")
        ratio = (parts["weights"] + measured[feature]) / parts["peak"]
        if not 0.9 < ratio < 1.1:
            wrong[feature] = (ratio, parts)
    assert not wrong


def widen(folder: Path, rows: int) -> None:
    """Give a checkpoint an embedding of more rows."""
    from safetensors.torch import load_file, save_file

    tensors: dict[str, Tensor] = load_file(folder / "model.safetensors")
    name = "model.embed_tokens.weight"
    more = torch.randn(rows - len(tensors[name]), tensors[name].shape[1], generator=torch.Generator().manual_seed(0))
    tensors[name] = torch.cat([tensors[name], more])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
