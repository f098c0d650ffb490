from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import places
import pytest
import torch
from folder_edits import edit
from networks import outputs, perturbed
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor
from torch import Tensor, nn
from trainings import FLAGS, run_here, tiny, trained
from views import make_view, random_view, take, written

from envs.decoding.settings import DecodingSettings
from envs.models.toy import ToyDenoiser
from policies import LearnedPolicy, NetworkConfig, Threshold, UnmaskingNetwork, load, make_rule, save
from policies.actor_critic import UnmaskingActorCritic
from policies.networks.block_filter import BlockFilter, BlockFilterConfig
from policies.networks.config import OWN_WIDTH
from policies.networks.inputs import gap_above, log_odds
from policies.networks.kinds import NetworkSpec
from train.command.errors import UserError
from train.evaluation.jobs import plan
from train.evaluation.measure import evaluate
from train.evaluation.naming import is_folder, split_setting
from train.job.build import load_filter, make_env, make_model, resume
from train.job.config import EvaluationConfig, FilterSection
from train.job.finish import export
from train.job.ppo_config import TrainPPOConfig
from train.ppo import algorithm, train

CONFIG = NetworkConfig(hidden_size=8, feedforward_size=8, features=("margin",))
SIMPLE = NetworkConfig(hidden_size=8, feedforward_size=8)


def constant(*log_odds: float) -> BlockFilter:
    """A filter that says the same of a block whatever it sees."""
    network = BlockFilter(BlockFilterConfig(len(log_odds), 2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.layers[2].bias.copy_(torch.tensor(log_odds))
    return network


def stirred(network: Any, seed: int = 1) -> Any:
    """The same network with every parameter moved, a filter's not."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.startswith("filter."):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def block_filter(size: int = 4) -> BlockFilter:
    return stirred(BlockFilter(BlockFilterConfig(size, 6)))  # type: ignore[no-any-return]


def same_weights(one: nn.Module, two: nn.Module) -> bool:
    mine, theirs = one.state_dict(), two.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name].cpu(), theirs[name].cpu()) for name in mine)


# The filter of one block.


def test_block_filter_by_hand() -> None:
    """Hidden: what exceeds a half in the sum, and in the difference; from there 1 - 2 h and 3 h' - 1."""
    network = constant(1.0, -1.0)
    with torch.no_grad():
        network.layers[0].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        network.layers[0].bias.fill_(-0.5)
        network.layers[2].weight.copy_(torch.tensor([[-2.0, 0.0], [0.0, 3.0]]))
    inputs = {
        "confidence": torch.tensor([[0.9, 0.2, 0.5, 0.3], [1.0, 1.0, 0.75, 0.1], [1.0, 1.0, 1.0, 0.4]]),
        "eligible": torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]]),
    }
    expected = [
        [1 - 2 * 0.6, 3 * 0.2 - 1, 0, 0],
        [0, 0, 1 - 2 * 0.35, 3 * 0.15 - 1],
        [0, 0, 1 - 2 * 0.9, 3 * 0.1 - 1],  # the committed one counts
    ]
    torch.testing.assert_close(network(inputs), torch.tensor(expected))


def test_a_row_does_not_depend_on_its_batch() -> None:
    network, view = block_filter(), random_view(64, 8)
    together = outputs(network, view)  # type: ignore[arg-type]
    assert together.shape == (64, 8)
    starts = set(view.block_start[view.eligible.any(1)].tolist())
    assert starts == {0, 4}
    alone = torch.cat([outputs(network, take(view, [row])) for row in range(64)])  # type: ignore[arg-type]
    torch.testing.assert_close(alone, together)
    assert together[view.eligible].std() > 0.1
    elsewhere = ~view.in_block & view.eligible.any(1, keepdim=True)
    assert (together[elsewhere] == 0).all()


def test_only_the_current_block_matters() -> None:
    network, view = block_filter(), random_view(64, 8)
    inputs = view.inputs()
    elsewhere = torch.where(view.in_block, inputs["confidence"], torch.rand(64, 8))
    torch.testing.assert_close(network({**inputs, "confidence": elsewhere}), network(inputs))
    here = torch.where(view.in_block, inputs["confidence"] / 2, inputs["confidence"])
    changed = (network({**inputs, "confidence": here}) != network(inputs)).any(1)
    assert changed[view.eligible.any(1)].all()


