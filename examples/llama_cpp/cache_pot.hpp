// The library's pot over llama.cpp's cache: each head, layer or the whole may keep other tokens.
#pragma once

#include <llama.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <ostream>
#include <span>
#include <type_traits>
#include <variant>

#include "cache.hpp"
#include "graph_tap.hpp"
#include "infinipot/infinipot.hpp"
#include "recurrent_state.hpp"
#include "row_pot.hpp"
#include "sequence_batch.hpp"
#include "shifted_pot.hpp"

namespace llama_cpp {

struct CachePotSettings {
  std::size_t capacity = 0;  ///< M: at most the context's cells per sequence
  std::size_t max_keep = 0;  ///< the most that a distillation may keep; 0 means half
  infinipot::Granularity granularity = infinipot::Granularity::shared;
  /// Let llama.cpp close the gaps, as its users do, for comparison (ShiftedPot).
  bool k_shift = false;
};

/// The store of one sequence of a context, in llama.cpp's own memory. Entry i is in cell i of the sequence,
/// at position i. A distillation moves rows and turns keys in place; llama.cpp is only told that the cells
/// behind are free (llama_memory_seq_rm()), and never shifts. Meets all concepts of stores.
///
/// Layers that see a window only are no part of the pot. Their rows move with it: the newest stay, whatever
/// was selected, at the end, so that the next tokens see those just before them. Recurrent layers go on as
/// they are. A model of either kind can be read again from token ids, but not be saved, nor recalled from
/// archived rows.
///
/// In host memory, with flash attention and f32, f16 or bf16 it is infinipot::Pot over llama.cpp's rows; else
/// a RowPot. The sequence belongs to the pot: nobody else may decode into it, or remove from it.
class CachePot {
  // First, because what follows must know their return types.
  template <class F>
  decltype(auto) visit(const F& function) noexcept {
    return std::visit(function, pot_);
  }
  template <class F>
  decltype(auto) visit(const F& function) const noexcept {
    return std::visit(function, pot_);
  }

 public:
  /// The first pot of a tap finds out what its context's cache is (find_cache()), which decodes two tokens.
  /// Throws std::invalid_argument, with the reason, if a pot cannot lie over it, if capacity is out of range,
  /// if the sequence does not exist or is not empty, if several sequences share their cells (kv_unified), or
  /// if the tap is another context's;
  /// std::runtime_error if llama.cpp cannot decode or the context was not made with GraphTap::install().
  CachePot(GraphTap& tap, llama_context& context, llama_seq_id sequence, const CachePotSettings& settings);

  const infinipot::Shape& shape() const noexcept { return cache_->shape(); }
  std::size_t capacity() const noexcept { return settings_.capacity; }
  std::size_t max_keep() const noexcept {
    return visit([](const auto& pot) { return pot.max_keep(); });
  }
  infinipot::Granularity granularity() const noexcept { return settings_.granularity; }
  infinipot::KeyStorage key_storage() const noexcept { return infinipot::KeyStorage::rotated; }
  const infinipot::Rope& rope() const noexcept { return cache_->rope(); }
  bool rotates(std::size_t layer) const noexcept { return cache_->rotates(layer); }
  const infinipot::EntryTable& entries() const noexcept {
    return visit([](const auto& pot) -> const infinipot::EntryTable& { return pot.entries(); });
  }

  /// Entries whose rows were written, by a forward pass or by write_projected(), or that were just truncated;
  /// of the latter llama.cpp is told that their cells are taken, which computes nothing, but of a model with
  /// recurrent layers they are decoded again. Throws std::runtime_error if llama.cpp has no cells for them,
  /// or if they are archived rows and there are recurrent layers or windows, which they lack.
  void append(std::span<const infinipot::Entry> added);

  /// Throws std::runtime_error if llama.cpp refuses, which it never does of models without recurrent layers.
  /// Of others, whose states are copied before each call of several tokens only (RecurrentState), tokens may
  /// have to be decoded again, and it throws below what the last distillation left. The entries have not
  /// changed then; if it was llama_decode() that failed, the next call begins with what it left undone.
  void truncate(std::size_t size);

  /// Throws std::runtime_error as truncate() does; entries are then as selected.
  template <infinipot::Executor X = infinipot::Serial>
  void keep(const infinipot::Selection& kept, X executor = {}) {
    const auto keep_in = [&](AnyPot& any, const infinipot::Selection& selected) {
      std::visit(
          [&](auto& pot) {
            if constexpr (requires { pot.keep(selected, executor); })
              pot.keep(selected, executor);
            else
              pot.keep(selected);
          },
          any);
    };
    const std::size_t size = entries().size();
    keep_in(pot_, kept);
    if (windows_) keep_in(*windows_, newest(size, kept.keep()));
    if (!shifts()) states_.move(size, kept.keep());
  }

