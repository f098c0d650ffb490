from __future__ import annotations

from typing import Any

import pytest

from train.headline import headline


def record(policy: str, accuracy: float, nfe: float, block: int = 8, **changes: Any) -> dict[str, Any]:
    about = {"policy": policy, "decision": "deterministic", "task": "all", "block_length": block}
    return {**about, "accuracy": accuracy, "nfe": nfe, "token_positions": 20 * nfe, **changes}


RULES = [record("threshold:0.7", 0.90, 2.0), record("threshold:0.9", 0.96, 4.0), record("oracle", 1.0, 1.5)]


def test_a_policy_against_the_best_rule_and_the_oracle() -> None:
    policy = record("learned", 0.95, 3.0)
    assert headline([*RULES, policy, {**policy, "task": "copy", "nfe": 9.0}]) == {
        "deterministic/block8/accuracy": 0.95,
        "deterministic/block8/nfe": 3.0,
        "deterministic/block8/token_positions": 60.0,
        "deterministic/block8/forwards_saved": 0.25,  # 0.7 is five points less accurate
        "deterministic/block8/best_rule": "threshold:0.9",
        "deterministic/block8/oracle_ratio": 2.0,
    }


def test_the_oracle_is_no_rival_and_other_blocks_do_not_count() -> None:
    found = headline([RULES[2], record("threshold:0.9", 0.96, 4.0, block=4), record("learned", 0.95, 3.0)])
    assert set(found) == {
        f"deterministic/block8/{name}" for name in ("accuracy", "nfe", "token_positions", "oracle_ratio")
    }


def test_of_several_settings_the_one_that_saves_most() -> None:
    slow, fast = record("learned@speed=0", 0.96, 3.0), record("learned@speed=1", 0.90, 1.8)
    found = headline([*RULES, slow, fast])
    assert (found["deterministic/block8/policy"], found["deterministic/block8/nfe"]) == ("learned@speed=0", 3.0)
    assert found["deterministic/block8/forwards_saved"] == pytest.approx(0.25)  # the other saves 0.1 of threshold:0.7
    assert headline([slow, fast])["deterministic/block8/policy"] == "learned@speed=0"  # without rules the more accurate


def test_rules_alone_make_no_headline() -> None:
    assert headline(RULES) == {}
