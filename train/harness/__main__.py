"""lm_eval's own command, with the model ``unmasking`` known to it."""

from __future__ import annotations

from train.command.starting import end_quietly

import sys

from lm_eval.__main__ import cli_evaluate

import train.harness  # noqa: F401 (it registers the model)
from train.command.cli import complain
from train.command.errors import UserError

try:
    cli_evaluate()
except UserError as error:
    sys.exit(complain(error, 2))
