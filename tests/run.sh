#!/usr/bin/env bash
# The tests.
#   tests/run.sh          the library, the example engine, the programs and the adapter to llama.cpp, in one release build
#   tests/run.sh --rest   what that leaves out: style, sanitizers, other settings of the compiler, fuzzers, benchmarks, llama.cpp's
#                         RPC and the page in a browser
#   tests/run.sh --all    both
# Each ends with ctest's summary.
set -euo pipefail
cd "$(dirname "$0")/.."
source examples/setup.sh
case "${1:-}" in
  '') stages=(tests) ;;
  --rest) stages=(rest) ;;
  --all) stages=(tests rest) ;;
  *) die "usage: tests/run.sh [--rest | --all]" ;;
esac
jobs=$(nproc)
launcher=()
if command -v ccache >/dev/null; then launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi

# part NAME COMMAND...: says what comes, then how long it took.
part() {
  say "== $1"
  local start=$SECONDS
  "${@:2}"
  say "== $1: $((SECONDS - start)) s"
}

# configure FOLDER OPTION...
configure() {
  cmake -S . -B "$1" -G Ninja "${launcher[@]}" -DCMAKE_PREFIX_PATH="$llama_cpp" -DINFINIPOT_BUILD_TESTS=ON \
    -DINFINIPOT_BUILD_BENCHMARKS=OFF "${@:2}" >/dev/null
}

# check FOLDER OPTION...: runs tests. The folder keeps what ctest says.
check() {
  ctest --test-dir "$1" --output-on-failure -j "$jobs" --no-tests=error "${@:2}" >"$1/ctest.log" ||
    { cat "$1/ctest.log"; die "failed: $1"; }
  grep 'tests passed' "$1/ctest.log" >&2
}

# Other versions format differently than the one that the sources were written with.
style() {
  clang-format --version | grep -q 'version 14\.' || { say "not checked: this is not clang-format 14"; return; }
  find include tests benchmarks examples -name '*.hpp' -o -name '*.cpp' | xargs clang-format --dry-run -Werror
  configure build/sanitize "${sanitize[@]}"
  find examples -name '*.cpp' | xargs -P "$jobs" -n 3 clang-tidy --quiet -p build/sanitize 2>/dev/null
}

# Stops at undefined behaviour and bad memory; for the oldest processors. Without the real model, which takes long at this
# speed, and without what depends on the compiler alone. Tests are not optimised, which saves more time than
# they then take.
sanitize=(-DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=Debug "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -gline-tables-only"
          -DINFINIPOT_TEST_FLAGS=-O0 -DINFINIPOT_SANITIZE=ON -DINFINIPOT_NATIVE=OFF -DINFINIPOT_BUILD_LLAMA_CPP=ON
          -DCMAKE_EXPORT_COMPILE_COMMANDS=ON)
sanitizers() {
  configure build/sanitize "${sanitize[@]}"
  cmake --build build/sanitize
  INFINIPOT_MODEL='' check build/sanitize -E '^(compile|consumer|headers|quality|readme)'
}

# The sanitizer does not know OpenMP's threads, and brings its own operator new, beside which allocation_counter's is ignored.
threads() {
  configure build/threads -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=Debug \
    "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -gline-tables-only -fsanitize=thread" -DCMAKE_EXE_LINKER_FLAGS=-Wl,-z,muldefs \
    -DCMAKE_DISABLE_FIND_PACKAGE_OpenMP=ON
  cmake --build build/threads --target threads_tests
  INFINIPOT_MODEL='' check build/threads -L '^threads$'
  check build/threads -R '^(ModelTokenizer.ServesSeveralThreads|SmolLM2.GivesTheSameBitsHoweverItIsRun)$'
}

# The kernels as engines are built: right under the flags of each, NaN and infinities seen; whole readers under those that
# change most.
flags=("-O0" "-O2" "-O3 -DEIGEN_DONT_VECTORIZE" "-O3 -ffast-math" "-Ofast -march=native")
kernels() {
  local compiler set folder label
  for compiler in g++ clang++; do
    for set in "${flags[@]}"; do
      folder=build/kernels/$compiler${set//[ =]/}
      label=kernels
      if [[ $set = -Ofast* ]]; then label=floats; fi
      say "$compiler $set"
      configure "$folder" -DCMAKE_CXX_COMPILER=$compiler -DCMAKE_BUILD_TYPE=Release "-DCMAKE_CXX_FLAGS_RELEASE=$set" \
        -DINFINIPOT_NATIVE=OFF
      cmake --build "$folder" --target "${label}_tests"
      check "$folder" -L "^$label\$"
    done
  done
}

# A minute each, at once, from the committed files.
fuzzers() {
  configure build/fuzz -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=Release -DINFINIPOT_FUZZ=ON
  cmake --build build/fuzz --target archive_fuzzer pot_file_fuzzer model_fuzzer
  local name runs=()
  for name in archive pot_file model; do
    mkdir -p "build/fuzz/$name"
    "build/fuzz/tests/fuzz/${name}_fuzzer" -max_total_time=60 -max_len=16384 -artifact_prefix="build/fuzz/$name-" \
      "build/fuzz/$name" "tests/fuzz/seeds/$name" 2>"build/fuzz/$name.log" || { cat "build/fuzz/$name.log"; exit 1; } &
    runs+=($!)
  done
  for name in "${runs[@]}"; do wait "$name"; done
  tail -qn 1 build/fuzz/{archive,pot_file,model}.log >&2
}

# release OPTION... Programs and benchmarks have all optimisation, tests less: kernels() compiles theirs in each way.
release() {
  configure build -DCMAKE_CXX_COMPILER=g++ -DCMAKE_BUILD_TYPE=Release -DINFINIPOT_BUILD_LLAMA_CPP=ON \
    -DINFINIPOT_TEST_FLAGS=-O1 "$@"
  cmake --build build
}

part "Packages" need "${build_packages[@]}" libgtest-dev
part "Model" fetch_model
part "llama.cpp" build_llama_cpp
export INFINIPOT_MODEL=$model INFINIPOT_LLAMA_CPP=$llama_cpp
tests() {
  part "Release (gcc)" release -DINFINIPOT_ALL_TESTS=OFF
  ctest --test-dir build --output-on-failure -j "$jobs"
}
rest() {
  part "More packages" need chromium clang clang-format clang-tidy libbenchmark-dev libclang-rt-14-dev
  part "Style" style
  part "Address and undefined behaviour (clang)" sanitizers
  part "Threads (clang)" threads
  part "Kernels (gcc and clang, five sets of flags)" kernels
  part "Fuzzers" fuzzers
  part "Release (gcc), the rest" release -DINFINIPOT_ALL_TESTS=ON -DINFINIPOT_BUILD_BENCHMARKS=ON
  ctest --test-dir build --output-on-failure -j "$jobs" -L '^rest$' --no-tests=error
}
for stage in "${stages[@]}"; do "$stage"; done
