"""What a command says of its work, line by line: where a thing is, how large it is, what to do next."""

from __future__ import annotations

from pathlib import Path

from train.command.escaping import printable


def tell(name: str, *facts: str | Path) -> None:
    r"""Print one line: a name in a column of its own, and what there is to say of it.

    Args:
        name: at most eleven characters; empty for what goes on from the line before.
        facts: texts and paths, which may have been named by anybody.

    >>> tell("policy", Path("runs/ppo"), "a\x1b[2Jb")
    policy      runs/ppo, a?[2Jb
    """
    print(f"{name:<11} {printable(', '.join(map(str, facts)))}", flush=True)
