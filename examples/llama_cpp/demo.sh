#!/usr/bin/env bash
# llama.cpp reads the beginning of the Jargon File through a context of 2,048 cells and answers a question about something
# that it read early on; then the same with llama.cpp's own context shift.
#   examples/llama_cpp/demo.sh [TOKENS]     how much of the text to read (default 24000)
set -euo pipefail
cd "$(dirname "$0")/../.."
source examples/setup.sh

need "${build_packages[@]}"
fetch_model
fetch_jargon
build_llama_cpp
cmake -S . -B build -G Ninja -DCMAKE_CXX_COMPILER=g++ -DCMAKE_BUILD_TYPE=Release -DINFINIPOT_BUILD_TESTS=OFF \
  -DINFINIPOT_BUILD_BENCHMARKS=OFF -DINFINIPOT_BUILD_LLAMA_CPP=ON -DCMAKE_PREFIX_PATH="$llama_cpp" >/dev/null
cmake --build build --target infinipot-llama >/dev/null

tokens=${1:-24000}
for policy in infinipot context_shift; do
  echo "--- $policy"
  build/examples/infinipot-llama --model "$model" --document "$jargon" --max-tokens "$tokens" --policy "$policy" \
    --pot 2048 "${jargon_question[@]}"
done
