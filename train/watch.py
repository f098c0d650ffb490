"""Watch policies decode: one HTML page with the buffer step by step, policies side by side, and their commit order.

``python train/watch.py --policy threshold:0.9 --policy runs/ppo/policy --task replace`` writes ``watch.html`` to the
run's folder: a slider over the steps of the same problems under each policy, what the policies' probabilities were, and
a heat map of when each position is committed. The file needs nothing but a browser. ``--format gif`` writes one
animation a problem instead; ``--format ansi`` prints to the terminal and writes nothing.
"""

from __future__ import annotations

from train.command.starting import end_quietly

import torch
from rich.console import Console
from rich.text import Text

from train.command.files import write_atomic
from train.command.run_folder import has_result, open_run, refuse_used
from train.command.told import tell
from train.evaluation.rule_list import print_rules
from train.watching.gif import draw_gif
from train.watching.page import page
from train.watching.show import Show, WatchConfig, rehearse
from train.watching.terminal import ansi_frames


def main(config: WatchConfig) -> None:
    """Record every policy on every problem and write, or print, what there is to see."""
    if "list" in config.policy:
        print_rules()
        return
    torch.set_num_threads(config.model.threads)
    writes = config.format != "ansi"
    if writes and has_result(config.out):
        refuse_used(config.out)
    # Recorded before the folder is made, so that a mistyped name leaves nothing behind.
    show = rehearse(config)
    if not writes:
        # In colour on a terminal only, or as FORCE_COLOR and NO_COLOR say.
        console = Console()
        for problem in range(config.problems):
            console.print(Text.from_ansi("\n".join(ansi_frames(show, problem)) + "\n"), soft_wrap=True)
        return
    with open_run(config.out, config, resume=None):
        write(config, show)


def write(config: WatchConfig, show: Show) -> None:
    """Write the page, or an animation a problem."""
    if config.format == "html":
        write_atomic(config.out / "watch.html", page(show))
        tell("page", config.out / "watch.html")
        return
    # A file a problem: a GIF has no way to choose.
    for problem, about in enumerate(show.problems):
        file = config.out / f"{about.task}_{about.index}.gif"
        draw_gif(show, problem, file)
        tell("animation", file)


if __name__ == "__main__":
    from train.command.cli import run

    run(main, WatchConfig)
