"""docs/tasks.md names the tasks, columns, metrics and commands that there are."""

import re
import shlex

from conditional_adapters.toolkit.tasks._sources import _PACKAGED_OPENERS
from conditional_adapters.toolkit.tasks.kinds import TASKS
from tests.helpers import ROOT
from tests.helpers.documents import COMMANDS

TEXT = (ROOT / "docs/tasks.md").read_text()


def test_the_table_has_every_task_with_its_columns() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|[^|]+\| ([^|]+) \|", TEXT, flags=re.MULTILINE)
    assert {name: re.findall(r"`(\w+)`", columns) for name, columns in rows} == {
        name: [column.role for column in kind.columns(None)] for name, kind in TASKS.items()
    }
    assert all([column.is_target for column in kind.columns(None)][-1] for kind in TASKS.values())


def test_the_commands_exist_with_their_options_tasks_and_data() -> None:
    lines = [
        line
        for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(lines) >= 6
    for line in lines:
        program, verb, *arguments = shlex.split(line)
        assert program == "coda"
        known = {name for parameter in COMMANDS[verb].params for name in parameter.opts}
        assert {a for a in arguments if a.startswith("-")} <= known, line
        options = dict(zip(arguments[::2], arguments[1::2], strict=True))
        assert options.get("--task", "text-classification") in TASKS
        if options["--data"].startswith("packaged:"):
            assert options["--data"] in _PACKAGED_OPENERS
