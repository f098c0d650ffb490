"""An evaluation in a handful of numbers: what a workspace's table, or an artifact's metadata, shows at a glance."""

from __future__ import annotations

from collections.abc import Sequence

from train.measures import best_rule
from train.records import Record


def headline(records: Sequence[Record]) -> dict[str, float | str]:
    """Say how the learned policy does, for each decision rule and block length.

    Where several settings of it were evaluated it is the one that saves most forwards against the best rule at its own
    accuracy, or, without any rule, the most accurate.

    Args:
        records: of one run; only those of all tasks count.

    Returns:
        By ``DECISION/blockN/``: ``accuracy`` in [0, 1], ``nfe``, ``token_positions``; with rules among the records
        ``forwards_saved``, the share of that rule's forwards, and the rule's name as ``best_rule``; with the oracle
        ``oracle_ratio``, NFE over the oracle's; and ``policy``, its name, where there are several. Empty if no policy
        is a learned one.
    """
    suite = [record for record in records if record["task"] == "all"]
    learned = [record for record in suite if is_learned(record)]
    found: dict[str, float | str] = {}
    for decision, block in dict.fromkeys((record["decision"], record["block_length"]) for record in learned):
        here = [record for record in suite if record["block_length"] == block]
        own = [record for record in learned if (record["decision"], record["block_length"]) == (decision, block)]
        numbers = [_numbers(record, here) for record in own]
        best = max(numbers, key=lambda row: (row.get("forwards_saved", 0.0), row["accuracy"]))
        if len({record["policy"] for record in learned}) > 1:
            best["policy"] = own[numbers.index(best)]["policy"]
        found |= {f"{decision}/block{block}/{name}": value for name, value in best.items()}
    return found


def is_learned(record: Record) -> bool:
    """Tell whether a record is of a learned policy, or of a rule."""
    return str(record["policy"]).startswith("learned")


def _numbers(record: Record, here: Sequence[Record]) -> dict[str, float | str]:
    """Return the numbers of one setting among all at its block length."""
    found: dict[str, float | str] = {name: record[name] for name in ("accuracy", "nfe", "token_positions")}
    oracles = [other for other in here if other["policy"].startswith("oracle")]
    rules = [other for other in here if not is_learned(other) and other not in oracles]
    if rules:
        best = best_rule(rules, record["accuracy"])
        found["forwards_saved"] = 1 - record["nfe"] / best["nfe"]
        found["best_rule"] = best["policy"]
    if oracles:
        found["oracle_ratio"] = record["nfe"] / oracles[0]["nfe"]
    return found
