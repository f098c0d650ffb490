"""What holds of every rule: its name and options, and the promises of `UnmaskingPolicy.act`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from views import Successor, make_view, random_view, take

from envs.decoding.settings import DecodingSettings
from envs.models.toy import ToyDenoiser
from envs.readings import PARTS, VIEW_FEATURES, VIEW_TENSORS
from envs.view import Action, View
from policies import RULES, Random, make_rule
from policies.rules.base import CommitRule, Rule
from policies.rules.diffuspec import DiffuSpec
from policies.rules.fixed import FixedStep
from policies.rules.guided import Guided

ROWS, LENGTH = 16, 8
DEFAULTS = {name: cls.options() for name, cls in RULES.items()}
NUMBERS = [(rule, option) for rule, options in DEFAULTS.items() for option, d in options.items() if type(d) is not str]
COUNTS = [(rule, option) for rule, option in NUMBERS if isinstance(DEFAULTS[rule][option], int)]
TEXTS = {
    "schedule": "cosine",
    "order": "margin",
    "guide": "some/folder=1",
    "frequencies": "a b.json",
    "corpus": "a b.txt",
}


# Names and options.


def descendants(cls: type[Any]) -> set[type[Any]]:
    return {below for child in cls.__subclasses__() for below in (child, *descendants(child))}


def test_every_rule_is_in_the_registry_under_its_name() -> None:
    families = {CommitRule, FixedStep}
    assert set(RULES.values()) == descendants(Rule) - families
    for name, cls in RULES.items():
        assert cls.rule == name
        assert issubclass(cls, Rule)
        assert cls.features <= VIEW_FEATURES | VIEW_TENSORS
        assert cls.__doc__ is not None
        assert "Source:" in cls.__doc__
        assert make_rule(name).decision == "deterministic"


@pytest.mark.parametrize("name", RULES)
def test_a_bare_name_gives_the_defaults(name: str) -> None:
    rule = make_rule(name)
    assert type(rule) is RULES[name]
    assert {option: getattr(rule, option) for option in DEFAULTS[name]} == DEFAULTS[name]
    knob = next(iter(DEFAULTS[name].values()))
    assert rule.name == f"{name}:{knob:g}"
    assert make_rule(rule.name) == rule


@pytest.mark.parametrize("name", RULES)
def test_the_sweep_is_of_different_rules_whose_names_make_them_again(name: str) -> None:
    rules = [make_rule(f"{name}:{knob}") for knob in RULES[name].sweep]
    assert [make_rule(rule.name) for rule in rules] == rules
    assert len({rule.name for rule in rules}) == len(rules) >= 1


@pytest.mark.parametrize("name", RULES)
def test_a_name_says_every_option_that_is_not_the_default(name: str) -> None:
    changed: dict[str, Any] = {}
    for option, default in DEFAULTS[name].items():
        if option in TEXTS or isinstance(default, str):
            changed[option] = TEXTS.get(option, "a|b")
        elif isinstance(default, float):
            changed[option] = default * 0.9 or 0.5
        elif option != "agreement":
            changed[option] = default + 1
    rule = RULES[name](**changed)
    again = make_rule(rule.name)
    assert (type(again), vars(again), again.name) == (type(rule), vars(rule), rule.name)
    knob = next(iter(DEFAULTS[name]))
    assert all((f",{option}=" in rule.name) is (option != knob) for option in changed)
    text = ",".join(f"{option}={value}" for option, value in reversed(changed.items()))
    assert make_rule(f"{name}:{text}" if text else name) == rule


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("klass:0.8,history=3", "klass:0.8,history=3"),
        ("klass:history=3", "klass:0.9,history=3"),
        ("klass:history=3,threshold=0.8", "klass:0.8,history=3"),
        ("klass:0.8,history=2", "klass:0.8"),
        ("low_confidence:3", "low_confidence:3"),
        ("low_confidence:3.0", "low_confidence:3"),
        ("low_confidence:2,schedule=cosine", "low_confidence:2,schedule=cosine"),
        ("threshold:0", "threshold:0"),
        ("threshold:0.99999999", "threshold:0.99999999"),
        ("threshold:1e-3", "threshold:0.001"),
        ("adablock:0.9,delimiters=+|=", "adablock:0.9,delimiters=+|="),
    ],
)
def test_texts_and_names(text: str, name: str) -> None:
    assert make_rule(text).name == name


@pytest.mark.parametrize(("name", "option"), NUMBERS)
def test_impossible_numbers_are_refused_by_option_value_and_what_is_allowed(name: str, option: str) -> None:
    for value in ("-1", "nan"):
        with pytest.raises(ValueError, match=rf"^policy is .*{option}.*: {name}'s {option} is {value}.*: it must be "):
            make_rule(f"{name}:{option}={value}")
    for value in ("high", "", "0.9.1"):
        with pytest.raises(ValueError, match=rf"{name}'s {option} is '{value}': it must be a number$"):
            make_rule(f"{name}:{option}={value}")


@pytest.mark.parametrize(("name", "option"), COUNTS)
def test_counts_are_whole(name: str, option: str) -> None:
    allowed = "(a whole number of . or more|1)"
    for value in ("1.5", "inf"):
        with pytest.raises(ValueError, match=rf"{name}'s {option} is {value}: it must be {allowed}$"):
            make_rule(f"{name}:{option}={value}")


@pytest.mark.parametrize("name", RULES)
def test_unknown_options_list_what_there_is(name: str) -> None:
    allowed = ", ".join(DEFAULTS[name])
    for option in ("colour", "", "rule", "delimiter_ids", "model"):
        told = rf"(choose from {allowed}|did you mean ({'|'.join(DEFAULTS[name])})\?)"
        with pytest.raises(ValueError, match=rf"^policy is .*: {name}'s option is '{option}': {told}$"):
            make_rule(f"{name}:{option}=1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("greedy:1", r"policy is 'greedy:1': no rule of that name; choose from low_confidence, .*, oracle$"),
        ("", "policy is '': no rule"),
        ("Threshold:0.9", "no rule of that name"),
        ("threshold:", "policy is 'threshold:': write a number after the colon, as in threshold:0.9"),
        ("low_confidence:0", "low_confidence's tokens_per_step is 0: it must be a whole number of 1 or more"),
        ("dus:1", "dus's base is 1: it must be a whole number of 2 or more"),
        ("oracle:2", "oracle's agreement is 2: it must be 1"),
        ("wino:1.1", r"wino's threshold is 1.1: it must be in \[0, 1\]"),
        (
            "low_confidence:1,schedule=sine",
            "low_confidence's schedule is 'sine': .* linear, cosine, square, root, dream",
        ),
        ("rcr:1,schedule=", "rcr's schedule is ''"),
        ("eb_sampler:1,order=random", "eb_sampler's order is 'random': it must be entropy, confidence or margin"),
        ("bacd:0.8,high=0.7", "bacd's low is 0.8: it must be at most high, 0.7"),
        ("cad:0.9,smallest=3,largest=2", "cad's smallest is 3: it must be at most largest, 2"),
        ("random:-2", "random's tokens_per_step is -2"),
    ],
)
def test_impossible_rules_are_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_rule(text)


# What every rule promises.


@cache
def bound(text: str) -> Rule:
    """A rule that is ready for the toy and a buffer of two blocks."""
    rule = make_rule(text)
    if isinstance(rule, Guided):
        return replace(rule, model=Successor())
    if isinstance(rule, DiffuSpec):
        return replace(rule, model=Successor(), end_ids=(2,))
    return rule.bind(ToyDenoiser(), DecodingSettings(LENGTH, LENGTH // 2, features=rule.features))


EVERY_RULE = sorted(
    {make_rule(name).name for name in RULES}
    | {make_rule(f"{name}:{cls.sweep[-1]}").name for name, cls in RULES.items()}
    | {"threshold:0", "low_confidence:3,schedule=root"}
)


@cache
def sample(seed: int) -> View:
    return random_view(ROWS, LENGTH, seed)


def parts(action: Action) -> dict[str, Tensor]:
    """All tensors of an action by name."""
    names = ("commit", "scope", "tokens", "remask", "block_end", "length", "drafts", "extra_positions")
    tensors = {name: getattr(action, name) for name in names if getattr(action, name) is not None}
    return tensors | {f"memory {name}": values for name, values in action.memory.items()}


def two_steps(policy: Rule, rows: Sequence[int] | Tensor = range(ROWS)) -> list[tuple[View, Action]]:
    """Two unrelated views of some rows; the memory of the first goes to the second."""
    first, second = (take(sample(seed), rows) for seed in (0, 1))
    action = policy.act(first)
    second = replace(second, memory=dict(action.memory))
    return [(first, action), (second, policy.act(second))]


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_RULE)
def test_every_rule_commits_what_it_may_and_makes_progress(name: str) -> None:
    for view, action in two_steps(bound(name)):
        has_mask = view.eligible.any(1)
        may = view.eligible
        if action.block_end is not None:
            place = view.positions
            may = view.masked & (place >= view.block_start[:, None]) & (place < action.block_end[:, None])
            assert (action.block_end[has_mask] > view.block_start[has_mask]).all()
        if action.scope is not None:
            assert not (action.scope & ~view.masked).any()
            may = may | action.scope
        sets = [action.commit] if action.drafts is None else [action.commit, *action.drafts.unbind(1)]
        assert action.trial is None or not (action.trial & ~may).any()
        for chosen in sets:
            assert chosen.dtype == torch.bool
            assert chosen.shape == view.masked.shape
            assert not (chosen & ~may).any()
            assert torch.equal(chosen.any(1), has_mask)
        if action.remask is not None:
            assert action.remask.dtype == torch.bool
            assert not (action.remask & (view.masked | ~view.in_block)).any()
            assert not action.remask[~has_mask].any()
            assert (action.commit.sum(1) >= action.remask.sum(1)).all()
        assert (action.drafts is None) == (action.choose is None)
        assert (action.trial is None) == (action.decide is None)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_RULE)
def test_every_rule_decides_each_row_by_itself(name: str) -> None:
    policy = bound(name)
    together = [parts(action) for _, action in two_steps(policy)]
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    some: list[Sequence[int] | Tensor] = [order, *([row] for row in range(ROWS))]
    for rows in some:
        for (_, action), expected in zip(two_steps(policy, rows), together, strict=True):
            assert parts(action).keys() == expected.keys()
            for part, values in parts(action).items():
                assert values.dtype == expected[part].dtype
                if values.is_floating_point():
                    torch.testing.assert_close(values, expected[part][rows], rtol=0, atol=1e-6)
                else:
                    assert torch.equal(values, expected[part][rows]), part


@pytest.mark.parametrize("name", [name for name in EVERY_RULE if name.startswith(("freedave", "info_gain"))])
def test_drafts_are_chosen_for_each_row_by_itself(name: str) -> None:
    def chosen(rows: Sequence[int] | Tensor) -> Tensor | None:
        action = bound(name).act(take(sample(0), rows))
        if action.choose is None or action.drafts is None:
            return None
        count = action.drafts.shape[1] + 1
        choice = action.choose([take(sample(2 + seed), rows) for seed in range(count)])
        assert ((choice >= 0) & (choice < count)).all()
        return choice

    together = chosen(range(ROWS))
    for rows in (torch.arange(ROWS).flip(0), [3], [10]):
        alone = chosen(rows)
        assert (alone is None) if together is None else (alone is not None and torch.equal(alone, together[rows]))


@pytest.mark.parametrize("name", [name for name in EVERY_RULE if name.startswith("punt")])
def test_trials_are_made_and_decided_for_each_row_by_itself(name: str) -> None:
    def tried(rows: Sequence[int] | Tensor) -> Tensor:
        """All trials and the commit; rows that have no trial where others have are empty in it."""
        action, views = bound(name).act(take(sample(0), rows)), iter(take(sample(2 + seed), rows) for seed in range(9))
        found = []
        while action.trial is not None and action.decide is not None:
            found.append(action.trial)
            action = action.decide(next(views))
        none = torch.zeros_like(action.commit)
        return torch.stack([action.commit, *found, *[none] * (3 - len(found))])

    together = tried(range(ROWS))
    assert together[1:].any()
    for rows in (torch.arange(ROWS).flip(0), *([row] for row in range(ROWS))):
        assert torch.equal(tried(rows), together[:, rows])


@pytest.mark.parametrize("name", EVERY_RULE)
def test_acting_changes_neither_the_rule_nor_the_view(name: str) -> None:
    policy = bound(name)
    view, untouched = random_view(ROWS, LENGTH), random_view(ROWS, LENGTH)
    first, again = parts(policy.act(view)), parts(policy.act(view))
    assert all(torch.equal(values, again[part]) for part, values in first.items())
    fields = {name: value for name, value in vars(view).items() if isinstance(value, Tensor)}
    fields |= dict(view.features) | dict(view.tensors)
    before = vars(untouched) | dict(untouched.features) | dict(untouched.tensors)
    assert all(torch.equal(value, before[name]) for name, value in fields.items())


@pytest.mark.parametrize("name", EVERY_RULE)
def test_every_rule_reads_no_more_than_it_asks_for(name: str) -> None:
    policy, view = bound(name), random_view(ROWS, LENGTH)
    allowed = {key for feature in policy.features for key in PARTS.get(feature, (feature,))}
    narrow = replace(
        view,
        features={key: value for key, value in view.features.items() if key in allowed},
        tensors={key: value for key, value in view.tensors.items() if key in allowed},
    )
    assert torch.equal(policy.act(narrow).commit, policy.act(view).commit)
    for feature in policy.features:
        lacking = replace(
            narrow,
            features={key: value for key, value in narrow.features.items() if key != feature},
            tensors={k: value for k, value in narrow.tensors.items() if k not in PARTS.get(feature, (feature,))},
        )
        if not name.startswith("eb_sampler"):  # reads the margin only when it sorts by it
            with pytest.raises(KeyError, match=feature):
                policy.act(lacking)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, cls in RULES.items() if issubclass(cls, CommitRule)])
def test_commit_rules_act_as_they_select(name: str) -> None:
    policy, view = bound(name), random_view(ROWS, LENGTH)
    assert isinstance(policy, CommitRule)
    assert torch.equal(policy.act(view).commit, policy.select(view))
    assert parts(policy.act(view)).keys() == {"commit"}


def test_random_is_uniform_over_subsets_and_blind_to_confidence() -> None:
    rows = 6000
    view = make_view([[0.9, 0.1, 0.5, 0.3, 0.2]] * rows, ["xx.xx"] * rows, step=2)
    chosen = Random(2).select(view)
    counts = {pair: 0 for pair in combinations((0, 1, 3, 4), 2)}
    for row in chosen.tolist():
        counts[tuple(i for i, cell in enumerate(row) if cell)] += 1  # type: ignore[index]
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3
    blind = Random(2).select(make_view([[0.1, 0.9, 0.5, 0.3, 0.2]] * rows, ["xx.xx"] * rows, step=2))
    later = Random(2).select(make_view([[0.9, 0.1, 0.5, 0.3, 0.2]] * rows, ["xx.xx"] * rows, step=3))
    assert torch.equal(chosen, blind)
    assert (chosen == later).all(1).float().mean().item() == pytest.approx(1 / math.comb(4, 2), abs=0.02)
