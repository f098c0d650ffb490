"""Exported policies inside SGLang's and LMDeploy's own released files: ``python tests/helpers/engines.py``.

Downloads both wheels (146 MB; nothing of them is installed), lets pip install the exported packages, and decodes: with
SGLang's own plug-in loader, configuration and loops, and LMDeploy's own configuration, factory and model agent. What
these files import and a CPU can't have is stubbed; the model is a table of logits. For vLLM's dllm-plugin, which no
registry has, give a clone with ``--dllm_plugin``. ``--files`` keeps what was downloaded.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import yaml
from denoisers import EOS, MASK, A, V
from engine_blocks import POLICIES, ROWS, SIZES, Told, blocks_of, expected, load, write_engine
from torch import Tensor

from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings
from train.command.files import write_atomic

WHEELS = {"sglang": "0.5.23", "lmdeploy": "0.18.0"}
POLICY = "trained"


def shell(name: str, folder: Path) -> None:
    """Let a package's files be imported without what its ``__init__`` imports."""
    module = ModuleType(name)
    module.__path__ = [str(folder / name.replace(".", "/"))]
    sys.modules[name] = module


class Anything(ModuleType):
    """A module that has a class of every name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def stub(*names: str, **content: Any) -> None:
    """Put modules into place, and their parents where nothing has them."""
    for name in names:
        parts = name.split(".")
        for i in range(1, len(parts) + 1):
            module = Anything(".".join(parts[:i]))
            module.__path__ = []
            sys.modules.setdefault(module.__name__, module)
        vars(sys.modules[name]).update(content)


def installed(engine: str, folder: Path) -> None:
    """Export the policy, let pip install it, and make it importable."""
    source = write_engine(POLICIES[POLICY], engine, folder / engine, end_ids=(EOS,))
    where = str(folder / "installed")
    pip("install", "--no-deps", "--target", where, str(source))
    if where not in sys.path:
        sys.path.insert(0, where)
    importlib.invalidate_caches()


def pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-q", *words], check=True, stderr=subprocess.DEVNULL)


@cache
def filled(size: int) -> tuple[Tensor, Tensor]:
    """Decode blocks to their ends: (B, N) tokens, and (B,) forwards."""
    policy, (logits, tokens, known) = POLICIES[POLICY], blocks_of(size)
    settings = DecodingSettings(size, size, 0.0, policy.features, False, False, "truncated", "absolute")
    batch = DecodingBatch(Told(logits, known), ROWS, settings)  # type: ignore[arg-type]
    load(batch, tokens, known)
    while batch.running.any():
        batch.apply(policy.act(batch.forward()))
    done = tokens.clone()
    for row, part in enumerate(known.tolist()):
        done[row, part:] = batch.buffer[row, : size - part]
    return done, batch.nfe


def check(holds: bool, what: str) -> None:
    if not holds:
        sys.exit(f"FAILED: {what}")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


# SGLang.


class Runner:
    """SGLang's model runner, with a table for a model."""

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.forwards = logits.reshape(-1, V), 0

    def forward(self, forward_batch: Any, pp_proxy_tensors: Any) -> Any:
        self.forwards += 1
        return SimpleNamespace(logits_output=SimpleNamespace(full_logits=self.logits), can_run_graph=False)


def algorithm_of(size: int, fdfo: bool, folder: Path) -> Any:
    """Build the algorithm as a server does, from its arguments and the YAML of the export."""
    from sglang.srt.dllm.algorithm.base import DllmAlgorithm

    options = folder / "unmasking.yaml"
    exported = yaml.safe_load((folder / "sglang" / "unmasking.yaml").read_text())
    write_atomic(options, yaml.safe_dump({**exported, "block_size": size}))
    arguments = SimpleNamespace(
        dllm_algorithm="UnmaskingPolicy",
        dllm_algorithm_config=str(options),
        dllm_fdfo=fdfo,
        model_path="",
        revision=None,
        max_running_requests=ROWS,
    )
    algorithm = DllmAlgorithm.from_server_args(arguments)
    check((algorithm.block_size, algorithm.fdfo) == (size, fdfo), "the algorithm has its size and its loop")
    algorithm.mask_id = MASK  # the model's is 156895, for which the table has no column
    return algorithm


