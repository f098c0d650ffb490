"""Tasks whose problems are read: from the user's files, or from the Hugging Face hub where there is network."""

from __future__ import annotations

import csv
import gzip
import json
import os
import zlib
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, get_args

from envs.characters import half_character
from envs.tasks.base import Problem, Split, Task, split_of

Row = Mapping[str, Any]
"""One problem as its file has it."""

KINDS = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")
"""Endings of files that `read_rows` reads."""

MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, SyntaxError, RecursionError)
"""What reading a row that is not of a data set raises."""


class HubSplit(NamedTuple):
    """Where a split is on the Hugging Face hub."""

    repository: str
    """``owner/name`` of the data set."""
    split: str
    """The split's name there."""
    config: str | None = None
    """The configuration's name, if there are several."""


def read_rows(file: Path) -> list[Row]:
    """Read one problem a row; values of a ``.csv`` are text.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the ending is none of `KINDS`, or the content isn't what the ending says.
    """
    if not file.is_file():
        raise FileNotFoundError(f"data file is {str(file)!r}: there is no such file")
    try:
        rows = _reader(file)(file)
    except (ValueError, TypeError, RecursionError, EOFError, OSError, zlib.error, csv.Error) as error:
        raise ValueError(f"data file is {str(file)!r}: it can't be read ({error})") from error
    odd = next((i for i, row in enumerate(rows, 1) if not isinstance(row, Mapping)), None)
    if not rows or odd:
        where = f"; row {odd} has none" if odd else ""
        raise ValueError(f"data file is {str(file)!r}: it must hold one problem a row, each with named fields{where}")
    return rows


def _reader(file: Path) -> Callable[[Path], list[Row]]:
    readers: dict[str, Callable[[Path], list[Row]]] = {
        ".jsonl": lambda path: _json_lines(path.read_bytes()),
        ".jsonl.gz": lambda path: _json_lines(gzip.decompress(path.read_bytes())),
        ".json": lambda path: list(json.loads(path.read_text(encoding="utf-8-sig"))),
        ".csv": _csv,
        ".parquet": _parquet,
    }
    kind = next((kind for kind in KINDS if file.name.endswith(kind)), None)
    if kind is None:
        raise ValueError(f"its name must end in one of {', '.join(KINDS)}")
    return readers[kind]


def _json_lines(content: bytes) -> list[Row]:
    # Spreadsheets and Windows editors put a byte order mark first, which -sig passes over.
    text = content.decode("utf-8-sig")
    # Split at newlines only: str.splitlines would also split at characters that JSON text may hold.
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from None
    return rows


def _csv(file: Path) -> list[Row]:
    with file.open(newline="", encoding="utf-8-sig") as lines:
        return list(csv.DictReader(lines))


def _parquet(file: Path) -> list[Row]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ValueError("pyarrow is not installed: pip install pyarrow, or save the file as .jsonl") from None
    rows: list[Row] = parquet.read_table(file).to_pylist()
    return rows


def find_file(folder: Path, stem: str) -> Path | None:
    """Return the file of a folder that holds a split, named as ``test.jsonl`` or ``test-00000-of-00001.parquet``."""
    for kind in KINDS:
        if (folder / f"{stem}{kind}").is_file():
            return folder / f"{stem}{kind}"
    return next(iter(sorted(folder.glob(f"{stem}-00000-of-00001.parquet"))), None)


def read_hub(where: HubSplit) -> list[Row]:
    """Read a split from the Hugging Face hub, or from its local cache.

    Raises:
        ValueError: if `datasets` is not installed or the data set can't be loaded.
    """
    about = f"{where.repository!r} ({where.split}) is needed from the Hugging Face hub"
    try:
        from datasets import load_dataset
    except ImportError:
        raise ValueError(f"{about}, but datasets is not installed") from None
    try:
        rows: list[Row] = list(load_dataset(where.repository, where.config, split=where.split))
    except Exception as error:  # whatever the hub's client raises: no network, no such data set, a broken cache
        raise ValueError(f"{about}, but can't be loaded: {error!r}") from error
    return rows


