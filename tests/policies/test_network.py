from __future__ import annotations

import math
from typing import Any

import numpy as np
import places
import pytest
import torch
from networks import ALL_FEATURES, outputs, perturbed
from scipy.special import logit
from torch.nn.functional import pad
from views import random_view, take

from policies import LearnedPolicy, NetworkConfig, Threshold, UnmaskingNetwork
from policies.networks.block_filter import BlockFilterConfig
from policies.networks.config import OWN_WIDTH
from policies.networks.dit import DiTConfig
from policies.networks.inputs import MAX_LOG_ODDS, log_odds
from policies.networks.kinds import NetworkSpec
from policies.networks.transformer import rotate

pytestmark = pytest.mark.usefixtures("device")


def built(config: NetworkConfig) -> UnmaskingNetwork:
    return UnmaskingNetwork(config).to(places.here)


@pytest.mark.parametrize("threshold", [0.3, 0.9, 0.999])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"context": "block"},
        {"slope": 0.5},
        {"hidden_state_size": 3},
        {"hidden_state_size": 3, "hidden_state_use": "similarity"},
        {"hidden_size": 8, "num_heads": 4, "features": ALL_FEATURES},
    ],
)
def test_untrained_network_is_the_threshold_rule(threshold: float, more: dict[str, Any]) -> None:
    view = random_view(500, 8)
    policy = LearnedPolicy(built(NetworkConfig(init="threshold", threshold=threshold, **more)))
    chosen = Threshold(threshold).select(view)
    assert torch.equal(policy.select(view), chosen)
    assert chosen.float().mean() > 0.05


@pytest.mark.parametrize("bias", [-2.0, 0.0, 1.5])
def test_random_initialisation_is_one_coin_for_all(bias: float) -> None:
    view = random_view(20, 8)
    policy = LearnedPolicy(built(NetworkConfig(init="random", bias=bias)))
    expected = 1 / (1 + math.exp(-bias)) * view.eligible
    torch.testing.assert_close(policy.probabilities(view), expected)


@pytest.mark.parametrize(
    "spec",
    [
        NetworkSpec("transformer", NetworkConfig()),
        NetworkSpec("transformer", NetworkConfig(hidden_state_size=3, hidden_state_use="both", has_dial=True)),
        NetworkSpec("transformer", NetworkConfig(context="block")),
        NetworkSpec("transformer", NetworkConfig(decides_refresh=True, features=ALL_FEATURES)),
        NetworkSpec("transformer", NetworkConfig(), NetworkSpec("transformer", NetworkConfig(hidden_size=8))),
        NetworkSpec("dit", DiTConfig()),
        NetworkSpec("block_filter", BlockFilterConfig(5)),
    ],
)
def test_no_rows_have_no_log_odds_and_gradients_of_0(spec: NetworkSpec) -> None:
    """As of a process whose attempts have nothing to teach, beside others that do."""
    network = spec.build().to(places.here)
    view = random_view(4, 10)
    inputs = {name: values[:0] for name, values in view.inputs().items()}
    inputs["speed"] = inputs["time"]
    logits = network(inputs)
    assert logits.shape[0] == 0
    logits.sum().backward()
    moved = [weights.grad for weights in network.parameters() if weights.grad is not None]
    assert moved
    assert not any(bool(gradient.any()) for gradient in moved)


@pytest.mark.parametrize("init", ["threshold", "random"])
def test_a_row_does_not_depend_on_its_batch(init: Any) -> None:
    config = NetworkConfig(init=init, features=ALL_FEATURES, hidden_state_size=3, hidden_state_use="both")
    network, view = perturbed(config, 0.15), random_view(64, 10)
    together = outputs(network, view)
    assert together.std() > 0.1
    alone = torch.cat([outputs(network, take(view, [row])) for row in range(64)])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["confidence", "masked", "eligible", "time", "hidden", *ALL_FEATURES])
def test_every_input_is_read(name: str) -> None:
    network = perturbed(NetworkConfig(features=ALL_FEATURES, hidden_state_size=3))
    inputs = random_view(16, 10).inputs()
    changed = {**inputs, name: inputs[name].float() / 2 if name == "time" else 1 - inputs[name].float() * 0.9}
    if name in ("masked", "eligible"):
        changed[name] = torch.zeros_like(inputs[name]) if name == "eligible" else torch.ones_like(inputs[name])
    assert not torch.allclose(network(inputs), network(changed), atol=1e-3)


