"""Decoding from a terminal, and what is told of every forward."""

from __future__ import annotations

import io
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from checkpoints import build
from denoisers import EOS, MASK, A, B, C, fixed

from envs.decoding.settings import DecodingSettings
from envs.models.adapter import MaskedLMDenoiser
from envs.models.load import load_denoiser
from envs.models.toy import ToyDenoiser
from policies import GenerationStep, decode, make_rule
from train.command.config import parse
from train.command.errors import UserError
from train.generate import GenerateConfig, draw, read_prompts
from train.generate import main as generate

SORT = "sort . . : d a c b . . . . . . . . . . . . ="
TOY = ["copy . . : a b c . . . =", "sort . . : d a =", "reverse q w e =", "add 1 2 : 3 4 5 6 ="]


def words(*line: str) -> GenerateConfig:
    return parse(GenerateConfig, None, list(line), positional="prompt")


# Every forward is told.


class Spoken:
    """Encodes digits as they are."""

    def encode_prompt(self, prompt: str) -> list[int]:
        return [int(digit) for digit in prompt]

    def decode(self, tokens: list[int]) -> str:
        return "".join("..?abcd"[token] for token in tokens).partition("?")[0]


def test_steps_by_hand() -> None:
    denoiser: Any = fixed((A, 0.9), (B, 0.5), (EOS, 0.95), (C, 0.7))
    denoiser.encode_prompt, denoiser.decode = Spoken().encode_prompt, Spoken().decode
    told: list[GenerationStep] = []
    settings = DecodingSettings(4)
    [answer] = decode(denoiser, ["3"], make_rule("low_confidence:1"), settings, on_step=told.append)
    assert told == [
        GenerationStep(0, [MASK, MASK, EOS, MASK], 1, [0, 0, 1, 0], [2], False),
        GenerationStep(0, [A, MASK, EOS, MASK], 2, [2, 0, 1, 0], [0], False),
        GenerationStep(0, [A, MASK, EOS, C], 3, [2, 0, 1, 3], [3], False),
        GenerationStep(0, [A, B, EOS, C], 4, [2, 4, 1, 3], [1], True),
    ]
    assert (answer.text, answer.tokens, answer.commit_step) == ("ab", [A, B, EOS, C], [2, 4, 1, 3])
    early = decode(denoiser, ["3"], make_rule("threshold:0.8"), settings)[0]
    assert (early.nfe, early.commit_step) == (3, [1, 3, 1, 2])


