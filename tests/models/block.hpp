// What a model is made of: blocks that turn a token's numbers into others, and what they see of a pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "infinipot/concepts.hpp"
#include "matrix.hpp"

namespace models {

/// A pot as an engine sees it, whatever its rows are made of.
class Memory {
 public:
  /// Writes a row: the key as projected or turned for `entry`, as the pot wants it, and the value.
  virtual void write(std::size_t layer, std::size_t kv_head, std::size_t entry,
                     std::span<const double> projected, std::span<const double> turned,
                     std::span<const double> value) = 0;
  /// Rows 0 .. count - 1; keys are turned for their entries.
  virtual Matrix keys(std::size_t layer, std::size_t kv_head, std::size_t count) const = 0;
  virtual Matrix values(std::size_t layer, std::size_t kv_head, std::size_t count) const = 0;

 protected:
  Memory() = default;
  Memory(const Memory&) = default;
  Memory& operator=(const Memory&) = default;
  ~Memory() = default;
};

/// One call of forward().
struct Pass {
  std::span<const infinipot::Token> tokens;
  std::size_t first;              ///< index in the pot of the first token
  std::uint64_t stream;           ///< and its index in the stream
  bool probe;                     ///< whether it must leave no trace
  Memory& memory;                 ///< of the layers that keep the whole context
  infinipot::QuerySink* queries;  ///< null unless wanted
};

class Block {
 public:
  Block() = default;
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  virtual ~Block() = default;

  /// (tokens, in) -> (tokens, out). A block that has states of its own leaves them as they were if
  /// pass.probe.
  virtual Matrix run(const Pass& pass, const Matrix& x) = 0;
};

}  // namespace models
