#!/usr/bin/env bash
# All tests: style, then with clang's sanitizers for the oldest processors, then with gcc for this machine's.
#   tests/run.sh          ends with the summary of the last
set -euo pipefail
cd "$(dirname "$0")/.."
source examples/setup.sh

need "${build_packages[@]}" chromium clang clang-format clang-tidy libbenchmark-dev libclang-rt-14-dev libgtest-dev
fetch_model
build_llama_cpp
export INFINIPOT_MODEL=$model INFINIPOT_LLAMA_CPP=$llama_cpp
jobs=$(nproc)

# The tests of the library and of what reads files, on builds that stop at undefined behaviour and bad memory.
say "Sanitizers (clang)"
cmake -S . -B build/sanitize -G Ninja -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS=-O1 \
  -DINFINIPOT_SANITIZE=ON -DINFINIPOT_NATIVE=OFF -DINFINIPOT_BUILD_LLAMA_CPP=ON -DCMAKE_PREFIX_PATH="$llama_cpp" \
  -DCMAKE_EXPORT_COMPILE_COMMANDS=ON >/dev/null
cmake --build build/sanitize
# Without the real model, which takes long at this speed, and without what depends on the compiler alone.
INFINIPOT_MODEL='' ctest --test-dir build/sanitize --output-on-failure -j "$jobs" -E '^(compile_fail|consumer|readme)' \
  --quiet --output-junit ctest.xml

# Other versions format differently than the one that the sources were written with.
if clang-format --version | grep -q 'version 14\.'; then
  say "Style"
  find include tests benchmarks examples -name '*.hpp' -o -name '*.cpp' | xargs clang-format --dry-run -Werror
  find examples -name '*.cpp' | xargs -P "$jobs" -n 3 clang-tidy --quiet -p build/sanitize 2>/dev/null
else
  say "Style is not checked: this is not clang-format 14"
fi

say "Release (gcc)"
cmake -S . -B build -G Ninja -DCMAKE_CXX_COMPILER=g++ -DCMAKE_BUILD_TYPE=Release -DINFINIPOT_BUILD_TESTS=ON \
  -DINFINIPOT_BUILD_BENCHMARKS=ON -DINFINIPOT_BUILD_LLAMA_CPP=ON -DCMAKE_PREFIX_PATH="$llama_cpp" >/dev/null
cmake --build build
ctest --test-dir build --output-on-failure
