#!/bin/sh
# Run the contract and the tests of integrations against other versions of peft and transformers:
#     sh scripts/check_versions.sh [PEFT TRANSFORMERS]...
# By default the oldest pair that is supported and the newest that pip finds. Each version is
# unpacked beside the environment, which is left as it is. TESTS names what to run, all of it
# by default (half an hour a pair); TESTS=tests/integrations is PEFT alone (three minutes).
set -e
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
tests="${TESTS:-tests/integrations tests/contracts tests/checkpoint tests/architectures/test_whisper.py tests/model/test_attach.py tests/model/test_generation.py}"

newest() { "$python" -m pip index versions "$1" 2>/dev/null | sed -n '1s/.*(\(.*\))/\1/p'; }

unpack() {
    [ -d "build/$1-$2/$1" ] || "$python" -m pip install -q --no-deps --target "build/$1-$2" "$1==$2"
}

[ $# -gt 0 ] || set -- 0.21.0 5.23.0 "$(newest peft)" "$(newest transformers)"
while [ $# -gt 1 ]; do
    echo "peft $1, transformers $2"
    unpack peft "$1"
    unpack transformers "$2"
    export PYTHONPATH="build/peft-$1:build/transformers-$2:src"
    "$python" -c "
import peft, transformers
assert (peft.__version__, transformers.__version__) == ('$1', '$2'), (peft, transformers)"
    OMP_NUM_THREADS=1 "$python" -m pytest -q -n "${WORKERS:-auto}" $tests -m "not compile"
    shift 2
done
