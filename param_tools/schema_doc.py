"""The layer tables of docs/formats/ncnn-model.md, made from `param_tools.schema`.

Run `python -m param_tools.schema_doc docs/formats/ncnn-model.md` after changing the schema.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from param_tools.model_io import atomic_write
from param_tools.schema import COMMON_PARAMS, LAYERS, ArraySchema, ParamSchema
from param_tools.schema_expression import REST, dimensions

__all__ = ["layer_tables", "main", "with_tables"]

BEGIN = "<!-- layer tables: made by python -m param_tools.schema_doc, do not edit -->"
END = "<!-- end of the layer tables -->"


def layer_tables() -> str:
    """The tables in Markdown: types with weights, types without, parameters of all types."""
    weighted = [schema for schema in LAYERS.values() if schema.arrays]
    weightless = [schema for schema in LAYERS.values() if not schema.arrays]
    return "\n\n".join(
        (
            "### Layer types with weights",
            _table(
                ("type", "parameters: id name=default", "arrays, in the order of the .bin"),
                ((s.type, _params(s.params), "<br>".join(map(_array, s.arrays))) for s in weighted),
            ),
            "### Layer types without weights",
            _table(("type", "parameters: id name=default"), ((s.type, _params(s.params)) for s in weightless)),
            f"Every layer may have: {_params(COMMON_PARAMS)}.",
        )
    )


def with_tables(page: str) -> str:
    """The page with the tables between its two marks made anew.

    Raises:
        ValueError: the page has not both marks, once and in order.
    """
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end or BEGIN in rest or END in after:
        raise ValueError(f"the page needs {BEGIN!r} and then {END!r}, once each")
    return f"{before}{BEGIN}\n\n{layer_tables()}\n\n{END}{after}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _params(params: Sequence[ParamSchema]) -> str:
    defaults = {"array": "[]", "string": '""'}
    in_order = sorted(params, key=lambda param: param.id)
    shown = (f"`{p.id} {p.name}={defaults.get(p.kind, p.default)}`" for p in in_order)
    return ", ".join(shown) or "none"


def _array(array: ArraySchema) -> str:
    loads = {"0": "tagged", "1": "fp32"}
    how = loads.get(array.load, f"load type `{array.load}`")
    shape = ", ".join("inputs" if part == REST else part for part in dimensions(array.shape))
    text = f"**{array.name}** `({shape})` {how}"
    if array.count:
        text += f", `{array.count}` elements"
    if array.int8 not in ("False", "True"):
        text += f", int8 if `{array.int8}`"
    return f"{text}, if `{array.when}`" if array.when else text


def main(arguments: Sequence[str]) -> None:
    """Rewrites the tables of the pages named."""
    for name in arguments:
        page = Path(name)
        made = with_tables(page.read_text(encoding="utf-8"))
        with atomic_write(page) as file:
            file.write(made.encode())


if __name__ == "__main__":
    main(sys.argv[1:])
