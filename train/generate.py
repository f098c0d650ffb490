"""Decode prompts with a policy: ``python train/generate.py "sort . . : d a c b . . . . . . . . . . . . ="``.

``--stream`` shows the text as it fills in. ``--json`` prints one object a line, with the forward that committed each
token, for other programs. Prompts come from the command line, a file or standard input.
"""

from __future__ import annotations

from train.command.starting import end_quietly

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path

import torch
from rich.live import Live
from rich.text import Text

from envs.decoding.settings import BlockOrigin, DecodingSettings, Window
from envs.denoiser import Denoiser
from envs.render import MASK_GLYPH
from envs.tasks import TASKS
from policies import Generation, GenerationStep, UnmaskingPolicy, decode
from policies.files import read_text
from policies.prompts import Message, check_prompt
from train.command.config_values import PathText
from train.command.decoding_config import CacheText, decoding_of, settle_decoding, unused_without_blocks
from train.command.errors import UserError
from train.command.escaping import printable_lines
from train.command.model_config import ModelConfig
from train.command.ranges import check_count, check_seed
from train.evaluation.jobs import one_job
from train.evaluation.measure import check_samples
from train.evaluation.naming import is_folder, split_setting

Prompt = str | Sequence[Message]

EXAMPLE = "sort . . : d a c b . . . . . . . . . . . . ="
"""A prompt that the embedded dLLM was trained for; all are as long."""

LONG_RUN = 3
"""Masks in a row from which on they are counted instead of drawn."""


@dataclass(frozen=True)
class GenerateConfig:
    """Decode prompts with a policy, and show how.

    Examples:
        python train/generate.py "sort . . : d a c b . . . . . . . . . . . . ="
        python train/generate.py --stream --policy threshold:0.9 "shuffle . . : d a c b . . . . . . . . . . . . ="
        python train/generate.py --config configs/models/llada.yaml --policy threshold:0.9 --stream "Why is 17 prime?"
        python train/generate.py --file prompts.jsonl --json
    """

    prompt: list[str] = field(default_factory=list)
    """What to answer, one or more; - reads one from standard input, as no prompt at all does."""
    file: Path | None = None
    """A file with a prompt; or, by the suffix .jsonl, with one a line: a text, a list of messages with role and
    content, or an object that has either as its prompt or messages."""
    policy: PathText = "tiny"
    """A rule as name:knob,option=value, a policy's folder, or the name of one that ships; FOLDER@THRESHOLD and
    FOLDER@NAME=VALUE as in train/evaluate.py."""
    speed: float | None = None
    """Of a policy with a dial, 0 (slow) to 1 (fast)."""
    any_dllm: bool = False
    """Let a learned policy decode with a dLLM of another kind than it was trained for."""
    stream: bool = False
    """Show the text after every forward; the prompts are then decoded one after the other."""
    json: bool = False
    """Print one JSON object an answer, with --stream also one a forward."""
    samples: int = 1
    """Answers to each prompt, at a temperature above 0 or with a policy that samples."""
    buffer_length: int = 64
    """Masks to start from."""
    block_length: int | None = None
    """Positions of a block, decoded left to right; null is full diffusion."""
    temperature: float = 0.0
    """Of the sampled token; 0 commits the argmax."""
    window: Window = "full"
    """truncated shows the model nothing after the current block, as serving engines do; full shows the whole buffer."""
    block_origin: BlockOrigin = "buffer"
    """absolute counts blocks from the start of the prompt, as serving engines do; buffer from its end."""
    blocks_ahead: int = 0
    """Blocks after the current one whose masks may be committed too, where the last forward computed them."""
    cache: CacheText = "none"
    """Rule about the keys and values that forwards keep, with knobs as dual:refresh=8."""
    batch_size: int = 64
    """Sequences decoded side by side."""
    seed: int = 0
    """Of every random choice."""
    model: ModelConfig = field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        check_count(self, "samples", "buffer_length", "block_length", "batch_size")
        check_seed(self)
        if self.speed is not None and not 0 <= self.speed <= 1:
            raise ValueError(f"speed is {self.speed}: it must be 0 (slow) to 1 (fast)")
        settle_decoding(self, [self.block_length])

    def unused(self) -> dict[str, str]:
        """Return the fields that play no role beside the others, each with the reason."""
        found = {"batch_size": "stream is given, which decodes one after the other"} if self.stream else {}
        return found | ({} if self.block_length else unused_without_blocks("block_length is null"))


