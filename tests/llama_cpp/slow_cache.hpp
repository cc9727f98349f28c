// llama.cpp with a cache that is distilled the slow and obvious way: each row is kept as it was first
// computed, and written to the cache anew, turned in double precision.
#pragma once

#include <ggml-backend.h>
#include <ggml.h>
#include <gtest/gtest.h>
#include <llama-cpp.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model.hpp"
#include "tiny_families.hpp"

namespace llama_cpp::test {

/// Which entries of a pot's layer and kv head stay, by their positions in the text.
using Kept = std::function<std::vector<std::uint64_t>(std::size_t layer, std::size_t kv_head)>;

/// One sequence of a context of its own, in f32 and without flash attention, of a family's model. What RoPE
/// does is measured from tokens that are alone, and which layers see what is the family's own account.
class SlowCache {
 public:
  SlowCache(llama_model& model, const TinyFamily& family, std::size_t cells) : family_(family) {
    llama_context_params parameters = context_parameters(
        {.cells = cells, .batch = cells, .cache_type = GGML_TYPE_F32, .flash_attention = false});
    parameters.cb_eval = on_node;
    parameters.cb_eval_user_data = this;
    context_.reset(llama_init_from_model(&model, parameters));
    empty_ = recurrent_states();
    const std::map<std::string, std::vector<float>> at_0 = alone(0), at_1 = alone(1);
    for (std::size_t layer = 0; layer < family_.layers.size(); ++layer)
      if (family_.layers[layer] != 'r') measure(layer, at_0.at(name('k', layer)), at_1.at(name('k', layer)));
    clear();
  }

  /// Logits after the last token.
  std::vector<float> read(std::vector<infinipot::Token> tokens) {
    const std::size_t first = size_;
    decode(tokens);
    for (auto& [layer, entries] : layers_)
      for (std::size_t i = 0; i < tokens.size(); ++i)
        for (std::size_t head = 0; head < family_.kv_heads; ++head) {
          Row row{read_ + i, first + i, part(written_.at(name('k', layer)), i, head, family_.head_dim), {}};
          if (family_.value_dim > 0)
            row.value = part(written_.at(name('v', layer)), i, head, family_.value_dim);
          entries[head].push_back(std::move(row));
        }
    size_ += tokens.size();
    read_ += tokens.size();
    const float* const logits = llama_get_logits_ith(context_.get(), -1);
    return {logits, logits + family_.vocab_size};
  }

  /// Of `size` entries in all layers: those that are kept, or the newest where there are windows.
  void keep(std::size_t size, const Kept& kept) {
    std::size_t pot_layer = 0;
    for (auto& [layer, entries] : layers_) {
      const bool window = family_.layers[layer] == 'w';
      for (std::size_t head = 0; head < family_.kv_heads; ++head) {
        std::vector<Row>& rows = entries[head];
        if (window)
          rows.erase(rows.begin(), rows.end() - static_cast<std::ptrdiff_t>(size));
        else
          select(rows, kept(pot_layer, head));
        ASSERT_EQ(rows.size(), size);
        for (std::size_t i = 0; i < size; ++i) write(layer, head, i, rows[i]);
      }
      if (!window) ++pot_layer;
    }
    cut(size);
  }

 private:
  struct Row {
    std::uint64_t in_text;
    std::size_t position;           // that the key was computed for
    std::vector<float> key, value;  // as computed
  };

  static std::string name(char what, std::size_t layer) {
    return std::string("cache_") + what + "_l" + std::to_string(layer);
  }

  static bool on_node(ggml_tensor* node, bool ask, void* self) {
    if (node->op != GGML_OP_SET_ROWS) return !ask;
    if (ask) return true;
    ggml_tensor* root = node;
    while (root->view_src != nullptr) root = root->view_src;
    auto& cache = *static_cast<SlowCache*>(self);
    cache.tensors_[root->name] = root;
    std::vector<float>& numbers = cache.written_[root->name];
    numbers.resize(static_cast<std::size_t>(ggml_nelements(node->src[0])));
    ggml_backend_tensor_get(node->src[0], numbers.data(), 0, numbers.size() * sizeof(float));
    return true;
  }

  void decode(std::vector<infinipot::Token>& tokens) {
    const llama_batch batch = llama_batch_get_one(tokens.data(), static_cast<std::int32_t>(tokens.size()));
    ASSERT_EQ(llama_decode(context_.get(), batch), 0);
  }

  /// What a token writes that is the only one, at a position.
  std::map<std::string, std::vector<float>> alone(llama_pos position) {
    clear();
    infinipot::Token token = 5;
    llama_batch batch = llama_batch_get_one(&token, 1);
    batch.pos = &position;
    EXPECT_EQ(llama_decode(context_.get(), batch), 0);
    return written_;
  }

