from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from denoisers import SeedZero
from networks import perturbed
from torch import nn
from transformers import PreTrainedTokenizerFast, RobertaPreLayerNormForMaskedLM

from envs import UnmaskingVectorEnv
from envs.decoding.settings import DecodingSettings
from envs.models.adapter import MaskedLMDenoiser
from envs.models.toy import ToyDenoiser
from envs.tasks import SUITE, make_tasks
from policies import (
    RULES,
    Generation,
    LearnedPolicy,
    LowConfidence,
    NetworkConfig,
    UnmaskingPolicy,
    decode,
    generate,
    make_rule,
)
from train.evaluation.measure import evaluate
from train.job.config import EnvConfig, JobConfig
from train.job.finish import evaluation_of
from train.pretraining.architectures import build_model, build_tokenizer
from train.pretraining.config import PretrainConfig

Model = tuple[RobertaPreLayerNormForMaskedLM, PreTrainedTokenizerFast]
FEATURES = ("margin", "entropy", "eos_probability", "is_eos", "changed")
PROMPTS = ["copy . . : a b c . . . . . . . . . . . . . =", "sort . . : d a =", "reverse q w e =", "add 1 2 : 3 4 5 6 ="]


def learned(decision: Any = "deterministic") -> LearnedPolicy:
    return LearnedPolicy(perturbed(NetworkConfig(hidden_size=16, features=FEATURES, init="random"), 0.2), decision)


def policy_of(name: str) -> UnmaskingPolicy:
    return learned(name.removeprefix("learned:")) if name.startswith("learned") else make_rule(name)


POLICIES = ["low_confidence:3", "random:2", "threshold:0.9", "learned:deterministic", "learned:sample"]


@pytest.mark.slow
@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(("block", "temperature"), [(12, 0.0), (4, 0.0), (4, 3.0)])
def test_decode_equals_the_env(toy: ToyDenoiser, name: str, block: int, temperature: float) -> None:
    about: dict[str, Any] = {"buffer_length": 12, "block_length": block, "temperature": temperature}
    policy = policy_of(name).bind(toy, DecodingSettings(**about))
    problems_of: dict[str, Any] = {"tasks": ["copy", "add", "sudoku"], "episodes": SeedZero}
    env = UnmaskingVectorEnv(5, denoiser=toy, features=tuple(policy.features), **problems_of, **about)
    env.reset(seed=1)
    prompts: list[str] = []
    from_env: list[tuple[Any, ...]] = []
    while len(prompts) < 15:
        problems = list(env.problems)
        _, _, terminated, _, infos = env.step(policy.select(env.view).cpu().numpy())
        for row in terminated.nonzero()[0]:
            final = {key: values[row] for key, values in infos["final_info"].items()}
            prompts.append(problems[row].prompt)
            from_env.append((final["text"], final["nfe"], final["token_positions"]))
    for batch_size in (1, 64):
        done = decode(toy, prompts, policy, DecodingSettings(features=policy.features, **about), batch_size=batch_size)
        assert [(g.text, g.nfe, g.token_positions) for g in done] == from_env
        assert [toy.decode(g.tokens) for g in done] == [g.text for g in done]


@pytest.mark.parametrize("name", POLICIES)
def test_batch_size_and_company_change_nothing(toy: ToyDenoiser, name: str) -> None:
    policy = policy_of(name)
    settings = DecodingSettings(12, 6, temperature=1.0, features=policy.features)
    alone = [decode(toy, [prompt], policy, settings, seed=5)[0] for prompt in PROMPTS]
    for batch_size in (1, 2, 3, 64):
        assert decode(toy, PROMPTS, policy, settings, batch_size=batch_size, seed=5) == alone
    backwards = decode(toy, PROMPTS[::-1], policy, settings, batch_size=2, seed=5)
    assert backwards[::-1] == alone


def test_token_positions_by_hand(toy: ToyDenoiser) -> None:
    done = decode(toy, PROMPTS[:3], make_rule("threshold:1"), DecodingSettings(2, 2))  # a token a forward, no EOS
    assert [g.nfe for g in done[:2]] == [2, 2]
    assert [g.token_positions for g in done[:2]] == [2 * (21 + 2), 2 * (7 + 2)]
    assert done[1].text == "d a"


