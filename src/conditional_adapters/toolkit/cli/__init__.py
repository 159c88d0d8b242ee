"""The `coda` command: one file per verb, all of it thin around the library."""
