// Tiny models of golden/architectures.json (see reference/make_architectures_golden.py) as GGUF files.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gguf_writer.hpp"
#include "reference/golden.hpp"

namespace smollm2::test {

/// A model's weights under Hugging Face's names: splitmix64 of FNV-1a of the name plus the index, as numbers
/// in -0.5 .. 0.5, those of norms around 1.
inline std::vector<float> golden_weights(const std::string& name, std::size_t count) {
  std::uint64_t seed = 14695981039346656037U;
  for (const char letter : name) seed = (seed ^ static_cast<unsigned char>(letter)) * 1099511628211U;
  const double center = name.find("norm") == std::string::npos ? 0 : 1;
  std::vector<float> numbers;
  for (std::size_t i = 0; i < count; ++i) {
    std::uint64_t x = seed + i + 0x9E3779B97F4A7C15U;
    x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9U;
    x = (x ^ (x >> 27U)) * 0x94D049BB133111EBU;
    x ^= x >> 31U;
    numbers.push_back(static_cast<float>(static_cast<double>(x >> 40U) / 16777216 - 0.5 + center));
  }
  return numbers;
}

/// The name that llama.cpp's converter gives a tensor.
inline std::string gguf_name(std::string name) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 15> changes{
      {{"model.layers", "blk"},
       {"model.embed_tokens", "token_embd"},
       {"model.norm", "output_norm"},
       {"lm_head", "output"},
       {"self_attn.q_proj", "attn_q"},
       {"self_attn.k_proj", "attn_k"},
       {"self_attn.v_proj", "attn_v"},
       {"self_attn.o_proj", "attn_output"},
       {"self_attn.q_norm", "attn_q_norm"},
       {"self_attn.k_norm", "attn_k_norm"},
       {"input_layernorm", "attn_norm"},
       {"post_attention_layernorm", "ffn_norm"},
       {"mlp.gate_proj", "ffn_gate"},
       {"mlp.up_proj", "ffn_up"},
       {"mlp.down_proj", "ffn_down"}}};
  for (const auto& [from, to] : changes)
    if (const std::size_t at = name.find(from); at != std::string::npos) name.replace(at, from.size(), to);
  return name;
}

/// The converter's order of query and key rows of architecture "llama": of each head, rows i and i + d/2,
/// which RoPE turns together, become neighbours.
inline std::vector<float> neighbours(const std::vector<float>& rows, std::size_t columns, std::size_t heads) {
  const std::size_t d = rows.size() / columns / heads;
  std::vector<float> out;
  for (std::size_t head = 0; head < heads; ++head)
    for (std::size_t row = 0; row < d; ++row) {
      const std::size_t from = head * d + row / 2 + row % 2 * (d / 2);
      out.insert(out.end(), rows.begin() + static_cast<std::ptrdiff_t>(from * columns),
                 rows.begin() + static_cast<std::ptrdiff_t>((from + 1) * columns));
    }
  return out;
}

class TinyArchitecture {
 public:
  static constexpr std::size_t query_heads = 4, kv_heads = 2;

  /// Throws std::out_of_range if there is no case of that name.
  explicit TinyArchitecture(const std::string& name) {
    const nlohmann::json golden = reference::golden("architectures.json");
    for (const nlohmann::json& each : golden.at("cases"))
      if (each.at("name") == name) case_ = each;
    if (case_.is_null()) throw std::out_of_range("no architecture " + name);
  }

  std::vector<std::int32_t> tokens() const { return case_.at("tokens"); }
  /// Logits of some rows.
  std::map<std::size_t, std::vector<double>> logits() const {
    std::map<std::size_t, std::vector<double>> rows;
    for (const auto& [row, numbers] : case_.at("logits").items())
      rows[std::stoul(row)] = numbers.get<std::vector<double>>();
    return rows;
  }

  /// As llama.cpp's converter writes it, without a vocabulary.
  std::vector<std::byte> file() const {
    GgufWriter writer;
    const std::string architecture = case_.at("architecture"), prefix = architecture + ".";
    writer.string("general.architecture", architecture).string("tokenizer.ggml.model", "no_vocab");
    const std::map<std::string, std::size_t> sizes{
        {"block_count", 2},
        {"embedding_length", shape("model.norm.weight").front()},
        {"feed_forward_length", shape("model.layers.0.mlp.up_proj.weight").front()},
        {"attention.head_count", query_heads},
        {"attention.head_count_kv", kv_heads},
        {"vocab_size", shape("model.embed_tokens.weight").front()},
        {"context_length", case_.at("context_length")}};
    for (const auto& [key, size] : sizes) writer.u32(prefix + key, static_cast<std::uint32_t>(size));
    writer.f32(prefix + "attention.layer_norm_rms_epsilon", 1e-5F);
    writer.f32(prefix + "rope.freq_base", case_.at("theta"));
    for (const auto& [key, value] : case_.at("metadata").items()) add(writer, prefix + key, value);
    for (const auto& [name, numbers] : case_.at("rope_tensors").items())
      add(writer, name, numbers.get<std::vector<float>>(), {numbers.size()});
    for (const auto& [name, size] : case_.at("weights").items()) add_weights(writer, name);
    return writer.build();
  }

 private:
  std::vector<std::uint64_t> shape(const std::string& name) const { return case_.at("weights").at(name); }

  static void add(GgufWriter& writer, const std::string& key, const nlohmann::json& value) {
    if (value.is_string())
      writer.string(key, value.get<std::string>());
    else if (value.is_number_float())
      writer.f32(key, value);
    else
      writer.u32(key, value);
  }

  static void add(GgufWriter& writer, const std::string& name, const std::vector<float>& numbers,
                  const std::vector<std::uint64_t>& dims) {
    writer.tensor(name, GgmlType::f32, dims, std::as_bytes(std::span(numbers)));
  }

  void add_weights(GgufWriter& writer, const std::string& name) const {
    const std::vector<std::uint64_t> size = shape(name);
    const std::size_t columns = size.size() > 1 ? size[1] : 1;
    std::vector<float> numbers = golden_weights(name, size[0] * columns);
    if (case_.at("architecture") == "llama") {
      if (name.find("q_proj") != std::string::npos) numbers = neighbours(numbers, columns, query_heads);
      if (name.find("k_proj") != std::string::npos) numbers = neighbours(numbers, columns, kv_heads);
    }
    add(writer, gguf_name(name), numbers, {size.rbegin(), size.rend()});
  }

  nlohmann::json case_;
};

}  // namespace smollm2::test
