import ast
import importlib
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import conditional_adapters as ca
from tests.helpers.public_names import DEPRECATED, PUBLIC

PACKAGE = Path(ca.__file__).parent
# A part may import those before it, and itself. "toolkit" is apart: the library does not import it.
ORDER = [
    "errors",
    "_version",
    "kernels",
    "ops",
    "modules",
    "config",
    "architectures",
    "model",
    "prepacking",
    "checkpoint",
    "hub",
    "analysis",
    "training",
    "integrations",
    "toolkit",
]


def test_the_public_names_are_the_documented_ones() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    names = {a.asname for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
    assert names - {"__version__", "_keep_former_paths"} == {*PUBLIC, *DEPRECATED}
    assert all(getattr(ca, name).__doc__ for name in PUBLIC)


def imports() -> dict[str, set[str]]:
    """The modules of the package that each of its modules imports, even if for types alone."""
    graph: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        package = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(package[:-1] if package[-1] == "__init__" else package)
        graph[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = [*package[: len(package) - node.level], *filter(None, [node.module])]
                if node.module:
                    graph[name].add(".".join(base))
                graph[name] |= {".".join([*base, alias.name]) for alias in node.names}
    return {name: targets & graph.keys() - {name} for name, targets in graph.items()}


def test_imports_point_one_way() -> None:
    graph = imports()
    assert len(graph) > 150
    del graph[""]  # the public names
    for name, targets in graph.items():
        own = ORDER.index(name.partition(".")[0])
        assert all(ORDER.index(target.partition(".")[0]) <= own for target in targets), name
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_operators_import_torch_alone() -> None:
    for path in (PACKAGE / "ops").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                root = str(node.module).partition(".")[0]
                assert root in {"torch", "jaxtyping", "typing", "types", "collections"}, path


def test_former_import_paths_still_work() -> None:
    with pytest.warns(DeprecationWarning, match="has moved to conditional_adapters.toolkit"):
        former = importlib.import_module("conditional_adapters.tasks.task")
    assert former is importlib.import_module("conditional_adapters.toolkit.tasks.task")
    with pytest.warns(DeprecationWarning, match=r"has moved to .*\.tasks\.task_data\. Import"):
        former = importlib.import_module("conditional_adapters.tasks.rows")
    assert former is importlib.import_module("conditional_adapters.toolkit.tasks.task_data")


def test_importing_is_quiet_and_touches_no_device() -> None:
    code = (
        "import logging, sys, torch\n"
        "from transformers import PreTrainedModel\n"  # with this come PyTorch's compiler and Triton
        "root = list(logging.getLogger().handlers)\n"
        "before = set(sys.modules)\n"
        "import conditional_adapters\n"
        "assert logging.getLogger().handlers == root\n"
        "assert not torch.cuda.is_initialized()\n"
        "new = {m.split('.')[0] for m in set(sys.modules) - before}\n"
        "heavy = {'datasets', 'matplotlib', 'sklearn', 'typer', 'onnx', 'peft', 'triton'} & new\n"
        "assert not heavy, heavy\n"
        "print(conditional_adapters.__version__)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ca.__version__


def test_importing_takes_under_a_second_beyond_torch_and_transformers() -> None:
    code = (
        "import time, torch\n"
        "from transformers import PreTrainedModel\n"
        "start = time.process_time()\n"  # of this process, whatever else the machine does
        "import conditional_adapters\n"
        "print(time.process_time() - start)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 1


def test_every_error_is_of_one_family() -> None:
    for name in PUBLIC:
        if name.endswith("Error"):
            assert issubclass(getattr(ca, name), ca.ConditionalAdapterError)
