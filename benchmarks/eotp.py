"""What end-of-text prediction saves as the buffer grows: ``python benchmarks/eotp.py [POLICY ...]``.

Decodes the same held-out problems into buffers of 64 to 512 masks, one token per step and with each policy (a rule, or
FOLDER@THRESHOLD), with and without EoTP, and prints accuracy, forwards and the token positions saved against one token
per step without EoTP at the same buffer. ``EPISODES=5`` problems a task unless that variable says otherwise.

Source of the effect: Bao et al., arXiv 2509.25188, Table 2 (22.6 times at 1,024 masks, mostly padding).
"""

from __future__ import annotations

import os
import sys

import torch
from rich.console import Console
from rich.table import Table

from envs.denoiser import load_denoiser
from train.evaluate import evaluate, plan

LENGTHS = (64, 128, 256, 512)


def main(policies: list[str]) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    episodes, denoiser = int(os.environ.get("EPISODES", "5")), load_denoiser("tiny")
    table = Table(title=f"tiny dLLM, {episodes} held-out problems a task, full diffusion", title_justify="left")
    for column in ("buffer", "policy", "accuracy %", "NFE", "token positions", "times fewer"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for length in LENGTHS:
        base = 0.0
        for job in plan(["low_confidence:1", *policies], [length]):
            if job.decision == "sample":
                continue
            for shortens in (False, True):
                record = evaluate(
                    denoiser,
                    job.make(),
                    name=job.name,
                    episodes=episodes,
                    buffer_length=length,
                    end_of_text_prediction=shortens,
                )[-1]
                base = base or record["token_positions"]
                table.add_row(
                    str(length),
                    record["policy"],
                    f"{100 * record['accuracy']:.1f}",
                    f"{record['nfe']:.2f}",
                    f"{record['token_positions']:.0f}",
                    f"{base / record['token_positions']:.1f}",
                )
    Console(width=100).print(table)


if __name__ == "__main__":
    main(sys.argv[1:] or ["threshold:0.9"])
