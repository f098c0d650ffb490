"""What a user can put right."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right: entry points print it as one line and exit with status 2."""
