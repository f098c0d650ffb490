"""Learned policies that decide when a cache is refreshed: their bit, its likelihood, and what it leaves as it was."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import places
import pytest
import torch
from checkpoints import build
from networks import outputs, perturbed
from torch import Tensor
from torch.nn import functional as F
from views import random_view, take

from envs.decoding.settings import DecodingSettings
from envs.models.load import load_denoiser
from envs.view import View
from policies import LearnedPolicy, NetworkConfig, UnmaskingNetwork, decode, load, save
from policies.distributions import ActionConfig, Bernoulli, WithRefresh, make_distribution
from policies.formats.engine import check_exportable
from train.algorithms.grpo_loss import step_log_prob
from train.algorithms.update_log import UnmaskProbabilities

pytestmark = pytest.mark.usefixtures("device")

PLAIN = NetworkConfig(features=("margin",))
DECIDES = replace(PLAIN, decides_refresh=True)


def seeded(config: NetworkConfig) -> UnmaskingNetwork:
    torch.manual_seed(0)
    return UnmaskingNetwork(config).to(places.here)


def chances(network: UnmaskingNetwork, view: View) -> Tensor:
    """(N,), the probability of a refresh."""
    return outputs(network, view)[:, -1].sigmoid()


# At the start.


def test_all_else_begins_as_without_and_a_refresh_at_its_log_odds() -> None:
    view, plain, own = random_view(64, 8), seeded(PLAIN), seeded(replace(DECIDES, refresh_bias=-1.5))
    found = outputs(own, view)
    assert torch.equal(found[:, :-1], outputs(plain, view))
    torch.testing.assert_close(found[:, -1], torch.full((64,), -1.5, device=places.here))
    weights = own.state_dict()
    assert all(torch.equal(weights[name], values) for name, values in plain.state_dict().items())
    for bias, is_due in ((-2.0, False), (0.5, True)):
        policy = LearnedPolicy(seeded(replace(DECIDES, refresh_bias=bias)))
        action = policy.act(view)
        assert action.commit.equal(LearnedPolicy(plain).act(view).commit)
        assert action.refresh is not None
        assert action.refresh.tolist() == [is_due] * 64
    assert LearnedPolicy(plain).act(view).refresh is None


def test_it_starts_as_a_policy_without_and_goes_on_as_one_with_it() -> None:
    view, source, own = random_view(64, 8), perturbed(PLAIN), seeded(replace(DECIDES, refresh_bias=-3.0))
    own.start_as(source)
    assert torch.equal(outputs(own, view)[:, :-1], outputs(source, view))
    torch.testing.assert_close(outputs(own, view)[:, -1], torch.full((64,), -3.0, device=places.here))
    trained = perturbed(DECIDES)
    own.start_as(trained)
    assert torch.equal(outputs(own, view), outputs(trained, view))
    with pytest.raises(ValueError, match="another configuration"):
        source.start_as(trained)


def test_as_a_filter_its_commits_are_what_is_read() -> None:
    view, inner = random_view(64, 8), perturbed(DECIDES)
    as_plain = UnmaskingNetwork(PLAIN)
    as_plain.load_state_dict(inner.state_dict(), strict=False)
    torch.manual_seed(0)
    own = UnmaskingNetwork(PLAIN, inner).to(places.here)
    torch.nn.init.normal_(own.output.weight)
    torch.manual_seed(0)
    expected = UnmaskingNetwork(PLAIN, as_plain).to(places.here)
    expected.output.load_state_dict(own.output.state_dict())
    assert torch.equal(outputs(own, view), outputs(expected, view))


@pytest.mark.parametrize(
    ("bias", "forwards"),
    [(0.0, 1), (-0.1, 2), (-1.0, 3), (-1.5, 4), (-2.0, 6)],  # 1 - p is 0.5, 0.52, 0.73, 0.82, 0.88: to the half of it
)
def test_a_deterministic_refresh_comes_when_it_would_have_come_by_now(bias: float, forwards: int) -> None:
    policy = LearnedPolicy(seeded(replace(DECIDES, refresh_bias=bias)))
    view = random_view(2, 8)
    # The second row's last forward computed everything, each time.
    unseen = torch.tensor([[3.0], [0.0]], device=places.here).expand(-1, 8)
    view = replace(view, features={**view.features, "unseen": unseen})
    found = []
    for _ in range(forwards):
        action = policy.act(view)
        assert action.refresh is not None
        found.append(action.refresh.tolist())
        view = replace(view, memory=action.memory)
    assert [one for one, _ in found] == [False] * (forwards - 1) + [True]
    assert {other for _, other in found} == {forwards == 1}
    # What is computed anew has nothing to wait for.
    fresh = replace(view, features={**view.features, "unseen": torch.zeros_like(unseen)})
    assert policy.act(fresh).refresh.tolist() == [forwards == 1] * 2  # type: ignore[union-attr]


# What it reads.


def test_it_reads_what_a_refresh_would_bring() -> None:
    network, view = perturbed(DECIDES), random_view(64, 8)
    rows = view.eligible.any(1)
    before = outputs(network, view)[:, -1]
    for name in ("age", "unseen"):
        values = view.features[name] + 20 * (view.masked if name == "age" else True)
        later = replace(view, features={**view.features, name: values})
        assert ((outputs(network, later)[:, -1] - before).abs() > 1e-3)[rows].all()
        # Commits don't depend on it unless they are told to read it.
        assert torch.equal(outputs(network, later)[:, :-1], outputs(network, view)[:, :-1])
    assert LearnedPolicy(network).features == {"margin", "age", "unseen"}


def test_a_network_of_blocks_reads_the_masks_of_the_block_alone() -> None:
    network, view = perturbed(replace(DECIDES, context="block")), random_view(64, 8)
    elsewhere = {name: torch.where(view.eligible, values, 0.7) for name, values in view.features.items()}
    changed = replace(view, masked=view.eligible, features={**elsewhere, "unseen": view.features["unseen"]})
    assert view.masked.ne(view.eligible).any()
    torch.testing.assert_close(chances(network, changed), chances(network, view))


def test_every_parameter_of_it_learns() -> None:
    network, view = perturbed(DECIDES), random_view(32, 8)
    network(view.inputs())[:, -1][view.eligible.any(1)].sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.refresh.parameters())


# The likelihood.

LOGITS = torch.tensor([[math.log(3.0), 0.0, 5.0, math.log(1 / 4)]])  # 3/4, 1/2, not eligible, and 1/5 of a refresh
MAY = torch.tensor([[True, True, False]])


def test_log_probabilities_and_entropy_by_hand() -> None:
    made = make_distribution(ActionConfig("bernoulli"), LOGITS, MAY)
    assert isinstance(made, WithRefresh)
    actions = torch.tensor([[1, 0, 0, 1], [1, 0, 0, 0], [0, 0, 1, 1]])
    wide = make_distribution(ActionConfig("bernoulli"), LOGITS.expand(3, -1), MAY.expand(3, -1))
    expected = torch.tensor([3 / 4 * 1 / 2 * 1 / 5, 3 / 4 * 1 / 2 * 4 / 5, 1 / 4 * 1 / 2 * 1 / 5])
    torch.testing.assert_close(wide.log_prob(actions).exp(), expected)
    assert isinstance(wide, WithRefresh)
    torch.testing.assert_close(wide.position_log_prob(actions).sum(1).exp(), expected)
    uneven = LOGITS.clone()
    uneven[0, 1] = math.log(4.0)
    product = make_distribution(ActionConfig("bernoulli"), uneven, MAY)
    assert isinstance(product, WithRefresh)
    each = product.position_log_prob(torch.tensor([[1, 0, 0, 1]])).exp()
    torch.testing.assert_close(each, torch.tensor([[3 / 4, 1 / 5, 1.0, 1 / 5]]))
    flips = [-p * math.log(p) - (1 - p) * math.log(1 - p) for p in (3 / 4, 1 / 2, 1 / 5)]
    assert made.entropy() is not None
    torch.testing.assert_close(made.entropy(), torch.tensor([sum(flips)]))
    assert made.mode().tolist() == [[1, 1, 0, 0]]
    # A forced commit is as likely as in a distribution of commits alone.
    forced = make_distribution(ActionConfig("forced_bernoulli"), LOGITS, MAY)
    torch.testing.assert_close(
        forced.log_prob(torch.tensor([[1, 0, 0, 1]])).exp(), torch.tensor([(3 / 8 + 1 / 8) * 1 / 5])
    )
    # The temperature divides its log-odds too.
    warm = make_distribution(ActionConfig("bernoulli", temperature=2.0), LOGITS, MAY)
    assert isinstance(warm, WithRefresh)
    torch.testing.assert_close(warm.refresh.logits, torch.tensor([[math.log(1 / 2)]]))


@pytest.mark.parametrize("name", ["forced_bernoulli", "bernoulli", "plackett_luce"])
def test_probabilities_of_all_actions_sum_to_one(name: Any) -> None:
    orders = [(1, 0), (0, 1), (1, 2), (2, 1)] if name == "plackett_luce" else [*product((0, 1), repeat=2)]
    if name == "forced_bernoulli":
        orders.remove((0, 0))  # is never drawn
    actions = torch.tensor([[*commits, 0, bit] for commits in orders for bit in (0, 1)])
    made = make_distribution(ActionConfig(name), LOGITS.expand(len(actions), -1), MAY.expand(len(actions), -1))
    assert made.log_prob(actions).exp().sum().item() == pytest.approx(1.0)
    entropy = made.entropy()
    assert (entropy is None) == (name == "plackett_luce")
    if entropy is not None:
        log_prob = made.log_prob(actions)
        assert entropy[0].item() == pytest.approx(-(log_prob.exp() * log_prob).sum().item())


@pytest.mark.parametrize("name", ["forced_bernoulli", "bernoulli", "plackett_luce"])
def test_samples_have_both_parts(name: Any) -> None:
    torch.manual_seed(0)
    rows = 4000
    may = MAY.expand(rows, -1) & (torch.arange(rows) % 2 == 0).unsqueeze(1)
    drawn = make_distribution(ActionConfig(name), LOGITS.expand(rows, -1), may).sample()
    assert drawn.shape == (rows, 4)
    # Nothing follows where nothing is masked.
    assert not drawn[1::2].any()
    assert (drawn[::2, -1] != 0).float().mean().item() == pytest.approx(1 / 5, abs=0.03)


def test_one_ratio_for_each_position_has_one_for_the_refresh() -> None:
    made, action = make_distribution(ActionConfig("bernoulli"), LOGITS, MAY), torch.tensor([[1, 0, 0, 1]])
    nobody = torch.tensor([False])
    found = step_log_prob(made, action, nobody, "position")
    torch.testing.assert_close(found.exp(), torch.tensor([[3 / 4, 1 / 2, 1.0, 1 / 5]]))
    assert step_log_prob(made, action, nobody).equal(made.log_prob(action).unsqueeze(1))


def test_the_probability_of_a_refresh_is_logged() -> None:
    from stable_baselines3.common.logger import Logger

    found, logger = UnmaskProbabilities(), Logger(None, [])
    for config in (ActionConfig("plackett_luce"), ActionConfig("bernoulli")):
        found.add(make_distribution(config, LOGITS, MAY))
    found.record(logger)
    expected = {"refresh_probability": 1 / 5, "refresh_probability_max": 1 / 5}
    expected |= {"unmask_probability": 5 / 8, "unmask_probability_max": 3 / 4}
    assert logger.name_to_value == pytest.approx({f"rollout/{name}": value for name, value in expected.items()})


def test_a_sampled_decision_draws_the_bit_by_its_probability() -> None:
    network = seeded(replace(DECIDES, refresh_bias=math.log(1 / 4)))
    view = take(random_view(2, 8), [1] * 4000)
    view = replace(view, key=torch.arange(4000, device=places.here))
    refresh = LearnedPolicy(network, "sample").act(view).refresh
    assert refresh is not None
    assert refresh.float().mean().item() == pytest.approx(1 / 5, abs=0.03)
    warm = LearnedPolicy(network, "sample", actions=ActionConfig(temperature=2.0)).act(view).refresh
    assert warm is not None
    assert warm.float().mean().item() == pytest.approx(1 / 3, abs=0.03)
    # Draws of its own: neither those of the commits nor those of the tokens.
    assert refresh.equal(LearnedPolicy(network, "sample", beta=0.5).act(view).refresh)


# Decoding.


@pytest.mark.parametrize("decision", ["deterministic", "sample"])
@pytest.mark.parametrize("cache", ["dual", "dkv:refresh=0", "window:window=3,active=2,refresh=0"])
def test_a_row_decodes_the_same_alone_in_any_batch_and_in_any_order(tmp_path: Path, decision: Any, cache: str) -> None:
    denoiser = load_denoiser(str(build("llada", tmp_path)), str(places.here), family="llada", chat_template=False)
    network = perturbed(replace(DECIDES, threshold=0.5, refresh_bias=0.0), 0.5)
    if decision == "deterministic":
        refresh_at(network, 1)
    policy = LearnedPolicy(network, decision)
    settings = DecodingSettings(8, None, 0.5, policy.features, cache=cache, early_end=False)
    prompts = ["a" * size for size in (3, 4, 5, 6, 9)]
    alone = decode(denoiser, prompts, policy, settings, batch_size=1)
    assert decode(denoiser, prompts, policy, settings, batch_size=5) == alone
    assert decode(denoiser, prompts[::-1], policy, settings, batch_size=2) == alone[::-1]
    # The bit counts: without one, and with it always set, other positions are computed.
    others = [decode(denoiser, prompts, LearnedPolicy(shifted(network, by), decision), settings) for by in (-99, 99)]
    assert len({sum(one.token_positions for one in answers) for answers in (alone, *others)}) == 3


def refresh_at(network: UnmaskingNetwork, tokens: int) -> None:
    """Let a network refresh where at least so many tokens are unseen."""
    first, _, last = network.refresh
    with torch.no_grad():
        for weight in (first.weight, first.bias, last.weight):  # type: ignore[union-attr]
            weight.zero_()  # type: ignore[operator]
        first.weight[0, -2], last.weight[0, 0] = 1.0, 9.0  # type: ignore[index,union-attr]
        last.bias.fill_(-9 * math.tanh(math.log(tokens + 0.5)))  # type: ignore[union-attr,operator]


def test_it_refreshes_where_enough_has_come_in() -> None:
    network, view = perturbed(DECIDES), random_view(64, 8)
    refresh_at(network, 3)
    unseen = torch.arange(64, device=places.here).unsqueeze(1).expand(-1, 8) % 7
    refresh = LearnedPolicy(network).act(replace(view, features={**view.features, "unseen": unseen})).refresh
    assert refresh is not None
    assert refresh.tolist() == [row % 7 >= 3 for row in range(64)]


def shifted(network: UnmaskingNetwork, by: int) -> UnmaskingNetwork:
    other = UnmaskingNetwork(network.config).to(places.here)
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        other.refresh[-1].bias.add_(by)  # type: ignore[union-attr,operator]
    return other


def test_without_a_cache_it_changes_nothing() -> None:
    denoiser, network = load_denoiser("toy", str(places.here)), perturbed(DECIDES)
    settings = DecodingSettings(8, features=LearnedPolicy(network).features)
    never, always = (
        decode(denoiser, ["copy : a b c"], LearnedPolicy(shifted(network, by)), settings) for by in (-99, 99)
    )
    assert never == always


# Files.


def edited(folder: Path, **changes: Any) -> Path:
    """Change fields of a policy's network; None takes one away."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["network"] = {name: value for name, value in (config["network"] | changes).items() if value is not None}
    file.write_text(json.dumps(config))
    return folder


