from __future__ import annotations

from typing import Any

import pytest
from records import outcomes

from train.evaluation.headline import gains, headline
from train.evaluation.records import key_of, summarise


def record(policy: str, accuracy: float, nfe: float, block: int = 8, **changes: Any) -> dict[str, Any]:
    about = {"policy": policy, "decision": "deterministic", "task": "all", "block_length": block, "episodes": 200}
    return {**about, "accuracy": accuracy, "nfe": nfe, "token_positions": 20 * nfe, **changes}


RULES = [record("threshold:0.7", 0.90, 2.0), record("threshold:0.9", 0.955, 4.0), record("oracle", 1.0, 1.5)]


def test_a_policy_against_the_best_rule_and_the_oracle() -> None:
    policy = record("learned", 0.95, 3.0)
    assert headline([*RULES, policy, {**policy, "task": "copy", "nfe": 9.0}]) == {
        "deterministic/block8/accuracy": 0.95,
        "deterministic/block8/nfe": 3.0,
        "deterministic/block8/token_positions": 60.0,
        "deterministic/block8/forwards_saved": 0.25,  # 0.7 is five points less accurate
        "deterministic/block8/best_rule": "threshold:0.9",
        "deterministic/block8/rule_accuracy": 0.955,
        "deterministic/block8/rule_nfe": 4.0,
        "deterministic/block8/is_less_accurate": False,
        "deterministic/block8/oracle_ratio": 2.0,
    }


def test_the_oracle_is_no_rival_and_other_blocks_do_not_count() -> None:
    found = headline([RULES[2], record("threshold:0.9", 0.96, 4.0, block=4), record("learned", 0.95, 3.0)])
    assert set(found) == {
        f"deterministic/block8/{name}" for name in ("accuracy", "nfe", "token_positions", "oracle_ratio")
    }


def test_of_several_settings_the_one_that_saves_most() -> None:
    slow, fast = record("learned@speed=0", 0.955, 3.0), record("learned@speed=1", 0.90, 1.8)
    found = headline([*RULES, slow, fast])
    assert (found["deterministic/block8/policy"], found["deterministic/block8/nfe"]) == ("learned@speed=0", 3.0)
    assert found["deterministic/block8/forwards_saved"] == pytest.approx(0.25)  # the other saves 0.1 of threshold:0.7
    assert headline([slow, fast])["deterministic/block8/policy"] == "learned@speed=0"  # without rules the more accurate


def test_no_saving_is_claimed_without_a_rule_at_that_accuracy() -> None:
    found = headline([*RULES, record("learned", 0.94, 3.0)])
    assert found["deterministic/block8/nearest_rule"] == "threshold:0.9"
    assert found["deterministic/block8/rule_accuracy"] == 0.955
    assert not {"deterministic/block8/forwards_saved", "deterministic/block8/best_rule"} & set(found)


def test_a_less_accurate_policy_is_not_praised() -> None:
    """A rule that is more accurate and cheaper than the one at the policy's accuracy: 200 of 200 right against 180."""
    rules = [record("threshold:0.8", 0.9, 5.0), record("klass:0.9", 1.0, 4.0)]
    found = headline([*rules, record("learned", 0.9, 3.0)])
    assert found["deterministic/block8/is_less_accurate"] is True
    assert "deterministic/block8/forwards_saved" not in found


def test_outcomes_sharpen_the_test() -> None:
    """0 problems against 8, of 1600: within half a point, and McNemar's p is 0.008 where Fisher's is 0.6."""
    entries = [
        outcomes("learned", [1] * 1580 + [0] * 20, [3] * 1600),
        outcomes("threshold:0.9", [1] * 1588 + [0] * 12, [4] * 1600),
    ]
    records = [r for entry in entries for r in summarise(entry)]
    assert headline(records)["deterministic/block8/forwards_saved"] == pytest.approx(0.25)
    found = headline(records, {key_of(entry): entry for entry in entries})
    assert "deterministic/block8/forwards_saved" not in found
    assert found["deterministic/block8/is_less_accurate"] is True
    [against] = gains(records)
    assert (against.rule["policy"], against.saved) == ("threshold:0.9", pytest.approx(0.25))


def test_rules_alone_make_no_headline() -> None:
    assert headline(RULES) == {}
