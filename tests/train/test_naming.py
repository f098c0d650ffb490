from __future__ import annotations

import itertools

import pytest

from policies import RULES
from train.evaluation.naming import PolicyName


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("learned", ("learned", "", "", False)),
        ("learned@0.9", ("learned", "", "0.9", False)),
        ("learned:weighted@0.9+eotp", ("learned", "weighted", "0.9", True)),
        ("learned:dial_s1@speed=0.5", ("learned", "dial_s1", "speed=0.5", False)),
        # An at sign that no number follows is part of a run's name.
        ("learned:me@home", ("learned", "me@home", "", False)),
        ("learned:me@home@beta=2", ("learned", "me@home", "beta=2", False)),
        # Runs that are called as settings are.
        ("learned:alpha@0.5", ("learned", "alpha", "0.5", False)),
        ("learned:alpha@0.5@", ("learned", "alpha@0.5", "", False)),
        ("learned:alpha@0.5@speed=1", ("learned", "alpha@0.5", "speed=1", False)),
        ("learned:alpha@0.5@+eotp", ("learned", "alpha@0.5", "", True)),
        ("learned:with+eotp@", ("learned", "with+eotp", "", False)),
        ("learned:at@@", ("learned", "at@", "", False)),
        ("low_confidence:1", ("low_confidence", "1", "", False)),
        ("klass+eotp", ("klass", "", "", True)),
        # What follows a rule's colon is the rule's own.
        ("guided:0.9,model=folder@2", ("guided", "0.9,model=folder@2", "", False)),
        ("threshold:0.9+eotp", ("threshold", "0.9", "", True)),
    ],
)
def test_a_name_is_taken_apart(text: str, parts: tuple[str, str, str, bool]) -> None:
    name = PolicyName.read(text)
    assert (name.kind, name.options, name.setting, name.has_eotp) == parts
    assert str(name) == text


def test_what_is_put_together_is_read_again() -> None:
    runs = ("", "a", "a@b", "a@1", "a@b=1", "@", "@0", "a@1@", "x+eotp", "@+eotp", ":")
    learned = itertools.product(("learned",), runs, ("", "0.9", "speed=0.25"), (False, True))
    rules = itertools.product(RULES, ("", "0.5", "0.5,cap=3"), ("",), (False, True))
    for parts in (*learned, *rules):
        assert PolicyName.read(str(PolicyName(*parts))) == PolicyName(*parts)


def test_a_family_is_what_settings_have_in_common() -> None:
    families = {
        "learned:a@0.9+eotp": "learned:a+eotp",
        "learned@speed=1": "learned",
        "threshold:0.9": "threshold",
        "klass:0.9,kl=0.1+eotp": "klass+eotp",
    }
    for text, family in families.items():
        assert str(PolicyName.read(text).family) == family
    assert PolicyName.read("oracle:1").is_oracle
    assert not PolicyName.read("oracle:1").is_learned