class FileTask(Task):
    """A task with finite, fixed splits.

    Without a validation file, a tenth of the training problems, chosen by a hash of their question, is the validation
    split, wherever they stand in the file. Training problems that are also test problems are left out.

    Attributes:
        hub: where the splits are on the Hugging Face hub.
        stems: names, without ending, of each split's file in a folder; the first that exists is taken.

    Args:
        data: a folder with a file a split, such as ``train.jsonl`` and ``test.jsonl``; without any file, the hub.
        train: the training problems' file.
        validation: the validation problems' file.
        test: the test problems' file.

    Raises:
        ValueError: if both a folder and files are given.
        FileNotFoundError: if the folder doesn't exist.
    """

    hub: ClassVar[Mapping[Split, HubSplit]] = {}
    stems: Mapping[Split, tuple[str, ...]] = {split: (split,) for split in get_args(Split)}

    def __init__(self, data: str = "", train: str = "", validation: str = "", test: str = "") -> None:
        named = {"train": train, "validation": validation, "test": test}
        self.files: dict[Split, Path] = {split: user_path(file) for split, file in named.items() if file}  # type: ignore[misc]
        if data and self.files:
            raise ValueError(
                f"{self.name}'s data is {data!r}, and files are given too: give a folder or files, not both"
            )
        self.folder = user_path(data) if data else None
        if self.folder is not None and not self.folder.is_dir():
            raise FileNotFoundError(f"{self.name}'s data is {data!r}: there is no such folder")
        self._rows: dict[Split, list[Row]] = {}

    # What a data set must say of its rows.

    @abstractmethod
    def check(self, row: Row) -> None:
        """Refuse a row that is not of this data set: raise KeyError, TypeError or ValueError."""

    @abstractmethod
    def question(self, row: Row) -> str:
        """Return what tells the problem apart from others."""

    @abstractmethod
    def ask(self, row: Row) -> str:
        """Return the prompt."""

    @abstractmethod
    def answer(self, row: Row) -> str:
        """Return a right answer."""

    @abstractmethod
    def grade(self, text: str, row: Row) -> float:
        """Return the score of an answer, in [0, 1]."""

    # What follows from that.

    @cached_property
    def source(self) -> str:  # type: ignore[override]
        """Where the problems come from, for a policy's card."""
        if self.folder is not None:
            return str(self.folder)
        if self.files:
            return ", ".join(f"{split} {file}" for split, file in self.files.items())
        return ", ".join(dict.fromkeys(place.repository for place in self.hub.values())) or "no data given"

    def size(self, split: Split) -> int:
        """Return how many problems a split has; the first call reads it."""
        return len(self.rows(split))

    def make(self, split: Split, index: int) -> Problem:
        """Return a row as a problem."""
        row = self.rows(split)[index]
        return Problem(self.name, split, index, self.ask(row), self.answer(row))

    def score(self, text: str, problem: Problem) -> float:
        """Return the score of an answer, in [0, 1]."""
        return self.grade(text, self.rows(problem.split)[problem.index])

    def rows(self, split: Split) -> list[Row]:
        """Return the rows of a split, in the order of the file.

        Raises:
            ValueError: if the split is unknown, there is none, or a row is malformed.
        """
        if split not in get_args(Split):
            raise ValueError(f"split is {split!r}: choose one of {', '.join(get_args(Split))}")
        if split not in self._rows:
            self._rows[split] = self._deal(split)
        return self._rows[split]

    def _deal(self, split: Split) -> list[Row]:
        own = None if split == "train" else self.load(split)
        if own is not None:
            return own
        if split == "test":
            raise ValueError(self._missing(split))
        training = self.load("train")
        if training is None:
            raise ValueError(self._missing(split))
        # Published data sets repeat problems in several splits; what is tested must not have been learned.
        reserved = {self.question(row) for row in self.load("test") or []}
        validation = self.load("validation")
        if validation is not None:
            reserved |= {self.question(row) for row in validation}
        rows = [row for row in training if self.question(row) not in reserved]
        if validation is None:
            # The share that a procedural task deals to validation; its test share stays in training.
            rows = [row for row in rows if (split_of(self.question(row)) == "validation") == (split == "validation")]
        if not rows:
            raise ValueError(f"{self.name} has no {split} problems left of {len(training)} training problems: add some")
        return rows

    def load(self, split: Split) -> list[Row] | None:
        """Read the rows that are given as a split; None if nothing is given.

        Raises:
            ValueError: if a row is malformed.
        """
        file = self.files.get(split)
        if self.folder is not None:
            file = next(filter(None, (find_file(self.folder, stem) for stem in self.stems.get(split, ()))), None)
        if file is not None:
            return self._checked(read_rows(file), str(file))
        if self.folder is not None or self.files or split not in self.hub:
            return None
        place = self.hub[split]
        try:
            return self._checked(read_hub(place), place.repository)
        except ValueError as error:
            raise ValueError(f"{error}; or download it and name its folder: {self.name}:data=FOLDER") from error

    def _checked(self, rows: list[Row], where: str) -> list[Row]:
        for number, row in enumerate(rows):
            try:
                _check_characters(row)
                self.check(row)
            except MALFORMED as error:
                problem = f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
                # What it quotes is the file's, which may hold anything and be of any length.
                shown = "".join(c if c.isprintable() else "?" for c in problem[:500])
                raise ValueError(f"{self.name}'s row {number} of {where!r} is malformed: {shown}") from error
        return rows

    def _missing(self, split: Split) -> str:
        wanted = "train" if split == "validation" and self.folder is None else split
        if self.folder is not None:
            names = ", ".join(f"{stem}.jsonl" for stem in self.stems.get(split, ())) or "a file of them"
            return f"{self.name} has no {split} problems in {str(self.folder)!r}: put {names} there"
        return f"{self.name} has no {split} problems: name a file of them with {self.name}:{wanted}=FILE"


def user_path(text: str) -> Path:
    """Return a path, ``~`` being the user's folder: no shell sees it inside of a task's name."""
    return Path(os.path.expanduser(text))


def _check_characters(value: Any, field: str = "") -> None:
    """Refuse text that no tokenizer takes.

    Raises:
        ValueError: if a text holds half of a surrogate pair, as JSON allows.
    """
    if isinstance(value, str):
        half = half_character(value)
        if half:
            raise ValueError(
                f"its {field} has the character {half!r}, which is half of one: it was damaged, so mend or remove it"
            )
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            _check_characters(inner, field or str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_characters(inner, field)


def text_of(row: Row, *fields: str) -> str:
    """Return the first of these fields that a row has.

    Raises:
        KeyError: if it has none.
        TypeError: if the value is no text, or empty.
    """
    name = next((field for field in fields if row.get(field) is not None), None)
    if name is None:
        raise KeyError(" or ".join(fields))
    if not isinstance(row[name], str) or not row[name].strip():
        raise TypeError(f"its {name} is {row[name]!r}, which must be text")
    text: str = row[name]
    return text