def try_sglang(files: Path, folder: Path) -> None:
    """Decode blocks in SGLang's loops."""
    shell("sglang", files)
    shell("sglang.srt", files)
    model = SimpleNamespace(hf_config=SimpleNamespace(architectures=["LLaDA2MoeModelLM"]))
    stub("sglang.srt.arg_groups.overrides", resolving_view=lambda arguments: arguments)
    stub(
        "sglang.srt.configs.model_config",
        ModelConfig=SimpleNamespace(from_server_args=lambda *args, **how: model),
    )
    stub("sglang.srt.utils", is_npu=lambda: False)
    stub("sglang.srt.server_args", "sglang.srt.layers.logits_processor")
    stub("sglang.srt.model_executor.forward_batch_info", "sglang.srt.model_executor.model_runner")
    installed("sglang", folder)
    from sglang.srt.dllm.algorithm import algo_name_to_cls
    from sglang.srt.plugins import load_plugins

    check("LowConfidence" in algo_name_to_cls, "SGLang's own algorithms are there")
    check("UnmaskingPolicy" not in algo_name_to_cls, "the policy is not there yet")
    load_plugins()
    check("UnmaskingPolicy" in algo_name_to_cls, "SGLang's plug-in loader finds the policy")
    different = spent = 0
    for size in SIZES:
        logits, tokens, known = blocks_of(size)
        whole, nfe = filled(size)
        prompt = torch.arange(size) < known.unsqueeze(1)
        for fdfo in (False, True):
            algorithm, runner = algorithm_of(size, fdfo, folder), Runner(logits)
            batch = SimpleNamespace(batch_size=ROWS, input_ids=tokens.int().flatten(), dllm_prompt_mask=prompt)
            emitted, states = torch.zeros(ROWS, dtype=torch.bool), None
            rounds, first = torch.zeros(ROWS, dtype=torch.long), None
            while fdfo and not bool(emitted.all()):
                _, ids, accepted, states, _ = algorithm.run(runner, batch, states)
                first = batch.input_ids.clone() if first is None else first
                rounds += ~emitted
                emitted |= torch.tensor(accepted) == size
            if not fdfo:
                _, ids, *_ = algorithm.run(runner, batch)
                check([len(row) for row in ids] == (size - known).tolist(), "it returns what is not prompt")
                check(runner.forwards == int(nfe.max()) + 1, "a batch takes its slowest block's forwards, and one")
            if first is not None:
                different += int((first.view(ROWS, size) != expected(POLICY, size)).any(1).sum())
                check(torch.equal(rounds, nfe + 1), "a block takes the decoder's forwards, and one for its cache")
            different += int((batch.input_ids.view(ROWS, size) != whole).any(1).sum())
            spent += runner.forwards
    sizes = f"{ROWS} blocks of each size from {SIZES[0]} to {SIZES[-1]}"
    say(f"sglang {WHEELS['sglang']}: {sizes}, both loops, {spent} forwards, {different} blocks that differ")
    check(not different, "the decoder commits the same")


# LMDeploy.


def try_lmdeploy(files: Path, folder: Path) -> None:
    """Decode blocks in LMDeploy's model agent."""
    shell("lmdeploy", files)
    stub("psutil", "pybase64", "xgrammar", "zmq.asyncio")
    from lmdeploy.messages import PytorchEngineConfig
    from lmdeploy.pytorch.config import MiscConfig
    from lmdeploy.pytorch.strategies.dllm import DLLMStrategyFactory
    from lmdeploy.pytorch.strategies.dllm.model_agent import DLLMExtraInputs

    installed("lmdeploy", folder)
    importlib.import_module("unmasking_lmdeploy").install()
    different = spent = 0
    for size in SIZES:
        engine = PytorchEngineConfig(dllm_block_length=size, dllm_unmasking_strategy="low_confidence_dynamic")
        model = SimpleNamespace(dllm_block_length=None, dllm_mask_token=MASK, bos_token_id=None)
        factory = DLLMStrategyFactory(model, MiscConfig.from_engine_config(engine).dllm_config)
        strategy = factory.build_model_agent_strategy()
        logits, tokens, _ = blocks_of(size)
        whole, nfe = filled(size)
        states = torch.where(tokens == MASK, 0, 1).to(torch.uint8).flatten()
        ids = tokens.masked_fill(tokens == MASK, A).flatten()
        rounds = 0
        while not bool((states == 2).all()):
            inputs = SimpleNamespace(input_ids=ids[None], seq_length=torch.full((ROWS,), size))
            sampled = torch.full_like(ids, A)
            extra = DLLMExtraInputs(dllm_mask=states)
            ids, extra = strategy.post_sampling(inputs, logits.view(-1, V), sampled, extra)
            states, rounds = extra.dllm_mask, rounds + 1
            if rounds == 1:
                commits = torch.where((states == 0).view(ROWS, size), MASK, ids.view(ROWS, size))
                different += int((commits != expected(POLICY, size)).any(1).sum())
        different += int((ids.view(ROWS, size) != whole).any(1).sum())
        check(rounds == int(nfe.max()) + 1, "a batch takes its slowest block's forwards, and one for the cache")
        spent += rounds
    sizes = f"{ROWS} blocks of each size from {SIZES[0]} to {SIZES[-1]}"
    say(f"lmdeploy {WHEELS['lmdeploy']}: {sizes}, {spent} forwards, {different} blocks that differ")
    check(not different, "the decoder commits the same")


