"""The second embedded suite: long answers, free wording, and steps of which each needs the one before.

Every prompt starts with its task's name and ends with ``=``; words are separated by one space and each is one token.
Answers fit a buffer of 128 with end-of-text; prompts are at most 64 words, unless a task is asked for longer ones.
Numbers are words of their own and never exceed `words.LARGEST`, so that a model of a few million parameters can know
every sum.
"""

from envs.tasks.prose.describe import Describe
from envs.tasks.prose.puzzle import Puzzle
from envs.tasks.prose.record import Record
from envs.tasks.prose.route import Route
from envs.tasks.prose.story import Story
from envs.tasks.prose.trace import Trace

__all__ = ["PROSE", "Describe", "Puzzle", "Record", "Route", "Story", "Trace"]

PROSE = {task.name: task for task in (Story, Describe, Trace, Route, Record, Puzzle)}
"""Every task of the prose suite by name; a new one is one file and one word here."""
