#!/usr/bin/env bash
# Train on one GPU of this machine: ./run_train.sh --gpu 1 --config F --output RUN [...]; the rest goes to train.py.
set -euo pipefail
if [ "${1:-}" = "--gpu" ]; then
    [[ "${2:-}" =~ ^[0-9]+$ ]] || { echo "run_train.sh: --gpu takes the index of a GPU: --gpu 1" >&2; exit 2; }
    export CUDA_VISIBLE_DEVICES=$2
    shift 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$here/.venv/bin/python
[ -x "$python" ] || python=python3
exec "$python" "$here/train.py" "$@"
