#!/usr/bin/env bash
# The main job: SmolLM2-135M reads the beginning of the Jargon File through a pot of 2,048 entries and answers a question
# about something that it read early on. For contrast, the same with StreamingLLM, at the same size.
#   examples/demo.sh [TOKENS]     how much of the text to read (default 24000; all of it is about 480,000)
set -euo pipefail
cd "$(dirname "$0")/.."
source examples/setup.sh

need "${build_packages[@]}"
fetch_model
fetch_jargon
cmake -S . -B build -G Ninja -DCMAKE_CXX_COMPILER=g++ -DCMAKE_BUILD_TYPE=Release -DINFINIPOT_BUILD_TESTS=OFF \
  -DINFINIPOT_BUILD_BENCHMARKS=OFF >/dev/null
cmake --build build --target infinipot-read >/dev/null

read_with() {
  echo "--- $1"
  build/examples/infinipot-read --model "$model" --document "$jargon" --max-tokens "${tokens}" --policy "$1" \
    --pot 2048 "${jargon_question[@]}"
}

tokens=${1:-24000}
read_with infinipot
read_with streaming_llm
