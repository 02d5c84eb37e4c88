"""Documents that cannot rot: commands that parse, links that lead somewhere, pages in step with the code."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import click
import pytest

from flexnn_ncnn.cli.main import SUBCOMMANDS, flexnn, main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [path for folder in (ROOT, ROOT / "docs", ROOT / "param_tools") for path in sorted(folder.rglob("*.md"))]
PAGES = [
    path for path in dict.fromkeys(PAGES) if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
]


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_blocks(text: str, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [body for language, body in found if language in languages]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    commands = [block.strip() for block in code_blocks((ROOT / "README.md").read_text(encoding="utf-8"), "sh")]
    (tests,) = [command for command in commands if "pytest" in command]
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == tests
    assert tests in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_command_line_page_is_in_step() -> None:
    source = ROOT / "docs" / "make_cli_docs.py"
    spec = importlib.util.spec_from_file_location("make_cli_docs", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Other versions of click break lines elsewhere.
    assert module.TARGET.read_text(encoding="utf-8").split() == module.render().split(), f"run python {shown(source)}"


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    local = [target.partition("#")[0] for target in targets if "://" not in target and not target.startswith("#")]
    assert [target for target in local if not (page.parent / target).exists()] == []


def commands_of(text: str) -> list[str]:
    """The flexnn commands in the shell blocks of a page."""
    lines = "\n".join(code_blocks(text, "sh", "console")).replace("\\\n", " ").splitlines()
    pieces = [piece.strip().removeprefix("$ ") for line in lines for piece in re.split(r"&&|[|;>]", line)]
    return [piece for piece in pieces if re.match(r"(\S*/)?flexnn ", piece)]


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_commands_in_the_pages_parse(page: Path) -> None:
    for command in commands_of(page.read_text(encoding="utf-8")):
        assert_parses(command)


@pytest.mark.parametrize("package", ["flexnn_ncnn", "param_tools"])
def test_the_architecture_page_knows_every_room(package: str) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = {path.stem for path in (ROOT / package).glob("*.py") if not path.stem.startswith("__")}
    folders = {f"{path.parent.name}/" for path in (ROOT / package).glob("*/__init__.py")}
    assert {name for name in modules | folders if f"`{name}`" not in text} == set()


def test_what_the_readme_shows_of_inspect_is_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = code_blocks((ROOT / "README.md").read_text(encoding="utf-8"), "console")
    shown_blocks = [block for block in blocks if block.startswith("$ flexnn inspect")]
    assert shown_blocks
    shutil.copytree(ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns("*.bin"))
    monkeypatch.chdir(tmp_path)
    for block in shown_blocks:
        command, _, output = block.partition("\n")
        assert main(shlex.split(command)[2:]) == 0
        assert capsys.readouterr().out == output


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_examples_in_the_help_parse(name: str) -> None:
    examples = re.findall(rf"^ *(flexnn {name}.*)$", SUBCOMMANDS[name].load().help or "", re.MULTILINE)
    for example in examples:
        assert_parses(example)


def assert_parses(command: str) -> None:
    context: click.Context | None = None
    node: click.Command = flexnn
    args = shlex.split(command)[1:]
    name = "flexnn"
    while isinstance(node, click.Group):
        context = click.Context(node, context, name)
        found, below, args = node.resolve_command(context, args)
        assert below is not None, command
        node, name = below, str(found)
    try:
        node.make_context(name, args, parent=context)
    except click.exceptions.Exit:  # --help and --version
        pass
    except click.ClickException as error:
        pytest.fail(f"{command}: {error.format_message()}")
