// Models of a few thousand random weights that llama.cpp can load.
#pragma once

#include <llama-cpp.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "model.hpp"
#include "smollm2/tiny_chatting.hpp"
#include "smollm2/tiny_llama.hpp"

namespace llama_cpp::test {

/// A file that is gone when this is.
class TemporaryModel {
 public:
  explicit TemporaryModel(const std::vector<std::byte>& bytes, const std::string& name = "tiny")
      : path_(std::filesystem::temp_directory_path() /
              ("infinipot-" + name + "-" + std::to_string(::getpid()) + "-" + std::to_string(count()++) +
               ".gguf")) {
    std::ofstream file(path_, std::ios::binary);
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }
  TemporaryModel(const TemporaryModel&) = delete;
  TemporaryModel& operator=(const TemporaryModel&) = delete;
  ~TemporaryModel() { std::filesystem::remove(path_); }

  std::string path() const { return path_.string(); }

 private:
  static int& count() {
    static int count = 0;
    return count;
  }

  std::filesystem::path path_;
};

/// llama.cpp insists that whole heads turn.
inline smollm2::test::TinyLlama tiny_llama() {
  smollm2::test::TinyLlama model;
  model.rotary_dim = model.head_dim();
  return model;
}

/// Of other sizes, with weights of their own.
inline smollm2::test::TinyLlama tiny_llama_of(std::size_t layers, std::size_t query_heads,
                                              std::size_t kv_heads, std::size_t head_dim) {
  smollm2::test::TinyLlama model;
  model.tensors.clear();
  model.layers = layers;
  model.query_heads = query_heads;
  model.kv_heads = kv_heads;
  model.rotary_dim = head_dim;
  const std::size_t width = model.embedding = query_heads * head_dim;
  model.add("token_embd.weight", model.vocab_size, width);
  model.add("output_norm.weight", 1, width);
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const std::string block = model.prefix(layer);
    for (const char* name : {"attn_norm", "ffn_norm"}) model.add(block + name + ".weight", 1, width);
    for (const char* name : {"attn_q", "attn_output"}) model.add(block + name + ".weight", width, width);
    for (const char* name : {"attn_k", "attn_v"})
      model.add(block + name + ".weight", kv_heads * head_dim, width);
    for (const char* name : {"ffn_gate", "ffn_up"})
      model.add(block + name + ".weight", model.feed_forward, width);
    model.add(block + "ffn_down.weight", width, model.feed_forward);
  }
  return model;
}

/// With norms of queries and keys, as Qwen 3 has them.
inline smollm2::test::TinyLlama with_head_norms(smollm2::test::TinyLlama model) {
  for (std::size_t layer = 0; layer < model.layers; ++layer)
    for (const char* name : {"attn_q_norm.weight", "attn_k_norm.weight"})
      model.add(model.prefix(layer) + name, 1, model.head_dim());
  return model;
}

inline smollm2::test::GgufWriter tiny_writer(const smollm2::test::TinyLlama& model) {
  auto writer = model.file({{"vocab_size", static_cast<std::uint32_t>(model.vocab_size)}});
  writer.string("tokenizer.ggml.model", "no_vocab");
  return writer;
}

inline std::vector<std::byte> tiny_file(const smollm2::test::TinyLlama& model) {
  return tiny_writer(model).build();
}

using smollm2::test::tiny_chatting_file;
using smollm2::test::tiny_chatting_writer;

/// The same as a model of another architecture, whose own metadata and `numbers` are to be added. `kv_heads`
/// has those of each layer, if they differ.
inline smollm2::test::GgufWriter tiny_file_of(const std::string& architecture,
                                              const smollm2::test::TinyLlama& model,
                                              const std::map<std::string, std::size_t>& numbers = {},
                                              const std::vector<std::int32_t>& kv_heads = {}) {
  smollm2::test::GgufWriter writer;
  writer.string("general.architecture", architecture).string("tokenizer.ggml.model", "no_vocab");
  const auto add = [&](const std::map<std::string, std::size_t>& more) {
    for (const auto& [name, number] : more)
      writer.u32(architecture + "." + name, static_cast<std::uint32_t>(number));
  };
  add({{"block_count", model.layers},
       {"embedding_length", model.embedding},
       {"feed_forward_length", model.feed_forward},
       {"context_length", 512},
       {"vocab_size", model.vocab_size},
       {"attention.head_count", model.query_heads}});
  if (kv_heads.empty())
    add({{"attention.head_count_kv", model.kv_heads}});
  else
    writer.ints(architecture + ".attention.head_count_kv", kv_heads);
  add(numbers);
  writer.f32(architecture + ".attention.layer_norm_rms_epsilon", model.epsilon);
  for (const auto& [name, tensor] : model.tensors)
    writer.tensor(name, smollm2::GgmlType::f32, model.dims.at(name), std::as_bytes(std::span(tensor)));
  return writer;
}

/// Positions of three numbers (M-RoPE).
inline std::vector<std::byte> tiny_mrope_file() {
  return tiny_file_of("qwen2vl", tiny_llama()).ints("qwen2vl.rope.dimension_sections", {1, 1, 1, 0}).build();
}

/// Every other layer sees the last `window` tokens only.
inline std::vector<std::byte> tiny_sliding_window_file(std::size_t window) {
  smollm2::test::TinyLlama model = tiny_llama();
  for (std::size_t layer = 0; layer < model.layers; ++layer)
    for (const char* name : {"post_attention_norm", "post_ffw_norm"})
      model.add(model.prefix(layer) + name + ".weight", 1, model.embedding);
  return tiny_file_of("gemma2", model, {{"attention.sliding_window", window}}).build();
}

/// No attention.
inline std::vector<std::byte> tiny_recurrent_file() {
  smollm2::test::TinyLlama model = tiny_llama();
  const std::size_t width = model.embedding, inner = 2 * width, state = 8, rank = 2, convolved = 4;
  model.tensors.clear();
  model.query_heads = model.kv_heads = model.feed_forward = 0;
  model.add("token_embd.weight", model.vocab_size, width);
  model.add("output_norm.weight", 1, width);
  for (std::size_t layer = 0; layer < model.layers; ++layer) {
    const std::string block = model.prefix(layer);
    model.add(block + "attn_norm.weight", 1, width);
    model.add(block + "ssm_in.weight", 2 * inner, width);
    model.add(block + "ssm_conv1d.weight", inner, convolved);
    model.add(block + "ssm_conv1d.bias", 1, inner);
    model.add(block + "ssm_x.weight", rank + 2 * state, inner);
    model.add(block + "ssm_dt.weight", inner, rank);
    model.add(block + "ssm_dt.bias", 1, inner);
    model.add(block + "ssm_a", inner, state);
    model.add(block + "ssm_d", 1, inner);
    model.add(block + "ssm_out.weight", width, inner);
  }
  return tiny_file_of("mamba", model,
                      {{"ssm.conv_kernel", convolved},
                       {"ssm.inner_size", inner},
                       {"ssm.state_size", state},
                       {"ssm.time_step_rank", rank}})
      .build();
}

}  // namespace llama_cpp::test
