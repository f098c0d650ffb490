"""What is measured of a random dLLM with caches: positions and memory known by hand, and a table of made rates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from random_dllm import random_dllm
from throughput import Rate, ThroughputConfig, main, table_rows

from envs.models.memory import step_memory

SMALL = ThroughputConfig(
    cache=["none", "dual"],
    rows=[2],
    prompt=10,
    buffer_length=16,
    block_length=8,
    tokens=4,
    layers=1,
    width=64,
    vocabulary=256,
    repeats=1,
)


def test_positions_of_whole_texts_are_those_of_each_caches_forwards(tmp_path: Path) -> None:
    rates = main(replace(SMALL, out=tmp_path / "run"))
    assert [(rate.rows, rate.what) for rate in rates] == [
        (2, "bare forward"),
        (2, "rollout"),
        (2, "cache none"),
        (2, "cache dual"),
    ]
    # Two blocks of two forwards each: of everything, or of everything and then of the block alone.
    assert [rate.token_positions for rate in rates] == [None, None, 4 * 26, 2 * (26 + 8)]
    for rate in rates[2:]:
        assert rate.tokens_per_second == pytest.approx(rate.forwards_per_second * 2 * 4)
    assert all(rate.forwards_per_second > 0 for rate in rates)
    written = json.loads((tmp_path / "run/throughput.json").read_text())
    assert [one["what"] for one in written["rates"]] == [rate.what for rate in rates]
    assert (tmp_path / "run/throughput.md").read_text().count("\n") == 2 + len(rates)


def test_memory_is_that_of_a_step_with_its_cache(tmp_path: Path) -> None:
    config = replace(SMALL, out=tmp_path / "run")
    about = random_dllm(config.llama).model.config
    computed = {
        cache: step_memory(about, 2, 10, 16, torch.float32, device="cpu", cache=cache)["peak"] for cache in config.cache
    }
    found = {rate.what: rate.computed_bytes for rate in main(config)}
    assert found["cache none"] == found["bare forward"] == computed["none"]
    assert found["cache dual"] == computed["dual"] > computed["none"]
    # On a CPU nobody tells what tensors took.
    assert all(rate.peak_bytes is None for rate in main(replace(config, out=tmp_path / "again")))


def test_a_random_dllm_keeps_nothing_that_nobody_reads() -> None:
    assert random_dllm(SMALL.llama).model.config.use_cache is False


def test_the_table_sets_each_rate_beside_the_bare_forward_of_as_many_rows() -> None:
    rates = [
        Rate(1, "bare forward", 50.0, None, None, 16_200_000_000, 16_100_000_000),
        Rate(16, "bare forward", 4.0, None, None, None, 17_300_000_000),
        Rate(16, "cache dual", 12.0, 1536.4, 4416.0, None, 21_100_000_000),
    ]
    assert table_rows(rates) == [
        ["1", "bare forward", "50.00", "", "", "", "16.2", "16.1"],
        ["16", "bare forward", "4.00", "", "", "", "", "17.3"],
        ["16", "cache dual", "12.00", "3.00", "1536", "4416", "", "21.1"],
    ]


def test_a_device_that_is_not_here_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device is 'meta:7x': torch can't use it here"):
        main(replace(SMALL, device="meta:7x", out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cache": []}, "cache is an empty list: give one or more"),
        ({"rows": []}, "rows is an empty list: give one or more"),
        ({"width": 0}, "width is 0: it must be 1 or more"),
        ({"width": 100}, "width is 100: it must be a multiple of 32, the width of its heads"),
        ({"width": 1056}, "width is 1056: it must be a multiple of 128"),
        ({"tokens": 9}, r"tokens is 9: a forward commits in one block, so it must be 8 \(block_length\) or less"),
        (
            {"prompt": 5000},
            "prompt is 5000: it must be 4080 or less, as the dLLM takes 4096 tokens of prompt and buffer",
        ),
        ({"block_length": 24}, "block_length is 24"),
        ({"dtype": "int8"}, "dtype is 'int8': choose float32, bfloat16 or float16"),
    ],
)
def test_what_can_not_be_measured_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)