  void clear() {
    llama_memory_seq_rm(llama_get_memory(context_.get()), 0, -1, -1);
    written_.clear();
  }

  /// The channels of a pair.
  std::pair<std::size_t, std::size_t> pair(std::size_t i) const {
    const bool split = family_.pairing == infinipot::Pairing::half_split;
    const std::size_t first = family_.first_channel + (split ? i : 2 * i);
    return {first, first + (split ? family_.turned / 2 : 1)};
  }

  /// How far one position turns the keys of a layer.
  void measure(std::size_t layer, const std::vector<float>& at_0, const std::vector<float>& at_1) {
    layers_[layer].resize(family_.kv_heads);
    std::vector<double>& turns = turns_[layer];
    for (std::size_t i = 0; i < family_.turned / 2; ++i) {
      const auto [x, y] = pair(i);
      const auto angle = [x = x, y = y](const std::vector<float>& key) {
        return std::atan2(static_cast<double>(key[y]), static_cast<double>(key[x]));
      };
      turns.push_back(std::remainder(angle(at_1) - angle(at_0), 2 * std::acos(-1.0)));
    }
    if (family_.layers[layer] == 'n')
      for (double& turn : turns) {
        EXPECT_EQ(turn, 0) << "layer " << layer << " has RoPE";
        turn = 0;
      }
  }

  std::vector<float> part(const std::vector<float>& numbers, std::size_t token, std::size_t head,
                          std::size_t width) const {
    const auto begin =
        numbers.begin() + static_cast<std::ptrdiff_t>((token * family_.kv_heads + head) * width);
    return {begin, begin + static_cast<std::ptrdiff_t>(width)};
  }

  static void select(std::vector<Row>& rows, const std::vector<std::uint64_t>& in_text) {
    std::vector<Row> kept;
    for (Row& row : rows)
      if (std::ranges::find(in_text, row.in_text) != in_text.end()) kept.push_back(std::move(row));
    rows = std::move(kept);
  }

  void write(std::size_t layer, std::size_t head, std::size_t at, const Row& row) {
    std::vector<float> key = row.key;
    for (std::size_t i = 0; i < family_.turned / 2; ++i) {
      const auto [x, y] = pair(i);
      const double by = (static_cast<double>(at) - static_cast<double>(row.position)) * turns_.at(layer)[i],
                   a = static_cast<double>(row.key[x]), b = static_cast<double>(row.key[y]);
      key[x] = static_cast<float>(a * std::cos(by) - b * std::sin(by));
      key[y] = static_cast<float>(a * std::sin(by) + b * std::cos(by));
    }
    ggml_tensor* const keys = tensors_.at(name('k', layer));
    ggml_backend_tensor_set(keys, key.data(), at * keys->nb[1] + head * key.size() * sizeof(float),
                            key.size() * sizeof(float));
    for (std::size_t i = 0; i < row.value.size(); ++i) {  // in columns
      ggml_tensor* const values = tensors_.at(name('v', layer));
      const std::size_t column = head * row.value.size() + i;
      ggml_backend_tensor_set(values, &row.value[i],
                              (column * static_cast<std::size_t>(values->ne[1]) + at) * sizeof(float),
                              sizeof(float));
    }
  }

  std::vector<std::uint8_t> recurrent_states() const {
    std::vector<std::uint8_t> state;
    if (family_.count('r') == 0) return state;
    state.resize(llama_state_seq_get_size_ext(context_.get(), 0, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY));
    llama_state_seq_get_data_ext(context_.get(), state.data(), state.size(), 0,
                                 LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
    return state;
  }

  void set_recurrent_states(const std::vector<std::uint8_t>& state) {
    if (!state.empty())
      llama_state_seq_set_data_ext(context_.get(), state.data(), state.size(), 0,
                                   LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
  }

  /// Recurrent layers stay as they are.
  void cut(std::size_t size) {
    const std::vector<std::uint8_t> now = recurrent_states();
    set_recurrent_states(empty_);
    EXPECT_TRUE(llama_memory_seq_rm(llama_get_memory(context_.get()), 0, static_cast<llama_pos>(size), -1));
    set_recurrent_states(now);
    size_ = size;
  }

  const TinyFamily& family_;
  llama_context_ptr context_;
  std::map<std::string, ggml_tensor*> tensors_;
  std::map<std::string, std::vector<float>> written_;            // by the last decode
  std::map<std::size_t, std::vector<double>> turns_;             // by layer; (pairs) radians per position
  std::map<std::size_t, std::vector<std::vector<Row>>> layers_;  // (layers, kv_heads, size)
  std::vector<std::uint8_t> empty_;
  std::size_t size_ = 0;    // entries
  std::uint64_t read_ = 0;  // tokens of the text
};

}  // namespace llama_cpp::test
