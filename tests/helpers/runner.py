"""Run `coda` in this process."""

from typer.testing import CliRunner

from conditional_adapters.toolkit.cli.main import app


def run(*arguments: object, expect: type[Exception] | None = None):
    """Run a command, which must succeed, or fail with this error."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if expect is None:
        assert result.exit_code == 0, (result.output, result.exception)
    else:
        assert isinstance(result.exception, expect), (result.output, result.exception)
    return result
