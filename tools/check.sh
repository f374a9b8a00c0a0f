#!/usr/bin/env bash
# Checks the project; the same command by hand, before a commit and in CI. Stops at the first failure.
#
#   tools/check.sh           static checks, then all tests
#   tools/check.sh static    format, lint, types, order of modules
#   tools/check.sh types     fast tests, some cases of each, with the shapes and types of every signature checked
#
# Runs the tools of .venv, else those of $PYTHON, else those of python3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi

step() { # step NAME HINT COMMAND...: runs a command; says what to do if it fails
  local name=$1 hint=$2
  shift 2
  echo "== $name"
  if ! "$@"; then
    echo "tools/check.sh: $name failed. $hint" >&2
    exit 1
  fi
}

static() {
  step "format" "To repair: $python -m ruff format" "$python" -m ruff format --check .
  step "lint" "To repair what can be: $python -m ruff check --fix" "$python" -m ruff check .
  step "types" "The rules are in pyproject.toml, [tool.basedpyright]." "$python" -m basedpyright --pythonpath "$python"
  step "layers" "The order of packages is in tests/test_layers.py." "$python" -m pytest -n 0 tests/test_layers.py
}

types() {
  step "tests with checked signatures" "A signature promises a shape or type that a call does not keep." \
    "$python" -m pytest -m "not slow" --jaxtyping-packages=batchednodes,beartype.beartype
}

usage() {
  sed -n '2,8s/^# \{0,1\}//p' tools/check.sh
}

if [ "$#" -gt 1 ]; then usage >&2; exit 2; fi
case "${1:-all}" in
  -h | --help) usage; exit 0 ;;
  all | static | types) ;;
  *) usage >&2; exit 2 ;;
esac

if ! "$python" -c 'import basedpyright, beartype, pytest, ruff' 2>/dev/null; then
  echo "tools/check.sh: $python lacks the tools; install them with: pip install -c tools/constraints.txt -e '.[test]'" >&2
  exit 2
fi
case "${1:-all}" in
  static) static ;;
  types) types ;;
  all)
    static
    step "tests" "To run one again: $python -m pytest tests/PACKAGE/test_X.py -k NAME" "$python" -m pytest
    ;;
esac
echo "== ${1:-all}: ok"
