#!/usr/bin/env bash
# Makes the tables and pictures of all folders anew, and goes on where it was ended. What is timed comes last; it needs the machine
# for itself.
#   INFINIPOT_DATA=FOLDER benchmarks/run.sh [tables|settings|recall|figures|llama_cpp|kernels|storage|long_text|peers ...]
# FOLDER has the sets and novels that quality/README.md names; what needs one that is not there is left out. Trials go to
# build/trials, those of the tables to quality/tables.
set -euo pipefail
cd "$(dirname "$0")/.."
source examples/setup.sh
stages=(tables settings recall figures llama_cpp kernels storage long_text peers)
[ $# -eq 0 ] || stages=("$@")
data=${INFINIPOT_DATA:-$cache} out=build/trials

need "${build_packages[@]}" python3-venv
fetch_model
fetch_jargon
fetch_bible
build_llama_cpp
cmake -S . -B build -G Ninja -DCMAKE_CXX_COMPILER=g++ -DCMAKE_BUILD_TYPE=Release -DINFINIPOT_BUILD_BENCHMARKS=ON \
  -DINFINIPOT_BUILD_LLAMA_CPP=ON -DCMAKE_PREFIX_PATH="$llama_cpp" >/dev/null
cmake --build build >/dev/null
python3 -m venv build/plot-venv
build/plot-venv/bin/pip install --quiet matplotlib rouge
PATH=$PWD/build/plot-venv/bin:$PATH
mkdir -p "$out"

# path_of FILE: its path below the data, or a name that is not there.
path_of() { find "$data" -name "$1" -print -quit | grep . || echo "$1"; }

tables() { benchmarks/quality/infinipot-tables --model "$model" --data "$data" "$cache"; }

settings() {
  local sweep=(benchmarks/quality/infinipot-sweep --model "$model" --haystack "$jargon" --out "$out/sweep.jsonl")
  local questions=("hotpotqa:$(path_of hotpotqa_train.json)" "musique:$(path_of musique_train.json)") own=benchmarks/quality
  "${sweep[@]}" --sets needles "${questions[@]}" --seeds 1 2 --csv "$own/sweep.csv"
  "${sweep[@]}" --sets needles "${questions[@]}" --unknown --seeds 1 --count 10 --csv "$own/sweep_unknown.csv"
  local stretches=("8 before, 8 after=--kernel 17" "8 before, 40 after=--kernel 49 --lag 16")
  "${sweep[@]}" --sets "${questions[@]}" --rows test --count 100 --csv "$own/confirmed.csv" --settings default \
    "${stretches[@]}" "a third by terms=--term-share 0.35" "each layer for itself=--granularity layer" \
    "each layer for itself, a third by terms=--granularity layer --term-share 0.35" "streaming_llm=--policy streaming_llm"
  "${sweep[@]}" --sets "ruler:$(path_of 4096_niah_multikey_3.jsonl)" --rows test --count 8 --csv "$own/confirmed_ruler.csv" \
    --settings default "${stretches[@]}"
  # The same in the loop, of development rows.
  local tasks=(benchmarks/quality/infinipot-tasks --model "$model" --rows development --out "$out/stretches.jsonl" --policies
               "near=infinipot --kernel 17" "far=infinipot --kernel 49 --lag 16"
               "recalled_near=streaming_llm --archive @archive --kernel 17"
               "recalled_far=streaming_llm --archive @archive --kernel 49 --lag 16")
  "${tasks[@]}" --pot 1024 --count 8 --sets "ruler:$(path_of 4096_niah_multikey_3.jsonl)"
  "${tasks[@]}" --pot 512 --count 25 --sets "${questions[@]}"
  "${tasks[@]}" --pot 512 --count 24 --haystack "$(path_of persuasion.txt)" \
    --sets "babi:$(path_of 'qa1_*_test.txt')" "babi:$(path_of 'qa2_*_test.txt')"
}

recall() {
  benchmarks/recall/infinipot-recall --model "$model" --haystack "$bible" --hotpotqa "$(path_of hotpotqa_train.json)" \
    --musique "$(path_of musique_train.json)" --out "$out/recall.jsonl" --csv benchmarks/recall/recall.csv
}

figures() {
  local program=benchmarks/quality/infinipot-figures name
  local common=(--model "$model" --haystack "$bible" --out "$out/figures.jsonl") hotpotqa=(--hotpotqa "$(path_of hotpotqa_train.json)")
  for name in hit_rate catalyst nuc; do "$program" "$name" "${common[@]}" "${hotpotqa[@]}"; done
  for name in alpha positions; do "$program" "$name" "${common[@]}" "${hotpotqa[@]}" --seeds 1; done
  "$program" budgets "${common[@]}" --seeds 1 --depths 0.1 0.5 0.9
}

llama_cpp() {
  local own=benchmarks/llama_cpp
  build/benchmarks/infinipot-unpack "$model" build/SmolLM2-F32.gguf
  build/benchmarks/infinipot-llama-drift --model build/SmolLM2-F32.gguf --document "$jargon" --csv "$own/drift.csv"
  local cost=(build/benchmarks/infinipot-llama-cost --model "$model" --document "$jargon" --tokens 4096 --repeat 2)
  "${cost[@]}" --json "$own/cost_probabilities.json"
  "${cost[@]}" --flash-attention --json "$own/cost_flash.json"
  build/benchmarks/infinipot-llama-batch --model "$model" --document "$jargon" --pot 192 --keep 96 --repeat 2
}

kernels() { for kernel in cap nuc top_k compact archive distillation; do "build/benchmarks/${kernel}_benchmark"; done; }

storage() {
  build/benchmarks/infinipot-element-types --model "$model" --text "$jargon" --tokens 6000
  build/benchmarks/infinipot-drift --csv benchmarks/storage/drift.csv
  benchmarks/storage/plot.py
}

long_text() { benchmarks/long_text/run.sh; }

peers() {
  local own=benchmarks/peers
  "$own/run.sh" --threads 1 2 --csv "$own/results.csv"
  "$own/run.sh" --threads 1 2 --keep-memory --csv "$own/results_keep_memory.csv"
  need clang
  build/peers-venv/bin/python "$own/targets.py" --csv "$own/targets.csv"
  "$own/tables.py"
}

for stage in "${stages[@]}"; do
  say "== $stage"
  "$stage" || say "$stage is not whole; call again to go on"
done
