"""The tables of what things cost: that each command still runs, and that its parts are a whole."""

from __future__ import annotations

import re

import architectures
import pytest
import rollout
import rules

from envs.unmasking import UnmaskingVectorEnv
from policies import RULES
from train.command.config import parse
from train.job.ppo_config import TrainPPOConfig


@pytest.mark.slow
def test_every_rule_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    rules.main(rules.RulesConfig(rows=2, repeats=1))
    lines = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [name.strip() for name, *_ in lines] == list(RULES)
    assert all(float(forward) > 0 and float(decision) > 0 for _, forward, decision, _ in lines)


@pytest.mark.slow
def test_architectures_are_compared_with_bert(capsys: pytest.CaptureFixture[str]) -> None:
    architectures.main(architectures.ArchitecturesConfig(rows=2, repeats=1))
    first, *others = capsys.readouterr().out.splitlines()[1:]
    assert re.fullmatch(r"BERT +[\d,]+ +\d+ +1\.00 +\d+ +1\.00", first)
    assert len(others) == len(architectures.build()) - 1


@pytest.mark.slow
def test_the_parts_of_a_rollout_are_all_of_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UnmaskingVectorEnv, "step", UnmaskingVectorEnv.step)  # which is put back afterwards
    words = ["--model.name=toy", "--env.tasks=[copy]", "--env.num_envs=8", "--env.buffer_length=8"]
    rollout.main(parse(TrainPPOConfig, "ppo.yaml", [*words, "--env.block_lengths=[]", "--ppo.batch_size=64"]))
    shares = re.findall(r"(\d+)%(?: +(\d+)%)?$", capsys.readouterr().out, re.MULTILINE)
    assert sum(int(share) for share, _ in shares) == pytest.approx(100, abs=3)
    assert sum(int(share or 0) for _, share in shares) == pytest.approx(100, abs=3)
