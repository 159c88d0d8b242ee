"""Data sets and metrics for the commands that train, evaluate and predict.

`data.load_rows` turns a file, a folder, a hub name or a packaged set into a `datasets.Dataset`
with fixed column names, and `data.split_train_test` divides one by class. Beneath it, `_sources`
opens each kind of source, `_files` reads the three file formats and `_cells` says what a text,
a label and an image must be.

Nothing is imported here: the libraries behind it belong to the `cli` extra.
"""
