"""Execute a notebook and store its outputs: `python -m tests.notebooks FILE`. Jupyter would be needed for nothing else."""

import ast
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

Notebook = dict[str, Any]


def executed(notebook: Notebook) -> Notebook:
    """Return a notebook with the outputs of its code cells, run in order in one namespace in the working folder."""
    names: dict[str, Any] = {"__name__": "notebook"}
    cells, number = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            number += 1
            cell = cell | {"execution_count": number, "outputs": _outputs("".join(cell["source"]), names, number)}
        cells.append(cell)
    return notebook | {"cells": cells}


def _outputs(source: str, names: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Run a cell; return what it prints, and the value of its last line if that is an expression."""
    *statements, last = ast.parse(source).body
    printed, value = io.StringIO(), None
    with redirect_stdout(printed):
        exec(compile(ast.Module(statements, []), "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        else:
            exec(compile(ast.Module([last], []), "cell", "exec"), names)
    text = printed.getvalue()
    outputs: list[dict[str, Any]] = []
    if text:
        outputs.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    if value is not None:
        about = {"output_type": "execute_result", "execution_count": number, "metadata": {}}
        outputs.append({**about, "data": _shown(value)})
    return outputs


def _shown(value: Any) -> dict[str, list[str]]:
    """Return what a notebook shows of a value, by media type."""
    shown = {"text/plain": repr(value)}
    if hasattr(value, "_repr_html_"):
        shown["text/html"] = str(value._repr_html_())
    return {kind: text.splitlines(keepends=True) for kind, text in shown.items()}


if __name__ == "__main__":
    path = Path(sys.argv[1]).resolve()
    path.write_text(json.dumps(executed(json.loads(path.read_text())), indent=1) + "\n")
