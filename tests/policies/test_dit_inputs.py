"""The paper's network with other inputs: more probabilities, hidden states, no time, no mask bit."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from denoisers import A, B, Mixing, V, bits, start, tiny_model
from safetensors.torch import load_file
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from envs import UnmaskingVectorEnv
from envs.beliefs import read_beliefs
from envs.models.load import load_denoiser
from envs.models.toy import ToyDenoiser
from envs.observation import observe
from envs.view import Action
from policies import LearnedPolicy, NetworkConfig, UnmaskingNetwork, generate, load, save
from policies.formats.ml_rl_dllm import write_checkpoint
from policies.networks.dit import DiTConfig, DiTNetwork
from policies.networks.kinds import NetworkSpec
from train.algorithms.grpo_section import GRPOSection
from train.algorithms.ppo import PPOSection
from train.command.config import parse
from train.command.model_config import ModelConfig
from train.command.wandb_config import WandbConfig
from train.evaluation.measure import evaluate
from train.grpo import algorithm as grpo
from train.job.build import Algorithm, make_env, make_model
from train.job.config import EnvConfig, JobConfig
from train.job.dry_run import dry_run
from train.job.finish import export
from train.job.grpo_config import TrainGRPOConfig
from train.job.learning import learn
from train.job.ppo_config import TrainPPOConfig
from train.ppo import algorithm as ppo
from train.tracking.tracker import Tracker

SMALL = DiTConfig(hidden_size=16, feedforward_size=16, time_size=8)
VARIANTS: dict[str, dict[str, Any]] = {
    "probabilities": {"num_probabilities": 50},
    "hidden": {"hidden_state_size": 1},
    "no_time": {"reads_time": False},
    "no_mask": {"reads_mask": False},
    "neither": {"reads_time": False, "reads_mask": False, "num_probabilities": 3},
}


def shaken(config: DiTConfig) -> DiTNetwork:
    """A network with opinions: at its start mask and time count for nothing."""
    torch.manual_seed(0)
    network = DiTNetwork(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def inputs(rows: int = 3, length: int = 12, width: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    best = torch.rand(rows, length, 50, generator=generator).sort(-1, descending=True).values / 50
    return {
        "best_probabilities": best,
        "top_probability": best[..., 0],
        "hidden": torch.randn(rows, length, width, generator=generator),
        "masked": (torch.rand(rows, length, generator=generator) < 0.5).float(),
        "time": torch.rand(rows, 1, generator=generator),
    }


# The readings.


def test_best_probabilities_are_the_sorted_softmax() -> None:
    denoiser = load_denoiser("tiny")
    env = UnmaskingVectorEnv(
        6, denoiser=denoiser, tasks=["shuffle"], features=["best_probabilities", "top_probability"]
    )
    env.reset(seed=0)
    obs, *_ = env.step((env.view.confidence > 0.9).numpy())
    for row in env.batch.running.nonzero().flatten().tolist():
        tokens = torch.cat([env.batch.prompt[row, -int(env.batch.prompt_length[row]) :], env.batch.buffer[row]])
        logits = denoiser.logits(tokens.unsqueeze(0), torch.ones(1, len(tokens), dtype=torch.bool), 64)[0]
        truth = logits.double().softmax(-1).sort(-1, descending=True).values
        assert truth.shape[-1] > 50
        np.testing.assert_allclose(obs["best_probabilities"][row], truth[:, :50].numpy(), atol=1e-5)
    committed = (obs["masked"] == 0) & obs["masked"].any(1, keepdims=True)
    assert committed.any()
    assert (obs["best_probabilities"][committed][:, 0] > 0.2).all()
    assert np.array_equal(obs["best_probabilities"][..., 0], obs["top_probability"])


def test_the_mask_token_counts_and_a_small_vocabulary_is_filled_up() -> None:
    logits = torch.tensor([[[0.1, 0.4, 0.2, 0.3]]]).log()
    names = frozenset({"best_probabilities", "top_probability"})
    beliefs = read_beliefs(logits, mask_id=1, end_ids=(0,), features=names)
    best = beliefs.tensors["best_probabilities"]
    torch.testing.assert_close(best[0, 0], torch.tensor([0.4, 0.3, 0.2, 0.1, *[0.0] * 46]))
    assert torch.equal(best[..., 0], beliefs.features["top_probability"])
    assert read_beliefs(logits, mask_id=1, end_ids=(0,)).tensors == {}


def test_best_probabilities_of_finished_rows_and_beyond_the_length_are_zero() -> None:
    batch = start(Mixing(), [[A, B], [B]], 4, features=frozenset({"best_probabilities"}))
    batch.load([1], [[B]], length=3)
    best = batch.forward().tensors["best_probabilities"]
    assert best.shape == (2, 4, 50)
    assert (best[0, :, :V] > 0).all()
    assert not best[1, 3].any()
    batch.apply(Action(bits("xxxx", "x...")))
    best = batch.forward().tensors["best_probabilities"]
    assert not best[0].any()
    assert best[1, :3, 0].all()


def test_the_observation_holds_them() -> None:
    env = UnmaskingVectorEnv(
        4, denoiser="tiny", tasks=["copy"], buffer_length=16, features=["best_probabilities", "hidden"]
    )
    obs, _ = env.reset(seed=0)
    for _ in range(3):
        assert env.observation_space.contains(obs)
        given = env.view.inputs()
        assert given.keys() == obs.keys() == observe(env.view).keys()
        assert np.array_equal(obs["hidden"], given["hidden"].numpy())
        assert np.array_equal(obs["best_probabilities"], given["best_probabilities"].clamp(max=1).numpy())
        obs, *_ = env.step(env.action_space.sample())
    assert np.abs(obs["hidden"]).max() > 1  # nothing is cut off
    # What a rule asks for beyond these stays out of the observation.
    other = UnmaskingVectorEnv(1, denoiser="toy", buffer_length=8, features=["probabilities", "prompt"])
    assert set(other.reset(seed=0)[0]) == {"confidence", "masked", "eligible", "time"}


# The network.


def test_the_defaults_are_the_papers_network_to_the_bit() -> None:
    network, given = shaken(DiTConfig()), inputs()
    assert NetworkSpec.of(network).features == {"top_probability"}
    condition = network.mask_embedding((given["masked"] > 0.5).long()) + network.time_mlp(
        torch.cat([given["time"].cos().expand(3, 64), given["time"].sin().expand(3, 64)], -1)
        .bfloat16()
        .float()
        .unsqueeze(1)
        .expand(3, 12, 128)
    )
    x = network.confidence_proj(given["top_probability"].unsqueeze(-1))
    for block in network.transformer_blocks:
        x = block(x, condition)
    assert torch.equal(network(given), network.output_proj(network.final_norm(x)).squeeze(-1))
    # The weights are drawn in the order they always were, so a seed gives the same ones.
    torch.manual_seed(5)
    made = DiTNetwork(DiTConfig())
    torch.manual_seed(5)
    first = [torch.nn.Linear(128, 128), torch.nn.Linear(128, 128), torch.nn.Linear(1, 128), torch.nn.Embedding(2, 128)]
    theirs = [made.time_mlp[0], made.time_mlp[2], made.confidence_proj, made.mask_embedding]
    assert all(torch.equal(one.weight, two.weight) for one, two in zip(first, theirs, strict=True))


@pytest.mark.parametrize("changes", [{"num_probabilities": 7}, {"hidden_state_size": 6}])
def test_more_inputs_of_no_weight_change_nothing(changes: dict[str, Any]) -> None:
    narrow, given = shaken(SMALL), inputs()
    wide = DiTNetwork(replace(SMALL, **changes))
    weights = narrow.state_dict()
    size = wide.confidence_proj.in_features
    column = weights["confidence_proj.weight"]
    wide.load_state_dict({**weights, "confidence_proj.weight": torch.cat([column, torch.zeros(16, size - 1)], 1)})
    [name] = NetworkSpec.of(wide).features
    same = {**given, "top_probability": given[name][..., 0]}
    torch.testing.assert_close(wide(given), narrow(same), atol=1e-5, rtol=1e-5)
    # Given weight, every one of them counts, and of probabilities no further one.
    other = shaken(wide.config)
    for place in range(given[name].shape[-1]):
        moved = given[name].clone()
        moved[..., place] += 0.5
        assert torch.equal(other({**given, name: moved}), other(given)) == (place >= size)


def test_without_time_or_mask_they_count_for_nothing() -> None:
    given = inputs()
    later = {**given, "time": given["time"] / 2}
    flipped = {**given, "masked": 1 - given["masked"]}
    for reads_time in (False, True):
        for reads_mask in (False, True):
            network = shaken(replace(SMALL, reads_time=reads_time, reads_mask=reads_mask))
            logits = network(given)
            assert logits.shape == (3, 12)
            assert torch.equal(network(later), logits) != reads_time
            assert torch.equal(network(flipped), logits) != reads_mask
            names = {name.split(".")[0] for name in network.state_dict()}
            assert ("time_mlp" in names, "mask_embedding" in names) == (reads_time, reads_mask)


def test_one_without_time_is_one_whose_time_embedding_is_zero() -> None:
    whole, given = shaken(SMALL), inputs()
    with torch.no_grad():
        for parameter in whole.time_mlp[2].parameters():
            parameter.zero_()
    part = DiTNetwork(replace(SMALL, reads_time=False))
    part.load_state_dict({name: v for name, v in whole.state_dict().items() if not name.startswith("time_mlp")})
    assert torch.equal(part(given), whole(given))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_probabilities": 0}, "num_probabilities is 0: it must be 1 to 50"),
        ({"num_probabilities": 51}, "num_probabilities is 51"),
        ({"hidden_state_size": -2}, "hidden_state_size is -2: it must be the width"),
        ({"hidden_state_size": 4, "num_probabilities": 2}, "reads one or the other"),
    ],
)
def test_impossible_inputs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiTConfig(**changes)


def test_each_input_is_a_flag() -> None:
    config = parse(TrainGRPOConfig, "grpo.yaml", ["--dit.num_probabilities=50", "--dit.reads_time=false"])
    assert config.dit == DiTConfig(num_probabilities=50, reads_time=False)
    assert parse(
        TrainPPOConfig, "ppo.yaml", ["--dit.hidden_state_size=128", "--dit.reads_mask=false", "--filter.learn=false"]
    ).dit == DiTConfig(hidden_state_size=128, reads_mask=False)


# Training, saving, decoding.


def job(name: str, out: Path, variant: str) -> tuple[JobConfig, Algorithm]:
    common: dict[str, Any] = {
        "out": out,
        "total_timesteps": 200,
        "model": ModelConfig("toy"),
        "env": EnvConfig(num_envs=8, tasks=["copy"], buffer_length=8, block_lengths=[4]),
        "dit": replace(SMALL, **VARIANTS[variant]),
        "wandb": WandbConfig(mode="disabled"),
    }
    if name == "grpo":
        config = TrainGRPOConfig(**common, grpo=GRPOSection(group_size=4, learning_rate=1e-2, zero_variance="keep"))
        return config, grpo(config)
    other = TrainPPOConfig(**common, ppo=PPOSection(n_steps=4, batch_size=16, n_epochs=2))
    return other, ppo(other)


def trained(config: JobConfig, algorithm: Algorithm, toy: ToyDenoiser) -> OnPolicyAlgorithm:
    model = make_model(config, make_env(config, toy, algorithm, None), algorithm, None)
    learn(config, model, Tracker(config.wandb, config.out, {}, "train"))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_each_variant_is_trained_exported_loaded_and_evaluated(
    tmp_path: Path, name: str, variant: str, toy: ToyDenoiser
) -> None:
    config, algorithm = job(name, tmp_path, variant)
    assert config.dit is not None
    before = make_model(config, make_env(config, toy, algorithm, None), algorithm, None).policy.network.state_dict()
    model = trained(config, algorithm, toy)
    after = model.policy.network.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    # Keys have no use for a bias: a softmax cancels it.
    assert changed >= {"confidence_proj.weight", "transformer_blocks.0.ada_conditioning.bias", "output_proj.weight"}
    assert ("mask_embedding.weight" in before) == config.dit.reads_mask
    policy, again = export(config, model), load(tmp_path / "policy", "sample")
    assert isinstance(again.network, DiTNetwork)
    assert asdict(again.network.config) == asdict(config.dit)
    assert model.env is not None
    model.env.reset()
    [batch] = model.env.get_attr("unwrapped", [0])
    given = {key: values.cpu() for key, values in batch.inputs().items()}
    assert torch.equal(again.network(given), policy.network(given))
    assert 0 <= evaluate(toy, again, tasks="copy", episodes=3, buffer_length=8)[-1]["accuracy"] <= 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_generate_gives_a_prompt_the_same_alone_and_in_a_batch(variant: str, tmp_path: Path) -> None:
    model, tokenizer = tiny_model(num_layers=1)
    changes = {name: 32 if name == "hidden_state_size" else value for name, value in VARIANTS[variant].items()}
    save(LearnedPolicy(shaken(replace(SMALL, bias=0.0, **changes)), "sample"), tmp_path)
    prompts = ["copy x . : a b c . =", "sort x . : d a =", "copy x . : e =", "remove b . : a b c d e . . ="]
    about: dict[str, Any] = {"buffer_length": 12, "block_length": 6}
    together = generate(model, tokenizer, prompts, load(tmp_path), **about)
    assert together == [generate(model, tokenizer, [prompt], load(tmp_path), **about)[0] for prompt in prompts]
    assert together == generate(model, tokenizer, prompts, load(tmp_path), batch_size=2, **about)
    assert all(one.tokens.count(tokenizer.mask_token_id) == 0 for one in together)
    assert len({one.nfe for one in together}) > 1


def test_hidden_states_of_another_width_are_refused(tmp_path: Path, toy: ToyDenoiser) -> None:
    message = "hidden_state_size is 5: it must be 1, the width of this dLLM's hidden states; take the dLLM that it"
    config, algorithm = job("grpo", tmp_path, "hidden")
    wrong = replace(config, dit=DiTConfig(hidden_state_size=5))
    with pytest.raises(ValueError, match=message):
        make_env(wrong, toy, algorithm, None)
    with pytest.raises(ValueError, match=message):
        dry_run(wrong, algorithm)
    filter = DiTNetwork(DiTConfig(hidden_state_size=5))
    for network in (filter, UnmaskingNetwork(NetworkConfig(), filter)):
        with pytest.raises(ValueError, match=message):
            evaluate(toy, LearnedPolicy(network), tasks="copy", episodes=1, buffer_length=8)
    model, tokenizer = tiny_model(num_layers=1)
    with pytest.raises(ValueError, match="hidden_state_size is 5: it must be 32"):
        generate(model, tokenizer, ["copy x . : a ="], LearnedPolicy(filter))


# Checkpoints of the released code.


def test_checkpoints_over_several_probabilities_survive_both_ways(tmp_path: Path) -> None:
    policy = LearnedPolicy(shaken(replace(SMALL, num_probabilities=50)))
    folder = write_checkpoint(policy, tmp_path)
    assert load_file(folder / "model.safetensors")["base_policy.confidence_proj.weight"].shape == (16, 50)
    assert "confidences_top_p: 50\n" in (folder / "policy.yaml").read_text()
    again = load(folder)
    assert isinstance(again.network, DiTNetwork)
    assert again.network.config == policy.network.config
    assert again.features == {"best_probabilities"}
    assert torch.equal(again.network(inputs()), policy.network(inputs()))


@pytest.mark.parametrize("variant", ["hidden", "no_time", "no_mask"])
def test_what_the_released_code_has_no_network_for_is_refused(tmp_path: Path, variant: str) -> None:
    policy = LearnedPolicy(DiTNetwork(replace(SMALL, **VARIANTS[variant])))
    with pytest.raises(ValueError, match="only networks over probabilities, time and mask bits"):
        write_checkpoint(policy, tmp_path / "out")
    assert not (tmp_path / "out").exists()
