// The states of recurrent and convolutional layers, which cannot forget a token that they have seen.
#pragma once

#include <llama.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace llama_cpp {

/// The end of one sequence of a context: cuts it off, and puts the states of recurrent layers (LFM2,
/// Qwen3-Next) back to what they were there. Of a model without such layers there is nothing to put back.
///
/// llama.cpp keeps one state per layer, of the last token, and refuses to remove that token alone. So save()
/// is to be called before tokens are decoded that may be removed again.
class RecurrentState {
 public:
  /// How many bytes copies may take; at least two states are kept.
  static constexpr std::size_t most_bytes = std::size_t{64} << 20U;

  /// The sequence must be empty.
  RecurrentState(llama_context& context, llama_seq_id sequence);

  /// Whether the model has such layers.
  bool any() const noexcept { return any_; }

  /// Before tokens are decoded at position `size`, behind everything. Of a `single` token, which is seldom
  /// removed, no copy is made if states are large; if it is removed all the same, tokens before it must be
  /// decoded again.
  void save(std::size_t size, bool single);

  /// Removes all from position `size` on, or, of a model with recurrent layers, from the last position before
  /// it of which there is a copy of their states; then tokens from llama_memory_seq_pos_max() + 1 on must be
  /// decoded again. Throws std::runtime_error, having removed nothing, if there is no such copy, or llama.cpp
  /// refuses.
  void cut(std::size_t size);

  /// Removes all from position `to` on, while recurrent layers stay as they are, behind the last token; the
  /// next one gets position `to`. `from` is where they end. Throws std::runtime_error if llama.cpp refuses.
  void move(std::size_t from, std::size_t to);

  /// The states behind the first `count` of `size` tokens. Throws std::invalid_argument if there is no copy.
  std::vector<std::uint8_t> states_behind(std::size_t count, std::size_t size) const;

  /// Gives recurrent layers the states of another sequence. No effect if there are none.
  void take(const std::vector<std::uint8_t>& states) {
    if (any_) put_back(states);
  }

 private:
  struct Copy {
    std::size_t size = 0;  // what the layers had seen
    std::vector<std::uint8_t> state;
  };

  bool remove(std::size_t size) noexcept;
  /// Removes all from position `size` on; recurrent layers then have `state`, whose own position may be any
  /// (move()).
  void remove_below(std::size_t size, const std::vector<std::uint8_t>& state);
  std::vector<std::uint8_t> state() const;
  void put_back(const std::vector<std::uint8_t>& state);

  llama_context& context_;
  llama_seq_id sequence_;
  bool any_;
  std::vector<std::uint8_t> empty_;  // of an empty sequence
  std::vector<Copy> copies_;         // by ascending size
};

}  // namespace llama_cpp
