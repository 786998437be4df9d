"""The reference of every command, written from the commands themselves: `python -m dicom_node.command_reference`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from dicom_node.cli import commands

_HEAD = """\
# Commands

Written from the commands themselves by `python -m dicom_node.command_reference`; do not edit.

`--json` prints one object on standard output and nothing else; its keys are kept from version to version.

| exit code | means |
|---|---|
| 0 | done |
| 1 | done, and something was found wrong (`doctor`, `verify`, `send`, `route test`), or not all of it could be done |
| 2 | settings or arguments are wrong; nothing was done |
| 3 | the receiver's port is taken |
| 4 | the ledger can't be reached |
| 5 | the data folder can't be written, or another node runs on it |
"""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    # By what they can do, not by class: versions of typer differ in whether click is theirs.
    if hasattr(command, "commands"):
        for name in sorted(command.commands):
            yield from _leaves(command.commands[name], (*path, name))
    elif not command.hidden:
        yield path, command


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _spelled(parameter: Any) -> str:
    """Return how a parameter is written on the command line."""
    metavar = parameter.metavar or str(parameter.name).upper()
    if _is_argument(parameter):
        return str(metavar)
    names = ", ".join((*parameter.opts, *parameter.secondary_opts))
    return names if parameter.is_flag else f"{names} {metavar}"


def _sentence(parameter: Any) -> str:
    text = parameter.help or ""
    if parameter.required:
        return f"{text} Required."
    default = parameter.default
    if isinstance(default, bool) or default in (None, "") or not isinstance(default, str | int | float):
        return text
    return f"{text} Default: {default}."


def render_reference() -> str:
    """Return the page as Markdown: each command with its sentences, arguments and options."""
    lines = [_HEAD]
    for path, command in _leaves(typer.main.get_command(commands), ("dicom-node",)):
        parameters = [one for one in command.params if not getattr(one, "hidden", False) and one.name != "help"]
        arguments = " ".join(_spelled(one) for one in parameters if _is_argument(one))
        lines += [f"## {' '.join(path[1:])}", ""]
        lines += ["```", f"{' '.join(path)} {arguments}".rstrip() + " [OPTIONS]", "```", ""]
        lines += [" ".join(paragraph.split()) + "\n" for paragraph in (command.help or "").split("\n\n")]
        if parameters:
            lines += ["| argument or option | what it is |", "|---|---|"]
            lines += [f"| `{_cell(_spelled(one))}` | {_cell(_sentence(one))} |" for one in parameters]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    print(render_reference(), end="")
