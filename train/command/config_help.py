"""What ``--help`` prints: what the command does, examples, and every field by section."""

from __future__ import annotations

import argparse
import inspect
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import docstring_parser

from train.command.config_values import PathText, bare, field_kinds, item_kind, names_of, section_of, without_null
from train.command.nodes import flags_of

NAMES = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
"""How a value is shown after its flag."""

EPILOG = """A flag beats a file, which beats the default. Hyphens may stand for underscores, a true-or-false
flag needs no value, and a list is given one item a flag (--rules a --rules b) or whole
(--rules '[a, b]')."""


def help_text(config_class: Any, config: Any, positional: str | None = None) -> str:
    """Write the help of a command.

    Args:
        config_class: its configuration; the docstring says what the command does, with examples, and the string under
            each field what that is.
        config: the defaults.
        positional: the field whose flag can be left out.
    """
    # A file that is run has no spec, a module that is run by -m has.
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = f"python {sys.argv[0]}" if module is None else f"python -m {module.name}"
    summary, examples = _docstring(config_class)
    is_list = positional is not None and item_kind(field_kinds(config_class)[positional]) is not None
    more = " ..." if is_list else ""
    words = f" [{positional.upper()}{more}]" if positional else ""
    usage = f"%(prog)s [--config FILE] [--FIELD VALUE ...]{words}"
    width = min(110, shutil.get_terminal_size((100, 24)).columns)
    parser = argparse.ArgumentParser(
        prog=name,
        usage=usage,
        description=f"{summary}\n\nexamples:\n{examples}" if examples else summary,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=width),
        epilog=EPILOG,
        add_help=False,
    )
    general = parser.add_argument_group("general")
    if positional is not None:
        about = _field_help(config_class)[positional]
        general.add_argument(positional, nargs="*" if is_list else "?", metavar=positional.upper(), help=_escape(about))
    general.add_argument("-h", "--help", action="store_true", help="Print this and exit.")
    general.add_argument("--print_config", action="store_true", help="Print the whole configuration as YAML and exit.")
    model_file = ", or one of configs/models" if "model.name" in flags_of(config_class) else ""
    general.add_argument(
        "--config",
        metavar="FILE",
        help=f"YAML file of these fields, by section{model_file}; it may be given several times.",
    )
    _add_fields(parser, general, config_class, config, "", positional)
    return parser.format_help()


def _docstring(config_class: Any) -> tuple[str, str]:
    """Return what a configuration's docstring says before its examples, and the examples, one a line."""
    text, _, examples = (inspect.getdoc(config_class) or "").partition("\nExamples:\n")
    return " ".join(text.split("\n\n")[0].split()), examples.rstrip()


def _field_help(config_class: Any) -> dict[str, str]:
    """Return the string under each field, inherited ones included."""
    found: dict[str, str] = {}
    # From the base on: a field that is declared again says something else of itself.
    for cls in reversed(config_class.__mro__[:-1]):
        for entry in docstring_parser.parse_from_object(cls).params:
            found[entry.arg_name] = " ".join((entry.description or "").split())
    return found


def _add_fields(
    parser: argparse.ArgumentParser, group: Any, config_class: Any, config: Any, prefix: str, positional: str | None
) -> None:
    """Add a configuration's own fields to a group, then each section as a group."""
    about, kinds = _field_help(config_class), field_kinds(config_class)
    sections = []
    for field in fields(config_class):
        kind = kinds[field.name]
        if section_of(kind) is not None:
            sections.append((field.name, kind))
        elif field.name != positional or prefix:
            default = getattr(config, field.name)
            text = _escape(about[field.name] + _show_names(kind) + _show_default(default))
            flag = f"--{prefix}{field.name}"
            if bare(kind) is bool and default is False:
                group.add_argument(flag, action="store_true", help=text)
            else:
                # What is on by default is only ever given to turn it off.
                group.add_argument(flag, metavar="false" if default is True else _metavar(kind), help=text)
    for name, kind in sections:
        section = section_of(kind)
        value = getattr(config, name)
        _, is_optional = without_null(kind)
        text = about.get(name) or _docstring(section)[0]
        short = getattr(section, "SHORT", None)
        short_form = f" --{prefix}{name} TEXT is short for --{prefix}{name}.{short}." if short else ""
        default = " (default: null)" if is_optional and value is None else ""
        inner = parser.add_argument_group(f"{prefix}{name}", _escape(text + short_form + default))
        _add_fields(parser, inner, section, section() if value is None else value, f"{prefix}{name}.", None)


def _metavar(kind: Any) -> str:
    """Return how a field's value is shown: one word, or the choices there are."""
    item = item_kind(kind)
    if item is not None:
        return _metavar(item)
    plain, _ = without_null(kind)
    if plain == PathText:
        return NAMES[Path]
    plain = bare(kind)
    if get_origin(plain) is Literal:
        return "{" + ",".join(get_args(plain)) + "}"
    if get_origin(plain) is tuple:
        return "[" + ",".join(_metavar(part) for part in get_args(plain)) + "]"
    return "true|false" if plain is bool else NAMES[plain]


def _show_names(kind: Any) -> str:
    names = names_of(kind)
    return f" One of {', '.join(names)}." if names else ""


def _show_default(value: Any) -> str:
    if value is None or value is False or value in ([], ()):
        # The text says what that means.
        return ""
    shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return f" (default: {'true' if value is True else shown})"


def _escape(text: str) -> str:
    """Keep argparse from taking percent signs for its own."""
    return text.replace("%", "%%")
