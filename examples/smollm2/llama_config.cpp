#include "llama_config.hpp"

#include <cmath>
#include <initializer_list>
#include <sstream>
#include <string>
#include <string_view>

#include "gguf_error.hpp"

namespace smollm2 {
namespace {

template <class... Parts>
[[noreturn]] void fail(const GgufFile& file, const Parts&... parts) {
  std::ostringstream text;
  text << file.name() << ": ";
  (text << ... << parts);
  throw GgufError(text.str());
}

/// Reads metadata under "llama." and holds it to its range.
class Reader {
 public:
  explicit Reader(const GgufFile& file) : file_(file) {}

  std::size_t size(std::string_view name, std::uint64_t highest) const {
    return checked(name, file_.unsigned_value(key(name)), highest);
  }
  std::size_t size(std::string_view name, std::uint64_t highest, std::uint64_t fallback) const {
    return checked(name, file_.unsigned_value(key(name), fallback), highest);
  }
  float number(std::string_view name) const { return file_.float_value(key(name)); }
  float number(std::string_view name, float fallback) const { return file_.float_value(key(name), fallback); }

  /// Throws unless `valid`: `value` of key `name` must be `wanted`.
  template <class Value, class... Wanted>
  void require(bool valid, std::string_view name, Value value, const Wanted&... wanted) const {
    if (!valid) fail(file_, "metadata key '", key(name), "' is ", value, ", but must be ", wanted...);
  }

 private:
  static std::string key(std::string_view name) { return "llama." + std::string(name); }

  std::size_t checked(std::string_view name, std::uint64_t value, std::uint64_t highest) const {
    require(value >= 1 && value <= highest, name, value, "in 1 .. ", highest);
    return static_cast<std::size_t>(value);
  }

  const GgufFile& file_;
};

/// Features that some files of the architecture have and this engine lacks: better no answer than a wrong
/// one.
void reject_unknown_features(const GgufFile& file) {
  if (file.string_value("general.architecture") != "llama")
    fail(file, "metadata key 'general.architecture' is ", quoted(file.string_value("general.architecture")),
         ", but must be 'llama'");
  if (file.unsigned_value("llama.expert_count", 0) != 0)
    fail(file, "metadata key 'llama.expert_count' is not 0; mixtures of experts are not supported");
  if (file.has("llama.rope.scaling.type") && file.string_value("llama.rope.scaling.type") != "none")
    fail(file, "metadata key 'llama.rope.scaling.type' is ",
         quoted(file.string_value("llama.rope.scaling.type")), "; scaled RoPE is not supported");
  for (const std::string_view name :
       {"rope_freqs.weight", "blk.0.attn_q.bias", "blk.0.attn_k.bias", "blk.0.attn_v.bias",
        "blk.0.attn_output.bias", "blk.0.ffn_gate.bias", "blk.0.ffn_up.bias", "blk.0.ffn_down.bias"})
    if (file.has_tensor(name)) fail(file, "tensor '", name, "' is not supported");
}

}  // namespace

LlamaConfig LlamaConfig::from(const GgufFile& file) {
  reject_unknown_features(file);
  const Reader read(file);
  LlamaConfig c;
  c.layers = read.size("block_count", 1024);
  c.embedding = read.size("embedding_length", 65536);
  c.feed_forward = read.size("feed_forward_length", 1U << 20);
  c.context_length = read.size("context_length", 1U << 30);
  c.vocab_size = read.size("vocab_size", 1U << 24, file.tensor("token_embd.weight").rows());

  c.query_heads = read.size("attention.head_count", 1024);
  read.require(c.embedding % c.query_heads == 0, "attention.head_count", c.query_heads,
               "a divisor of embedding_length ", c.embedding);
  c.kv_heads = read.size("attention.head_count_kv", 1024, c.query_heads);
  read.require(c.query_heads % c.kv_heads == 0, "attention.head_count_kv", c.kv_heads,
               "a divisor of head_count ", c.query_heads);
  for (const std::string_view name : {"attention.key_length", "attention.value_length"})
    read.require(read.size(name, 65536, c.head_dim()) == c.head_dim(), name,
                 read.size(name, 65536, c.head_dim()), "embedding_length / head_count = ", c.head_dim());

  c.rotary_dim = read.size("rope.dimension_count", c.head_dim(), c.head_dim());
  read.require(c.rotary_dim % 2 == 0, "rope.dimension_count", c.rotary_dim, "even");
  c.rope_theta = static_cast<double>(read.number("rope.freq_base", 10000));
  read.require(std::isfinite(c.rope_theta) && c.rope_theta > 0, "rope.freq_base", c.rope_theta, "above 0");
  c.norm_epsilon = read.number("attention.layer_norm_rms_epsilon");
  read.require(c.norm_epsilon >= 0 && c.norm_epsilon < 1, "attention.layer_norm_rms_epsilon", c.norm_epsilon,
               "in 0 .. 1");
  return c;
}

}  // namespace smollm2
