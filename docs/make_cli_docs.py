"""Writes docs/cli.md from the commands' own help: `python docs/make_cli_docs.py`; a test holds the two together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from flexnn_ncnn.cli.main import flexnn

TARGET = Path(__file__).with_name("cli.md")

_HEAD = """# The command line

Made from `--help` by `docs/make_cli_docs.py`; do not edit.
"""


def render() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_section(path, context) for path, context in _walk(flexnn, "flexnn", None))])


def _walk(command: click.Command, name: str, parent: click.Context | None) -> Iterator[tuple[str, click.Context]]:
    context = click.Context(command, parent, name, terminal_width=100, **command.context_settings)
    yield context.command_path, context
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from _walk(found, below, context)


def _section(path: str, context: click.Context) -> str:
    return f"## {path}\n\n```text\n{context.command.get_help(context)}\n```\n"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
