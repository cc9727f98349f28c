#!/usr/bin/env bash
# Makes a virtual environment with torch and kvpress, builds infinipot-stages, and compares; options go to compare.py.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${BUILD:-build}
cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DINFINIPOT_BUILD_BENCHMARKS=ON
cmake --build "$build" --target infinipot-stages
python3 -m venv "$build/peers-venv"
"$build/peers-venv/bin/pip" install --quiet -r benchmarks/peers/requirements.txt
exec "$build/peers-venv/bin/python" benchmarks/peers/compare.py --program "$build/benchmarks/infinipot-stages" "$@"
