#!/usr/bin/env bash
# Train on one GPU of this machine: ./run_train.sh --gpu 1 [--config F] [--output RUN] [...]; train.py takes all options.
# The default is the experiment configs/full_experiment.yml and the first free folder runs/train-N.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$here/.venv/bin/python
[ -x "$python" ] || python=python3
[[ " $*" == *" --config"* ]] || set -- --config configs/full_experiment.yml "$@"
if [[ " $*" != *" --output"* ]]; then
    number=1
    while [ -e "runs/train-$number" ]; do number=$((number + 1)); done
    set -- --output "runs/train-$number" "$@"
fi
exec "$python" "$here/train.py" "$@"