  infinipot::FloatRows key_rows(std::size_t layer, std::size_t kv_head, std::size_t first, std::size_t count,
                                float* tile) const noexcept {
    return visit([&](const auto& pot) { return pot.key_rows(layer, kv_head, first, count, tile); });
  }
  infinipot::FloatRows value_rows(std::size_t layer, std::size_t kv_head, std::size_t first,
                                  std::size_t count, float* tile) const noexcept {
    return visit([&](const auto& pot) { return pot.value_rows(layer, kv_head, first, count, tile); });
  }
  void read_projected(std::size_t layer, std::size_t kv_head, std::size_t entry, float* key) const noexcept {
    visit([&](const auto& pot) {
      if constexpr (requires { pot.read_projected(layer, kv_head, entry, key); })
        pot.read_projected(layer, kv_head, entry, key);
    });
  }
  void write_projected(std::size_t layer, std::size_t kv_head, std::size_t entry, float* key,
                       const float* value) noexcept {
    std::atomic_ref(rows_written_).store(1, std::memory_order_relaxed);
    visit([&](auto& pot) {
      if constexpr (requires { pot.write_projected(layer, kv_head, entry, key, value); })
        pot.write_projected(layer, kv_head, entry, key, value);
    });
  }
  /// As infinipot::Pot::write().
  void write(std::size_t layer, std::size_t kv_head, std::size_t entry, const float* key,
             const float* value) noexcept {
    std::atomic_ref(rows_written_).store(1, std::memory_order_relaxed);
    visit([&](auto& pot) {
      if constexpr (requires { pot.write(layer, kv_head, entry, key, value); })
        pot.write(layer, kv_head, entry, key, value);
    });
  }

  /// A copy of all entries in another, empty sequence of the context. Throws std::invalid_argument as the
  /// constructor does.
  CachePot fork(llama_seq_id sequence) const;

  /// Becomes a copy of the first `count` entries of another pot, of any context of the same model with the
  /// same types. Throws std::invalid_argument, before anything changes, if it is of another kind or they do
  /// not fit.
  void assign(const CachePot& other, std::size_t count);

  /// infinipot::save_pot(), and restore_pot(). A quantised pot is in a file as f32. Throw
  /// std::invalid_argument, also if the model has layers with windows or recurrent ones, of which such a file
  /// has nothing.
  void save(std::ostream& out, std::span<const std::byte> extra) const;
  void restore(std::span<const std::byte> file);

  GraphTap& tap() const noexcept { return tap_; }
  const Cache& cache() const noexcept { return *cache_; }
  llama_context& context() const noexcept { return batch_.context(); }
  llama_seq_id sequence() const noexcept { return batch_.sequence(); }

  /// Before a forward pass of tokens from entry `first` on, or of a single one; what it changes can then be
  /// taken back by truncate().
  void prepare(std::size_t first, bool single) { states_.save(first, single); }

  /// Whether llama.cpp closes the gaps, so that entries may be in any cells. Rows cannot be written to such a
  /// pot; append() says so.
  bool shifts() const noexcept { return settings_.k_shift; }

  /// The forward pass writes entries `first` ... into these rows of the cache. Returns whether they are where
  /// the pot has them.
  bool place(std::size_t first, std::span<const CacheRow> rows) noexcept;

 private:
  using AnyPot = std::variant<infinipot::Pot<infinipot::f32>, infinipot::Pot<infinipot::f16>,
                              infinipot::Pot<infinipot::bf16>, RowPot, ShiftedPot>;

  AnyPot make_pot(const std::shared_ptr<const Cache>& cache, infinipot::Granularity granularity) const;
  const infinipot::Selection& newest(std::size_t size, std::size_t keep);
  void check_file() const;
  llama_memory_t memory() const noexcept { return llama_get_memory(&context()); }
  std::size_t cells_taken() const noexcept;
  std::size_t survivors() const noexcept;
  void take_cells(std::size_t first, std::size_t count);
  void decode_again(std::size_t first, std::span<const infinipot::Token> tokens);
  void outdate(std::size_t end) noexcept;

  GraphTap& tap_;
  CachePotSettings settings_;
  SequenceBatch batch_;
  std::shared_ptr<const Cache> cache_;
  AnyPot pot_;
  std::optional<AnyPot> windows_;  // of the layers that have one; shared, and never scored
  std::optional<infinipot::Selection> newest_;
  RecurrentState states_;
  std::uint8_t rows_written_ = 0;  // by write_projected(), since the last append()
};

}  // namespace llama_cpp
