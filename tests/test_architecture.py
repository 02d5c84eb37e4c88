"""Holds docs/architecture.md's "Who imports whom": a rule broken here is a design changed without saying so."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("flexnn_ncnn", "param_tools", "eval")
MAX_LINES = 400

# What a module may import: prefixes of module names besides the standard library. A longer key wins over a shorter one.
RECORDS = ("flexnn_ncnn.errors", "flexnn_ncnn.units", "flexnn_ncnn.records", "flexnn_ncnn.interop")
ALLOWED = {
    "param_tools": ("param_tools", "numpy", "networkx"),
    "flexnn_ncnn": ("flexnn_ncnn", "param_tools", "numpy"),
    **dict.fromkeys(RECORDS, (*RECORDS, "param_tools", "numpy")),
    "flexnn_ncnn.units": ("param_tools.errors",),
    # Reads files of the system's; what follows from them is a function of what they say.
    "flexnn_ncnn.runtime.memory.memory_limits": (),
    "flexnn_ncnn.sessions.auto_budget": ("flexnn_ncnn.runtime.memory.memory_limits",),
    # Proves every plan it reads or writes.
    "flexnn_ncnn.records.formats": (*RECORDS, "flexnn_ncnn.planning.validate", "param_tools", "numpy"),
    "flexnn_ncnn.planning": (*RECORDS, "flexnn_ncnn.planning", "param_tools.errors", "numpy"),
    # Independent of what it checks.
    "flexnn_ncnn.planning.validate": (*RECORDS, "param_tools.errors", "numpy"),
    "flexnn_ncnn.runtime": (*RECORDS, "flexnn_ncnn.runtime", "param_tools", "numpy"),
    "flexnn_ncnn.runtime.native": (
        *RECORDS,
        "flexnn_ncnn.paths",
        "flexnn_ncnn.runtime",
        "param_tools",
        "numpy",
        "ncnn",
    ),
    "flexnn_ncnn.zoo": ("flexnn_ncnn", "param_tools", "numpy", "PIL"),
    "flexnn_ncnn.reporters": ("flexnn_ncnn", "param_tools", "rich"),
    "flexnn_ncnn.reporters.plots": ("flexnn_ncnn", "param_tools", "numpy", "matplotlib"),
    "flexnn_ncnn.cli": ("flexnn_ncnn", "param_tools", "numpy", "click", "tqdm"),
    "eval": ("eval", "flexnn_ncnn", "param_tools", "numpy", "click", "tqdm", "matplotlib", "markdown_it"),
    "eval.peers": ("eval", "flexnn_ncnn", "param_tools", "numpy", "onnx"),
}
# What nobody else may import: prefix of the importing modules -> prefixes they must not reach for.
FORBIDDEN = {
    "flexnn_ncnn": ("flexnn_ncnn.cli", "flexnn_ncnn.reporters"),
    "flexnn_ncnn.reporters": ("flexnn_ncnn.cli", "flexnn_ncnn.planning", "flexnn_ncnn.runtime"),
    "flexnn_ncnn.cli": ("flexnn_ncnn.planning", "flexnn_ncnn.runtime"),
    "flexnn_ncnn.__main__": (),
    # Measures what users have, from outside.
    "eval": ("flexnn_ncnn.cli", "flexnn_ncnn.planning", "flexnn_ncnn.runtime"),
    # A plan is a function of profile, budget and options: no files, no environment, no clock, no chance.
    "flexnn_ncnn.planning": (
        "os",
        "io",
        "pathlib",
        "tempfile",
        "time",
        "datetime",
        "random",
        "subprocess",
        "threading",
    ),
}
LAZY = ("networkx", "rich", "tqdm", "matplotlib", "PIL", "markdown_it", "onnx")
"""Imported inside functions only, except where a whole room exists for it."""
LAZY_AT_HOME = {"rich": "flexnn_ncnn.reporters", "tqdm": "flexnn_ncnn.cli"}


@dataclass(frozen=True)
class Import:
    """One module that another imports.

    Attributes:
        target: the imported module, as far as it can be told from a submodule's attribute.
        at_start: whether merely importing the importer does it: not inside a function.
        typing_only: inside `if TYPE_CHECKING`.
    """

    target: str
    at_start: bool
    typing_only: bool


@dataclass(frozen=True)
class Module:
    name: str
    path: Path
    imports: tuple[Import, ...]


def imports_of(
    tree: ast.AST, modules: frozenset[str], *, at_start: bool = True, typing: bool = False
) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, at_start, typing)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield Import(whole if whole in modules else str(node.module), at_start, typing)
        else:
            is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            is_typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            yield from imports_of(node, modules, at_start=at_start and not is_function, typing=typing or is_typing)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_modules() -> dict[str, Module]:
    paths = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
    names = frozenset(paths)
    return {
        name: Module(name, path, tuple(imports_of(ast.parse(path.read_text(encoding="utf-8")), names)))
        for name, path in paths.items()
    }


MODULES = read_modules()


def lies_in(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def rule_for(name: str, table: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The entry of the longest prefix of `name`."""
    prefixes = [prefix for prefix in table if lies_in(name, prefix)]
    return table[max(prefixes, key=len)] if prefixes else ()


