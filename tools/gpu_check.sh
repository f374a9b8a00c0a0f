#!/usr/bin/env bash
# Checks this machine's GPUs: what works, all CUDA tests, and the benchmark. Files are written as results come.
#
#   tools/gpu_check.sh [--pretend] [FOLDER]        default: $OUT, or tools/bench/gpu
#
#   works.json     within a minute: whether short runs work at all, and are those of the CPU
#   tests.txt      the tests marked cuda, in processes side by side
#   figures.json   the benchmark, case by case; figures.md is the same as a table
#   check.json     which of these passed
#
# --pretend: on pretended devices, with tiny sizes, where there is no GPU: tries this script, and measures nothing.
# No network is needed: what is not installed is named at once, and of the tests' packages only pytest must be there.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
pretend=
if [ "${1:-}" = --pretend ]; then
  pretend=yes
  shift
fi
out=${1:-${OUT:-tools/bench/gpu}}
mkdir -p "$out"
python=${PYTHON:-python3}
if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

run() { # run FILE ARGUMENT...: runs a Python file, on pretended devices if asked
  if [ -z "$pretend" ]; then
    "$python" "$@"
    return
  fi
  TRITON_INTERPRET=1 "$python" - "$@" <<'PYTHON'
import runpy, sys
sys.argv = sys.argv[1:]
sys.path[:0] = ["tests/support", "tools"]
from pretended import pretended
with pretended():
    runpy.run_path(sys.argv[0], run_name="__main__")
PYTHON
}

missing=$("$python" - <<'PYTHON'
import importlib.metadata as metadata, re, tomllib
def there(name):
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False
with open("pyproject.toml", "rb") as file:
    needed = [re.match(r"[\w.-]+", line)[0] for line in tomllib.load(file)["project"]["dependencies"]]
print(*(name for name in [*needed, "pytest"] if not there(name)))
PYTHON
)
if [ -n "$missing" ]; then
  echo "tools/gpu_check.sh: not installed here: $missing" >&2
  exit 2
fi
if [ -z "$pretend" ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "tools/gpu_check.sh: PyTorch sees no CUDA device here" >&2
  exit 2
fi

declare -A found
step() { # step NAME COMMAND...: notes whether a command passes; the next one runs all the same
  local name=$1 result=passed
  shift
  echo "== $name"
  "$@" || result=failed
  found[$name]=$result
  printf '{"works": "%s", "tests": "%s", "figures": "%s", "pretended": %s}\n' "${found[works]:-missing}" \
    "${found[tests]:-missing}" "${found[figures]:-missing}" "$([ -n "$pretend" ] && echo true || echo false)" >"$out/check.json"
}

tests() {
  local files parallel=()
  files=$(grep -rl "mark.cuda" tests --include='test_*.py')
  if "$python" -c 'import xdist' 2>/dev/null; then parallel=(-n "$([ -n "$pretend" ] && echo 2 || echo 8)"); fi
  # shellcheck disable=SC2086
  "$python" -m pytest -o addopts= -q -ra "${parallel[@]}" -m cuda $files 2>&1 | tee "$out/tests.txt"
}

figures() {
  if [ -n "$pretend" ]; then
    run tools/bench.py --device cuda --only merging local waves --nodes 8 --repeats 1 --json "$out/figures.json" \
      --models logreg mlp_64 gn_lenet lora
  else
    run tools/bench.py --device cuda --only limits waves mixing merging local whole growth --nodes 1000 100000 \
      --repeats 2 --json "$out/figures.json" --models logreg mlp_64 gn_lenet lora
  fi
}

step works run tools/measure/works.py "$out/works.json"
step tests tests
step figures figures
cat "$out/check.json"
[ "${found[works]} ${found[tests]} ${found[figures]}" = "passed passed passed" ]
