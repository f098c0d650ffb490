from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from train.compare import CompareConfig, best_rule, compare, main, per_task
from train.records import read_records
from train.run_folder import UserError


def record(policy: str, accuracy: float, nfe: float, task: str = "all", block: int = 64) -> dict[str, Any]:
    return {
        "policy": policy,
        "decision": "deterministic",
        "task": task,
        "block_length": block,
        "accuracy": accuracy,
        "nfe": nfe,
    }


CURVE = [record("threshold:0.5", 0.80, 1.5), record("threshold:0.9", 0.95, 3.0), record("threshold:0.99", 0.97, 6.0)]


@pytest.mark.parametrize(
    ("accuracy", "expected"), [(0.7, 1.5), (0.804, 1.5), (0.806, 3.0), (0.955, 3.0), (0.956, 6.0), (0.99, 6.0)]
)
def test_the_rival_is_the_cheapest_setting_that_is_accurate_enough(accuracy: float, expected: float) -> None:
    assert best_rule(CURVE, accuracy)["nfe"] == expected


def test_savings_are_averaged_over_seeds_with_a_student_interval() -> None:
    seeds = [record(f"learned:s{i}", *pair) for i, pair in enumerate([(0.95, 2.4), (0.94, 2.1), (0.96, 3.0)])]
    row = compare([*CURVE, *seeds]).splitlines()[2]
    # Forwards saved: 20 % and 30 % of 3.0, 50 % of 6.0; their standard deviation is 15.275 and t(0.975, 2) is 4.303.
    assert row == ("| 64 | deterministic | 95.0 ± 2.5 | 2.50 ± 1.14 | 4.00 ± 4.30 | 33.3 ± 37.9 |")


def test_block_lengths_are_compared_separately() -> None:
    small = [record("threshold:0.9", 0.95, 10.0, block=8), record("learned", 0.95, 9.0, block=8)]
    rows = compare([*CURVE, record("learned", 0.95, 2.4), *small]).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| 64", "| 8"]
    assert rows[1].endswith("| 10.00 ± 0.00 | 10.0 ± 0.0 |")


def test_tasks_are_set_against_the_one_setting_chosen_for_the_suite() -> None:
    tasks = [record("threshold:0.5", 1.0, 1.0, "copy"), record("threshold:0.9", 0.9, 2.0, "copy")]
    records = [*CURVE[:2], *tasks, record("learned", 0.95, 2.4), record("learned", 0.98, 1.5, "copy")]
    assert per_task(records).splitlines()[2:] == [
        "| all | 95.0 ± 0.0 | 2.40 ± 0.00 | 95.0 ± 0.0 | 3.00 ± 0.00 |",
        "| copy | 98.0 ± 0.0 | 1.50 ± 0.00 | 90.0 ± 0.0 | 2.00 ± 0.00 |",
    ]


def test_main_reads_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "evaluation.json").write_text(json.dumps([*CURVE, record("learned", 0.95, 2.4)]))
    out = tmp_path / "table.md"
    main(CompareConfig(tmp_path / "run", out=out))
    assert "| 3.00 ± 0.00 | 20.0 ± 0.0 |" in out.read_text()
    assert out.read_text() in capsys.readouterr().out


def test_a_run_without_records_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its evaluation can't be read"):
        read_records(tmp_path)