def broken_rules(module: Module) -> list[str]:
    """One sentence for each import that the tables above do not allow."""
    allowed, forbidden = rule_for(module.name, ALLOWED), rule_for(module.name, FORBIDDEN)
    found = []
    for one in module.imports:
        is_standard = one.target.partition(".")[0] in sys.stdlib_module_names
        if not is_standard and not any(lies_in(one.target, prefix) for prefix in allowed):
            found.append(f"{module.name} may not import {one.target}")
        if any(lies_in(one.target, prefix) for prefix in forbidden):
            found.append(f"{module.name} must not import {one.target}")
        outside = one.target.partition(".")[0]
        if outside in LAZY and one.at_start and not one.typing_only:
            home = LAZY_AT_HOME.get(outside)
            if home is None or not lies_in(module.name, home):
                found.append(f"{module.name} must import {one.target} inside the function that needs it")
    return found


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_its_room_may(name: str) -> None:
    assert broken_rules(MODULES[name]) == []


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("flexnn_ncnn.net", "import ncnn", "may not import ncnn"),
        ("flexnn_ncnn.runtime.executor", "def f():\n    from ncnn import Net", "may not import ncnn"),
        ("flexnn_ncnn.planning.arena", "from flexnn_ncnn.runtime import native", "may not import flexnn_ncnn.runtime"),
        ("flexnn_ncnn.planning.arena", "from flexnn_ncnn.net import Net", "may not import flexnn_ncnn.net"),
        ("flexnn_ncnn.planning.arena", "import time", "must not import time"),
        (
            "flexnn_ncnn.runtime.weights.loader",
            "import flexnn_ncnn.planning.arena",
            "may not import flexnn_ncnn.planning.arena",
        ),
        ("flexnn_ncnn.reporters.text", "import flexnn_ncnn.runtime.trace", "must not import flexnn_ncnn.runtime.trace"),
        ("flexnn_ncnn.compare", "from flexnn_ncnn.reporters import text", "must not import flexnn_ncnn.reporters"),
        ("flexnn_ncnn.compare", "import click", "may not import click"),
        ("flexnn_ncnn.measuring.benchmark", "from eval.cells import Cell", "may not import eval.cells"),
        ("eval.cells", "from flexnn_ncnn.planning import arena", "must not import flexnn_ncnn.planning"),
        ("param_tools.graph", "import networkx", "inside the function"),
        ("param_tools.graph", "try:\n    import networkx\nexcept ImportError:\n    pass", "inside the function"),
        ("param_tools.graph", "from flexnn_ncnn import units", "may not import flexnn_ncnn"),
        ("flexnn_ncnn.units", "import numpy", "may not import numpy"),
    ],
)
def test_the_rules_catch(name: str, source: str, complaint: str) -> None:
    imports = tuple(imports_of(ast.parse(source), frozenset(MODULES)))
    assert any(complaint in broken for broken in broken_rules(Module(name, Path(), imports)))


def test_the_rules_let_what_is_meant_pass() -> None:
    source = "import numpy as np\ndef f():\n    import networkx\nfrom param_tools.errors import FlexnnError"
    imports = tuple(imports_of(ast.parse(source), frozenset(MODULES)))
    assert broken_rules(Module("param_tools.graph", Path(), imports)) == []


def test_no_module_imports_itself_through_others() -> None:
    graph = {
        name: {one.target for one in module.imports if one.target in MODULES and not one.typing_only} - {name}
        for name, module in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as cycle:
        pytest.fail(" <- ".join(cycle.args[1]))


def test_no_module_is_too_long() -> None:
    lengths = {name: len(module.path.read_text(encoding="utf-8").splitlines()) for name, module in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


# The tables above are about what is written; these about what really gets loaded.

HEAVY = ("networkx", "click", "rich", "tqdm", "matplotlib", "PIL")


def loaded_by(statement: str) -> set[str]:
    """The top-level modules a fresh interpreter has after `statement`."""
    program = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import flexnn_ncnn", "import param_tools"])
def test_importing_a_package_loads_nothing_beside_python(statement: str) -> None:
    assert loaded_by(statement).isdisjoint({*HEAVY, "ncnn", "numpy"})


def test_the_list_of_commands_loads_click_alone() -> None:
    statement = "import contextlib, io\nfrom flexnn_ncnn.cli.main import main\n"
    statement += "with contextlib.redirect_stdout(io.StringIO()):\n    assert main(['--help']) == 0"
    loaded = loaded_by(statement)
    assert "click" in loaded
    assert loaded.isdisjoint({*HEAVY, "ncnn", "numpy"} - {"click"})


def test_the_library_loads_nothing_that_only_some_of_it_needs() -> None:
    rooms = ("flexnn_ncnn.cli", "flexnn_ncnn.reporters", "flexnn_ncnn.__main__", "eval")
    library = [name for name in MODULES if not any(lies_in(name, room) for room in rooms)]
    loaded = loaded_by("\n".join(f"import {name}" for name in library))
    assert "numpy" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_param_tools_loads_neither_ncnn_nor_what_it_needs_only_sometimes() -> None:
    statement = "\n".join(f"import {name}" for name in MODULES if lies_in(name, "param_tools"))
    assert loaded_by(statement).isdisjoint({*HEAVY, "ncnn", "flexnn_ncnn"})
