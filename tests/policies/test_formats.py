"""Exported policies: the same commits as the decoder's for the same logits, in each engine's own terms."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from denoisers import EOS, MASK, PAD, A, V, tiny_model
from engine_blocks import (
    CONFIG,
    ENGINES,
    POLICIES,
    ROWS,
    SIZES,
    Told,
    blocks_of,
    expected,
    load,
    policy_of,
    write_engine,
)
from networks import perturbed
from torch import Tensor

from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings
from envs.models.adapter import MaskedLMDenoiser
from envs.models.load import load_denoiser
from policies import LearnedPolicy, NetworkConfig, UnmaskingNetwork, decode, save
from policies.calibration import Calibration, DialPoint
from policies.formats.engine import SHIPPED
from policies.networks.block_filter import BlockFilter, BlockFilterConfig
from policies.networks.dit import DiTConfig, DiTNetwork
from train.command.config import parse
from train.command.config_values import ConfigError
from train.command.errors import UserError
from train.export import ExportConfig
from train.export import main as export


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for packages that can be imported while the test runs."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0].startswith("unmasking_"):
            del sys.modules[name]


# Blocks, and what the decoder does with them.


def imported(name: str, engine: str, packages: Path) -> Any:
    """The package that a policy is exported to, imported."""
    write_engine(POLICIES[name], engine, packages, end_ids=(EOS,))
    return importlib.import_module(f"unmasking_{engine}")


@pytest.mark.parametrize("name", POLICIES)
def test_a_block_is_decided_as_the_decoder_does(name: str, packages: Path) -> None:
    write_engine(POLICIES[name], "diffusers", packages, end_ids=(EOS,))
    policy = block_policy(packages / "unmasking_diffusers")
    committed = 0
    for size in (4, 7, 33):
        logits, tokens, _ = blocks_of(size)
        commit, predicted, confidence = policy.decide(logits, tokens == MASK, MASK)
        assert torch.equal(torch.where(commit, predicted, tokens), expected(name, size))
        assert bool(commit.any(1).all())
        assert not bool((predicted == MASK).any())
        assert float(confidence.min()) >= 0
        assert float(confidence.max()) <= 1
        committed += int(commit.sum())
    # What passes no threshold goes one by one.
    assert (committed == 3 * ROWS) is (name == "never")


def block_policy(folder: Path) -> Any:
    """An exported policy, from its own module and nothing else of ours."""
    spec = importlib.util.spec_from_file_location("unmasking_block_policy", folder / "block_policy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.BlockPolicy.load(folder)


def test_a_block_without_masks_is_left_alone_and_one_beside_it_is_not(packages: Path) -> None:
    write_engine(POLICIES["trained"], "diffusers", packages, end_ids=(EOS,))
    policy = block_policy(packages / "unmasking_diffusers")
    logits, tokens, _ = blocks_of(8, 2)
    masked = torch.stack([torch.zeros(8, dtype=torch.bool), tokens[1] == MASK])
    commit, *_ = policy.decide(logits, masked, MASK)
    assert not commit[0].any()
    assert torch.equal(commit[1:], policy.decide(logits[1:], masked[1:], MASK)[0])


def test_the_exported_module_needs_torch_and_safetensors_only() -> None:
    text = (SHIPPED / "block_policy.py").read_text()
    names = {line.split()[1].partition(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert names - set(sys.stdlib_module_names) == {"torch", "safetensors"}
    assert not re.search(r"\.item\(|\.tolist\(|\.cpu\(|\.numpy\(|nonzero|\[masked\]", text)  # each waits for the device


def test_a_speed_is_looked_up_as_here(packages: Path) -> None:
    places = [(64, 0.0, 9.0), (64, 0.5, 6.0), (64, 1.0, 7.0), (8, 0.0, 5.0), (8, 1.0, 4.0)]
    points = [DialPoint(block, speed, 0.9, (0.8, 1.0), nfe, (1.0, 9.0)) for block, speed, nfe in places]
    policy = LearnedPolicy(perturbed(replace(CONFIG, has_dial=True), 0.1), calibration=Calibration(points))
    write_engine(policy, "diffusers", packages, end_ids=(EOS,))
    module = importlib.import_module("unmasking_diffusers.block_policy")
    for size, speed in itertools.product((4, 16, 32, 64), (0.0, 0.2, 0.6, 1.0)):
        there = module.BlockPolicy.load(packages / "unmasking_diffusers", speed)
        assert there._place(size) == policy.tuned(size, speed=speed).speed
        # Exported with a speed it is that of the block that is served, too.
        write_engine(policy, "lmdeploy", packages / "set", end_ids=(EOS,), speed=speed)
        assert block_policy(packages / "set/unmasking_lmdeploy")._place(size) == there._place(size)
    with pytest.raises(ValueError, match=r"speed is 1\.5: it must be 0 \(slow\) to 1"):
        module.BlockPolicy.load(packages / "unmasking_diffusers", 1.5)


# diffusers, with its own pipeline.


class Model(torch.nn.Module):
    """A model as `LLaDA2Pipeline` calls it, around one that numbers its positions itself."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.forwards = model, 0

    device, dtype = torch.device("cpu"), torch.float32

    def forward(self, ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Any:
        self.forwards += 1
        return self.model(input_ids=ids, attention_mask=attention_mask)


@pytest.mark.slow
def test_diffusers_commits_what_the_decoder_does(packages: Path) -> None:
    pytest.importorskip("diffusers")
    scheduler = imported("trained", "diffusers", packages).UnmaskingPolicyScheduler()
    for size in SIZES:
        logits, tokens, _ = blocks_of(size)
        done = scheduler.step(logits, 0, tokens, mask_token_id=MASK, threshold=0.7, editing_threshold=0.5)
        assert torch.equal(done.prev_sample, expected("trained", size))
        assert torch.equal(done.transfer_index, done.prev_sample != tokens)


@pytest.mark.slow
@pytest.mark.parametrize("block", [4, 8, 16])
def test_the_pipeline_of_diffusers_writes_what_the_decoder_does(block: int, packages: Path, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    model, tokenizer = tiny_model()
    denoiser = MaskedLMDenoiser(model, tokenizer)
    policy = policy_of(features=("is_eos", "entropy", "margin", "repeated"))
    write_engine(policy, "diffusers", packages, end_ids=denoiser.end_ids)
    cls = importlib.import_module("unmasking_diffusers").UnmaskingPolicyScheduler
    cls(block_length=block).save_pretrained(tmp_path / "saved")
    scheduler = cls.from_pretrained(tmp_path / "saved")
    assert scheduler.config.block_length == block
    prompts = ["copy . . : a b c . . =", "sort : d a =", "reverse q w e =", "add 1 2 : 3 4 5 =", "sort . : b a c d ="]
    wrapped = Model(model)
    pipeline = diffusers.LLaDA2Pipeline(model=wrapped, scheduler=scheduler, tokenizer=tokenizer)
    pipeline.set_progress_bar_config(disable=True)
    for prompt in prompts:
        ids = denoiser.encode_prompt(prompt)
        length = 16 + -(len(ids) + 16) % block  # ends where a block does
        settings = DecodingSettings(length, block, 0.0, policy.features, False, True, "truncated", "absolute")
        [ours] = decode(denoiser, [prompt], policy, settings)
        wrapped.forwards = 0
        out = pipeline(
            input_ids=torch.tensor([ids]),
            gen_length=length,
            eos_token_id=denoiser.eos_id,
            mask_token_id=denoiser.mask_id,
        )
        end = [*ours.tokens, denoiser.eos_id].index(denoiser.eos_id)
        assert out.sequences[0, :end].tolist() == ours.tokens[:end]
        assert wrapped.forwards == ours.nfe
        if end == length:
            assert denoiser.mask_id not in out.sequences


def test_rows_of_a_pipeline_end_each_for_itself(packages: Path) -> None:
    """A row that has ended keeps its masks from others' loops: they become ends of text, and nothing waits for them."""
    pytest.importorskip("diffusers")
    scheduler = imported("untrained", "diffusers", packages).UnmaskingPolicyScheduler()
    logits = torch.full((2, 4, V), -9.0)
    logits[0, 0, EOS] = logits[1, :, A] = 9.0
    logits[0, 1:] = 0.0
    sample = torch.full((2, 4), MASK)
    done = scheduler.step(logits, 0, sample, mask_token_id=MASK)
    assert done.prev_sample[0].tolist() == [EOS, MASK, MASK, MASK]
    sequence = torch.cat([torch.full((2, 3), A), done.prev_sample], 1)
    none = torch.zeros(2, dtype=torch.bool)
    finished = scheduler.check_eos_finished(sequence, done.sampled_tokens, done.transfer_index, none, EOS, MASK, 3)
    assert finished.tolist() == [True, False]
    assert sequence[0].tolist() == [A] * 3 + [EOS] * 4
    assert not scheduler.check_block_should_continue(
        step_idx=1,
        masks_remaining=True,
        editing_enabled=True,
        editing_transfer_index=done.editing_transfer_index,
        post_steps=0,
        max_post_steps=16,
        finished=finished,
    )


def test_diffusers_refuses_what_the_policy_does_not_do(packages: Path) -> None:
    pytest.importorskip("diffusers")
    scheduler = imported("untrained", "diffusers", packages).UnmaskingPolicyScheduler()
    logits, tokens, _ = blocks_of(4)
    with pytest.raises(ValueError, match=r"temperature is 0\.7: the policy decides about the likeliest tokens"):
        scheduler.step(logits, 0, tokens, mask_token_id=MASK, temperature=0.7)
    with pytest.raises(ValueError, match="mask_token_id is None"):
        scheduler.step(logits, 0, tokens)


# The others, with stubs of the signatures that their releases have.


def stub(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> ModuleType:
    """Put a module into place, and its parents."""
    parts = name.split(".")
    for i in range(1, len(parts)):
        if ".".join(parts[:i]) not in sys.modules:
            monkeypatch.setitem(sys.modules, ".".join(parts[:i]), ModuleType(".".join(parts[:i])))
    module = ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)
    if len(parts) > 1:
        monkeypatch.setattr(sys.modules[name.rpartition(".")[0]], parts[-1], module, raising=False)
    return module


class DllmAlgorithm:
    """SGLang's base class, as far as an algorithm sees it."""

    def __init__(self, config: Any) -> None:
        self.block_size, self.mask_id = config.block_size, config.mask_id
        self.fdfo = config.first_done_first_out_mode


@pytest.fixture
def sglang(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The registry of stand-ins for SGLang's modules."""
    known: dict[str, Any] = {}
    stub(monkeypatch, "sglang.srt.dllm.algorithm", algo_name_to_cls=known)
    stub(monkeypatch, "sglang.srt.dllm.algorithm.base", DllmAlgorithm=DllmAlgorithm)
    return known


def sglang_algorithm(known: dict[str, Any], packages: Path, size: int, **options: Any) -> Any:
    name, function = entry_point(packages, "sglang.srt.plugins")
    getattr(importlib.import_module(name), function)()
    config = SimpleNamespace(block_size=size, mask_id=MASK, algorithm_config=options, first_done_first_out_mode=True)
    return known["UnmaskingPolicy"](config)


def entry_point(packages: Path, group: str) -> tuple[str, str]:
    about = tomllib.loads((packages / "pyproject.toml").read_text())
    [value] = about["project"]["entry-points"][group].values()
    module, function = value.split(":")
    return module, function


@pytest.mark.slow
@pytest.mark.parametrize("is_newer", [False, True])
def test_sglang_commits_what_the_decoder_does(is_newer: bool, sglang: dict[str, Any], packages: Path) -> None:
    write_engine(POLICIES["trained"], "sglang", packages, end_ids=(EOS,))
    for size in SIZES:
        logits, tokens, known = blocks_of(size)
        algorithm = sglang_algorithm(sglang, packages, size)
        prompt = torch.arange(size) < known.unsqueeze(1)
        ids = tokens.masked_fill(prompt & (torch.arange(size) == 0), MASK).int().flatten()  # a prompt may say the mask
        forward = SimpleNamespace(batch_size=ROWS, input_ids=ids, dllm_prompt_mask=prompt)
        flat: Any = logits.view(-1, V)
        done = algorithm.step(forward, SimpleNamespace(full_logits=flat) if is_newer else flat, [None] * ROWS)
        assert forward.input_ids is ids
        after, inside = ids.view(ROWS, size).long(), ~prompt
        assert torch.equal(after[inside], expected("trained", size)[inside])
        assert done == [False] * ROWS


@pytest.mark.parametrize("fdfo", [False, True])
def test_sglang_fills_whole_blocks_in_both_of_its_loops(fdfo: bool, sglang: dict[str, Any], packages: Path) -> None:
    write_engine(POLICIES["trained"], "sglang", packages, end_ids=(EOS,))
    algorithm = sglang_algorithm(sglang, packages, 8)
    logits, tokens, known = blocks_of(8, 16)
    forward = SimpleNamespace(batch_size=16, input_ids=tokens.clone().flatten(), dllm_prompt_mask=None)
    policy = POLICIES["trained"]
    settings = DecodingSettings(8, 8, 0.0, policy.features, False, False, "truncated", "absolute")
    batch = DecodingBatch(Told(logits, known), 16, settings)
    load(batch, tokens, known)
    while batch.running.any():
        batch.apply(policy.act(batch.forward()))
    rounds, emitted = torch.zeros(16, dtype=torch.long), torch.zeros(16, dtype=torch.bool)
    for _ in range(9):
        done = torch.tensor(algorithm.step(forward, logits.view(-1, V), [None] * 16))
        rounds += ~emitted
        emitted = emitted | done if fdfo else done
        if emitted.all():
            break
    assert emitted.all()
    if fdfo:
        assert torch.equal(rounds, batch.nfe + 1)  # the last keeps the cache
    ids = forward.input_ids.view(16, 8)
    assert not (ids == MASK).any()
    for row, part in enumerate(known.tolist()):
        assert ids[row, part:].tolist() == batch.tokens(row)[: 8 - part]


def test_the_options_of_sglang_are_read(sglang: dict[str, Any], packages: Path) -> None:
    write_engine(POLICIES["dial"], "sglang", packages, end_ids=(EOS,), speed=0.25)
    options = yaml.safe_load((packages / "unmasking.yaml").read_text())
    assert options == {"speed": 0.25}
    assert sglang_algorithm(sglang, packages, 4, **options).policy._place(4) == 0.25
    assert sglang_algorithm(sglang, packages, 4, speed=1).policy._place(4) == 1
    assert sglang_algorithm(sglang, packages, 4).policy._place(4) == 0.25
    write_engine(POLICIES["dial"], "sglang", packages, end_ids=(EOS,))
    assert yaml.safe_load((packages / "unmasking.yaml").read_text()) == {"speed": None}
    assert sglang_algorithm(sglang, packages, 4).policy._place(4) == 0.75


class DLLMModelAgentStrategy:
    """LMDeploy's strategy, as far as it builds its unmasking."""

    def __init__(self, dllm_config: Any, dllm_mask_token: int) -> None:
        self.unmasking_processor: Any = None


@pytest.mark.parametrize("sizes", [(4, 33), pytest.param(SIZES, marks=pytest.mark.slow(seconds=3))])
def test_lmdeploy_commits_what_the_decoder_does(
    sizes: Sequence[int], monkeypatch: pytest.MonkeyPatch, packages: Path
) -> None:
    stub(monkeypatch, "lmdeploy.pytorch.consts", DLLM_MASKED=0, DLLM_UNMASKED=1, DLLM_CACHED=2)
    agent = stub(
        monkeypatch, "lmdeploy.pytorch.strategies.dllm.model_agent", DLLMModelAgentStrategy=DLLMModelAgentStrategy
    )
    imported("trained", "lmdeploy", packages).install()
    for size in sizes:
        logits, tokens, known = blocks_of(size)
        config = SimpleNamespace(block_length=size)
        process = agent.DLLMModelAgentStrategy(dllm_config=config, dllm_mask_token=MASK).unmasking_processor
        masked = tokens == MASK
        states = torch.where(masked, 0, 1).to(torch.uint8)
        states[torch.arange(size) < known.unsqueeze(1)] = 2
        # What stands at a masked position may be anything: the state says that it is one.
        seen = tokens.masked_fill(masked, A)
        after, ids = process(logits.view(-1, V), seen.flatten(), torch.full((ROWS * size,), MASK), states.flatten())
        after, ids = after.view(ROWS, size), ids.view(ROWS, size)
        assert after.dtype == torch.uint8
        assert torch.equal((after == 0), expected("trained", size) == MASK)
        assert torch.equal(after[~masked], states[~masked])
        assert torch.equal(ids[after != 0], expected("trained", size)[after != 0])
        whole = torch.ones(size, dtype=torch.uint8)
        cached, same = process(logits[0], tokens[0], tokens[0], whole)
        assert cached.tolist() == [2] * size
        assert torch.equal(same, tokens[0])


class DiffusionSampler:
    """The dllm-plugin's sampler, as far as it keeps what decides."""

    def __init__(self, base_sampler: Any, threshold: float) -> None:
        self.threshold = threshold
        self._remask_fn: Any = None


@pytest.mark.slow
def test_the_dllm_plugin_commits_what_the_decoder_does(monkeypatch: pytest.MonkeyPatch, packages: Path) -> None:
    monkeypatch.setattr(DiffusionSampler, "__init__", DiffusionSampler.__init__)  # put back afterwards
    stub(monkeypatch, "dllm_plugin.sampling.diffusion_sampler", DiffusionSampler=DiffusionSampler)
    write_engine(POLICIES["trained"], "dllm_plugin", packages, end_ids=(EOS,))
    name, function = entry_point(packages, "vllm.general_plugins")
    getattr(importlib.import_module(name), function)()
    sampler = DiffusionSampler(None, threshold=0.9)
    for size in SIZES:
        logits, tokens, _ = blocks_of(size)
        draft, all_done, count = sampler._remask_fn(
            logits=logits, input_draft=tokens, mask_token_id=MASK, threshold=sampler.threshold
        )
        assert torch.equal(draft, expected("trained", size))
        assert torch.equal(all_done, (draft != MASK).all(1))
        assert torch.equal(count, (draft != tokens).sum(1))


# What can't be exported, and the command.

HIDDEN = DiTConfig(hidden_size=16, feedforward_size=8, num_probabilities=1, hidden_state_size=128)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (LearnedPolicy(perturbed(NetworkConfig())), r"sees the whole buffer \(policy\.context is buffer\)"),
        (policy_of(features=("changed",)), "reads changed, which compares with the step before"),
        (policy_of(features=("age",)), "reads age, which counts the steps since a belief was computed"),
        (LearnedPolicy(DiTNetwork(DiTConfig(hidden_size=16, feedforward_size=8))), "its network is a DiTNetwork"),
        (LearnedPolicy(DiTNetwork(HIDDEN)), "it reads the dLLM's hidden states"),
        (LearnedPolicy(BlockFilter(BlockFilterConfig(8, 4))), "its network is a BlockFilter"),
        (LearnedPolicy(UnmaskingNetwork(CONFIG, perturbed(CONFIG))), "it has a filter inside"),
    ],
)
def test_what_reads_more_than_a_block_is_refused(policy: LearnedPolicy, reason: str, tmp_path: Path) -> None:
    for engine in ENGINES:
        with pytest.raises(ValueError, match=f"can't run in a serving engine.*{reason}.*configs/engine.yaml"):
            write_engine(policy, engine, tmp_path / "out", end_ids=(EOS,))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_command_writes_a_package(engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = policy_of(has_dial=True)
    policy.trained = {"model": "tiny", "block_lengths": [4, 64], "tasks": "a|b\n# c"}
    folder, out = save(policy, tmp_path / "policy"), tmp_path / "out $(id)"
    words = [str(folder), "--to", engine, "--out", str(out), "--speed", "0.25"]
    assert export(parse(ExportConfig, None, words, positional="policy")) == out
    assert str(out) in capsys.readouterr().out
    package = out / f"unmasking_{engine}"
    assert {file.name for file in package.iterdir()} == {
        "__init__.py",
        "block_policy.py",
        "policy.json",
        "policy.safetensors",
    }
    settings = json.loads((package / "policy.json").read_text())
    assert (settings["place"], settings["speed"]) == (0.5, 0.25)
    assert settings["end_ids"] == list(load_denoiser("tiny").end_ids)
    about = tomllib.loads((out / "pyproject.toml").read_text())
    assert about["tool"]["setuptools"]["packages"] == [package.name]
    readme = (out / "README.md").read_text()
    assert f"pip install '{out}'" in readme
    assert "{folder}" not in readme
    assert "| tasks | a\\|b # c |" in readme


def test_another_dllm_is_refused_there_too(tmp_path: Path) -> None:
    policy = policy_of(features=())
    policy.trained = {"model": "tiny", "dllm": {"mask_id": MASK}}
    logits, tokens, _ = blocks_of(4, 2)
    folder, about = save(policy, tmp_path / "policy"), ["--to", "lmdeploy", "--out"]
    for is_any, words in ((False, []), (True, ["--any_dllm", "true"])):
        out = tmp_path / str(is_any)
        export(parse(ExportConfig, None, [str(folder), *about, str(out), *words], positional="policy"))
        there = block_policy(out / "unmasking_lmdeploy")
        there.decide(logits, tokens == MASK, MASK)
        assert ("trained for the dLLM `tiny` and refuses others" in (out / "README.md").read_text()) is not is_any
        if is_any:
            there.decide(logits, tokens == MASK, PAD)
        else:
            with pytest.raises(
                ValueError, match=f"mask token is {PAD}, but .* mask token is {MASK}: .* --any_dllm true"
            ):
                there.decide(logits, tokens == MASK, PAD)


def test_the_commands_name_the_model_that_it_is_for(tmp_path: Path) -> None:
    policy = policy_of(features=())
    policy.trained = {"model": "user/model", "dllm": {"mask_id": MASK}}
    for engine in ENGINES:
        text = (write_engine(policy, engine, tmp_path / engine) / "README.md").read_text()
        assert ("user/model" in text.split("| trained with")[0]) is (ENGINES[engine].model in ENGINES[engine].usage)
        assert "LLaDA2.0" not in text


def test_ends_of_texts_must_be_known(tmp_path: Path) -> None:
    folder = save(policy_of(features=("is_eos",)), tmp_path / "policy")
    with pytest.raises(ValueError, match="end_ids is empty, but the policy reads is_eos: give the tokens"):
        export(ExportConfig(str(folder), tmp_path / "out", "sglang"))
    with pytest.raises(ValueError, match="end_ids holds -1: tokens are numbered from 0"):
        export(ExportConfig(str(folder), tmp_path / "out", "sglang", end_ids=[9, -1]))
    with pytest.raises(ValueError, match=r"speed is 0\.5, but the policy has no dial"):
        export(ExportConfig(str(folder), tmp_path / "out", "sglang", end_ids=[9], speed=0.5))
    assert not (tmp_path / "out").exists()
    export(ExportConfig(str(folder), tmp_path / "out", "sglang", end_ids=[9, 7, 9]))
    found = json.loads((tmp_path / "out" / "unmasking_sglang" / "policy.json").read_text())
    assert found["end_ids"] == [9, 7]


def test_a_word_without_a_flag_is_the_policy() -> None:
    assert parse(ExportConfig, None, ["a/b", "--to", "folder"], positional="policy").policy == "a/b"
    with pytest.raises(ConfigError, match="'c' stands alone"):
        parse(ExportConfig, None, ["a/b", "c"], positional="policy")


def test_an_exporter_is_named_and_given_what_it_reads() -> None:
    for words, message in (
        ("--to sglan", r"to is 'sglan': did you mean sglang\?"),
        ("--to onnx", "to is 'onnx': choose from diffusers, sglang, lmdeploy, dllm_plugin, hub, ml_rl_dllm, folder"),
        (
            "--to folder --speed 0.5",
            "speed is given, but not used: to is folder; it is for diffusers, sglang, lmdeploy",
        ),
        ("--to sglang --license mit", "license is given, but not used: to is sglang; it is for hub$"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse(ExportConfig, None, ["a/b", *words.split()], positional="policy")


def test_a_damaged_evaluation_stops_only_those_who_read_it(tmp_path: Path) -> None:
    folder = save(policy_of(features=()), tmp_path / "run" / "policy")
    (tmp_path / "run" / "evaluation.json").write_text("[{}]")
    export(ExportConfig(str(folder), tmp_path / "engine", "sglang"))
    with pytest.raises(UserError, match="its evaluation can't be read"):
        export(ExportConfig(str(folder), tmp_path / "hub", "hub"))
    assert not (tmp_path / "hub").exists()
