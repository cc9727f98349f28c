#include "llama_config.hpp"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "llama_metadata.hpp"

namespace smollm2 {
namespace {

struct Architecture {
  std::string_view name;
  infinipot::Pairing pairing;
  bool head_norms;
};

constexpr std::array<Architecture, 3> architectures{{{"llama", infinipot::Pairing::interleaved, false},
                                                     {"qwen2", infinipot::Pairing::half_split, false},
                                                     {"qwen3", infinipot::Pairing::half_split, true}}};

const Architecture& architecture_of(const LlamaMetadata& read) {
  const auto* const found = std::ranges::find(architectures, read.architecture(), &Architecture::name);
  if (found == architectures.end())
    fail_in(read.file(), "metadata key 'general.architecture' is ", smollm2::quoted(read.architecture()),
            ", but must be 'llama', 'qwen2' or 'qwen3'", elsewhere);
  return *found;
}

void read_heads(LlamaMetadata& read, LlamaConfig& c) {
  constexpr std::string_view key = "attention.key_length", value = "attention.value_length";
  c.query_heads = read.size("attention.head_count", 1024);
  if (!read.has(key))
    read.require(c.embedding % c.query_heads == 0, "attention.head_count", c.query_heads,
                 "a divisor of embedding_length ", c.embedding);
  c.kv_heads = read.size("attention.head_count_kv", 1024, c.query_heads);
  read.require(c.query_heads % c.kv_heads == 0, "attention.head_count_kv", c.kv_heads,
               "a divisor of head_count ", c.query_heads);
  c.head_dim = read.size(key, 65536, c.embedding / c.query_heads);
  const std::size_t value_length = read.size(value, 65536, c.head_dim);
  read.require(value_length == c.head_dim, value, value_length, "that of keys, ", c.head_dim, elsewhere);
}

}  // namespace

LlamaConfig LlamaConfig::from(const GgufFile& file) {
  LlamaMetadata read(file);
  LlamaConfig c;
  const Architecture& architecture = architecture_of(read);
  c.pairing = architecture.pairing;
  c.head_norms = architecture.head_norms;
  c.layers = read.size("block_count", 1024);
  c.embedding = read.size("embedding_length", 65536);
  c.feed_forward = read.size("feed_forward_length", 1U << 20);
  c.context_length = read.size("context_length", 1U << 30);
  c.vocab_size = read.size("vocab_size", 1U << 24, file.tensor("token_embd.weight").rows());
  read_heads(read, c);
  c.scaled_rope = LlamaRope::from(read, c.head_dim, c.context_length, c.pairing);
  c.norm_epsilon = read.number("attention.layer_norm_rms_epsilon");
  read.require(c.norm_epsilon >= 0 && c.norm_epsilon < 1, "attention.layer_norm_rms_epsilon", c.norm_epsilon,
               "in 0 .. 1");
  read.refuse_unread();
  return c;
}

}  // namespace smollm2
