#!/usr/bin/env bash
# Measures and draws both pictures, from nothing: an hour and a half on two cores, during which nothing else should run.
#   benchmarks/long_text/run.sh [lengths|million]
set -euo pipefail
cd "$(dirname "$0")/../.."
source examples/setup.sh

need "${build_packages[@]}" python3-venv
fetch_model
fetch_jargon
fetch_bible
build_llama_cpp
cmake -S . -B build -G Ninja -DCMAKE_CXX_COMPILER=g++ -DCMAKE_BUILD_TYPE=Release -DINFINIPOT_BUILD_TESTS=OFF \
  -DINFINIPOT_BUILD_BENCHMARKS=OFF -DINFINIPOT_BUILD_LLAMA_CPP=ON -DCMAKE_PREFIX_PATH="$llama_cpp" >/dev/null
cmake --build build --target infinipot-read infinipot-llama >/dev/null
python3 -m venv build/plot-venv
build/plot-venv/bin/pip install --quiet matplotlib
for what in ${1:-million lengths}; do
  rm -f "benchmarks/long_text/$what.csv"
  benchmarks/long_text/measure.py "$what" --model "$model" --text "$jargon" "$bible"
  build/plot-venv/bin/python benchmarks/long_text/plot.py "$what"
done