def test_a_folder_brings_it_back(tmp_path: Path) -> None:
    network, view = perturbed(replace(DECIDES, refresh_bias=-1.0)), random_view(64, 8)
    saved = save(LearnedPolicy(network.cpu(), "sample"), tmp_path / "policy")
    again = load(saved, device=str(places.here))
    assert again.network.config == network.config
    expected, found = LearnedPolicy(network.to(places.here), "sample").act(view), again.act(view)
    assert found.commit.equal(expected.commit)
    assert found.refresh is not None
    assert expected.refresh is not None
    assert found.refresh.equal(expected.refresh)
    assert 0 < found.refresh.float().mean() < 1


def test_a_policy_that_was_saved_before_loads_as_before(tmp_path: Path) -> None:
    network, view = perturbed(PLAIN), random_view(64, 8)
    saved = save(LearnedPolicy(network.cpu()), tmp_path / "policy")
    again = load(edited(saved, decides_refresh=None, refresh_bias=None), device=str(places.here))
    assert again.act(view).refresh is None
    assert again.act(view).commit.equal(LearnedPolicy(network.to(places.here)).act(view).commit)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decides_refresh": "yes"}, "network.decides_refresh is 'yes': it must be a valid boolean"),
        ({"refresh_bias": "low"}, "network.refresh_bias is 'low'"),
        ({"decides_refresh": False}, r"it has a tensor 'refresh\.0\.bias', which its configuration does not know"),
        ({"refreshes": True}, "'network.refreshes' is no field that is known"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    saved = save(LearnedPolicy(UnmaskingNetwork(DECIDES)), tmp_path / "policy")
    with pytest.raises(ValueError, match=message):
        load(edited(saved, **change))


def test_impossible_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="refresh_bias is nan: it must be a finite number"):
        NetworkConfig(refresh_bias=math.nan)