def main(config: GenerateConfig) -> list[Generation]:
    """Decode and print.

    Returns:
        The answers, those of a prompt one after the other.

    Raises:
        UserError: if there is no prompt, or the file can't be read.
        ValueError: if the policy can't be what is asked.
    """
    prompts = read_prompts(config)
    policy = load_policy(config)
    # Before the dLLM is loaded, which can take minutes.
    check_samples(config.samples, config.temperature, [(config.policy, policy.decision)])
    torch.set_num_threads(config.model.threads)
    denoiser = config.model.load()
    settings = DecodingSettings(block_length=config.block_length, features=policy.features, **decoding_of(config))
    drawing = Drawing(denoiser, as_json=config.json)
    try:
        answers = decode(
            denoiser,
            prompts,
            policy,
            settings,
            samples=config.samples,
            batch_size=1 if config.stream else config.batch_size,
            seed=config.seed,
            on_step=drawing.show if config.stream else None,
        )
    finally:
        drawing.close()
    for i, answer in enumerate(answers):
        if config.json:
            print(json.dumps({"prompt": prompts[i // config.samples], **asdict(answer)}))
        elif not config.stream:
            print(printable_lines(answer.text))
    forwards, positions = sum(one.nfe for one in answers), sum(one.token_positions for one in answers)
    counts = (len(answers), "answer"), (forwards, "forward"), (positions, "position")
    told = ", ".join(f"{number} {what}{'s' * (number != 1)}" for number, what in counts)
    # On stderr: standard output holds answers and nothing else, for whoever reads it.
    print(f"{told} computed", file=sys.stderr)
    # A language model takes any text; the embedded one answers nonsense to all that isn't a problem of its suite.
    if config.model.name == "tiny":
        warn_of_strange_prompts(prompts)
    return answers


def warn_of_strange_prompts(prompts: Sequence[Prompt]) -> None:
    """Say on stderr which prompt the embedded dLLM was not trained for, if there is one."""
    for text in prompts:
        parts = text.split() if isinstance(text, str) else []
        if len(parts) != len(EXAMPLE.split()) or parts[0] not in TASKS:
            print(
                f"note: the embedded dLLM knows problems such as {EXAMPLE!r} (envs.tasks.prompt writes them) and "
                f"nothing else; its answer to {text!r} means nothing",
                file=sys.stderr,
            )
            return


def load_policy(config: GenerateConfig) -> UnmaskingPolicy:
    """Return the rule or the learned policy, at its speed.

    Raises:
        ValueError: if it is unknown, or has no dial for the speed.
    """
    job = one_job(config.policy, config.block_length or config.buffer_length)
    policy = job.make(config.model.device, config.any_dllm)
    if config.speed is None:
        return policy
    if not is_folder(config.policy):
        raise ValueError(f"speed is {config.speed}, but {config.policy} is a rule and has no dial: change its knob")
    if split_setting(config.policy)[1]:
        raise ValueError(f"speed is given, and policy is {config.policy!r}: give one of both")
    return policy.tuned(job.block_length, speed=config.speed)  # type: ignore[attr-defined, no-any-return]


def read_prompts(config: GenerateConfig) -> list[Prompt]:
    """Return the prompts of the command line, then those of the file; standard input's where there are none.

    Raises:
        UserError: if there is none, or the file holds something else.
    """
    # In the order of the command line, where - can stand among others.
    prompts: list[Prompt] = [_from_input() if text == "-" else text for text in config.prompt]
    if config.file is not None:
        prompts += _from_file(config.file)
        if not prompts:
            raise UserError(f"file is {str(config.file)!r}, which holds no prompt: write one a line")
    if not prompts:
        if sys.stdin.isatty():
            raise UserError(f"prompt is empty: write one, such as {EXAMPLE!r}, or name a --file")
        prompts = [_from_input()]
    return prompts


def _from_input() -> str:
    text = sys.stdin.read().strip("\n")
    if not text:
        raise UserError("standard input is empty: write a prompt to it, or on the command line")
    return text


def _from_file(file: Path) -> list[Prompt]:
    try:
        text = read_text(file)
        if file.suffix != ".jsonl":
            return [prompt] if (prompt := text.strip("\n")) else []
    except (OSError, ValueError) as error:
        raise UserError(f"file is {str(file)!r}, which can't be read: {error}") from error
    return [_from_line(line, f"{file}, line {i}") for i, line in enumerate(text.split("\n"), 1) if line.strip()]


def _from_line(line: str, place: str) -> Prompt:
    """Return the prompt that stands in a line of JSON, alone or as data sets have it, in an object."""
    try:
        prompt = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: {error}; a line must be JSON, such as {json.dumps(EXAMPLE)}") from error
    names = [name for name in ("prompt", "messages") if isinstance(prompt, dict) and name in prompt]
    found: Prompt = prompt[names[0]] if names else prompt
    try:
        check_prompt(f"its {names[0]}" if names else "the line", found)
    except ValueError as error:
        raise UserError(f"{place}: {error}") from error
    return found


class Drawing:
    """Prints sequences as they fill in: over each other on a terminal, else a line a forward that changed something.

    Args:
        denoiser: whose tokens they are.
        as_json: print objects for other programs instead.
    """

    def __init__(self, denoiser: Denoiser, as_json: bool) -> None:
        self.denoiser, self.as_json = denoiser, as_json
        self._live: Live | None = None
        self._last = ""

    def show(self, step: GenerationStep) -> None:
        """Print one step."""
        if self.as_json:
            print(json.dumps({**asdict(step), "text": draw(self.denoiser, step)}), flush=True)
            return
        text = printable_lines(draw(self.denoiser, step))
        if not sys.stdout.isatty():
            # Many forwards commit ends of text alone, which are not drawn.
            if text != self._last or step.is_finished:
                print(f"{step.nfe:>3}  {text}", flush=True)
            self._last = "" if step.is_finished else text
            return
        if self._live is None:
            self._live = Live(auto_refresh=False)
            self._live.start()
        self._live.update(Text(text), refresh=True)
        if step.is_finished:
            self.close()

    def close(self) -> None:
        """Leave what is drawn as it is; the next sequence begins below it."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def draw(denoiser: Denoiser, step: GenerationStep) -> str:
    """Return a sequence as text up to its first end-of-text, a dot for each mask and long runs of them counted."""
    pieces: list[str] = []
    for is_mask, run in groupby(step.tokens, lambda token: token == denoiser.mask_id):
        tokens = list(run)
        if is_mask:
            count = len(tokens)
            pieces.append(MASK_GLYPH * count if count <= LONG_RUN else f"{MASK_GLYPH}x{count}")
            continue
        pieces.append(denoiser.decode(tokens))
        if any(token in denoiser.end_ids for token in tokens):
            break
    return " ".join(piece for piece in pieces if piece)


if __name__ == "__main__":
    from train.command.cli import run

    run(main, GenerateConfig, positional="prompt")
