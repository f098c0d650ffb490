"""An evaluation in a handful of numbers: what a workspace's table, or an artifact's metadata, shows at a glance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from train.evaluation.measures import Gain, gain
from train.evaluation.naming import PolicyName
from train.evaluation.records import Key, Outcomes, Record


def headline(
    records: Sequence[Record], outcomes: Mapping[Key, Outcomes] | None = None
) -> dict[str, float | str | bool]:
    """Say how the learned policy does, for each decision rule and block length.

    Where several settings of it were evaluated it is the one that saves most forwards against the best rule at its own
    accuracy, or, where nothing may be claimed, the most accurate.

    Args:
        records: of one run; only those of all tasks count.
        outcomes: problem by problem, which makes for a sharper test of who is more accurate.

    Returns:
        By ``DECISION/blockN/``: ``accuracy`` in [0, 1], ``nfe``, ``token_positions``; with rules among the records the
        rule's name as ``best_rule``, or as ``nearest_rule`` if none was measured at the policy's accuracy, and
        ``rule_accuracy`` and ``rule_nfe``; ``is_less_accurate``, whether the policy is, significantly;
        ``forwards_saved``, the share of that rule's forwards, only where it may be claimed
        (`train.evaluation.measures.Gain`); with the oracle ``oracle_ratio``, NFE over the oracle's; and ``policy``, its
        name, where there are several. Empty if no policy is a learned one.
    """
    suite = [record for record in records if record["task"] == "all"]
    learned = [record for record in suite if is_learned(record)]
    found: dict[str, float | str | bool] = {}
    for decision, block in dict.fromkeys((record["decision"], record["block_length"]) for record in learned):
        here = [record for record in suite if record["block_length"] == block]
        own = [record for record in learned if (record["decision"], record["block_length"]) == (decision, block)]
        numbers = [_numbers(record, here, outcomes) for record in own]
        # A setting that claims nothing comes after every one that saves something.
        best = max(numbers, key=lambda row: (max(0.0, float(row.get("forwards_saved", 0))), float(row["accuracy"])))
        if len({record["policy"] for record in learned}) > 1:
            best["policy"] = own[numbers.index(best)]["policy"]
        found |= {f"{decision}/block{block}/{name}": value for name, value in best.items()}
    return found


def is_learned(record: Record | Outcomes) -> bool:
    """Tell whether a record is of a learned policy, or of a rule."""
    return PolicyName.read(record["policy"]).is_learned


def is_oracle(record: Record) -> bool:
    """Tell whether a record is of the oracle, which knows the answer and is no rule to be compared with."""
    return PolicyName.read(record["policy"]).is_oracle


def gains(records: Sequence[Record], outcomes: Mapping[Key, Outcomes] | None = None) -> list[Gain]:
    """Set every learned policy against the best rule at its accuracy and block length; none where there is no rule."""
    suite = [record for record in records if record["task"] == "all"]
    found = []
    for record in suite:
        rules = _rules_beside(record, suite)
        if is_learned(record) and rules:
            found.append(gain(record, rules, outcomes))
    return found


def _rules_beside(record: Record, records: Sequence[Record]) -> list[Record]:
    # In smaller blocks every rule takes more forwards, so one of other blocks would be no rival.
    here = [other for other in records if other["block_length"] == record["block_length"]]
    return [other for other in here if not is_learned(other) and not is_oracle(other)]


def _numbers(
    record: Record, here: Sequence[Record], outcomes: Mapping[Key, Outcomes] | None
) -> dict[str, float | str | bool]:
    """Return the numbers of one setting among all at its block length."""
    found: dict[str, float | str | bool] = {name: record[name] for name in ("accuracy", "nfe", "token_positions")}
    if "tokens_per_forward" in record:
        found["tokens_per_forward"] = record["tokens_per_forward"]
    oracles, rules = [other for other in here if is_oracle(other)], _rules_beside(record, here)
    if rules:
        against = gain(record, rules, outcomes)
        found["best_rule" if against.is_comparable else "nearest_rule"] = against.rule["policy"]
        found |= {"rule_accuracy": against.rule["accuracy"], "rule_nfe": against.rule["nfe"]}
        found["is_less_accurate"] = against.is_less_accurate
        if against.saved is not None:
            found["forwards_saved"] = against.saved
    if oracles:
        found["oracle_ratio"] = record["nfe"] / oracles[0]["nfe"]
    return found
