// What archiving costs: keys and values of tokens encoded, checksummed and put into a MemoryArchive, and read
// back, beside memcpy of the same floats.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "infinipot/archive/memory_archive.hpp"
#include "inputs.hpp"

namespace {

using infinipot::ArchiveSettings;
using infinipot::ArchiveType;
using infinipot::Entry;

constexpr infinipot::Shape smollm{30, 9, 3, 64};
constexpr std::size_t tokens = 256;

/// Keys and values in an engine's memory, (layers, tokens, kv_heads, head_dim).
class EngineRows final : public infinipot::RowSource {
 public:
  EngineRows() : keys_(inputs::floats(floats(), 1)), values_(inputs::floats(floats(), 2)) {}

  static std::size_t floats() { return tokens * smollm.heads() * smollm.head_dim; }

  void key(std::size_t layer, std::size_t kv_head, std::size_t i, float* key) const noexcept override {
    std::memcpy(key, row(keys_, layer, kv_head, i), smollm.head_dim * sizeof(float));
  }
  void value(std::size_t layer, std::size_t kv_head, std::size_t i, float* value) const noexcept override {
    std::memcpy(value, row(values_, layer, kv_head, i), smollm.head_dim * sizeof(float));
  }

 private:
  static const float* row(const std::vector<float>& all, std::size_t layer, std::size_t kv_head,
                          std::size_t i) noexcept {
    return all.data() + ((layer * tokens + i) * smollm.kv_heads + kv_head) * smollm.head_dim;
  }

  std::vector<float> keys_, values_;
};

/// Room for four blocks.
ArchiveSettings settings(const benchmark::State& state) {
  ArchiveSettings settings{
      .shape = smollm, .type = static_cast<ArchiveType>(state.range(0)), .block = tokens};
  settings.channels = infinipot::plain_key_channels(smollm);
  settings.limit = 4 * (2 * EngineRows::floats() * sizeof(float) + tokens * 64);
  return settings;
}

std::vector<Entry> entries() {
  std::vector<Entry> entries(tokens);
  for (std::size_t i = 0; i < tokens; ++i) entries[i].position = i;
  return entries;
}

void append(benchmark::State& state) {
  const EngineRows rows;
  infinipot::MemoryArchive archive(settings(state));
  auto text = entries();
  for (auto _ : state) {
    archive.append(text, rows);
    for (Entry& entry : text) entry.position += tokens;
  }
  inputs::set_items(state, tokens);
}

void read(benchmark::State& state) {
  const EngineRows rows;
  infinipot::MemoryArchive archive(settings(state));
  archive.append(entries(), rows);
  infinipot::StoredBlock block;
  std::vector<float> row(smollm.head_dim);
  for (auto _ : state) {
    archive.read(0, block);
    for (std::size_t i = 0; i < tokens && archive.has_rows(); ++i)
      for (std::size_t pair = 0; pair < smollm.heads(); ++pair) {
        block.key(pair / smollm.kv_heads, pair % smollm.kv_heads, i, row.data());
        benchmark::DoNotOptimize(row.data());
        block.value(pair / smollm.kv_heads, pair % smollm.kv_heads, i, row.data());
        benchmark::DoNotOptimize(row.data());
      }
  }
  inputs::set_items(state, tokens);
  if (!archive.has_rows()) return;
  std::vector<float> key(smollm.head_dim);
  block.key(29, 2, tokens - 1, row.data());
  rows.key(29, 2, tokens - 1, key.data());
  inputs::expect_near(state, row, key, archive.settings().type == ArchiveType::codes4 ? 0.1F : 0.01F);
}

/// The limit: the same keys and values, copied to elsewhere.
void copy(benchmark::State& state) {
  const std::vector<float> from(2 * EngineRows::floats(), 1.0F);
  std::vector<float> to(from.size());
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), from.size() * sizeof(float));
    benchmark::DoNotOptimize(to.data());
    benchmark::ClobberMemory();
  }
  inputs::set_items(state, tokens);
}

void types(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgName("type")->DenseRange(0, 4)->Unit(benchmark::kMicrosecond);
}

BENCHMARK(append)->Apply(types);
BENCHMARK(read)->Apply(types);
BENCHMARK(copy)->Unit(benchmark::kMicrosecond);

}  // namespace
