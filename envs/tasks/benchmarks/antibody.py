"""Antibody: restore the masked residues of an antibody's heavy chain (its variable domain).

The chains that ship (`antibody.fasta`) are those of therapeutic antibodies, human or humanised, typed from the table of
Thera-SAbDab (Raybould et al. 2020, doi:10.1093/nar/gkz827) in the repository of the BioPhi publication; such sequences
are published facts, and no licence is claimed for them. Prompt and given text are in the format of RoBERTa-like protein
models such as Sapiens (`envs.models.sapiens`): ``<s>``, a letter a residue, ``</s>``. Chains of one germline family are
much alike, so splits share no chain, but they do share most residues.
"""

from __future__ import annotations

from pathlib import Path

from envs.tasks.base import BLANK, Problem, Split, Task, problem_generator, split_of
from envs.tasks.benchmarks.files import user_path

CHAINS = Path(__file__).with_name("antibody.fasta")
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
START, END = "<s>", "</s>"


def read_fasta(file: Path) -> list[str]:
    """Return the sequences of a FASTA file, in its order.

    Raises:
        ValueError: if the file can't be read, or a sequence is empty or has another letter than the 20 residues.
    """
    try:
        # A ">" begins a record only at the start of a line; the first line has one before it now too.
        records = ("\n" + file.read_text(encoding="utf-8")).split("\n>")[1:]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"antibody's file is {str(file)!r}: it can't be read ({error}); give a FASTA file") from error
    chains = ["".join(record.split("\n")[1:]).replace("\r", "").strip().upper() for record in records]
    for record, chain in zip(records, chains, strict=True):
        if not chain or set(chain) - set(RESIDUES):
            name, wrong = record.partition("\n")[0], "".join(sorted(set(chain) - set(RESIDUES))) or "no letter"
            raise ValueError(f"antibody's file is {str(file)!r}: {name!r} has {wrong}; a chain is made of {RESIDUES}")
    return chains


class Antibody(Task):
    """``<s>`` is followed by ``EV[MASK]L[MASK]ES...</s>``; the score is the share of masked residues restored.

    A problem masks a share of a chain's residues, drawn between the two bounds, at random places. A chain belongs to
    one split, by its hash; a split's problems draw its chains again and again, with other masks.

    Args:
        file: FASTA file of chains; none for those that ship.
        least: smallest share of residues that is masked.
        most: largest, at most 1.

    Raises:
        ValueError: if a share is not possible or the file holds no chains that can be read.
    """

    name = "antibody"
    words = tuple(RESIDUES)

    def __init__(self, file: str = "", least: float = 0.8, most: float = 1.0) -> None:
        if not 0 < least <= most <= 1:
            raise ValueError(f"masked shares are {least} to {most}: they must satisfy 0 < least <= most <= 1")
        self.least, self.most = least, most
        # Without repetitions, in the file's order: a set's order would change which chain a problem draws.
        chains = dict.fromkeys(read_fasta(user_path(file) if file else CHAINS))
        self.chains: dict[Split, list[str]] = {"train": [], "validation": [], "test": []}
        for chain in chains:
            self.chains[split_of(chain)].append(chain)
        self.source = file or "chains that ship"

    def size(self, split: Split) -> int | None:
        """Return None: the masks of a chain can always be drawn anew.

        Raises:
            ValueError: if no chain belongs to the split.
        """
        if not self.chains[split]:
            raise ValueError(f"split is {split!r}: none of the chains of {self.source} falls in it; give more of them")
        return None

    def make(self, split: Split, index: int) -> Problem:
        """Draw a chain of the split, and what of it is masked."""
        rng = problem_generator(self.name, split, index)
        chains = self.chains[split]
        chain = chains[int(rng.integers(len(chains)))]
        count = max(1, round(float(rng.uniform(self.least, self.most)) * len(chain)))
        masked = set(rng.permutation(len(chain))[:count].tolist())
        given = "".join(BLANK if i in masked else residue for i, residue in enumerate(chain))
        return Problem(self.name, split, index, START, chain, given + END)

    def score(self, text: str, problem: Problem) -> float:
        """Return the share of the masked residues that `text`, the whole chain, has right."""
        assert problem.given is not None
        chain = "".join(text.split())
        # A blank is one residue but six letters.
        given = problem.given.removesuffix(END).replace(BLANK, "_")
        if len(chain) != len(given):
            return 0.0
        blanks = [i for i, residue in enumerate(given) if residue == "_"]
        return sum(chain[i] == problem.answer[i] for i in blanks) / len(blanks)
