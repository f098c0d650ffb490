"""lm_eval's own command, with the model ``unmasking`` known to it."""

from __future__ import annotations

from lm_eval.__main__ import cli_evaluate

import train.harness  # noqa: F401 (it registers the model)

cli_evaluate()
