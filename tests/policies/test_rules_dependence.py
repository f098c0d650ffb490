"""The rules that ask which positions depend on each other, by hand and against plain transcriptions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from denoisers import MASK, Context, D, HandWritten, start
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from views import believing, make_view, random_view, written

from envs import DecodingSettings
from envs.view import Action, View
from policies import decode, make_rule
from policies.playing import play_out
from policies.rules.base import rank
from policies.rules.dawn import DAWN

# DAWN.


def attending(
    confidence: Sequence[float],
    pays: dict[tuple[int, int], float],
    masked: str,
    certain: float = 1.0,
    received: dict[int, float] | None = None,
    **others: Any,
) -> View:
    """A row after a prompt of two tokens, which are at -2 and -1; `pays` says (who, whom) of what is not 0."""
    length = len(confidence)
    paid, mean = torch.zeros(1, length, 2 + length), torch.full((1, 2 + length), 1e-3)
    for (who, whom), share in pays.items():
        paid[0, who, 2 + whom] = share
    for whom, share in (received or {}).items():
        mean[0, 2 + whom] = share
    view = make_view([confidence], [masked], features={"top_probability": [[certain] * length]}, **others)
    return replace(view, tensors={"attention": paid, "attention_received": mean})


@pytest.mark.parametrize(
    ("rule", "confidence", "pays", "commit"),
    [
        # Certain positions, and nothing of the rest below tau_low.
        ("dawn", [0.95, 0.9, 0.74, 0.2], {}, "xx.."),
        ("dawn", [0.6, 0.5, 0.4, 0.2], {}, "x..."),
        # Independent ones above it.
        ("dawn", [0.8, 0.76, 0.75, 0.2], {}, "xxx."),
        # A strong link in either direction: the more confident one goes first, and stands in the other's way.
        ("dawn", [0.8, 0.76, 0.78, 0.2], {(0, 1): 0.07}, "x.x."),
        ("dawn", [0.8, 0.76, 0.78, 0.2], {(1, 0): 0.5}, "x.x."),
        ("dawn", [0.8, 0.76, 0.78, 0.2], {(1, 0): 0.069}, "xxx."),
        # The one left out stands in nobody's way: 1 falls to 0, so 2, which only 1 is linked to, stays.
        ("dawn", [0.8, 0.79, 0.78, 0.2], {(1, 0): 0.5, (1, 2): 0.5}, "x.x."),
        ("dawn", [0.78, 0.8, 0.79, 0.2], {(1, 0): 0.5, (1, 2): 0.5}, ".x.."),
        # Certain positions may be linked to each other, but leave out those below.
        ("dawn", [0.95, 0.92, 0.8, 0.8], {(0, 1): 0.5, (2, 1): 0.5}, "xx.x"),
        # An attention that goes to itself is no link.
        ("dawn", [0.8, 0.76, 0.2, 0.2], {(0, 0): 0.9, (1, 1): 0.9}, "xx.."),
        # The prompt is an anchor: 0.7 is enough, below tau_low.
        ("dawn", [0.72, 0.71, 0.7, 0.69], {(0, -1): 0.1, (2, -2): 0.1, (3, -2): 0.1}, "x.x."),
        # What follows an anchor is committed whatever it is linked to, and leaves out others.
        ("dawn", [0.72, 0.8, 0.76, 0.2], {(0, -1): 0.1, (0, 1): 0.1}, "x.x."),
        ("dawn:0.85", [0.84, 0.86, 0.2, 0.2], {}, ".x.."),
        ("dawn:0.6,high=0.7,induced=0.5", [0.7, 0.6, 0.5, 0.4], {(2, -1): 0.1, (3, -1): 0.1}, "xxx."),
        ("dawn:0.6,edge=0.3", [0.8, 0.7, 0.65, 0.4], {(0, 1): 0.29, (2, 1): 0.3}, "xx.."),
    ],
)
def test_dawn(rule: str, confidence: list[float], pays: dict[tuple[int, int], float], commit: str) -> None:
    assert written(make_rule(rule).act(attending(confidence, pays, "xxxx")).commit) == [commit]


def test_an_anchor_of_dawn_is_certain_still_and_no_later_than_the_block() -> None:
    pays = {(0, 1): 0.2, (2, 3): 0.2}
    confidence = [0.72, 0.0, 0.71, 0.0]
    assert written(DAWN().select(attending(confidence, pays, "x.x."))) == ["x.x."]
    assert written(DAWN().select(attending(confidence, pays, "x.x.", certain=0.9))) == ["x.x."]
    assert written(DAWN().select(attending(confidence, pays, "x.x.", certain=0.89))) == ["x..."]  # the best
    assert written(DAWN().select(attending([0.6, 0.0, 0.71, 0.0], pays, "x.x.", block=(0, 3)))) == ["..x."]
    assert written(DAWN(0.9).select(attending([0.72, 0.0, 0.73, 0.0], pays, "x.x.", block=(0, 3)))) == ["x..."]


def test_dawn_links_nothing_to_a_sink() -> None:
    pays = {(0, -1): 0.2, (1, 2): 0.2}
    confidence = [0.72, 0.8, 0.9, 0.76]
    both = attending(confidence, pays, "xxxx")
    assert written(DAWN().select(both)) == ["x.xx"]
    # Of six tokens, four times the even share is two thirds.
    for whom, commit in ((-1, "..xx"), (2, "xxxx")):
        sink = attending(confidence, pays, "xxxx", received={whom: 0.67})
        assert written(DAWN().select(sink)) == [commit]
        assert written(DAWN(sink=0.7).select(sink)) == ["x.xx"]
        almost = attending(confidence, pays, "xxxx", received={whom: 0.66})
        assert written(DAWN().select(almost)) == ["x.xx"]
    # Of a thousand, 0.01 is above it.
    long = attending([0.8, 0.76] + [0.1] * 998, {(1, 0): 0.2}, "x" * 1000, received={0: 0.0101})
    assert written(DAWN().select(long)) == ["xx" + "." * 998]
    long = attending([0.8, 0.76] + [0.1] * 998, {(1, 0): 0.2}, "x" * 1000, received={0: 0.0099})
    assert written(DAWN().select(long)) == ["x." + "." * 998]


def dawn(rule: DAWN, view: View, row: int) -> set[int]:
    """Section 4 of arXiv 2602.06953 in loops over lists."""
    length = view.masked.shape[1]
    paid, received = view.tensors["attention"][row].tolist(), view.tensors["attention_received"][row].tolist()
    prompt = len(received) - length
    limit = max(rule.sink, 4 / len([share for share in received if share > 0]))
    confidence = view.confidence[row].tolist()

    def depends(who: int, whom: int) -> bool:
        """Whom: a column of the prompt and the buffer."""
        return who + prompt != whom and received[whom] <= limit and paid[who][whom] >= rule.edge

    masks = [i for i in range(length) if view.eligible[row, i]]
    anchors = list(range(prompt))
    for i in range(int(view.block_end[row])):
        if not view.masked[row, i] and view.features["top_probability"][row, i] >= rule.high:
            anchors.append(prompt + i)
    certain = {i for i in masks if confidence[i] >= rule.high}
    follows = {i for i in masks if confidence[i] >= rule.induced and any(depends(i, anchor) for anchor in anchors)}

    def neighbours(i: int) -> set[int]:
        return {j for j in masks if depends(i, prompt + j) or depends(j, prompt + i)}

    chosen = certain | follows
    left = {i for i in masks if confidence[i] >= rule.low} - chosen
    left -= {j for i in chosen for j in neighbours(i)}
    while left:
        best = min(left, key=lambda i: (-confidence[i], i))
        chosen.add(best)
        left -= {best} | neighbours(best)
    return chosen or {min(masks, key=lambda i: (-confidence[i], i))} if masks else set()


@pytest.mark.parametrize(
    "text",
    [
        "dawn",
        "dawn:0.3,induced=0.2,high=0.8,edge=0.15",
        "dawn:0.1,induced=0.5,high=0.9,edge=0.2,sink=0.4",
        "dawn:0,edge=0",
    ],
)
def test_dawn_against_a_transcription(text: str) -> None:
    rule = make_rule(text)
    assert isinstance(rule, DAWN)
    sizes = set()
    for seed in range(6):
        view = random_view(12, 10, seed)
        for row, chosen in enumerate(rule.act(view).commit.tolist()):
            found = {i for i, cell in enumerate(chosen) if cell}
            assert found == dawn(rule, view, row)
            sizes.add(len(found))
    assert len(sizes) > 2


def test_dawn_is_threshold_where_nothing_attends() -> None:
    class Deaf(Context):
        def logits_and_attention(self, tokens: Tensor, attention_mask: Tensor, length: int) -> tuple[Tensor, Tensor]:
            return self.logits(tokens, attention_mask, length), torch.zeros(len(tokens), *tokens.shape[1:] * 2)

    prompts = ["1 2 3", "4", "5 6", "9 8 7"]
    config = DecodingSettings(8, 4, features=DAWN.features)
    one = decode(Deaf(), prompts, make_rule("dawn:0.3"), config)
    other = decode(Deaf(), prompts, make_rule("threshold:0.3"), DecodingSettings(8, 4))
    assert [(done.tokens, done.nfe) for done in one] == [(done.tokens, done.nfe) for done in other]
    linked = decode(Context(), prompts, make_rule("dawn:0.3,edge=0.01,high=1"), config)
    assert sum(done.nfe for done in linked) > sum(done.nfe for done in one)


# PUNT.


def tried(action: Action) -> str:
    assert action.trial is not None
    [row] = written(action.trial)
    return row


def decided(action: Action, view: View) -> Action:
    assert action.decide is not None
    return action.decide(view)


def pairs(*first: float) -> list[list[list[float]]]:
    """One row of distributions over two tokens."""
    return [[[p, 1 - p] for p in first]]


def test_punt_goes_through_the_digits_of_the_places_by_confidence() -> None:
    # By confidence: 2, 0, 3, 1; as binary digits 00, 01, 10, 11.
    view = believing(pairs(0.8, 0.6, 0.9, 0.7))
    action = make_rule("punt").act(view)
    assert written(action.commit) == ["..x."]
    assert tried(action) == "x.x."
    still = believing(pairs(0.8, 0.6, 0.9, 0.7), [".x.x"])
    second = decided(action, still)
    assert tried(second) == "..xx"
    assert written(second.commit) == ["..x."]
    last = decided(second, believing(pairs(0.8, 0.6, 0.9, 0.7), ["xx.."]))
    assert (last.trial, last.decide) == (None, None)
    assert written(last.commit) == ["xxxx"]


def test_punt_leaves_out_what_moves() -> None:
    view = believing(pairs(0.8, 0.6, 0.9, 0.7))
    # KL((0.7, 0.3), (0.5, 0.5)) = 0.0823 nats.
    first = believing(pairs(0.0, 0.6, 0.0, 0.5), [".x.x"])
    for rule, second in (("punt:0.082", "..x."), ("punt:0.083", "..xx")):
        assert tried(decided(make_rule(rule).act(view), first)) == second
    # With 3 gone, 1 is still tested by 2 alone; 0 moves then.
    action = decided(make_rule("punt:0.05").act(view), first)
    last = decided(action, believing(pairs(0.5, 0.6, 0.0, 0.7), ["xx.x"]))
    assert written(last.commit) == [".xx."]


def test_punt_asks_no_forward_where_nothing_is_left_to_test() -> None:
    alone = make_rule("punt").act(believing(pairs(0.8, 0.6, 0.9), ["..x"]))
    assert (written(alone.commit), alone.trial) == (["..x"], None)
    none = make_rule("punt").act(believing(pairs(0.8, 0.6, 0.9), ["..."]))
    assert (written(none.commit), none.trial) == (["..."], None)
    # Three places: 00, 01, 10. The last fails; then 01 is tested by 00.
    action = make_rule("punt:0").act(believing(pairs(0.9, 0.8, 0.7)))
    assert tried(action) == "xx."
    second = decided(action, believing(pairs(0.9, 0.8, 0.6), ["..x"]))
    assert tried(second) == "x.."
    last = decided(second, believing(pairs(0.9, 0.1, 0.6), [".xx"]))
    assert (written(last.commit), last.trial) == (["x.."], None)
    # Both of the upper half fail, and 01 does not: one round is all that is left of the lower half.
    four = decided(
        make_rule("punt:0").act(believing(pairs(0.9, 0.8, 0.7, 0.6))), believing(pairs(0, 0, 0.6, 0.7), ["..xx"])
    )
    assert tried(four) == "x..."


def test_rows_of_punt_go_at_their_own_pace() -> None:
    rows = pairs(0.9, 0.8, 0.7, 0.6) + pairs(0.9, 0.8, 0.7, 0.6) + pairs(0.9, 0.8, 0.7, 0.6)
    action = make_rule("punt").act(believing(rows, ["xxxx", "xx..", ".x.."]))
    assert action.trial is not None
    assert written(action.trial) == ["xx..", "x...", "...."]
    seen = believing(rows, ["..xx", ".x..", "...."])
    second = decided(action, seen)
    assert second.trial is not None
    assert written(second.trial) == ["x.x.", "....", "...."]
    last = decided(second, believing(rows, [".x.x", "....", "...."]))
    assert written(last.commit) == ["xxxx", "xx..", ".x.."]


def test_a_row_that_a_trial_of_punt_finishes_passes_it() -> None:
    action = make_rule("punt:0").act(believing(pairs(0.9, 0.8)))
    assert written(decided(action, believing(pairs(0.0, 0.0), [".."])).commit) == ["xx"]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data(), length=st.integers(1, 9))
def test_punt_against_a_transcription(data: st.DataObject, length: int) -> None:
    """Rounds over binary digits, with an influence of each position on each that adds up."""
    shares = st.integers(0, 8)
    confidence = data.draw(st.lists(st.integers(9, 15), min_size=length, max_size=length))
    influence = data.draw(
        st.lists(st.lists(shares, min_size=length, max_size=length), min_size=length, max_size=length)
    )

    def believed(filled: set[int]) -> list[list[list[float]]]:
        moved = [confidence[i] - min(8, sum(influence[i][j] for j in filled)) for i in range(length)]
        return pairs(*(p / 16 for p in moved))

    def moves(i: int, filled: set[int]) -> bool:
        p, q = confidence[i] / 16, believed(filled)[0][i][0]
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)) > 0.2

    order = sorted(range(length), key=lambda i: (-confidence[i], i))
    left = set(range(length))
    asked = 0
    for digit in reversed(range(math.ceil(math.log2(length)))):
        ones = {i for i in left if order.index(i) >> digit & 1}
        asked += bool(ones)
        left -= {i for i in ones if moves(i, left - ones)}
    action, trials = make_rule("punt:0.2").act(believing(believed(set()))), 0
    while action.trial is not None:
        filled = {i for i, cell in enumerate(tried(action)) if cell == "x"}
        cells = "".join("." if i in filled else "x" for i in range(length))
        action, trials = decided(action, believing(believed(filled), [cells])), trials + 1
    assert written(action.commit) == ["".join("x" if i in left else "." for i in range(length))]
    assert trials == asked


def test_punt_by_hand_in_a_decoding() -> None:
    """Position 1 depends on position 0 and position 3 on nothing: three of four at once, then the last."""

    def rule(prompt: list[int], buffer: list[int]) -> list[tuple[int, float]]:
        return [(3, 0.9), (4, 0.6 if buffer[0] == MASK else 0.99), (5, 0.8), (6, 0.7)]

    denoiser = HandWritten(rule)
    batch = start(denoiser, [[D]], 4, features=frozenset({"probabilities"}))
    play_out(batch, make_rule("punt:0.1"))
    shown = [tokens[0][1:] for tokens, _ in denoiser.seen]
    m = MASK
    # Believed; 0 and 2 tried, by which 1 moves; 0 and 3 tried, by which 2 doesn't; 0, 2 and 3 there.
    assert shown == [[m, m, m, m], [3, m, 5, m], [3, m, m, 6], [3, m, 5, 6]]
    assert batch.tokens(0) == [3, 4, 5, 6]
    assert batch.commit_step[0].tolist() == [3, 4, 3, 3]
    assert (batch.nfe.tolist(), batch.token_positions.tolist()) == ([4], [20])


@pytest.mark.parametrize("block", [8, 4])
def test_punt_in_a_block_costs_its_digits_at_most(block: int) -> None:
    prompts = ["1 2 3", "4", "5 6", "9 8 7"]
    rule = make_rule("punt:0.5")
    config = DecodingSettings(8, block, features=rule.features)
    together = decode(Context(with_end=False), prompts, rule, config)
    for prompt, done in zip(prompts, together, strict=True):
        assert decode(Context(with_end=False), [prompt], rule, config) == [done]
        steps = len(set(done.commit_step))
        assert steps <= done.nfe <= steps * (1 + math.ceil(math.log2(block)))
    assert any(done.nfe > len(set(done.commit_step)) for done in together)
    lenient = decode(Context(with_end=False), prompts, make_rule("punt:1e9"), config)
    assert all(len(set(done.commit_step)) == 8 // block for done in lenient)
    assert all(done.nfe == 8 // block * (1 + math.ceil(math.log2(block))) for done in lenient)


def test_ranks_are_the_places_that_punt_numbers() -> None:
    view = make_view([[0.8, 0.6, 0.9, 0.6]])
    assert rank(view.confidence, view.eligible).tolist() == [[1, 2, 0, 3]]