def test_a_network_of_blocks_reads_the_masks_of_the_block_alone() -> None:
    network = perturbed(NetworkConfig(init="random", features=ALL_FEATURES, context="block"))
    inputs = random_view(64, 12).inputs()
    eligible = inputs["eligible"] > 0
    others = {name: torch.rand_like(values) for name, values in inputs.items() if name != "eligible"}
    read = {name: values for name, values in inputs.items() if name in ("confidence", *ALL_FEATURES)}
    changed = {**others, **{name: values.where(eligible, others[name]) for name, values in read.items()}}
    changed["eligible"] = inputs["eligible"]
    found, again = network(inputs), network(changed)
    assert found[eligible].std() > 0.1
    torch.testing.assert_close(again[eligible], found[eligible])
    assert bool(torch.isfinite(found).all())  # where nothing is eligible too


def test_a_network_of_blocks_decides_the_same_wherever_the_block_stands() -> None:
    network = perturbed(NetworkConfig(features=ALL_FEATURES, context="block"))
    inputs = random_view(64, 8).inputs()
    moved = {name: values if values.shape[1] == 1 else pad(values, (5, 3)) for name, values in inputs.items()}
    eligible = inputs["eligible"] > 0
    torch.testing.assert_close(network(moved)[:, 5:13][eligible], network(inputs)[eligible], atol=1e-4, rtol=1e-4)


def test_a_network_of_blocks_counts_the_masks_that_are_left() -> None:
    network = perturbed(NetworkConfig(init="random", context="block"))
    few, many = (
        {name: torch.ones(1, size, device=places.here) for name in ("confidence", "masked", "eligible")}
        | {"time": torch.zeros(1, 1, device=places.here)}
        for size in (2, 40)
    )
    assert not torch.allclose(network(few)[0, :2], network(many)[0, :2], atol=1e-3)


def test_heads_look_more_at_masks_with_similar_hidden_states() -> None:
    """Two masks of opposite states: with a large weight on the cosine each sees only itself."""
    config = NetworkConfig(hidden_size=4, num_heads=1, hidden_state_size=3, hidden_state_use="similarity")
    network = perturbed(config)
    inputs = take(random_view(4, 3), [0]).inputs()
    inputs |= {name: torch.ones_like(inputs[name]) for name in ("masked", "eligible")}
    state = torch.tensor([1.0, -0.5, -0.5], device=places.here)
    inputs["hidden"] = torch.stack([state, -state, torch.zeros_like(state)]).unsqueeze(0)
    seen: list[torch.Tensor] = []
    attend = network._attend
    network._attend = lambda x, bias: (seen.append(bias), attend(x, bias))[1]  # type: ignore[method-assign]
    torch.nn.init.constant_(network.similarity, 2.0)
    network(inputs)
    expected = torch.tensor([[2.0, -2.0, 0.0], [-2.0, 2.0, 0.0], [0.0, 0.0, 0.0]], device=places.here)
    torch.testing.assert_close(seen[0][0, 0], expected, atol=1e-4, rtol=1e-4)
    inputs["masked"][0, 1] = inputs["eligible"][0, 1] = 0.0
    network(inputs)
    expected[1] = expected[:, 1] = 0.0  # committed
    torch.testing.assert_close(seen[1][0, 0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("use", ["input", "similarity", "both"])
def test_features_at_committed_positions_are_not_read(use: Any) -> None:
    config = NetworkConfig(init="random", features=ALL_FEATURES, hidden_state_size=3, hidden_state_use=use)
    network = perturbed(config)
    inputs = random_view(16, 10).inputs()
    junk = {
        name: values.where(inputs["masked"] > 0, 0.123) if name in ("confidence", *ALL_FEATURES) else values
        for name, values in inputs.items()
    }
    # Not one value for all D: what is the same everywhere is normalised away.
    elsewhere = torch.tensor([0.1, 0.9, 0.4], device=places.here)
    junk["hidden"] = inputs["hidden"].where(inputs["masked"].unsqueeze(-1) > 0, elsewhere)
    torch.testing.assert_close(network(junk), network(inputs))


def test_the_order_of_positions_matters() -> None:
    network = perturbed(NetworkConfig(init="random"))
    inputs = random_view(16, 10).inputs()
    mirrored = {name: values if name == "time" else values.flip(1) for name, values in inputs.items()}
    assert not torch.allclose(network(mirrored).flip(1), network(inputs), atol=1e-2)


def test_log_odds_against_scipy() -> None:
    p = np.concatenate([np.linspace(0.001, 0.999, 999), 10.0 ** -np.arange(3, 6), 1 - 10.0 ** -np.arange(2, 5)])
    p32 = p.astype(np.float32)
    np.testing.assert_allclose(
        log_odds(torch.from_numpy(p32)).numpy(), logit(p32.astype(np.float64)), rtol=1e-5, atol=1e-6
    )
    ends = log_odds(torch.tensor([0.0, 1e-12, 1.0, 1 - 1e-7]))
    assert ends.tolist() == [-MAX_LOG_ODDS, -MAX_LOG_ODDS, MAX_LOG_ODDS, MAX_LOG_ODDS]
    assert log_odds(torch.tensor([0.75], dtype=torch.bfloat16)).item() == pytest.approx(math.log(3))


def test_rotation_by_hand() -> None:
    turned = rotate(torch.tensor([1.0, 0.0]).expand(1, 1, 4, 2), 2)[0, 0]
    expected = torch.tensor([[math.cos(i), math.sin(i)] for i in range(4)])
    torch.testing.assert_close(turned, expected)
    slow = rotate(torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(1, 1, 3, 4), 4)[0, 0, 2]  # pair 1 turns by i / 100
    torch.testing.assert_close(slow, torch.tensor([0.0, math.cos(0.02), 0.0, math.sin(0.02)]))


def test_heads_are_rotated_each_by_itself() -> None:
    torch.manual_seed(0)
    heads = torch.randn(3, 2, 5, 6)
    together = rotate(torch.cat(list(heads), -1), 6)
    assert torch.equal(together, torch.cat([rotate(head, 6) for head in heads], -1))


def test_rotated_products_depend_on_the_offset_only() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, 2, 1, 8), torch.randn(1, 2, 1, 8)
    product = rotate(query.expand(1, 2, 12, 8), 8) @ rotate(key.expand(1, 2, 12, 8), 8).transpose(-1, -2)
    for offset in range(-11, 12):
        along = product.diagonal(offset, -2, -1)
        torch.testing.assert_close(along, along[..., :1].expand_as(along))
    assert not torch.allclose(product[0, 0, 0, 0], product[0, 0, 0, 5], atol=1e-2)
    torch.testing.assert_close(product[..., 3, 3], (query @ key.transpose(-1, -2))[..., 0, 0])


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"hidden_size": 63}, "63"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"hidden_size": 64, "num_heads": 3}, "6"),
        ({"num_heads": 0}, "num_heads"),
        ({"num_heads": -1}, "num_heads"),
        ({"feedforward_size": 0}, "feedforward_size"),
        ({"init": "zero"}, "zero"),
        ({"threshold": 1.0}, "threshold is 1.0"),
        ({"threshold": 0.0}, "threshold is 0.0"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"features": ("margin", "loudness")}, "loudness"),
        ({"hidden_state_size": -2}, "hidden_state_size is -2"),
        ({"hidden_state_size": 1.5}, "hidden_state_size is 1.5"),
        ({"hidden_state_use": "cosine"}, "hidden_state_use is 'cosine': choose from input, similarity, both"),
        ({"hidden_state_size": 8, "context": "block"}, "hidden_state_size is 8 and context block"),
    ],
)
def test_impossible_configurations_are_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        NetworkConfig(**fields)