def test_published_size() -> None:
    network = BlockFilter(BlockFilterConfig())
    assert sum(p.numel() for p in network.parameters()) == 32 * 32 + 32 + 32 * 32 + 32
    assert NetworkSpec.of(network).features == frozenset()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"block_length": 0}, "block_length is 0"),
        ({"block_length": -4}, "block_length is -4"),
        ({"hidden_size": 0}, "hidden_size is 0"),
    ],
)
def test_impossible_sizes_are_refused_by_name(fields: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        BlockFilterConfig(**fields)


# Folders.


def test_block_filter_round_trip(tmp_path: Path) -> None:
    policy = LearnedPolicy(block_filter(), trained={"seed": 3}, threshold=0.7)
    again = load(save(policy, tmp_path / "filter"))
    data = json.loads((tmp_path / "filter" / "config.json").read_text())
    assert (data["kind"], data["filter"], data["threshold"]) == ("block_filter", None, 0.7)
    assert data["network"] == {"block_length": 4, "hidden_size": 6}
    assert isinstance(again.network, BlockFilter)
    assert again.network.config == BlockFilterConfig(4, 6)
    assert (again.threshold, again.decision, again.trained) == (0.7, "deterministic", {"seed": 3})
    assert again.features == frozenset()
    view = random_view(64, 8)
    assert torch.equal(again.select(view), policy.select(view))
    assert torch.equal(again.probabilities(view), policy.probabilities(view))
    assert not any(p.requires_grad for p in again.network.parameters())


@pytest.mark.parametrize("inner", ["block_filter", "transformer"])
def test_a_network_with_a_filter_round_trips(tmp_path: Path, inner: str) -> None:
    filter = block_filter() if inner == "block_filter" else perturbed(replace(CONFIG, features=("entropy", "is_eos")))
    network = stirred(UnmaskingNetwork(CONFIG, filter))
    assert NetworkSpec.of(network).features == {"margin"} | (
        set() if inner == "block_filter" else {"entropy", "is_eos"}
    )
    again = load(save(LearnedPolicy(network, threshold=0.6), tmp_path / "policy"))
    data = json.loads((tmp_path / "policy" / "config.json").read_text())
    assert (data["kind"], data["filter"]["kind"], data["filter"]["filter"]) == ("transformer", inner, None)
    assert isinstance(again.network, UnmaskingNetwork)
    assert type(again.network.filter) is type(filter)
    assert same_weights(again.network, network)
    assert again.features == NetworkSpec.of(network).features
    view = random_view(64, 8)
    assert torch.equal(outputs(again.network, view), outputs(network, view))
    assert torch.equal(again.select(view), LearnedPolicy(network, threshold=0.6).select(view))


def test_filters_of_filters_round_trip(tmp_path: Path) -> None:
    network = stirred(UnmaskingNetwork(SIMPLE, stirred(UnmaskingNetwork(CONFIG, block_filter()))))
    again = load(save(LearnedPolicy(network), tmp_path / "policy")).network
    assert NetworkSpec.of(again) == NetworkSpec.of(network)
    assert NetworkSpec.of(NetworkSpec.of(network).build()) == NetworkSpec.of(network)
    assert same_weights(again, network)
    assert NetworkSpec.of(again).features == {"margin"}


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (edit(kind="perceptron"), "config.json.*perceptron.*transformer, dit, block_filter"),
        (edit(kind=...), "config.json.*kind"),
        (edit(kind=["transformer"]), "config.json"),
        (edit(kind="transformer"), "config.json.*block_length"),
        (edit(filter={"kind": "block_filter"}), "config.json"),
        (edit(filter="there"), "config.json"),
        (edit(threshold=...), "config.json.*threshold"),
        (edit(threshold="0.5"), "config.json.*threshold is '0.5'"),
        (edit(threshold=1.5), "threshold is 1.5"),
        (edit(network_block_length=8), "model.safetensors"),
        (edit(network_block_length=0), "config.json.*block_length is 0"),
        (edit(network_depth=3), "config.json.*depth"),
    ],
)
def test_damaged_folders_are_refused(tmp_path: Path, damage: Callable[[Path], object], named: str) -> None:
    folder = save(LearnedPolicy(block_filter()), tmp_path / "filter")
    damage(folder)
    with pytest.raises(ValueError, match=f"(?s){named}"):
        load(folder)


