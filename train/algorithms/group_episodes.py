"""Groups of rows that attempt the same problem, for algorithms that compare attempts (GRPO)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from envs.episodes import Episode, Episodes
from envs.tasks import Problem


class GroupEpisodes(Episodes):
    """Rows of a group share each problem, block length and alpha, and differ in the random numbers they draw.

    An env of groups is made with `AutoresetMode.DISABLED`: a finished row waits for its group. A row that is reset
    without the first of its group begins the group's present problem again.

    Args:
        num_rows: N.
        group_size: rows of a group, experts included.
        expert_blocks: block lengths of the last rows of each group, which a rule rather than the policy is to decode.
        **kwargs: as of `Episodes`.

    Raises:
        ValueError: if the groups don't fill the rows, or hold experts only.
    """

    def __init__(self, num_rows: int, *, group_size: int, expert_blocks: Sequence[int] = (), **kwargs: Any) -> None:
        if group_size <= len(expert_blocks) or num_rows % group_size:
            raise ValueError(
                f"group_size is {group_size}: it must divide num_envs, {num_rows}, and exceed a group's experts, "
                f"{len(expert_blocks)}"
            )
        super().__init__(num_rows, **kwargs)
        self.group_size, self.expert_blocks = group_size, list(expert_blocks)
        self._shared: dict[int, Episode] = {}

    @property
    def possible_blocks(self) -> set[int]:
        """Every block length that an episode can have, the experts' included."""
        return {*self.block_lengths, *self.expert_blocks}

    def state(self) -> dict[str, Any]:
        """Return all that later episodes depend on."""
        return super().state() | {"shared": {group: asdict(episode) for group, episode in self._shared.items()}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        super().load_state(state)
        shared = state["shared"].items()
        self._shared = {group: Episode(**(one | {"problem": Problem(**one["problem"])})) for group, one in shared}

    def begin(self, rows: Sequence[int], problems: Mapping[int, Problem] | None = None) -> list[Episode]:
        """Return the next episode of each of these rows; the first row of a group draws for all of them.

        Raises:
            ValueError: if rows of a group are asked to begin different problems.
        """
        wanted = problems or {}
        episodes = []
        for row in rows:
            group, place = divmod(row, self.group_size)
            asked = wanted.get(row)
            if place == 0 or group not in self._shared:
                self._shared[group] = self._draw(row, asked)
            shared = self._shared[group]
            if asked is not None and asked != shared.problem:
                raise ValueError(
                    f"problem of row {row} is not that of its group: rows {group * self.group_size} to "
                    f"{(group + 1) * self.group_size - 1} must begin the same"
                )
            expert = place - (self.group_size - len(self.expert_blocks))
            block = self.expert_blocks[expert] if expert >= 0 else shared.block_length
            # Attempts at one problem must differ where tokens are sampled.
            seed = shared.seed if place == 0 else self._draw_seed(row)
            episodes.append(replace(shared, block_length=block, seed=seed))
        return episodes