def test_the_seed_decides_what_is_random(toy: ToyDenoiser) -> None:
    def run(seed: int, temperature: float) -> list[Generation]:
        return decode(toy, PROMPTS, make_rule("random:1"), DecodingSettings(12, 12, temperature), seed=seed)

    assert run(0, 5.0) == run(0, 5.0)
    assert run(0, 5.0) != run(1, 5.0)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_on_finish_counts_every_prompt(toy: ToyDenoiser, batch_size: int) -> None:
    counts: list[int] = []
    rule, settings = make_rule("threshold:0.9"), DecodingSettings(8, 8)
    decode(toy, PROMPTS * 3, rule, settings, batch_size=batch_size, on_finish=counts.append)
    assert sum(counts) == 12
    assert min(counts) >= 1


def test_no_prompts(toy: ToyDenoiser) -> None:
    assert decode(toy, [], LowConfidence(1), DecodingSettings(8, 8)) == []


def test_a_feature_that_is_not_computed_is_named(toy: ToyDenoiser) -> None:
    settings = DecodingSettings(8, 8, features=frozenset(FEATURES) - {"entropy"})
    with pytest.raises(ValueError, match=r"settings.features lacks 'entropy'.*learned"):
        decode(toy, PROMPTS, learned(), settings)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_impossible_batch_size_is_named(toy: ToyDenoiser, batch_size: int) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        decode(toy, PROMPTS, LowConfidence(1), DecodingSettings(8, 8), batch_size=batch_size)


# `generate`, with a random model of the kind that ships.


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(make_tasks(SUITE))
    made = build_model(PretrainConfig(hidden_size=32, num_layers=1, num_heads=2, max_positions=48), tokenizer)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(5)  # weights large enough to have opinions
    return made, tokenizer


