"""Data sets, downstream tasks, their models and metrics, for the commands and the demo.

`data` and `task_data` read a file, a folder, a hub name or a packaged set into a
`datasets.Dataset`. `task` defines a downstream task, `kinds` has one file for each. `inference`,
`tuning` and `bundle` predict, compare reduction factors, and save and load trained tasks.

Nothing is imported here: the libraries behind it belong to the `cli` extra.
"""
