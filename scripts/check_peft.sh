#!/bin/sh
# Run the tests of the PEFT integration against other versions of peft, the oldest supported by default:
#     sh scripts/check_peft.sh [VERSION...]
# Each is unpacked beside the environment, which is left as it is.
set -e
cd "$(dirname "$0")/.."
for version in "${@:-0.21.0}"; do
    target="build/peft-$version"
    [ -d "$target/peft" ] || .venv/bin/pip install -q --no-deps --target "$target" "peft==$version"
    echo "peft $version"
    PYTHONPATH="$target" .venv/bin/python -c "import peft; assert peft.__version__ == '$version'"
    PYTHONPATH="$target" OMP_NUM_THREADS=1 .venv/bin/pytest -q tests/integrations -m "not compile"
done