# vLLM's dllm-plugin.


class State:
    """What the plug-in's sampler keeps of the requests, one slot each."""

    def __init__(self, tokens: Tensor) -> None:
        rows = len(tokens)
        self._scheduled_spec_decode_tokens = {"any": True}
        self._slot_map = {str(row): row for row in range(rows)}
        self._draft_block, self._draft_block_valid = tokens.clone(), torch.ones(rows, dtype=torch.bool)
        self._denoise_step_t = torch.zeros(rows, dtype=torch.long)
        self._prompt_len_t = torch.zeros(rows, dtype=torch.long)
        self._kv_refresh_t = torch.zeros(rows, dtype=torch.bool)


def try_dllm_plugin(clone: Path, folder: Path) -> None:
    """Decode blocks in the sampler of a clone."""
    shell("dllm_plugin", clone)
    shell("dllm_plugin.sampling", clone)
    stub("vllm.v1.outputs", DraftTokenIds=SimpleNamespace)
    stub("vllm.v1.worker.gpu.sample.output", SamplerOutput=SimpleNamespace)
    installed("dllm_plugin", folder)
    importlib.import_module("unmasking_dllm_plugin").register()
    from dllm_plugin.sampling.diffusion_sampler import DiffusionSampler

    different = spent = 0
    for size in SIZES:
        logits, tokens, _ = blocks_of(size)
        whole, nfe = filled(size)
        state = State(tokens)
        sampler = DiffusionSampler(None, state, torch.device("cpu"), MASK, size, 0.9, size + 1, size)
        ends = torch.arange(ROWS + 1) * size
        batch = SimpleNamespace(req_ids=list(state._slot_map), num_reqs=ROWS, cu_num_logits_np=ends.numpy())
        emitted, rounds = torch.zeros(ROWS, dtype=torch.bool), torch.zeros(ROWS, dtype=torch.long)
        while not bool(emitted.all()):
            # What is emitted is not compared: the sampler takes tokens committed at a block's start for prompt.
            done = sampler(logits.view(-1, V), batch).num_sampled > 0
            rounds += ~emitted
            if bool((rounds == 1).all()):
                different += int((state._draft_block != expected(POLICY, size)).any(1).sum())
            filled_now = state._kv_refresh_t & ~emitted
            different += int((state._draft_block != whole).any(1)[filled_now].sum())
            emitted |= done
        check(torch.equal(rounds, nfe + 1), "a block takes the decoder's forwards, and one for its cache")
        spent += int(rounds.max())
    sizes = f"{ROWS} blocks of each size from {SIZES[0]} to {SIZES[-1]}"
    say(f"dllm-plugin: {sizes}, {spent} forwards, {different} blocks that differ")
    check(not different, "the decoder commits the same")


def main() -> None:
    """Download, unpack and try."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="*", choices=[*WHEELS, []], help="those to try; both where none is named")
    parser.add_argument("--files", type=Path, help="folder for the wheels; what it holds is not downloaded again")
    parser.add_argument("--dllm_plugin", type=Path, help="a clone of vllm-project/dllm-plugin")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="engines-") as scratch:
        files, folder = arguments.files or Path(scratch) / "files", Path(scratch) / "exported"
        trials = {"sglang": try_sglang, "lmdeploy": try_lmdeploy}
        for name in arguments.engines or ([] if arguments.dllm_plugin else WHEELS):
            version = WHEELS[name]
            if not any(files.glob(f"{name}-{version}-*.whl")):
                pip("download", "--no-deps", "--dest", str(files), f"{name}=={version}")
            [wheel] = files.glob(f"{name}-{version}-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(Path(scratch) / name, [one for one in archive.namelist() if one.endswith(".py")])
            trials[name](Path(scratch) / name, folder)
        if arguments.dllm_plugin:
            try_dllm_plugin(arguments.dllm_plugin, folder)


if __name__ == "__main__":
    main()
