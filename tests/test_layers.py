"""Imports go one way: no module imports from a layer above its own, none is too long, and the package list is whole."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = {name: ROOT / name for name in ("passes", "cost_models", "targets", "models")}

MODULE_LINES, FUNCTION_LINES = 500, 60

#: Lower layers first. A name is a module of vgcomp or a folder, which counts as one.
LAYERS = (
    ("alloc_trace", "allocator", "errors", "fields", "files", "max_flow", "ops", "quality", "result", "space", "units"),
    ("ir",),
    ("infer", "inplace", "loops", "slice_bytes", "slices", "stages", "track", "weights", "workspace"),
    ("cuda_temporaries", "published_slicing"),
    ("recorder",),
    ("program", "serialize", "text", "verify", "verify_loops"),
    (
        "axes",
        "capture",
        "elastic",
        "legalize",
        "lower_bound",
        "memory",
        "normalize",
        "onnx_import",
        "parts",
        "round_trace",
        "unroll",
    ),
    ("arena", "program_trace", "published_pipelines"),
    ("cost_models", "models", "targets"),
    ("execution", "overlap"),
    ("device_memory", "load", "published_memory", "simulate", "slicing"),
    ("pipelining", "resimulate", "step_cuts", "temporal"),
    ("passes",),
    ("backends", "check"),
    ("crosscheck", "rehash", "training"),
    ("generation", "optimize"),
    ("artifact_budget",),
    ("compiled_cost",),
    ("profiling", "report", "validate"),
    ("search",),
    ("cli", "__main__"),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def sources() -> Iterator[tuple[str, Path]]:
    """(part, file) of every module; the package's own ``__init__`` stands above all and is left out."""
    for path in sorted((ROOT / "vgcomp").rglob("*.py")):
        part = path.relative_to(ROOT / "vgcomp").with_suffix("").parts[0]
        if part != "__init__":
            yield part, path
    for name, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            yield name, path


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(part, line) of each import of ours, those for type checkers only left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield from imported(node)
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "vgcomp":
            names = [f"vgcomp.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide the layer"
            names = [node.module or ""]
        else:
            continue
        for name in names:
            if name.startswith("vgcomp."):
                yield name.split(".")[1], node.lineno


def test_every_module_has_a_layer():
    parts = {part for part, _ in sources()}
    assert parts - RANK.keys() == set(), "give each a place in LAYERS"


def test_no_module_imports_upwards():
    wrong = []
    for part, path in sources():
        for name, line in imported(ast.parse(path.read_text(encoding="utf-8"))):
            if RANK.get(name, -1) > RANK.get(part, len(LAYERS)):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {part} imports {name}, which is above it")
    assert not wrong, "\n".join(wrong)


def test_modules_and_functions_are_short():
    long = []
    for _, path in sources():
        text = path.read_text(encoding="utf-8")
        lines = len(text.splitlines())
        long += [f"{path.relative_to(ROOT)} has {lines} lines"] if lines > MODULE_LINES else []
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= FUNCTION_LINES:
                long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {node.end_lineno - node.lineno}")
    assert not long, "\n".join(long)


def test_the_packages_in_pyproject_are_those_that_exist():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = set()
    for name, folder in {
        "vgcomp": ROOT / "vgcomp",
        **{f"vgcomp.{name}": path for name, path in FOLDERS.items()},
    }.items():
        for init in folder.rglob("__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(folder).parts]))
    assert set(tool["packages"]) == found
    for name, folder in FOLDERS.items():
        assert tool["package-dir"][f"vgcomp.{name}"] == folder.name