@pytest.mark.parametrize("network", [block_filter(), UnmaskingNetwork(CONFIG, block_filter())])
def test_another_block_length_is_refused(network: Any, toy: ToyDenoiser) -> None:
    policy = LearnedPolicy(network)
    for settings in (DecodingSettings(8, 4), DecodingSettings(4)):
        bound = policy.bind(toy, settings)
        assert (bound is policy) is (places.here.type == "cpu")
        assert same_weights(bound.network, network)
    for settings in (DecodingSettings(8), DecodingSettings(8, 2)):
        with pytest.raises(ValueError, match=f"block_length is {settings.block}: this policy's filter works at 4 only"):
            policy.bind(toy, settings)


@pytest.mark.parametrize("inner", [None, UnmaskingNetwork(CONFIG)])
def test_a_transformer_works_at_any_block_length(inner: Any, toy: ToyDenoiser) -> None:
    policy = LearnedPolicy(UnmaskingNetwork(CONFIG, inner))
    for block in (1, 2, 4, 8):
        policy.bind(toy, DecodingSettings(8, block))


# The threshold.


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9, 0.95, 0.98])
def test_a_probability_at_the_threshold_commits(threshold: float) -> None:
    at = math.log(threshold / (1 - threshold))
    policy = LearnedPolicy(constant(at, at - 1e-4, at + 1e-4, -at - 1), threshold=threshold)
    view = make_view([[0.5] * 4, [0.5] * 4, [0.5] * 4], ["xxxx", ".x.x", "...x"])
    assert written(policy.select(view)) == ["x.x.", ".x..", "...x"]  # none: the most probable


def test_the_threshold_changes_the_deterministic_decision_only(tmp_path: Path) -> None:
    network = perturbed(CONFIG)
    view = random_view(200, 8)
    probability = LearnedPolicy(network).probabilities(view)
    counts = []
    for threshold in (0.2, 0.5, 0.9):
        policy = LearnedPolicy(network, threshold=threshold)
        chosen = policy.select(view)
        several = (probability >= threshold).any(1)
        assert torch.equal(chosen[several], (probability >= threshold)[several])
        assert (chosen[~several].sum(1) == view.eligible[~several].any(1)).all()
        assert torch.equal(policy.probabilities(view), probability)
        counts.append(int(chosen.sum()))
    assert counts[0] > counts[1] > counts[2]
    samples = [LearnedPolicy(network, "sample", threshold=t).select(view) for t in (0.1, 0.9)]
    assert torch.equal(*samples)


def test_loading_overrides_the_threshold(tmp_path: Path) -> None:
    folder = save(LearnedPolicy(constant(0.0, 2.0), threshold=0.9), tmp_path / "filter")
    view = make_view([[0.5, 0.5]])
    assert written(load(folder).select(view)) == [".x"]
    assert written(load(folder, threshold=0.4).select(view)) == ["xx"]
    assert load(folder, "sample", threshold=0.4).threshold == 0.4
    assert load(folder).threshold == 0.9


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5, 2.0, math.nan])
def test_impossible_thresholds_are_refused_by_name(tmp_path: Path, threshold: float) -> None:
    with pytest.raises(ValueError, match=f"threshold is {threshold}"):
        LearnedPolicy(block_filter(), threshold=threshold)
    folder = save(LearnedPolicy(block_filter()), tmp_path / "filter")
    with pytest.raises(ValueError, match=f"threshold is {threshold}"):
        load(folder, threshold=threshold)


# A filter within the network.


