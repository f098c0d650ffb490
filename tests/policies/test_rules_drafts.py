"""Hand-computed cases of the rules that ask another forward: a guide's, or one on several drafts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from views import Successor, make_view, written

from envs.models.load import load_denoiser
from envs.view import Action, View
from policies import make_rule
from policies.rules.guide import check_guide
from policies.rules.guided import Guided

# The guide.


def guided(rule: str = "guided") -> tuple[Guided, Successor]:
    made, model = make_rule(rule), Successor()
    assert isinstance(made, Guided)
    return replace(made, model=model), model


@pytest.mark.parametrize(
    ("rule", "masked", "prediction", "commit", "tokens"),
    [
        ("guided", "xxxx", [7, 8, 9, 10], "xxxx", [7, 8, 9, 10]),
        ("guided", "xxxx", [7, 5, 6, 7], "xx..", [7, 8]),  # 8 was expected after 7
        ("guided", "xxxx", [8, 9, 10, 11], "x...", [7]),
        ("guided:0.25", "xxxx", [8, 10, 12, 14], "xxxx", [8, 10, 12, 14]),  # 0.3 is enough
        ("guided:0.35", "xxxx", [8, 10, 12, 14], "x...", [7]),
        ("guided:0", "xxxx", [20, 3, 20, 3], "xxxx", [20, 3, 20, 3]),
        ("guided", "x.xx", [7, 5, 6, 7], "x.xx", [7, 6, 7]),  # what is committed is read, not judged
        ("guided", "x.xx", [7, 5, 9, 7], "x.x.", [7, 6]),
        ("guided", ".xxx", [3, 4, 5, 9], ".xxx", [4, 5, 6]),
    ],
)
def test_guided(rule: str, masked: str, prediction: list[int], commit: str, tokens: list[int]) -> None:
    view = make_view([[0.5] * 4], [masked], prediction=[prediction], tensors={"prompt": [[20, 6]]})
    action = guided(rule)[0].act(view)
    assert action.tokens is not None
    assert action.extra_positions is not None
    assert written(action.commit) == [commit]
    assert action.tokens[action.commit].tolist() == tokens
    assert action.extra_positions.tolist() == [6]


def test_guided_stays_in_the_block() -> None:
    prompt = {"prompt": [[20, 6]]}
    view = make_view([[0.5] * 4], [".xxx"], prediction=[[7, 8, 9, 3]], tensors=prompt, block=(1, 3))
    assert written(guided()[0].act(view).commit) == [".xx."]
    view = make_view([[0.5] * 4], prediction=[[20, 21, 22, 23]], tensors=prompt, block=(0, 2))
    assert written(guided()[0].act(view).commit) == ["x..."]


def test_guided_reads_running_rows_only_and_numbers_them_from_their_first_token() -> None:
    rule, model = guided()
    prompts = {"prompt": [[4, 5, 6], [-1, -1, 9], [4, 5, 6]]}
    prediction = [[7, 8], [10, 11], [7, 9]]
    view = make_view([[0.5] * 2] * 3, ["xx", "xx", ".."], prediction=prediction, tensors=prompts)
    action = rule.act(view)
    assert model.calls == [
        (
            [[4, 5, 6, 7, 8], [0, 0, 9, 10, 11]],
            [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]],
            [[0, 1, 2, 3, 4], [0, 0, 0, 1, 2]],
        )
    ]
    assert action.extra_positions is not None
    assert action.extra_positions.tolist() == [5, 3, 0]
    assert written(action.commit) == ["xx", "xx", ".."]
    rule.act(make_view([[0.5] * 2], prediction=[[7, 8]], tensors={"prompt": [[4, 5, 6]]}))
    assert model.calls[1][1] is None
    rule.act(make_view([[0.5] * 2], [".."], tensors={"prompt": [[4, 5, 6]]}))
    assert len(model.calls) == 2


# Drafts.


def drafts_of(action: Action) -> list[str]:
    """What is committed and the drafts, of the only row."""
    assert action.drafts is not None
    return [*written(action.commit), *written(action.drafts[0])]


def choice(action: Action, views: Sequence[View]) -> int:
    assert action.choose is not None
    [chosen] = action.choose(views).tolist()
    return int(chosen)


def test_freedave_drafts_are_nested() -> None:
    view = make_view([[0.9, 0.5, 0.95, 0.2]])
    assert drafts_of(make_rule("freedave:3").act(view)) == ["..x.", "x.x.", "xxx."]
    assert drafts_of(make_rule("freedave").act(view)) == ["..x.", "x.x.", "xxx.", "xxxx"]
    short = make_view([[0.9, 0.5, 0.95, 0.2]], [".x.x"])
    assert drafts_of(make_rule("freedave").act(short)) == [".x..", ".x.x", ".x.x", ".x.x"]
    alone = make_rule("freedave:1").act(view)
    assert (written(alone.commit), alone.drafts) == (["..x."], None)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        # After 2, what does 0 say; after 2 and 0, what does 1 say.
        (([0.9, 0.1, 0, 0.2], [0, 0.8, 0, 0.2]), 2),
        (([0.9, 0.1, 0, 0.2], [0, 0.2, 0, 0.8]), 1),
        (([0.1, 0.9, 0, 0.2], [0, 0.8, 0, 0.2]), 0),  # right again after a wrong one is too late
        (([0.5, 0.5, 0, 0.5], [0, 0.5, 0, 0.5]), 2),  # of equals the first
    ],
)
def test_freedave_goes_on_from_the_last_right_draft(seen: tuple[list[float], list[float]], expected: int) -> None:
    view = make_view([[0.9, 0.5, 0.95, 0.2]], prediction=[[5, 6, 7, 8]])
    action = make_rule("freedave:3").act(view)
    known = [[5, 6, 7, 8]]
    views = [make_view([seen[0]], ["xx.x"], prediction=known), make_view([seen[1]], [".x.x"], prediction=known)]
    views.append(make_view([[0, 0, 0, 0.9]], ["...x"], prediction=known))
    assert choice(action, views) == expected
    other = replace(views[0], prediction=torch.tensor([[4, 6, 7, 8]]))
    assert choice(action, [other, *views[1:]]) == 0  # the same position with another token
    elsewhere = replace(views[0], prediction=torch.tensor([[5, 6, 7, 4]]))
    assert choice(action, [elsewhere, *views[1:]]) == expected  # a token that no draft has written


def test_freedave_stops_at_a_draft_that_finished_the_row() -> None:
    action = make_rule("freedave:3").act(make_view([[0.9, 0.5, 0.95]]))
    running, blank = make_view([[0.9, 0.1, 0]], ["xx."]), make_view([[0.0] * 3], ["..."])
    assert choice(action, [running, blank, blank]) == 1
    assert choice(action, [blank, blank, blank]) == 0


def test_freedave_stops_at_the_blocks_end() -> None:
    action = make_rule("freedave:4").act(make_view([[0.9, 0.5, 0.95, 0.2]], block=(0, 2)))
    assert drafts_of(action) == ["x...", "xx..", "xx..", "xx.."]
    inside = make_view([[0, 0.5, 0.9, 0.9]], [".xxx"], block=(0, 2))
    beyond = make_view([[0, 0, 0.9, 0.9]], ["..xx"], block=(2, 4))
    assert choice(action, [inside, beyond, beyond, beyond]) == 1


def test_info_gain_looks_ahead_only_where_nothing_is_sure() -> None:
    entropy = {"entropy": [[0.1, 0.2, 0.3, 0.4]]}
    unsure = make_view([[0.5, 0.6, 0.7, 0.4]], features=entropy)
    assert drafts_of(make_rule("info_gain:1,candidates=3,temperature=0").act(unsure)) == ["..x."] * 3
    assert drafts_of(make_rule("info_gain:2,candidates=2,temperature=0").act(unsure)) == [".xx."] * 2
    drawn = drafts_of(make_rule("info_gain:1,candidates=30,temperature=9").act(unsure))
    assert (len(drawn), drawn[0]) == (30, "..x.")
    assert set(drawn) == {"x...", ".x..", "..x.", "...x"}
    sure = make_view([[0.95, 0.6, 0.9, 0.4]], features=entropy)
    assert drafts_of(make_rule("info_gain:1,candidates=4,temperature=9").act(sure)) == ["x.x."] * 4
    alone = make_rule("info_gain:2,candidates=1").act(unsure)
    assert (written(alone.commit), alone.drafts) == ([".xx."], None)


def test_info_gain_draws_by_confidence_and_step() -> None:
    entropy = {"entropy": [[0.1, 0.2, 0.3]] * 400}
    rule = make_rule("info_gain:1,candidates=2,temperature=0.1")
    view = make_view([[0.5, 0.6, 0.4]] * 400, features=entropy)
    drafts = rule.act(view).drafts
    assert drafts is not None
    # Gumbel noise of temperature 0.1 draws from softmax(c / 0.1).
    expected = torch.tensor([5.0, 6.0, 4.0]).softmax(0)
    assert drafts.float().mean((0, 1)).tolist() == pytest.approx(expected.tolist(), abs=0.08)
    later = rule.act(replace(view, step=view.step + 1)).drafts
    assert later is not None
    assert not torch.equal(drafts, later)


def test_info_gain_chooses_by_what_is_left_and_what_it_costs() -> None:
    cost = {"x...": 0.1, ".x..": 0.6, "..x.": 0.5, "...x": 0.9}
    view = make_view([[0.5, 0.6, 0.7, 0.4]], features={"entropy": [list(cost.values())]})
    action = make_rule("info_gain:1,candidates=12,temperature=9").act(view)
    sets = drafts_of(action)
    assert set(sets) == set(cost)

    def seen(commit: str, left: float) -> View:
        """What is left after a commit, as the mean over three masks."""
        apart = iter([left - 0.05, left, left + 0.05])
        entropy = [0.0 if cell == "x" else next(apart) for cell in commit]
        return make_view([[0.5] * 4], [commit.translate(str.maketrans("x.", ".x"))], features={"entropy": [entropy]})

    for left, best in (
        ({"x...": 0.9, ".x..": 0.1, "..x.": 0.4, "...x": 0.2}, ".x.."),  # 1.0, 0.7, 0.9, 1.1
        ({"x...": 0.9, ".x..": 0.5, "..x.": 0.4, "...x": 0.2}, "..x."),
        ({"x...": 0.3, ".x..": 0.3, "..x.": 0.3, "...x": 0.3}, "x..."),
        ({"x...": 2.0, ".x..": 2.0, "..x.": 2.0, "...x": 0.2}, "...x"),
    ):
        views = [seen(commit, left[commit]) for commit in sets]
        assert choice(action, views) == sets.index(best)  # of equal ones the first
    finished = make_view([[0.5] * 4], ["...."], features={"entropy": [[0.0] * 4]})
    views = [finished if commit == ".x.." else seen(commit, 2.0) for commit in sets]
    assert sets[choice(action, views)] == ".x.."


@pytest.mark.parametrize("rule", ["guided:0.3", "diffuspec:0.5"])
def test_a_guide_that_lacks_the_dllms_words_is_refused(rule: str) -> None:
    """It would be shown tokens that it has no embedding of."""
    check_guide(make_rule(rule), load_denoiser("tiny"))
    with pytest.raises(
        ValueError, match=r"guide is 'tiny_guide': it knows 144 tokens and the dLLM's tokenizer 196; give guide=FOLDER"
    ):
        check_guide(make_rule(rule), load_denoiser("small"))