@pytest.mark.parametrize("name", ["threshold:0.9", "random:2", "wino", "freedave", "rho_eos"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_steps_are_those_of_the_answer(toy: ToyDenoiser, name: str, batch_size: int) -> None:
    rule = make_rule(name)
    settings = DecodingSettings(12, 4, 0.7, rule.features)
    told: dict[int, list[GenerationStep]] = {}

    def note(step: GenerationStep) -> None:
        told.setdefault(step.answer, []).append(step)

    answers = decode(toy, TOY, rule, settings, samples=2, batch_size=batch_size, on_step=note)
    assert answers == decode(toy, TOY, rule, settings, samples=2)  # to be told changes nothing
    assert sorted(told) == list(range(8))
    for i, answer in enumerate(answers):
        steps = told[i]
        assert [step.is_finished for step in steps] == [False] * (len(steps) - 1) + [True]
        assert (steps[-1].tokens, steps[-1].nfe, steps[-1].commit_step) == (
            answer.tokens,
            answer.nfe,
            answer.commit_step,
        )
        for before, after in pairwise(steps):
            changed = [p for p in range(12) if before.commit_step[p] != after.commit_step[p] and after.commit_step[p]]
            assert after.committed == changed
        last = {p: step.nfe for step in steps for p in step.committed}
        if name not in ("freedave", "wino"):
            assert all(answer.commit_step[p] == n for p, n in last.items() if answer.commit_step[p])


def test_given_tokens_have_no_step(toy: ToyDenoiser) -> None:
    [answer] = decode(toy, TOY[:1], make_rule("low_confidence:1"), DecodingSettings(4), given=["a [MASK] b [MASK]"])
    assert [bool(step) for step in answer.commit_step] == [False, True, False, True]


# Conversations.


def test_a_conversation_takes_the_chat_template(tmp_path: Path, toy: ToyDenoiser) -> None:
    denoiser = load_denoiser(str(build("llada", tmp_path / "llada")))
    assert isinstance(denoiser, MaskedLMDenoiser)
    rule, settings = make_rule("low_confidence:4"), DecodingSettings(8)
    asked = [{"role": "user", "content": "What?"}]
    assert decode(denoiser, [asked], rule, settings) == decode(denoiser, ["What?"], rule, settings)
    turns = [*asked, {"role": "assistant", "content": "That."}, {"role": "user", "content": "Why?"}]
    text = denoiser.tokenizer.decode(denoiser.encode_messages(turns))
    assert "That." in text
    assert text.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
    with pytest.raises(ValueError, match=r"prompts\[1\] is a list of messages, but this dLLM has no chat template"):
        decode(toy, [TOY[0], asked], rule, settings)
    with pytest.raises(ValueError, match=r"tokenizer of .*tiny.* has no chat template: give a text"):
        decode(load_denoiser("tiny"), [asked], rule, settings)


# The command.


def test_answers_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    generate(words(SORT, SORT, "--policy", "low_confidence:1", "--buffer_length", "16"))
    shown = capsys.readouterr()
    assert shown.out == "a b c d\n" * 2
    assert shown.err.startswith("2 answers, ")


def test_a_stream_shows_the_text_filling_in(capsys: pytest.CaptureFixture[str]) -> None:
    [answer] = generate(words(SORT, "--policy", "low_confidence:1", "--buffer_length", "16", "--stream"))
    lines = capsys.readouterr().out.splitlines()
    # Forwards that commit ends of text alone show nothing new.
    assert [int(line[:3]) for line in lines] == sorted({1, *answer.commit_step[:4]})
    assert (lines[0], lines[-1]) == ("  1  ·x4", " 16  a b c d")


def test_json_holds_everything(capsys: pytest.CaptureFixture[str]) -> None:
    [answer] = generate(words(SORT, "--json", "--stream", "--speed", "0.1"))
    *steps, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert last == {
        "prompt": SORT,
        "text": answer.text,
        "tokens": answer.tokens,
        "nfe": answer.nfe,
        "token_positions": answer.token_positions,
        "commit_step": answer.commit_step,
        "said": 4,
        "log_likelihood": answer.log_likelihood,
    }
    assert [step["nfe"] for step in steps] == list(range(1, answer.nfe + 1))
    assert steps[-1]["is_finished"]
    assert steps[-1]["text"] == answer.text


def test_lines_are_as_data_sets_have_them(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "line\u2028separator"}]
    file = tmp_path / "prompts.jsonl"
    lines = (turns, {"messages": turns}, {"prompt": turns, "messages": "other"})
    file.write_text("\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    assert read_prompts(words("--file", str(file))) == [turns] * 3
    with pytest.raises(ValueError, match=r"prompts\[3\] is {'text': 'a'}: it must be a text, or a list of messages"):
        decode(Spoken(), ["1", "1", "1", {"text": "a"}], make_rule("random"), DecodingSettings(4))  # type: ignore
    for text, message in (
        ('"a"\n\nsort a\n', r"prompts\.jsonl, line 3: .*; a line must be JSON, such as \"sort"),
        ("[" * 9999, r"prompts\.jsonl, line 1: "),
        ("\n \n", "which holds no prompt"),
        ('"a"\n{"text": "a"}\n', r"prompts\.jsonl, line 2: the line is {'text': 'a'}: it must be a text"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            read_prompts(words("--file", str(file)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": 3}', "line 3: its prompt is 3: it must be a text"),
        ("[]", r"line 3: the line is \[\]: it must be a text"),
        ('{"prompt": "a\\ud83d"}', "line 3: its prompt holds .*, which is no text"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f"\n\n{line}\n")
    with pytest.raises(UserError, match=message):
        generate(words("--file", str(file)))


def test_a_switch_leaves_the_prompt_alone() -> None:
    assert (words("--stream", "a b").stream, words("--stream", "a b").prompt) == (True, ["a b"])
    assert (words("--json", "false", "a").json, words("--json", "false", "a").prompt) == (False, ["a"])
    assert words("a", "--json").json


@pytest.mark.parametrize("prompt", ["[red]hello", "[a, b]", "[", "null", "{a: 1}", "- a"])
def test_a_prompt_is_text_whatever_it_looks_like(prompt: str) -> None:
    assert words(prompt, "and").prompt == [prompt, "and"]


def test_prompts_come_from_files_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, lines = tmp_path / "prompt.txt", tmp_path / "prompts.jsonl"
    file.write_text(f"{SORT}\n")
    data = [SORT, {"prompt": SORT.replace("d", "e"), "score": 1.0}]
    lines.write_text("\n\n".join(map(json.dumps, data)) + "\n")
    about = ["--buffer_length", "16", "--policy", "threshold:0.9"]
    assert [one.text for one in generate(words(*about, "--file", str(file)))] == ["a b c d"]
    assert [one.text for one in generate(words(SORT, *about, "--file", str(lines)))] == ["a b c d"] * 2 + ["a b c e"]
    for line in ([], ["-"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{SORT}\n"))
        assert [one.text for one in generate(words(*line, *about))] == ["a b c d"]


@pytest.mark.parametrize(
    ("line", "content", "message"),
    [
        ([], "", "standard input is empty"),
        (["a", "--policy", "threshold:0.9", "--speed", "0.5"], "", "threshold:0.9 is a rule and has no dial"),
        (["a", "--policy", "tiny@speed=0.5", "--speed", "0.5"], "", "give one of both"),
        (["a", "--samples", "2"], "", "samples is 2, but those of tiny"),
        (["a", "--policy", "all"], "", "policy is 'all': give one"),
        (["a", "--policy", "list"], "", "policy is 'list': give one"),
        (["a", "--model.device", "mps"], "", "device is 'mps': torch can't use it here"),
        (["--file", "no/such.txt"], "", r"file is 'no/such\.txt', which can't be read"),
        (["--speed", "2", "a"], "", r"speed is 2.0: it must be 0 \(slow\) to 1"),
        (["a", "--buffer_length", "16", "--block_length", "5"], "", "must divide buffer_length 16"),
    ],
)
def test_what_is_not_possible_is_named(
    line: list[str], content: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(content))
    with pytest.raises((UserError, ValueError), match=message):
        generate(words(*line))


def test_masks_are_drawn_as_dots(toy: ToyDenoiser) -> None:
    a, b = toy.encode_text("a b")
    hole, end = toy.mask_id, toy.eos_id

    def drawn(*tokens: int) -> str:
        return draw(toy, GenerationStep(0, list(tokens), 1, [0] * len(tokens), [], False))

    assert drawn(a, hole, hole, b) == "a ·· b"
    assert drawn(*[hole] * 9, a) == "·x9 a"
    assert drawn(hole, a, end, hole, b) == "· a"


def test_a_strange_prompt_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    generate(words(SORT))
    assert capsys.readouterr().err == "1 answer, 1 forward, 85 positions computed\n"
    generate(words(SORT, "Why is 17 prime?"))
    assert "its answer to 'Why is 17 prime?' means nothing" in capsys.readouterr().err