def test_no_engine_takes_it() -> None:
    policy = LearnedPolicy(UnmaskingNetwork(NetworkConfig(context="block", decides_refresh=True)))
    with pytest.raises(ValueError, match=r"it decides when a cache is refreshed .* no engine asks a policy; train one"):
        check_exportable(policy)
    reads = LearnedPolicy(UnmaskingNetwork(NetworkConfig(context="block", features=("unseen",))))
    with pytest.raises(ValueError, match="it reads unseen"):
        check_exportable(reads)


def test_the_bit_is_a_coin_of_its_own() -> None:
    """Commits and refresh are drawn apart: of two independent bits, the joint frequency is the product."""
    torch.manual_seed(0)
    drawn = make_distribution(ActionConfig("bernoulli"), LOGITS.expand(8000, -1), MAY.expand(8000, -1)).sample()
    table = F.one_hot(drawn[:, 0].long() * 2 + drawn[:, 3].long(), 4).float().mean(0)
    expected = torch.tensor([1 / 4 * 4 / 5, 1 / 4 * 1 / 5, 3 / 4 * 4 / 5, 3 / 4 * 1 / 5])
    torch.testing.assert_close(table, expected, atol=0.02, rtol=0)
    assert isinstance(make_distribution(ActionConfig("bernoulli"), LOGITS[:, :3], MAY), Bernoulli)