def test_a_width_that_is_not_known_yet_builds_nothing() -> None:
    configs = {"transformer": NetworkConfig(hidden_state_size=OWN_WIDTH), "dit": DiTConfig(hidden_state_size=OWN_WIDTH)}
    for kind, config in configs.items():
        with pytest.raises(ValueError, match="hidden_state_size is -1: a training fills in the width of its dLLM"):
            NetworkSpec(kind, config).build()


def gradients(network: UnmaskingNetwork) -> dict[str, bool]:
    """Which parameters a loss moves."""
    view = random_view(32, 8)
    weights = torch.randn(32, 8, generator=torch.Generator().manual_seed(1)).to(places.here)
    (network(view.inputs()) * weights * view.eligible).sum().backward()
    return {name: p.grad is not None and bool(p.grad.abs().max() > 1e-8) for name, p in network.named_parameters()}


@pytest.mark.parametrize("init", ["threshold", "random"])
def test_at_the_start_only_the_output_layer_learns(init: Any) -> None:
    torch.manual_seed(0)
    moved = gradients(built(NetworkConfig(init=init, features=ALL_FEATURES)))
    assert {name for name, moves in moved.items() if moves} == {"output.weight", "output.bias"}


def test_then_every_parameter_learns() -> None:
    torch.manual_seed(0)
    network = built(NetworkConfig(features=ALL_FEATURES, hidden_state_size=3))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not parameter.abs().max() > 0:
                assert name.split(".")[0] in ("condition", "output", "norm_output"), name
                parameter.add_(0.1 * torch.randn_like(parameter))
    moved = gradients(network)
    assert all(moved.values()), [name for name, moves in moved.items() if not moves]
