import ast
import subprocess
import sys
from pathlib import Path

import pytest

import conditional_adapters as ca

PACKAGE = Path(ca.__file__).parent
PUBLIC = [
    "ArchitectureSpec",
    "AssetError",
    "AttachmentError",
    "CheckpointError",
    "ConditionalAdapterConfig",
    "ConditionalAdapterError",
    "ConfigError",
    "DataError",
    "FlopCount",
    "ParameterCount",
    "RoutingDecision",
    "RoutingError",
    "RoutingRecord",
    "SpeedMeasurement",
    "TokenAxis",
    "UnsupportedArchitectureError",
    "add_adapter",
    "attach",
    "count_parameters",
    "detach",
    "estimate_flops",
    "keep_adapter_guards_unsafe",
    "load_adapter",
    "measure_speed",
    "pack_weights",
    "push_to_hub",
    "read_adapter_config",
    "record_routing",
    "register_architecture",
    "remove_adapter",
    "save_adapter",
    "set_adapter",
    "set_dense_below",
    "set_reduction_factor",
    "soft_topk",
    "supported_architectures",
    "unpack_weights",
]
# Each part of the package may import only parts that come before it.
LAYERS = [
    {"_version", "errors", "_atomic"},
    {"ops", "kernels"},
    {"modules"},
    {"compilation", "packing"},
    {"config"},
    {"architectures"},
    {"_sites"},
    {"_model_kind"},
    {"_attachment"},
    {"_mixed"},
    {"_build"},
    {"attach"},
    {"_adapter_files"},
    {"_measurements"},
    {"_model_card"},
    {"hub"},
    {"checkpoint"},
    {"assets"},
    {"analysis", "visualisation"},
    {"integrations"},
    {"tasks"},
    {"training"},
    {"demo"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def test_the_public_names_are_the_documented_ones() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    names = {a.asname for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
    assert names - {"__version__"} == set(PUBLIC)
    assert all(getattr(ca, name).__doc__ for name in PUBLIC)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_imports_point_one_way(path: Path) -> None:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts == ("__init__",):
        return
    own = RANK[parts[0]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = list(parts[: len(parts) - node.level])
            module = (node.module or "").split(".") if node.module else []
            targets = [base + module] if base + module else [[a.name] for a in node.names]
            for target in targets:
                assert RANK[target[0]] <= own, f"{path.name} imports {'.'.join(target)}"
        if isinstance(node, ast.ImportFrom) and not node.level and parts[0] in ("ops",):
            root = (node.module or "").split(".")[0]
            assert root in {"torch", "jaxtyping", "typing", "types", "collections"}, root


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