def reference(model: Model, prompt: str, length: int, block: int) -> list[int]:
    """One token a forward by confidence, written out plainly for one prompt."""
    network, tokenizer = model
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    tokens = ids + [tokenizer.mask_token_id] * length
    while tokenizer.mask_token_id in tokens:
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([tokens])).logits[0, len(ids) :]
        logits[:, tokenizer.mask_token_id] = -torch.inf
        confidence, prediction = logits.softmax(-1).max(-1)
        masked = [i for i in range(length) if tokens[len(ids) + i] == tokenizer.mask_token_id]
        here = [i for i in masked if i // block == masked[0] // block]
        best = max(here, key=lambda i: confidence[i].item())
        tokens[len(ids) + best] = int(prediction[best])
        buffer = tokens[len(ids) :]
        known = buffer[: buffer.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in buffer else [-1]
        if known != [-1] and tokenizer.mask_token_id not in known:
            return buffer[: len(known)] + [tokenizer.eos_token_id] * (length - len(known))
    return tokens[len(ids) :]


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize("batch_size", [1, 64])
def test_generate_equals_a_plain_loop(model: Model, block: int | None, batch_size: int) -> None:
    about: dict[str, Any] = {"buffer_length": 12, "block_length": block, "batch_size": batch_size}
    done = generate(*model, PROMPTS, LowConfidence(1), **about)
    assert [g.tokens for g in done] == [reference(model, prompt, 12, block or 12) for prompt in PROMPTS]
    for generation in done:
        end = [*generation.tokens, model[1].eos_token_id].index(model[1].eos_token_id)
        assert generation.text == model[1].decode(generation.tokens[:end])


@pytest.mark.parametrize("name", POLICIES)
def test_generate_takes_every_policy(model: Model, name: str) -> None:
    about: dict[str, Any] = {"buffer_length": 12, "temperature": 0.5, "seed": 3}
    done = generate(*model, PROMPTS, policy_of(name), **about)
    assert done == [generate(*model, [prompt], policy_of(name), **about)[0] for prompt in PROMPTS]
    assert all(model[1].mask_token_id not in g.tokens and len(g.tokens) == 12 for g in done)
    assert all(1 <= g.nfe <= 12 for g in done)


def test_generate_without_prompts(model: Model) -> None:
    assert generate(*model, [], LowConfidence(1), buffer_length=8) == []


@pytest.mark.parametrize(
    ("prompts", "more", "named"),
    [
        (["copy a", ""], {}, "prompt has 0 tokens"),
        (["a " * 41], {"buffer_length": 8}, "prompt has 41 tokens"),
        (["copy a"], {"block_length": 5}, "block_length is 5"),
        (["copy a"], {"block_length": 0}, "block_length is 0"),
        (["copy a"], {"buffer_length": 0}, "buffer_length is 0"),
        (["copy a"], {"temperature": -1.0}, "temperature is -1.0"),
        (["copy a"], {"batch_size": 0}, "batch_size"),
        ("a b", {}, r"prompts is 'a b': give a list, such as \['a b'\]"),
        (None, {}, "prompts is None: give a list"),
        ({"role": "user", "content": "a"}, {}, "prompts is {'role'.*: give a list"),
        ([None], {}, r"prompts\[0\] is None: it must be a text, or a list of messages"),
        (["a", (1, 2)], {}, r"prompts\[1\] is \(1, 2\): it must be a text"),
        ([{"role": "user", "content": "a"}], {}, r"prompts\[0\] is {.*}: it must be a text"),
        ([[]], {}, r"prompts\[0\] is \[\]: it must be a text"),
        ([[{"content": "a"}]], {}, r"prompts\[0\] is .*: it must be a text"),
        ([[{"role": "user", "content": "a"}]], {}, "is a list of messages, but the tokenizer has no chat template"),
        (["copy a"], {"buffer_length": 4096}, "buffer_length is 4096: it must be 47 or less, as this dLLM takes 48"),
        (["copy a"], {"buffer_length": 8.0}, "buffer_length is 8.0: it must be a whole number"),
        (["copy a"], {"buffer_length": None}, "buffer_length is None"),
        (["copy a"], {"block_length": "4"}, "block_length is '4': it must be a whole number"),
        (["copy a"], {"temperature": "1"}, "temperature is '1': it must be a number"),
        (["copy a"], {"batch_size": 2.5}, "batch_size is 2.5: it must be a whole number of 1 or more"),
        (["copy a"], {"samples": 0}, "samples is 0: it must be a whole number of 1 or more"),
        (["copy a"], {"seed": 2**63}, "seed is 9223372036854775808: it must be a whole number of -9223"),
        (["copy a"], {"given": "a [MASK]"}, r"given is 'a \[MASK\]': give a list"),
        (["copy a"], {"given": [3]}, r"given\[0\] is 3: it must be a text with blanks, or None"),
        (["copy a\ud83d"], {}, r"prompts\[0\] holds 'copy a\\ud83d', which is no text"),
        (["copy a"], {"given": ["a\ud83d [MASK]"]}, r"given\[0\] holds .*, which is no text"),
        (["copy a"], {"given": [None, None]}, "given has 2 entries: it must have one a prompt, 1"),
        (
            ["copy a"],
            {"policy": "threshold:0.9"},
            "policy is 'threshold:0.9': give a policy, such as policies.make_rule",
        ),
        (["copy a"], {"model": "tiny"}, "model is 'tiny': give a transformers model"),
        (["copy a"], {"samples": 10**30}, "samples is 10+: 1,000,000 are the most"),
        (["copy a"], {"on_step": 5}, "on_step is 5: give a function, or None"),
        (["copy a"], {"tokenizer": None}, "tokenizer is None: give the dLLM's, as AutoTokenizer loads it"),
        (["copy a"], {"policy": nn.Linear(1, 1)}, r"policy is Linear\(.*\): give a policy"),
    ],
)
def test_impossible_arguments_are_named(model: Model, prompts: Any, more: dict[str, Any], named: str) -> None:
    given = {"model": model[0], "tokenizer": model[1], "policy": LowConfidence(1), "buffer_length": 8, **more}
    with pytest.raises(ValueError, match=named) as caught:
        generate(prompts=prompts, **given)
    assert "\n" not in str(caught.value)


def test_any_list_of_prompts_will_do(model: Model) -> None:
    done = generate(*model, PROMPTS[:2], LowConfidence(1), buffer_length=8)
    for prompts in (tuple(PROMPTS[:2]), iter(PROMPTS[:2]), np.array(PROMPTS[:2])):
        assert generate(*model, prompts, LowConfidence(1), buffer_length=8) == done  # type: ignore[arg-type]


def test_a_conversation_is_written_by_the_chat_template(model: Model) -> None:
    tokenizer = copy.deepcopy(model[1])
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}="
    conversation = [{"role": "user", "content": "copy a b"}, {"role": "assistant", "content": ":"}]
    done = generate(model[0], tokenizer, [conversation, "copy a b : ="], LowConfidence(1), buffer_length=8)
    assert done[0] == done[1] == generate(*model, ["copy a b : ="], LowConfidence(1), buffer_length=8)[0]


@pytest.mark.parametrize("name", ["low_confidence:3", "random:2", "learned:sample"])
def test_samples_are_different_and_each_its_own(model: Model, name: str) -> None:
    """Alone or in any batch, of how many samples and beside whatever prompts."""
    about: dict[str, Any] = {"buffer_length": 12, "temperature": 1.0, "seed": 5}
    done = generate(*model, PROMPTS, policy_of(name), samples=4, **about)
    assert len(done) == 4 * len(PROMPTS)
    assert len({tuple(one.tokens) for one in done[:4]}) == 4
    assert done[::4] == generate(*model, PROMPTS, policy_of(name), **about)
    assert done[4:6] == generate(*model, PROMPTS[1:2], policy_of(name), samples=2, batch_size=1, **about)
    about["seed"] = 6
    assert not {tuple(one.tokens) for one in done} & {
        tuple(one.tokens) for one in generate(*model, PROMPTS, policy_of(name), samples=4, **about)
    }


def test_the_model_is_left_as_it_was(model: Model) -> None:
    made = copy.deepcopy(model[0]).train()
    frozen = next(parameter for name, parameter in made.named_parameters() if "word_embeddings" in name)
    frozen.requires_grad_(False)
    made.roberta_prelayernorm.encoder.eval()

    def state() -> tuple[list[bool], list[bool]]:
        return [p.requires_grad for p in made.parameters()], [module.training for module in made.modules()]

    before = state()
    assert len(set(before[0])) == len(set(before[1])) == 2
    generate(made, model[1], PROMPTS[:1], LowConfidence(4), buffer_length=8)
    assert state() == before
    with pytest.raises(ValueError, match="prompt has 0 tokens"):
        generate(made, model[1], [""], LowConfidence(1), buffer_length=8)
    assert state() == before
    made(input_ids=torch.tensor([[3, 4, 5]])).logits.sum().backward()


# Every rule decodes the same through the env.

ENGINE = {"window": "truncated", "block_origin": "absolute"}

EVERY_RULE = [name for name in RULES if name not in ("guided", "diffuspec")]  # they need a model of the toy's words


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_RULE)
@pytest.mark.parametrize(
    ("block", "temperature", "predict", "engine"),
    [(12, 0.0, True, {}), (4, 1.0, False, {}), (6, 1.0, True, ENGINE)],
)
def test_every_rule_decodes_as_the_env_does(
    toy: ToyDenoiser, name: str, block: int, temperature: float, predict: bool, engine: dict[str, Any]
) -> None:
    rule = make_rule(name)
    about: dict[str, Any] = {"buffer_length": 12, "block_length": block, "temperature": temperature, **engine}
    about["end_of_text_prediction"] = predict
    problems_of: dict[str, Any] = {"tasks": ["copy", "add", "sort"], "features": tuple(rule.features)}
    length = rule.initial_length(12)
    env = UnmaskingVectorEnv(4, denoiser=toy, initial_length=length, episodes=SeedZero, **problems_of, **about)
    env.reset(seed=2)
    policy = rule.bind(env.denoiser, env.batch.settings)
    prompts: list[str] = []
    from_env: list[tuple[Any, ...]] = []
    while len(prompts) < 8:
        problems = list(env.problems)
        _, _, terminated, _, infos = env.step(policy.act(env.view))
        for row in terminated.nonzero()[0]:
            final = {key: values[row] for key, values in infos["final_info"].items()}
            prompts.append(problems[row].prompt)
            from_env.append((final["text"], final["nfe"], final["token_positions"]))
    settings = DecodingSettings(features=rule.features, **about)
    for batch_size in (1, 3):
        done = decode(toy, prompts, rule, settings, batch_size=batch_size)
        assert [(g.text, g.nfe, g.token_positions) for g in done] == from_env


