"""A folder for the Hugging Face hub, with the evaluation of the policy's run in its card, and its upload."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from policies.card import card_of
from policies.formats.exporter import Exporter, ExportOptions
from policies.learned import LearnedPolicy, save


class Hub(Exporter):
    """A policy's folder whose card says how it is loaded from its repository, and what it was measured to do."""

    name = "hub"
    reads = frozenset({"repository", "license", "evaluation"})

    def write(self, policy: LearnedPolicy, out: Path, options: ExportOptions) -> Mapping[str, str]:
        """Write the folder, and upload the same first if a repository is given.

        Raises:
            ValueError: if the repository is no ``owner/repository``, or a weight is not finite.
            ConnectionError: if the hub doesn't take it; nothing is written then.
        """
        told = {}
        # Before the folder is written: if the hub refuses it, nothing is left that looks like what was uploaded.
        if options.repository is not None:
            address = policy.push_to_hub(options.repository, license=options.license, evaluation=options.evaluation)
            told["hub"] = address
        about = (options.repository or "user/name", options.license, options.evaluation)
        save(policy, out, card_of(policy, *about))
        return told