def test_the_filter_is_frozen_and_read() -> None:
    inner = perturbed(replace(CONFIG, features=("entropy",)))
    network, view = stirred(UnmaskingNetwork(CONFIG, inner)), random_view(32, 8)
    assert not any(p.requires_grad for p in network.filter.parameters())
    assert all(p.requires_grad for name, p in network.named_parameters() if not name.startswith("filter."))
    before = outputs(network, view)
    network(view.inputs())[view.eligible].sum().backward()
    assert all(p.grad is None for p in network.filter.parameters())
    assert network.input.weight.grad[:, -1].abs().max() > 0
    with torch.no_grad():
        network.filter.output.bias += 2.0
    assert (outputs(network, view) - before)[view.eligible].abs().max() > 1e-2


def test_the_filters_log_odds_are_a_column_by_hand() -> None:
    """A quarter of the filter's log-odds, clamped to 14, is what the input layer sees last, at masked positions."""
    network = UnmaskingNetwork(SIMPLE, constant(2.0, -40.0, 1.0, 1.0))
    seen: list[Tensor] = []
    network.input.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    network(make_view([[0.5] * 4], ["xxx."]).inputs())
    assert seen[0].shape == (1, 4, 5)
    torch.testing.assert_close(seen[0][0, :, -1], torch.tensor([0.5, -3.5, 0.25, 0.0]))


def test_starting_as_another_network() -> None:
    source, view = perturbed(CONFIG), random_view(64, 8)
    network = stirred(UnmaskingNetwork(CONFIG), 5)
    assert not torch.equal(outputs(network, view), outputs(source, view))
    network.start_as(source)
    assert same_weights(network, source)
    assert torch.equal(outputs(network, view), outputs(source, view))


@pytest.mark.parametrize("kind", ["block_filter", "transformer"])
def test_starting_as_a_network_without_the_filter(kind: str) -> None:
    source, view = perturbed(CONFIG), random_view(64, 8)
    inner = block_filter() if kind == "block_filter" else perturbed(replace(CONFIG, features=("is_eos",)))
    kept = {name: values.clone() for name, values in inner.state_dict().items()}
    network = stirred(UnmaskingNetwork(CONFIG, inner), 5)
    network.start_as(source)
    torch.testing.assert_close(outputs(network, view), outputs(source, view))
    assert network.input.weight.shape[1] == source.input.weight.shape[1] + 1
    assert (network.input.weight[:, -1] == 0).all()
    assert all(torch.equal(values, network.filter.state_dict()[name]) for name, values in kept.items())
    # The new input is not read yet, but can be learned.
    network(view.inputs())[view.eligible].sum().backward()
    assert network.input.weight.grad[:, -1].abs().max() > 0


@pytest.mark.parametrize(("use", "part"), [("input", "dllm_state.weight"), ("similarity", "similarity")])
def test_starting_as_a_network_that_reads_no_hidden_states(use: Any, part: str) -> None:
    source, view = perturbed(CONFIG), random_view(64, 8)
    network = UnmaskingNetwork(replace(CONFIG, hidden_state_size=3, hidden_state_use=use))
    if use == "input":
        stirred(network, 5)
    network.start_as(source)
    torch.testing.assert_close(outputs(network, view), outputs(source, view))
    # They are not read yet, but can be learned to be.
    network(view.inputs())[view.eligible].sum().backward()
    gradient = network.get_parameter(part).grad
    assert gradient is not None
    assert gradient.abs().max() > 0
    with pytest.raises(ValueError, match="another configuration"):
        source.start_as(network)


@pytest.mark.parametrize("change", [{"hidden_size": 16}, {"features": ()}, {"threshold": 0.8}, {"init": "random"}])
def test_starting_as_another_configuration_is_refused(change: dict[str, Any]) -> None:
    network = UnmaskingNetwork(CONFIG)
    before = {name: values.clone() for name, values in network.state_dict().items()}
    with pytest.raises(ValueError, match=f"another configuration.*{next(iter(change))}"):
        network.start_as(UnmaskingNetwork(replace(CONFIG, **change)))
    assert all(torch.equal(values, network.state_dict()[name]) for name, values in before.items())


# The gap to the next better position.


