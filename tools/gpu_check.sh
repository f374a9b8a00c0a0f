#!/usr/bin/env bash
# Runs all CUDA tests and the benchmark on this machine's first GPU, and writes one JSON file.
#
#   tools/gpu_check.sh [FILE]        default: tools/bench/gpu.json
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-tools/bench/gpu.json}
python=${PYTHON:-python3}
if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "tools/gpu_check.sh: PyTorch sees no CUDA device here" >&2
  exit 2
fi
tests=passed
"$python" -m pytest -n 0 -m cuda || tests=failed
"$python" tools/bench.py --device cuda --only limits scheduling mixing merging local whole growth --nodes 1000 --repeats 2 \
  --json "$out"
"$python" - "$out" "$tests" <<'PYTHON'
import json, pathlib, sys
path, tests = pathlib.Path(sys.argv[1]), sys.argv[2]
path.write_text(json.dumps(json.loads(path.read_text()) | {"cuda_tests": tests}, indent=2) + "\n")
PYTHON
echo "tools/gpu_check.sh: CUDA tests $tests; figures in $out"
[ "$tests" = passed ]
