"""The `coda` command: one file per subcommand."""
