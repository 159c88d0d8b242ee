"""The parts of the `coda` command: tasks, data, pictures, demo, packaged weights.

The library does not import the toolkit, except to keep the toolkit's former import paths.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_LIBRARY = __name__.rpartition(".")[0]
_MOVED = ("assets", "cli", "demo", "tasks", "visualisation")
_RENAMED = {f"{__name__}.tasks.rows": f"{__name__}.tasks.task_data"}


class _FormerPaths(MetaPathFinder, Loader):
    """Import `conditional_adapters.tasks` and its siblings from where they are now."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        library, _, rest = fullname.partition(".")
        is_former = library == _LIBRARY and rest.partition(".")[0] in _MOVED
        return ModuleSpec(fullname, self) if is_former else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        name = spec.name.replace(_LIBRARY, __name__, 1)
        name = _RENAMED.get(name, name)
        warnings.warn(
            f"{spec.name} has moved to {name}. Import it from there.",
            DeprecationWarning,
            stacklevel=2,
        )
        module = importlib.import_module(name)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Undo what importing again has set; the module is loaded already."""
        former = module.__spec__
        assert former is not None, "the import system sets it"
        module.__spec__ = former.loader_state


def keep_former_paths() -> None:
    """Let `conditional_adapters.tasks` and its siblings be imported, with a deprecation warning."""
    if not any(isinstance(finder, _FormerPaths) for finder in sys.meta_path):
        # First, because the path of a moved package would be searched under its former name.
        sys.meta_path.insert(0, _FormerPaths())
