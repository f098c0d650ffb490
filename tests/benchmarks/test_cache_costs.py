"""The table of what caches cost, on counts known by hand and on made times."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from caches import CachesConfig, Cost, cells_of, main, markdown, verdict

from envs.models.load import load_denoiser
from envs.tasks import make_tasks
from train.command.errors import UserError


@pytest.mark.slow(seconds=3)
def test_counts_are_those_of_every_cache_beside_none(tmp_path: Path) -> None:
    config = CachesConfig(
        policy=["low_confidence:1"],
        cache=["dual", "none", "dkv:refresh=1"],
        out=tmp_path / "run",
        tasks=["sort"],
        episodes=2,
        buffer_length=[8, 16],
        block_length=4,
        rows=[1, 2],
        early_end=False,
        repeats=2,
    )
    costs = main(config)
    prompts = [make_tasks("sort")[0].problem("test", i).prompt for i in range(2)]
    prompt = sum(len(load_denoiser("tiny").encode_prompt(text)) for text in prompts) / 2
    assert [(one.buffer_length, one.rows, one.cache) for one in costs] == [
        (length, rows, cache) for length in (8, 16) for rows in (1, 2) for cache in ("none", "dual", "dkv:refresh=1")
    ]
    for one in costs:
        length, blocks = one.buffer_length, one.buffer_length // 4
        assert one.nfe == length
        everything = length * (prompt + length)
        # Under dual all of it at each of the blocks' starts, then three times the block's four.
        expected = blocks * (prompt + length + 3 * 4) if one.cache == "dual" else everything
        assert one.token_positions == pytest.approx(expected)
        assert one.seconds > 0
        if one.cache != "dual":  # it computes everything
            assert one.accuracy == next(c.accuracy for c in costs if c.buffer_length == length)
    written = json.loads((tmp_path / "run" / "costs.json").read_text())["costs"]
    assert [Cost(**one) for one in written] == costs
    assert (tmp_path / "run" / "costs.md").read_text() == markdown(costs)
    with pytest.raises(UserError, match="not empty"):
        main(config)


def test_the_table_says_where_a_cache_is_slower() -> None:
    none = Cost(64, 1, "threshold:0.9", "none", 0.9, 4.0, 400.0, 2.0, 2.0)
    fast = replace(none, cache="dual", accuracy=0.88, token_positions=100.0, seconds=0.8)
    slow = replace(none, cache="dkv", nfe=5.0, token_positions=200.0, seconds=2.5)
    other = [replace(none, rows=8, seconds=1.0), replace(slow, rows=8, seconds=0.5)]
    ending = ["88.0", "-2.0", "4.00", "100", "4.00", "0.80", "2.50"]
    assert cells_of(fast, none) == ["64", "1", "threshold:0.9", "dual", *ending]
    assert cells_of(slow, none)[-4:] == ["200", "2.00", "2.50", "0.80 slower"]
    assert cells_of(none, none)[4:] == ["90.0", "", "4.00", "400", "", "2.00", ""]
    assert verdict([none, fast]) == "No cache is slower than none."
    assert verdict([none, fast, slow, *other]) == "Slower than none: dkv in 1 of 2."
    assert "| dkv | 90.0 | +0.0 | 5.00 | 200 | 2.00 | 2.50 | 0.80 slower |" in markdown([none, fast, slow])


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cache is 'duel'"):
        CachesConfig(cache=["duel"])
    with pytest.raises(ValueError, match="rows is an empty list"):
        CachesConfig(rows=[])
    with pytest.raises(ValueError, match="but freedave:4 drafts"):
        main(CachesConfig(policy=["freedave:4"], out=tmp_path / "run"))
    # One length that fits and one that doesn't: nothing is left behind.
    with pytest.raises(ValueError, match="buffer_length is 1024"):
        main(CachesConfig(buffer_length=[64, 1024], episodes=1, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_random_dllm_is_measured(tmp_path: Path) -> None:
    config = CachesConfig(["low_confidence:4"], ["dual"], tmp_path / "run", ["copy"], episodes=1)
    costs = main(replace(config, buffer_length=[8], block_length=8, rows=[1], is_random=True, early_end=False))
    assert [one.nfe for one in costs] == [2, 2]