# What is shown of the buffer, and where blocks begin.


def test_a_truncated_window_counts_what_it_shows(toy: ToyDenoiser) -> None:
    prompt = PROMPTS[1]
    size = len(toy.encode_prompt(prompt))
    found = {}
    for window, origin in itertools.product(("full", "truncated"), ("buffer", "absolute")):
        settings = DecodingSettings(12, 4, early_end=False, window=window, block_origin=origin)
        [found[window, origin]] = decode(toy, [prompt], LowConfidence(1), settings)
    assert {one.nfe for one in found.values()} == {12}
    assert found["full", "buffer"].token_positions == found["full", "absolute"].token_positions == 12 * (size + 12)
    assert found["truncated", "buffer"].token_positions == 4 * (size + 4) + 4 * (size + 8) + 4 * (size + 12)
    borders = [border for border in range(size + 1, size + 13) if border % 4 == 0 or border == size + 12]
    shown = [next(border for border in borders if border > size + i) for i in range(12)]
    whole_blocks = [-(-end // 4) * 4 for end in shown]
    assert found["truncated", "absolute"].token_positions == sum(whole_blocks)


def test_generation_evaluation_and_training_show_the_same(toy: ToyDenoiser, model: Model) -> None:
    settings = DecodingSettings(8, 4, **ENGINE)
    expected = decode(MaskedLMDenoiser(*model), PROMPTS, LowConfidence(1), settings)
    assert generate(*model, PROMPTS, LowConfidence(1), buffer_length=8, block_length=4, **ENGINE) == expected
    about: dict[str, Any] = {"tasks": "copy", "episodes": 4, "buffer_length": 24, "block_length": 8}
    shown, whole = (evaluate(toy, LowConfidence(4), **about, **more)[-1] for more in (ENGINE, {}))
    assert shown["token_positions"] < whole["token_positions"]
    config = JobConfig(env=EnvConfig(**ENGINE))
    evaluated = evaluation_of(config, "policy")
    assert (evaluated.window, evaluated.block_origin) == ("truncated", "absolute")


@pytest.mark.parametrize(("name", "value"), [("window", "cut"), ("block_origin", "prompt")])
def test_an_unknown_window_or_origin_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value!r}: choose "):
        DecodingSettings(8, **{name: value})


# The early end.


def test_without_the_early_end_generation_and_evaluation_pay_for_every_position(toy: ToyDenoiser) -> None:
    prompt, rule = PROMPTS[1], LowConfidence(1)
    [early], [late] = (
        decode(toy, [prompt], rule, DecodingSettings(12, 12, early_end=early_end)) for early_end in (True, False)
    )
    assert late.nfe == 12 > early.nfe
    assert late.text == early.text
    about: dict[str, Any] = {"tasks": "copy", "episodes": 4, "buffer_length": 24}
    assert evaluate(toy, rule, early_end=False, **about)[-1]["nfe"] == 24 > evaluate(toy, rule, **about)[-1]["nfe"]


def test_a_job_trains_tries_and_evaluates_with_its_early_end() -> None:
    config = JobConfig(env=EnvConfig(early_end=False))
    assert not evaluation_of(config, "policy").early_end
    assert evaluation_of(JobConfig(), "policy").early_end
