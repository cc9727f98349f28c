#!/usr/bin/env bash
# Measures and draws all pictures, from nothing: an hour and three quarters on two cores, during which nothing else should run.
# The archive takes 12 GB in the folder that INFINIPOT_ARCHIVE names (build).
#   benchmarks/long_text/run.sh [lengths|million|archive]
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
archive=${INFINIPOT_ARCHIVE:-build}/million.archive
for what in ${1:-million lengths archive}; do
  [ "$what" = archive ] && picture=million_archive || picture=$what
  rm -f "benchmarks/long_text/$picture".{csv,json}
  benchmarks/long_text/measure.py "$what" --model "$model" --text "$jargon" "$bible" --archive "$archive"
  build/plot-venv/bin/python benchmarks/long_text/plot.py "$picture"
done
rm -f "$archive"
