"""Hand-computed cases of the rules that do more than choose positions: remask, resize, look beyond the block."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from views import after, make_view, written

from envs.decoding.settings import DecodingSettings
from envs.models.toy import ToyDenoiser
from envs.view import Action
from policies import make_rule
from policies.rules.adablock import AdaBlock
from policies.rules.bacd import TCCF

# Remasking.


def remasked(action: Action) -> tuple[str, str]:
    """What is committed and what is taken back, of the only row."""
    assert action.remask is not None
    return written(action.commit)[0], written(action.remask)[0]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("wino", ("..xxx.", "xx....")),  # 0.7 itself does not pass; 0.2 and 0.8 are doubted
        ("wino:0.9", ("..x...", "......")),  # the fallback takes nothing back
        ("wino:0.6", ("..xxxx", "xx....")),
        ("wino:0.6,keep=0.5", ("..xxxx", ".x....")),
        ("wino:0.6,keep=0.2", ("..xxxx", "......")),
        ("wino:0.6,least=2,share=0.25", ("..xx..", ".x....")),  # at most max(2, 1); of two doubted the lower
        ("wino:0.6,least=1,share=0.75", ("..xxx.", "xx....")),  # at most 3
        ("wino:0.6,least=1,share=0", ("..x...", "......")),
    ],
)
def test_wino(rule: str, expected: tuple[str, str]) -> None:
    left_out = {"leave_one_out": [[0.8, 0.2, 0.0, 0.0, 0.0, 0.0]]}
    view = make_view([[0, 0, 0.85, 0.8, 0.75, 0.7]], ["..xxxx"], features=left_out)
    assert remasked(make_rule(rule).act(view)) == expected


def test_wino_takes_back_at_most_one_fewer_lowest_first() -> None:
    left_out = {"leave_one_out": [[0.5, 0.2, 0.3, 0.95, 0.0, 0.0, 0.0]]}
    view = make_view([[0, 0, 0, 0, 0.9, 0.8, 0.9]], ["....xxx"], features=left_out)
    assert remasked(make_rule("wino").act(view)) == ("....xxx", ".xx....")
    late = replace(view, block_start=torch.tensor([2]))
    assert remasked(make_rule("wino").act(late)) == ("....xxx", "..x....")  # only in its own block


@pytest.mark.parametrize(
    ("rule", "step", "known", "expected"),
    [
        ("rcr:1", 3, (0.7, 0.5), (".x.x..", "..x...")),  # three are kept: 0.9, 0.8 and 0.7
        ("rcr:1", 3, (0.6, 0.5), (".x.x.x", "x.x...")),
        ("rcr:1", 1, (0.6, 0.5), (".x.x.x", "x.x...")),  # one more than there were, at least
        ("rcr:1", 3, (0.95, 0.92), (".x....", "......")),
        ("rcr:2", 2, (0.7, 0.5), (".x.x.x", "..x...")),  # four are kept
        ("rcr:2", 3, (0.7, 0.5), (".x.xxx", "......")),
        ("rcr:2,schedule=square", 2, (0.6, 0.5), (".x.x.x", "x.x...")),  # 6 * 4/9 = 2.67
        ("rcr:2,schedule=root", 2, (0.6, 0.5), (".x.x.x", "......")),  # 6 * 0.82 = 4.9
    ],
)
def test_rcr(rule: str, step: int, known: tuple[float, float], expected: tuple[str, str]) -> None:
    view = make_view(
        [[0, 0.9, 0, 0.8, 0.1, 0.65]], [".x.xxx"], step=step, commit_confidence=[[known[0], 0, known[1], 0, 0, 0]]
    )
    assert remasked(make_rule(rule).act(view)) == expected


def test_rcr_over_three_steps() -> None:
    rule = make_rule("rcr")
    view = make_view([[0.6, 0.5, 0.4, 0.3]])
    action = rule.act(view)
    assert remasked(action) == ("x...", "....")
    view = after(view, action, confidence=[[0, 0.9, 0.7, 0.1]])
    action = rule.act(view)
    assert remasked(action) == (".xx.", "x...")  # both are more certain than 0.6 was
    view = after(view, action, confidence=[[0.8, 0, 0, 0.2]])
    assert written(view.masked) == ["x..x"]
    action = rule.act(view)
    assert remasked(action) == ("x...", "....")
    assert view.commit_confidence[0].tolist() == pytest.approx([0, 0.9, 0.7, 0])


def test_remdm_loops_near_the_blocks_end_and_then_goes_on() -> None:
    rule = make_rule("remdm:1,share=0.75,loops=2")
    known = [[0.9, 0.6, 0.8, 0.0]]
    view = make_view([[0, 0, 0, 0.5]], ["...x"], step=4, commit_confidence=known)
    action = rule.act(view)
    assert remasked(action) == ("...x", ".x..")
    view = after(view, action, confidence=[[0, 0.95, 0, 0]])
    assert view.commit_confidence[0].tolist() == pytest.approx([0.9, 0.0, 0.8, 0.5])
    action = rule.act(view)
    assert remasked(action) == (".x..", "...x")  # what is written now is not taken back now
    view = after(view, action, confidence=[[0, 0, 0, 0.7]])
    assert view.memory["loops"].tolist() == [2]
    assert remasked(rule.act(view)) == ("...x", "....")  # both loops are done
    another = replace(view, block_step=torch.tensor([0]))
    assert rule.act(another).memory["loops"].tolist() == [0]  # forgotten in the next block


@pytest.mark.parametrize(
    ("rule", "masked", "step", "expected"),
    [
        ("remdm:1", "......xx", 7, ("......x.", "........")),  # 6 of 8 are less than 7/8
        ("remdm:1", ".......x", 8, (".......x", "...x....")),
        ("remdm:1,loops=0", ".......x", 8, (".......x", "........")),
        ("remdm:2,share=0.5", "....xxxx", 5, ("....xx..", "..xx....")),
        ("remdm:2,share=0.5", ".......x", 5, (".......x", "...x....")),  # as many as it commits
        ("remdm:2,share=0.5", "....xxxx", 1, ("....xx..", "........")),  # a block's first step
    ],
)
def test_remdm_begins_at_its_share(rule: str, masked: str, step: int, expected: tuple[str, str]) -> None:
    known = [[0.9, 0.9, 0.6, 0.5, 0.9, 0.9, 0.9, 0.0]]
    view = make_view([[0, 0, 0, 0, 0.6, 0.5, 0.4, 0.3]], [masked], step=step, commit_confidence=known)
    assert remasked(make_rule(rule).act(view)) == expected


def test_remdm_touches_no_other_block() -> None:
    known = [[0.1, 0.1, 0.9, 0.8, 0.0, 0.0]]
    view = make_view([[0, 0, 0, 0, 0.5, 0.6]], ["....xx"], step=3, block=(2, 5), commit_confidence=known)
    assert remasked(make_rule("remdm:1,share=0.5").act(view)) == ("....x.", "...x..")


# Lengths and blocks.


@pytest.mark.parametrize(
    ("rule", "num_eos", "change"),
    [
        ("rho_eos", 6, 0),  # 0.6 is not above 0.6
        ("rho_eos", 7, -1),
        ("rho_eos", 8, -2),
        ("rho_eos", 9, -4),
        ("rho_eos", 10, -8),
        ("rho_eos", 5, 0),
        ("rho_eos", 4, 0),
        ("rho_eos", 3, 1),
        ("rho_eos", 2, 2),
        ("rho_eos", 1, 4),
        ("rho_eos", 0, 8),
        ("rho_eos:0.9,unit=3", 9, -12),
        ("rho_eos:0.9,low=0.1,high=0.2", 8, -8),  # never more than 8 units: 0.6 off is six tenths
        ("rho_eos:0.9,low=0,high=1", 10, 0),
        ("rho_eos:0.9,low=0,high=1", 0, 0),
        ("rho_eos:0.9,low=0.55", 5, 1),
    ],
)
def test_rho_eos_changes_the_length(rule: str, num_eos: int, change: int) -> None:
    # Of a buffer of 40, 20 positions are computed and 10 of them committed.
    is_eos = [[0.0] * (20 - num_eos) + [1.0] * num_eos + [0.0] * 20]
    view = make_view([[0.5] * 40], ["." * 10 + "x" * 10 + "." * 20], features={"is_eos": is_eos}, length=[20])
    action = make_rule(rule).act(view)
    assert action.length is not None
    assert action.length.tolist() == [20 + change]
    assert action.memory["changes"].tolist() == [int(change != 0)]


def test_rho_eos_changes_so_often_at_most_and_commits_by_threshold() -> None:
    rule = make_rule("rho_eos:0.9,most=2")
    masked = "xxxx" + "." * 16
    view = make_view([[0.95, 0.5, 0.92, 0.6] + [0] * 16], [masked], features={"is_eos": [[0.0] * 20]}, length=[4])
    lengths, commits = [], []
    for _ in range(3):
        action = rule.act(view)
        assert action.length is not None
        lengths += action.length.tolist()
        commits += [row[:4] for row in written(action.commit)]
        view = after(view, action)
    assert lengths == [12, 12, 4]
    assert commits == ["x.x.", "...x", ".x.."]


@pytest.mark.parametrize(
    ("rule", "length", "expected"),
    [
        *(("rho_eos", 64, 32), ("rho_eos", 1, 1), ("rho_eos:0.9,start=0", 64, 1), ("rho_eos:0.9,start=1", 64, 64)),
        *(("rho_eos:0.9,unit=8,start=0.1", 64, 8), ("rho_eos:0.9,unit=8", 4, 4), ("threshold", 64, 64)),
    ],
)
def test_initial_length(rule: str, length: int, expected: int) -> None:
    assert make_rule(rule).initial_length(length) == expected


def adablock(options: str = "") -> AdaBlock:
    rule = make_rule(f"adablock:0.9{options}")
    assert isinstance(rule, AdaBlock)
    return replace(rule, delimiter_ids=(7, 9))


@pytest.mark.parametrize(
    ("options", "step", "end", "commit"),
    [
        ("", 1, 4, "x..x...."),  # of the window's two delimiters the more confident, beyond the default block
        (",window=0.25", 1, 2, "x......."),  # two positions
        (",window=0.3", 1, 2, "x......."),  # 2.4 positions are two
        (",window=1", 1, 8, "x..x...x"),
        (",delimiter_threshold=0.95", 1, 3, "x......."),  # none is sure enough: the default
        (",delimiter_threshold=0", 1, 4, "x..x...."),
        (",window=0", 1, 3, "x......."),
        ("", 2, 3, "x......."),  # the end is set when the block begins
    ],
)
def test_adablock(options: str, step: int, end: int, commit: str) -> None:
    view = make_view(
        [[0.95, 0.4, 0.6, 0.92, 0.1, 0.1, 0.1, 0.99]], prediction=[[5, 9, 5, 7, 5, 5, 5, 9]], step=step, block=(0, 3)
    )
    action = adablock(options if "window" in options else f",window=0.5{options}").act(view)
    assert action.block_end is not None
    assert (action.block_end.tolist(), written(action.commit)) == ([end], [commit])


def test_adablock_looks_ahead_of_the_blocks_start_at_masks_only() -> None:
    view = make_view(
        [[0.9, 0.9, 0.9, 0.9, 0.9, 0.5, 0.8, 0.6]],
        ["...x.xxx"],
        prediction=[[9, 9, 9, 5, 9, 9, 5, 7]],
        block=(3, 5),
        block_step=[0],
    )
    action = adablock(",window=0.5").act(view)  # positions 3 to 6; the 9 at 4 is committed
    assert action.block_end is not None
    assert (action.block_end.tolist(), written(action.commit)) == ([6], ["...x...."])
    unlucky = replace(view, prediction=torch.full((1, 8), 5))
    default = adablock(",window=0.5").act(unlucky)
    assert default.block_end is not None
    assert default.block_end.tolist() == [5]


def test_adablock_falls_back_within_its_new_block() -> None:
    view = make_view([[0.4, 0.5, 0.6, 0.7]], prediction=[[5, 9, 5, 5]], block=(0, 4))
    action = adablock(",window=1").act(view)
    assert action.block_end is not None
    assert (action.block_end.tolist(), written(action.commit)) == ([2], [".x.."])


def test_adablock_looks_its_delimiters_up(toy: ToyDenoiser) -> None:
    settings = DecodingSettings(8, 4)
    assert AdaBlock().bind(toy, settings).delimiter_ids == tuple(
        toy.encode_prompt("=")
    )  # a newline is no token of the toy
    assert AdaBlock(delimiters="a|b c|+").bind(toy, settings).delimiter_ids == tuple(toy.encode_prompt("a +"))
    blind = AdaBlock(delimiters="").bind(toy, settings)
    assert blind.delimiter_ids == ()
    action = blind.act(make_view([[0.5, 0.95]], block=(0, 1)))
    assert action.block_end is not None
    assert (action.block_end.tolist(), written(action.commit)) == ([1], ["x."])


def tccf(options: str = "") -> TCCF:
    rule = make_rule(f"tccf:4{options}")
    assert isinstance(rule, TCCF)
    return replace(rule, marker_id=9)


@pytest.mark.parametrize(
    ("options", "prediction", "step", "end", "commit"),
    [
        ("", [5, 5, 5, 5, 5, 5, 5, 5], 1, 6, "..xx...."),  # 2 + 4, and 0.93 passes 0.9
        ("", [5, 9, 5, 5, 5, 5, 5, 5], 1, 3, "..x....."),  # the marker is committed before the block
        (",fine=2", [5, 9, 5, 5, 5, 5, 5, 5], 1, 4, "..xx...."),
        (",fine=2", [5, 9, 5, 5, 5, 5, 5, 5], 2, 8, "..xx...x"),  # in the middle of a block
        ("", [5, 5, 9, 5, 5, 5, 5, 5], 1, 6, "..xx...."),  # only predicted yet
        (",high=0.95", [5, 5, 5, 5, 5, 5, 5, 5], 1, 6, "..x....."),
    ],
)
def test_tccf(options: str, prediction: list[int], step: int, end: int, commit: str) -> None:
    view = make_view(
        [[0, 0, 0.97, 0.93, 0.7, 0.1, 0.99, 0.92]],
        ["..xxxx.x"],
        prediction=[prediction],
        step=step,
        block=(2, 8),
        commit_confidence=[[0.1, 0.1, 0, 0, 0, 0, 0.9, 0]],
    )
    if step == 1:
        view = replace(view, commit_confidence=torch.zeros(1, 8))
    action = tccf(options).act(view)
    assert action.block_end is not None
    assert (action.block_end.tolist(), written(action.commit)) == ([end], [commit])


def test_tccf_looks_its_marker_up(toy: ToyDenoiser) -> None:
    assert TCCF().bind(toy, DecodingSettings(8, 4)).marker_id == toy.encode_prompt("=")[0]
    assert TCCF(marker="a b").bind(toy, DecodingSettings(8, 4)).marker_id == toy.encode_prompt("b")[0]
    assert TCCF(marker="").bind(toy, DecodingSettings(8, 4)).marker_id == -1


# Beyond the block.


@pytest.mark.parametrize(
    ("rule", "scope", "commit"),
    [
        ("ete", "xxxx..", "..x..."),  # the next block is exploited, the one after it is not
        ("ete:0.9,ahead=0", "xx....", ".x...."),  # nothing passes: the least certain of this block
        ("ete:0.9,ahead=0,explore=2", "xx....", "xx...."),
        ("ete:0.9,ahead=2", "xxxxxx", "..x.x."),
        ("ete:0.9,ahead=9", "xxxxxx", "..x.x."),
        ("ete:0.9,least=2", "xxxx..", ".xx..."),  # one is too little
        ("ete:0.96", "xxxx..", ".x...."),
        ("ete:0.4", "xxxx..", "x.x..."),
        ("ete:0.2,least=9", "xxxx..", "xxxx.."),  # nothing is left to explore
    ],
)
def test_ete(rule: str, scope: str, commit: str) -> None:
    action = make_rule(rule).act(make_view([[0.5, 0.3, 0.95, 0.2, 0.99, 0.1]], block=(0, 2)))
    assert action.scope is not None
    assert (written(action.scope), written(action.commit)) == ([scope], [commit])


@pytest.mark.parametrize(
    ("rule", "masked", "gap", "commit"),
    [
        ("prophet", "xxxxxx", 7.5, "xxxxxx"),  # over all blocks
        ("prophet", "xxxxxx", 7.25, ".x...."),
        ("prophet:1,tokens_per_step=2", "xxxxxx", 7.25, "xx...."),
        ("prophet:0.5", "xxxxxx", 3.75, "xxxxxx"),
        ("prophet:0.5", "xxxxxx", 3.5, ".x...."),
        ("prophet:0", "xxxxxx", 0.0, "xxxxxx"),
        ("prophet:2", "xxxxxx", 7.5, ".x...."),
        ("prophet", ".xxxxx", 7.25, ".x...."),  # a sixth is still the first third
        ("prophet", "..xxxx", 5.0, "..xxxx"),
        ("prophet", "..xxxx", 4.75, "..x..."),
        ("prophet", "....xx", 2.5, "....xx"),
        ("prophet", "....xx", 2.25, "....x."),
    ],
)
def test_prophet(rule: str, masked: str, gap: float, commit: str) -> None:
    start = masked.index("x") // 3 * 3 if masked[0] == "x" else masked.index("x")
    features = {"logit_gap": [[gap * (cell == "x") for cell in masked]]}
    view = make_view([[0.5, 0.6, 0.4, 0.3, 0.2, 0.1]], [masked], block=(start, start + 3), features=features)
    action = make_rule(rule).act(view)
    assert action.scope is not None
    assert (written(action.scope), written(action.commit)) == ([masked], [commit])


def test_prophet_takes_the_mean_gap_of_all_masks() -> None:
    for gaps, commit in (([9.0, 6.0, 7.5, 0.0], "xxx."), ([9.0, 5.5, 7.5, 0.0], "x...")):
        view = make_view([[0.5, 0.4, 0.3, 0]], ["xxx."], block=(0, 1), features={"logit_gap": [gaps]})
        assert written(make_rule("prophet").act(view).commit) == [commit]


def test_prophet_counts_what_is_committed_of_the_rows_own_length() -> None:
    for gap, commit in ((6.0, "..xx...."), (4.0, "..x.....")):  # 2 of 4 are committed: the bar is 5
        features = {"logit_gap": [[0, 0, gap, gap, 0, 0, 0, 0]]}
        view = make_view([[0.5] * 8], ["..xx...."], features=features, length=[4])
        assert written(make_rule("prophet").act(view).commit) == [commit]