def test_gap_by_hand() -> None:
    level = torch.tensor([[1.0, 4.0, -2.0, 3.5, 9.0], [2.0, 2.0, 5.0, 2.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    eligible = torch.tensor([[True, True, True, True, False], [True] * 5, [False] * 5])
    expected = [[2.5, 0, 3.0, 0.5, 0], [3.0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    torch.testing.assert_close(gap_above(level, eligible), torch.tensor(expected))


def test_gap_against_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    level = torch.randint(-6, 7, (200, 9), generator=generator) * 0.75  # ties are frequent
    level[::2] = log_odds(torch.rand(100, 9, generator=generator))
    eligible = torch.rand(200, 9, generator=generator) < torch.rand(200, 1, generator=generator)
    found = gap_above(level, eligible)
    for row in range(200):
        for i in range(9):
            here = level[row, i].item()
            better = [
                level[row, j].item()
                for j in range(9)
                if eligible[row, j] and (level[row, j] > here or (level[row, j] == here and j < i))
            ]
            expected = min(better) - here if better and eligible[row, i] else 0.0
            assert found[row, i].item() == pytest.approx(expected, abs=1e-6)
    assert (found > 0).any(1).sum() > 100


# PPO on a filter.


def saved(folder: Path, network: UnmaskingNetwork | BlockFilter) -> str:
    return str(save(LearnedPolicy(network, threshold=0.9), folder))


def on_filter(tmp_path: Path, role: Any, network: UnmaskingNetwork | BlockFilter | None = None) -> TrainPPOConfig:
    """A tiny run in blocks of 4 on a filter, by default one that reads the margin and whose sizes are its own."""
    folder = saved(tmp_path / "filter", network or perturbed(replace(CONFIG, hidden_size=12)))
    config = tiny(tmp_path / "run", 0)
    return replace(config, env=replace(config.env, block_lengths=[4]), filter=FilterSection(folder, role))


def start_of(config: TrainPPOConfig) -> LearnedPolicy:
    """The filter that a run begins from, where its dLLM is."""
    policy = load(str(config.filter.folder))
    policy.network.to(places.here)
    return policy


def begun(config: TrainPPOConfig, denoiser: ToyDenoiser) -> tuple[PPO, UnmaskingNetwork, VecMonitor]:
    inner = load_filter(config)
    env = make_env(config, denoiser, algorithm(config), inner)
    model = make_model(config, env, algorithm(config), inner)
    resume(config, model)
    assert isinstance(model.policy, UnmaskingActorCritic)
    return model, model.policy.network, env


def moved(network: UnmaskingNetwork, before: dict[str, Tensor]) -> set[str]:
    return {name for name, values in network.state_dict().items() if not torch.equal(values.cpu(), before[name].cpu())}


@pytest.mark.parametrize("role", ["start", "both", "feature"])
def test_what_a_run_on_a_filter_starts_as(tmp_path: Path, toy: ToyDenoiser, role: str) -> None:
    config, view = on_filter(tmp_path, role), random_view(100, 8)
    _, network, env = begun(config, toy)
    source = start_of(config)
    assert "margin" in env.reset()
    started = LearnedPolicy(network)
    if role == "feature":
        assert network.config == config.policy
        assert torch.equal(started.select(view), Threshold(0.9).select(view))
    else:
        assert network.config == source.network.config
        torch.testing.assert_close(started.probabilities(view), source.probabilities(view), atol=1e-6, rtol=1e-5)
    if role == "start":
        assert network.filter is None
    else:
        assert network.filter is not None
        assert same_weights(network.filter, source.network)
        assert not any(p.requires_grad for p in network.filter.parameters())
    assert NetworkSpec.of(network).features == {"margin"}


@pytest.mark.parametrize("role", ["start", "both"])
def test_a_run_may_start_where_the_filter_is_sure(tmp_path: Path, toy: ToyDenoiser, role: str) -> None:
    config, view = on_filter(tmp_path, role), random_view(100, 8)
    config = replace(config, filter=replace(config.filter, threshold=0.9, steepness=3.0))
    _, network, _ = begun(config, toy)
    source = start_of(config)
    # Odds of 9 to 1 become even, and the odds above that their third power.
    odds = source.probabilities(view) / (1 - source.probabilities(view))
    odds = (odds / 9) ** 3
    torch.testing.assert_close(LearnedPolicy(network).probabilities(view), odds / (1 + odds), atol=1e-5, rtol=1e-4)
    # What it reads of the filter, where it does, is the filter as it was.
    assert network.filter is None or same_weights(network.filter, source.network)


def test_a_filter_that_is_as_steep_as_before_is_the_same() -> None:
    source, view = perturbed(CONFIG), random_view(64, 8)
    state = torch.get_rng_state()
    other = source.steeper(1.0, 0.5)
    assert torch.equal(outputs(other, view), outputs(source, view))
    assert other.config == source.config
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("is_told_the_width", [True, False])
def test_what_starts_as_a_filter_may_read_hidden_states(
    tmp_path: Path, toy: ToyDenoiser, is_told_the_width: bool
) -> None:
    config = on_filter(tmp_path, "start")
    size = toy.hidden_size if is_told_the_width else OWN_WIDTH
    config = replace(config, policy=replace(config.policy, hidden_state_size=size))
    _, network, env = begun(config, toy)
    obs = env.reset()
    assert network.config == replace(load(str(config.filter.folder)).network.config, hidden_state_size=toy.hidden_size)
    assert obs["hidden"].shape[2] == toy.hidden_size
    assert NetworkSpec.of(network).features == {"margin", "hidden"}
    assert not network.dllm_state.weight.any()


def on_dial(tmp_path: Path) -> TrainPPOConfig:
    """A tiny run with a dial of its own, that goes on from a policy with a dial."""
    config = on_filter(tmp_path, "start", perturbed(replace(CONFIG, has_dial=True, dial_rise=4.0)))
    return replace(config, env=replace(config.env, alpha_range=[1.0, 8.0]))


def test_a_run_goes_on_from_a_policy_with_a_dial(tmp_path: Path, toy: ToyDenoiser) -> None:
    config, view = on_dial(tmp_path), random_view(100, 8)
    _, network, _ = begun(config, toy)
    source = start_of(config)
    assert network.config == source.network.config
    for speed in (0.0, 0.25, 1.0):
        found, expected = (one.changed(speed=speed).probabilities(view) for one in (LearnedPolicy(network), source))
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("role", "alpha_range", "advice"),
    [
        ("start", [], "give env.alpha_range, slowest and fastest$"),
        ("both", [1.0, 8.0], "set filter.role to start$"),
        ("feature", [], "set filter.role to start and give env.alpha_range"),
    ],
)
def test_a_policy_with_a_dial_is_no_filter(tmp_path: Path, role: Any, alpha_range: list[float], advice: str) -> None:
    config = on_dial(tmp_path)
    config = replace(config, env=replace(config.env, alpha_range=alpha_range), filter=replace(config.filter, role=role))
    with pytest.raises(UserError, match=f"has a speed dial and can't be a filter; to go on learning from it, {advice}"):
        load_filter(config)


@pytest.mark.slow
@pytest.mark.parametrize(("role", "kind"), [("both", "transformer"), ("feature", "transformer"), ("feature", "block")])
def test_training_keeps_the_filter(tmp_path: Path, toy: ToyDenoiser, role: str, kind: str) -> None:
    config = on_filter(tmp_path, role, block_filter() if kind == "block" else None)
    source = load(str(config.filter.folder)).network
    _, network, _ = begun(config, toy)
    before = {name: values.clone() for name, values in network.state_dict().items()}
    model = trained(config, toy)
    after = model.policy.network
    assert same_weights(after.filter, source)
    assert moved(after, before) == {name for name in before if not name.startswith("filter.")}

    # Resumed from its checkpoint.
    resumed, again, _ = begun(replace(config, resume=True), toy)
    assert resumed.num_timesteps == model.num_timesteps == 128
    assert same_weights(again, after)
    assert again.filter is not None
    assert not any(p.requires_grad for p in again.filter.parameters())
    resumed.learn(128, reset_num_timesteps=False)
    assert same_weights(again.filter, source)
    assert not same_weights(again, after)

    # Exported.
    export(config, model)
    assert {name for name, p in after.named_parameters() if p.requires_grad} == {n for n in before if "filter" not in n}
    policy = load(config.out / "policy")
    assert policy.trained["filter"] == f"{config.filter.folder} as {role}"
    assert type(policy.network.filter) is type(source)  # type: ignore[union-attr]
    env = make_env(config, toy, algorithm(config), load_filter(config))
    obs = env.reset()
    for _ in range(5):
        action, _ = model.predict(obs, deterministic=True)  # type: ignore[arg-type]
        [view] = env.get_attr("view", [0])
        np.testing.assert_array_equal(action.astype(bool), policy.select(view).numpy())
        obs = env.step(action)[0]


@pytest.mark.slow
def test_a_job_reads_its_filter_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(on_filter(tmp_path, "both"), evaluation=EvaluationConfig(1, rules=[]))
    read: list[str] = []
    monkeypatch.setattr("train.job.build.load", lambda folder: read.append(folder) or load(folder))
    train(config)
    assert read == [config.filter.folder]
    train(replace(config, dry_run=True))
    assert read == [config.filter.folder] * 2


def test_training_from_a_filter_moves_it(tmp_path: Path, toy: ToyDenoiser) -> None:
    config = on_filter(tmp_path, "start")
    source = load(str(config.filter.folder)).network
    network = trained(config, toy).policy.network
    assert network.filter is None
    assert moved(network, source.state_dict()) == set(source.state_dict())
    assert same_weights(load(str(config.filter.folder)).network, source)


@pytest.mark.parametrize("role", ["start", "both"])
def test_a_block_filter_is_no_start(
    tmp_path: Path, role: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = on_filter(tmp_path, role, block_filter())
    with pytest.raises(UserError, match=f"(?s)filter.role is '{role}'.*can't be a start; choose feature"):
        load_filter(config)
    words = [f"--filter.folder={config.filter.folder}", f"--filter.role={role}", "--env.block_lengths=[4]"]
    flags = [flag for flag in FLAGS if not flag.startswith("--policy.")]  # its sizes are the filter's
    assert run_here(monkeypatch, f"--out={tmp_path / 'new'}", *flags, "--total_timesteps=64", *words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"error: filter.role is '{role}'")
    assert not (tmp_path / "new").exists()


def test_a_filter_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = replace(tiny(tmp_path, 0), filter=FilterSection(str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match=r"^filter.folder is '.*nowhere': there is no such folder; give"):
        load_filter(config)


def test_no_filter_is_the_default(tmp_path: Path, toy: ToyDenoiser) -> None:
    assert TrainPPOConfig().filter.folder is None
    assert begun(tiny(tmp_path, 0), toy)[1].filter is None


# Evaluating at a threshold.


def test_taking_folder_and_threshold_apart(tmp_path: Path) -> None:
    assert split_setting("runs/filters/weighted@0.9") == ("runs/filters/weighted", {"threshold": 0.9})
    assert split_setting("runs/filters/weighted") == ("runs/filters/weighted", {})
    assert split_setting("runs@home/weighted@0.25") == ("runs@home/weighted", {"threshold": 0.25})
    assert split_setting("threshold:0.9") == ("threshold:0.9", {})
    named = tmp_path / "policy@0.9"
    named.mkdir()
    assert split_setting(str(named)) == (str(named), {})
    assert split_setting(f"{named}@0.5") == (str(named), {"threshold": 0.5})
    with pytest.raises(ValueError, match=r"policy is 'runs/policy@high'.*runs/policy@0.9"):
        split_setting("runs/policy@high")
    assert [is_folder(text) for text in ("x/y@0.9", "x/y", "threshold:0.9", "oracle")] == [True, True, False, False]


def test_planning_a_folder_at_thresholds(tmp_path: Path, toy: ToyDenoiser) -> None:
    folder = saved(tmp_path / "weighted", constant(0.0, 0.0, 0.0, 3.0))
    jobs = plan([f"{folder}@0.5", f"{folder}@0.9", folder, "threshold:0.9", f"{folder}@0.5"], [4])
    assert [(job.name, job.decision) for job in jobs] == [
        ("learned@0.5", "deterministic"),
        ("learned@0.9", "deterministic"),
        ("learned", "sample"),
        ("learned", "deterministic"),
        ("threshold:0.9", "deterministic"),
    ]
    made = [job.make() for job in jobs]
    assert [policy.threshold for policy in made[:4] if isinstance(policy, LearnedPolicy)] == [0.5, 0.9, 0.9, 0.9]
    assert made[4] == make_rule("threshold:0.9")
    records = [evaluate(toy, made[i], name=jobs[i].name, tasks="copy", episodes=4, buffer_length=4)[-1] for i in (0, 1)]
    assert [record["policy"] for record in records] == ["learned@0.5", "learned@0.9"]
    assert (records[0]["nfe"], records[1]["nfe"] > 1.5) == (1.0, True)
    other = saved(tmp_path / "run" / "policy", perturbed(SIMPLE))
    names = [job.name for job in plan([f"{folder}@0.5", f"{other}@0.123"], [4])]
    assert names == ["learned:weighted@0.5", "learned:run@0.123"]


@pytest.mark.parametrize(
    ("suffix", "error", "named"),
    [
        ("@1.5", ValueError, "threshold is 1.5"),
        ("@nan", ValueError, "threshold is nan"),
        ("@", ValueError, "write a number after the @"),
        ("er@0.5", FileNotFoundError, "filterer"),
    ],
)
def test_impossible_plans_are_refused(tmp_path: Path, suffix: str, error: type[Exception], named: str) -> None:
    folder = saved(tmp_path / "filter", block_filter())
    with pytest.raises(error, match=named):
        plan([folder + suffix], [4])


@pytest.mark.parametrize("speed", [0.0, 1.0])
def test_a_dial_starts_as_the_filter_wherever_it_stands(speed: float) -> None:
    source = perturbed(CONFIG)
    network = UnmaskingNetwork(replace(CONFIG, has_dial=True))
    network.start_as(source)
    inputs = random_view(16, 10).inputs()
    turned = {**inputs, "speed": torch.full_like(inputs["time"], speed)}
    torch.testing.assert_close(network(turned), source(inputs))
    with pytest.raises(ValueError, match="another configuration"):
        UnmaskingNetwork(CONFIG).start_as(network)


@pytest.mark.parametrize("speed", [0.0, 0.5, 1.0])
def test_a_dial_goes_on_from_a_dial(speed: float) -> None:
    source = perturbed(replace(CONFIG, has_dial=True, dial_rise=4.0, hidden_state_size=3))
    network = UnmaskingNetwork(source.config)
    network.start_as(source)
    inputs = random_view(16, 10).inputs()
    turned = {**inputs, "speed": torch.full_like(inputs["time"], speed)}
    assert torch.equal(network(turned), source(turned))


@pytest.mark.parametrize("speed", [0.0, 1.0])
def test_a_dial_is_as_steep_as_all_else(speed: float) -> None:
    source = perturbed(replace(CONFIG, has_dial=True, dial_rise=4.0))
    inputs = random_view(16, 10).inputs()
    turned = {**inputs, "speed": torch.full_like(inputs["time"], speed)}
    expected = 3 * (source(turned) - math.log(9))
    torch.testing.assert_close(source.steeper(3.0, 0.9)(turned), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("speed", "more"), [(0.0, -2.0), (0.5, 0.0), (1.0, 2.0)])
def test_a_dial_may_turn_what_it_starts_as(speed: float, more: float) -> None:
    source = perturbed(CONFIG)
    network = UnmaskingNetwork(replace(CONFIG, has_dial=True, dial_rise=4.0))
    network.start_as(source)
    inputs = random_view(16, 10).inputs()
    turned = {**inputs, "speed": torch.full_like(inputs["time"], speed)}
    torch.testing.assert_close(network(turned), source(inputs) + more)


def test_a_start_with_a_filter_of_its_own_is_refused() -> None:
    inner = UnmaskingNetwork(CONFIG, UnmaskingNetwork(NetworkConfig()))
    with pytest.raises(ValueError, match="a filter of its own"):
        UnmaskingNetwork(CONFIG).start_as(inner)
