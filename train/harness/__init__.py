"""The LM evaluation harness with a policy: ``python -m train.harness --model unmasking --tasks gsm8k``.

Every argument is lm_eval's own; this command makes the model ``unmasking`` known to it, as an import of this module
does. ``--model_args`` are the arguments of `UnmaskingLM`, such as
``pretrained=GSAI-ML/LLaDA-8B-Instruct,policy=runs/x/policy``.

Letters: B rows, L tokens of a continuation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from inspect import signature
from typing import Any, Self

import torch
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from torch import Tensor

from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import BlockOrigin, DecodingSettings, Window
from envs.models.adapter import MaskedLMDenoiser
from envs.models.load import load_denoiser
from envs.names import hint
from envs.noise import sequence_key
from policies import decode, make_rule
from policies.playing import play_out
from train.command.errors import UserError
from train.command.progress import progress
from train.evaluation.jobs import one_job


@register_model("unmasking")
class UnmaskingLM(LM):  # type: ignore[misc]
    """A masked diffusion language model that a policy decodes, as the harness's model.

    A request's answer does not depend on the others or the batch size (up to the rounding of the dLLM's own batched
    arithmetic). Forwards and positions stand in the results file under ``config``.

    Args:
        pretrained: what `envs.load_denoiser` takes.
        policy: what ``train/evaluate.py --policy`` takes: a rule, a folder, a repository of the hub.
        buffer_length: masks to start from where a task does not say ``max_gen_toks``.
        block_length: positions of a block; None is full diffusion.
        temperature: of the sampled token, where a task does not say.
        window: see `envs.decoding.settings.Window`.
        block_origin: see `envs.decoding.settings.BlockOrigin`.
        blocks_ahead: see `envs.decoding.settings.DecodingSettings`.
        cache: see `envs.caches`.
        end_of_text_prediction: see `envs.decoding.settings.DecodingSettings`.
        mc_samples: maskings that a likelihood is estimated from.
        check_greedy: decode each continuation to tell whether it is the greedy one; a forward a token.
        batch_size: sequences decoded side by side.
        max_batch_size: not used; the harness gives it.
        device: a torch device; the CPU where there is no such GPU.
        dtype: a torch dtype's name.
        seed: of every random choice.
        any_dllm: let a policy decode with a dLLM of another kind than it was trained for.
        family: see `envs.load_denoiser`.
        revision: see `envs.load_denoiser`.
        trust_remote_code: see `envs.load_denoiser`.
    """

    def __init__(
        self,
        pretrained: str = "tiny",
        policy: str = "tiny",
        buffer_length: int = 256,
        block_length: int | None = None,
        temperature: float = 0.0,
        window: Window = "full",
        block_origin: BlockOrigin = "buffer",
        blocks_ahead: int = 0,
        cache: str = "none",
        end_of_text_prediction: bool = False,
        mc_samples: int = 128,
        check_greedy: bool = False,
        batch_size: int | str = 16,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str = "float32",
        seed: int = 0,
        any_dllm: bool = False,
        family: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"batch_size is {batch_size!r}: it must be a whole number of 1 or more")
        self.batch_size = int(batch_size)
        # The harness says cuda:0 where it is told nothing, and its own models then take the CPU where there is no GPU.
        is_missing = device is None or (device.startswith("cuda") and not torch.cuda.is_available())
        place = "cpu" if is_missing else str(device)
        found = load_denoiser(
            pretrained,
            place,
            dtype,
            family=family,
            chat_template=False,  # the harness applies it, with --apply_chat_template
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        assert isinstance(found, MaskedLMDenoiser)
        self.denoiser = found
        self.policy = one_job(policy, block_length or buffer_length).make(place, any_dllm)
        self.buffer_length, self.temperature, self.seed = buffer_length, float(temperature), seed
        self.mc_samples, self.check_greedy = mc_samples, check_greedy
        self.decoding: dict[str, Any] = {
            "block_length": block_length,
            "end_of_text_prediction": end_of_text_prediction,
            "window": window,
            "block_origin": block_origin,
            "blocks_ahead": blocks_ahead,
            "cache": cache,
        }
        self._settings(buffer_length, self.temperature)  # which checks it all
        self.counted = {"answers": 0, "nfe": 0, "token_positions": 0, "likelihood_forwards": 0}

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Self:
        """Make the model of what the command line says; see `lm_eval.api.model.LM`.

        Args:
            arg_dict: of ``--model_args``.
            additional_config: of flags of its own.

        Raises:
            UserError: for an argument that isn't there, or can't be so.
        """
        known = list(signature(cls).parameters)
        for name in arg_dict:
            if name not in known:
                raise UserError(
                    f"--model_args holds {name!r}: {hint(name, known)}; a value that has commas itself is written as "
                    """JSON, as in --model_args '{"cache": "dual:refresh=8,fresh_prompt=1"}'"""
                )
        try:
            made: Self = super().create_from_arg_obj(arg_dict, additional_config)
        except (ValueError, FileNotFoundError) as error:
            raise UserError(f"--model_args: {error}") from error
        return made

    def _settings(self, length: int, temperature: float) -> DecodingSettings:
        return DecodingSettings(length, temperature=temperature, features=self.policy.features, **self.decoding)

    def get_model_info(self) -> dict[str, Any]:
        """Return what the results file says of the model, and what was spent."""
        answers = max(1, self.counted["answers"])
        means = {f"{name}_an_answer": self.counted[name] / answers for name in ("nfe", "token_positions")}
        return {"unmasking": {"policy": self.policy.name, **self.decoding, **self.counted, **means}}

    # Texts.

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Decode every context, rows refilled as they finish, and cut each answer at its first stop string."""
        answers: list[str] = [""] * len(requests)
        groups: dict[tuple[int, float], list[int]] = {}
        for i, request in enumerate(requests):
            _, options = request.args
            length = int(options.get("max_gen_toks") or options.get("max_new_tokens") or self.buffer_length)
            # The harness says temperature 0 where a task says nothing, and do_sample false.
            sampled = float(options.get("temperature") or 0.0) if options.get("do_sample") else self.temperature
            groups.setdefault((length, sampled), []).append(i)
        with progress(total=len(requests), desc="decoding", unit="answer", disable=disable_tqdm) as bar:
            for (length, temperature), which in groups.items():
                contexts = [requests[i].args[0] for i in which]
                settings = self._settings(length, temperature)
                done = decode(
                    self.denoiser,
                    contexts,
                    self.policy,
                    settings,
                    batch_size=self.batch_size,
                    seed=self.seed,
                    on_finish=bar.update,
                )
                for i, answer in zip(which, done, strict=True):
                    answers[i] = cut(answer.text, requests[i].args[1].get("until") or ())
                    self.cache_hook.add_partial("generate_until", requests[i].args, answers[i])
                self.counted["answers"] += len(done)
                self.counted["nfe"] += sum(one.nfe for one in done)
                self.counted["token_positions"] += sum(one.token_positions for one in done)
        return answers

    # Likelihoods.

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Estimate each continuation's log-likelihood; see `estimate`."""
        found = []
        for request in progress(requests, desc="likelihoods", unit="text", disable=disable_tqdm):
            context, continuation = request.args
            prompt, tokens = self._encode_pair(context, continuation)
            answer = self.estimate(prompt, tokens), self._is_greedy(prompt, tokens)
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
            found.append(answer)
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Estimate the log-likelihood of whole texts, in pieces of at most the dLLM's length."""
        found = []
        for request in progress(requests, desc="likelihoods", unit="text", disable=disable_tqdm):
            tokens = self.denoiser.encode_text(request.args[0])
            most = self.denoiser.max_length - 1
            pieces = [tokens[i : i + most] for i in range(0, len(tokens), most)]
            # A piece has no context, and a prompt can't be empty.
            found.append(sum(self.estimate([self.denoiser.eos_id], piece) for piece in pieces))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, found[-1])
        return found

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a context and of what follows it; spaces between them belong to the latter."""
        text = context.rstrip()
        continuation = context[len(text) :] + continuation
        prompt = self.denoiser.encode_text(text)
        # Together, since what a word is cut into may depend on what stands before it.
        tokens = self.denoiser.encode_text(text + continuation)[len(prompt) :]
        if not prompt:
            prompt = [self.denoiser.eos_id]
        # What is too long loses its beginning, as in lm-eval's own models: it matters least to what follows.
        tokens = tokens[-(self.denoiser.max_length - 1) :]
        return prompt[-(self.denoiser.max_length - len(tokens)) :], tokens

    def estimate(self, prompt: Sequence[int], tokens: Sequence[int]) -> float:
        """Estimate the log-likelihood of tokens after a prompt, by masking some of them again and again.

        Each of ``mc_samples`` masks l of the L tokens, l uniform in 1 to L, and counts ``L / l`` times the summed
        log-probabilities of the masked ones. Which are masked follows from the tokens and the seed.

        Source: LLaDA, arXiv 2502.09992, Equation 6 and Algorithm 3.

        Args:
            prompt: token ids, at least one.
            tokens: L token ids.
        """
        length = len(tokens)
        if length == 0:
            return 0.0
        draws = torch.Generator().manual_seed(sequence_key([*prompt, *tokens], self.seed) % 2**63)
        counts = torch.randint(1, length + 1, (self.mc_samples,), generator=draws)
        # Twice argsort gives ranks: the first ones of a random order are as likely to be any set of their size.
        order = torch.rand(self.mc_samples, length, generator=draws).argsort(1).argsort(1)
        masked = (order < counts.unsqueeze(1)).to(self.denoiser.device)
        text = torch.tensor(tokens, device=self.denoiser.device)
        total = 0.0
        for rows in masked.split(self.batch_size):
            total += float(self._masked_log_probability(prompt, text, rows).sum())
        self.counted["likelihood_forwards"] += self.mc_samples
        return total / self.mc_samples

    def _masked_log_probability(self, prompt: Sequence[int], text: Tensor, masked: Tensor) -> Tensor:
        """Return (B,) float64, ``L / l`` times the log-probability of the masked tokens."""
        answers = torch.where(masked, self.denoiser.mask_id, text)
        prompts = torch.tensor(prompt, device=text.device).expand(len(masked), -1)
        tokens = torch.cat([prompts, answers], 1)
        logits = self.denoiser.logits(tokens, torch.ones_like(tokens, dtype=torch.bool), len(text))
        own = logits.float().log_softmax(-1).gather(-1, text.expand_as(masked).unsqueeze(-1)).squeeze(-1)
        return (own * masked).double().sum(1) * len(text) / masked.sum(1)

    def _is_greedy(self, prompt: Sequence[int], tokens: Sequence[int]) -> bool:
        """Tell whether the tokens are what decoding the most confident one first writes, if it is to be told."""
        if not self.check_greedy or not tokens:
            return False
        rule = make_rule("low_confidence:1")
        batch = DecodingBatch(self.denoiser, 1, DecodingSettings(len(tokens), early_end=False))
        batch.load([0], [prompt])
        play_out(batch, rule)
        return batch.tokens(0) == list(tokens)

    # Chat templates.

    @property
    def tokenizer_name(self) -> str:
        """What the harness tells templates apart by."""
        return self.denoiser.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the tokenizer's template, for the results file."""
        template: str | None = getattr(self.denoiser.tokenizer, "chat_template", None)
        return template if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Write a conversation as a text."""
        text: str = self.denoiser.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            **self.denoiser.family.chat_options,
        )
        return text


def cut(text: str, stops: str | Iterable[str]) -> str:
    """Return a text up to the first of some stop strings."""
    for stop in [stops] if isinstance(stops, str) else stops:
        if stop:
            text = text.partition(stop)[0]
    return text
