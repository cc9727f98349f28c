// Sinks that keep all that a forward pass shows, and how often, for a check to look at afterwards.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "infinipot/concepts.hpp"
#include "infinipot/nuc.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Keeps rows of logits. Rows may come from several threads at once.
class KeptLogits final : public LogitsSink {
 public:
  KeptLogits(std::size_t tokens, std::size_t first_row, std::size_t vocab_size,
             std::span<const Token> targets = {}, bool probe = false, std::uint64_t stream_offset = 0)
      : LogitsSink(first_row, targets, stream_offset, probe),
        vocab_size_(vocab_size),
        rows_(tokens),
        times_(tokens),
        nuc_(targets.size()),
        nuc_times_(targets.size()) {
    for (std::size_t i = first_row; i < tokens; ++i) rows_[i].resize(vocab_size);
  }

  void row(std::size_t token, std::span<const float> logits) noexcept override {
    if (token >= rows_.size()) {
      outside_ = token;
      return;
    }
    ++times_[token];
    if (logits.size() != vocab_size_)
      other_size_ = logits.size();
    else if (!rows_[token].empty())
      std::ranges::copy(logits, rows_[token].begin());
  }

  void nuc(std::size_t token, float nuc) noexcept override {
    if (token >= nuc_.size()) {
      outside_ = token;
      return;
    }
    ++nuc_times_[token];
    nuc_[token] = nuc;
  }

  static constexpr std::size_t none = all_layers;

  std::size_t tokens() const noexcept { return rows_.size(); }
  const std::vector<float>& logits(std::size_t token) const noexcept { return rows_[token]; }
  std::size_t times(std::size_t token) const noexcept { return times_[token]; }
  float nuc_of(std::size_t token) const noexcept { return nuc_[token]; }
  std::size_t nuc_times(std::size_t token) const noexcept { return nuc_times_[token]; }
  std::size_t outside() const noexcept { return outside_; }        ///< a row that the call does not have
  std::size_t other_size() const noexcept { return other_size_; }  ///< a size of a row that is not right

 private:
  std::size_t vocab_size_;
  std::vector<std::vector<float>> rows_;  // (tokens, vocab_size)
  std::vector<std::atomic<std::size_t>> times_;
  std::vector<float> nuc_;
  std::vector<std::atomic<std::size_t>> nuc_times_;
  std::atomic<std::size_t> outside_ = none, other_size_ = none;
};

/// Numbers of entries by layer and head.
struct EntryNumbers {
  EntryNumbers() = default;
  EntryNumbers(std::size_t layer_count, std::size_t head_count, std::size_t entry_count,
               std::size_t head_width)
      : layers(layer_count),
        heads(head_count),
        entries(entry_count),
        width(head_width),
        numbers(layers * heads * entries * width) {}

  float* at(std::size_t layer, std::size_t head, std::size_t entry) noexcept {
    return numbers.data() + ((layer * heads + head) * entries + entry) * width;
  }
  const float* at(std::size_t layer, std::size_t head, std::size_t entry) const noexcept {
    return numbers.data() + ((layer * heads + head) * entries + entry) * width;
  }

  std::size_t layers = 0, heads = 0, entries = 0, width = 0;
  std::vector<float> numbers;  // (layers, heads, entries, width)
};

/// Copies keys of a store.
template <ReadableKeys S>
void read_keys(const S& store, std::size_t layer, std::size_t first, std::size_t count,
               EntryNumbers& keys) noexcept {
  for (std::size_t head = 0; head < keys.heads; ++head) {
    // Into the place where they are wanted, if they must be converted at all.
    float* const to = keys.at(layer, head, first);
    const FloatRows rows = store.key_rows(layer, head, first, count, to);
    if (rows.data == to) continue;
    for (std::size_t i = 0; i < count; ++i)
      std::copy_n(rows.data + static_cast<std::ptrdiff_t>(i) * rows.stride, keys.width, to + i * keys.width);
  }
}

/// Copies values of a store, if it has any.
template <ReadableEntries S>
void read_values(const S& store, std::size_t layer, std::size_t count, EntryNumbers& values) noexcept {
  if (values.width == 0) return;
  for (std::size_t head = 0; head < values.heads; ++head) {
    float* const to = values.at(layer, head, 0);
    const FloatRows rows = store.value_rows(layer, head, 0, count, to);
    if (rows.data == to) continue;
    for (std::size_t i = 0; i < count; ++i)
      std::copy_n(rows.data + static_cast<std::ptrdiff_t>(i) * rows.stride, values.width,
                  to + i * values.width);
  }
}

/// Keeps queries, and the keys that the store has while they are shown.
template <class S>
class KeptQueries final : public QuerySink {
 public:
  /// Entries first .. first + count - 1 are new; with `all_keys` those before are read again too.
  KeptQueries(const S& store, std::size_t first, std::size_t count, EntryNumbers& queries, EntryNumbers& keys,
              bool all_keys = false)
      : store_(store),
        first_(first),
        count_(count),
        all_keys_(all_keys),
        queries_(queries),
        keys_(keys),
        times_(Shape(store.shape()).layers) {}

  void layer(std::size_t layer, const Queries& queries) noexcept override {
    if (layer >= times_.size()) {
      outside_ = layer;
      return;
    }
    ++times_[layer];
    if (queries.count != count_ || queries.data == nullptr) {
      other_count_ = queries.data == nullptr ? 0 : queries.count;
      return;
    }
    if (times_[layer] > 1 &&
        !kept(layer, queries)) {  // of another of the model's layers, which reads the same keys
      --times_[layer];
      shares_ = true;
    }
    for (std::size_t head = 0; head < queries_.heads; ++head)
      for (std::size_t token = 0; token < count_; ++token)
        std::copy_n(queries.at(token, head), queries_.width, queries_.at(layer, head, first_ + token));
    if constexpr (ReadableKeys<S>) {
      const std::size_t from = all_keys_ ? 0 : first_;
      read_keys(store_, layer, from, first_ + count_ - from, keys_);
    }
  }

  static constexpr std::size_t none = all_layers;

  /// How often each layer was shown, but for those of the model that read the same layer of the store.
  std::span<const std::size_t> times() const noexcept { return times_; }
  bool shares() const noexcept { return shares_; }                   ///< whether there are such
  std::size_t outside() const noexcept { return outside_; }          ///< a layer that there is not
  std::size_t other_count() const noexcept { return other_count_; }  ///< of tokens, not the call's
  std::size_t count() const noexcept { return count_; }

 private:
  /// Whether these queries are those that were shown before.
  bool kept(std::size_t layer, const Queries& queries) const noexcept {
    for (std::size_t head = 0; head < queries_.heads; ++head)
      for (std::size_t token = 0; token < count_; ++token) {
        const float* const query = queries.at(token, head);
        if (!std::equal(query, query + queries_.width, queries_.at(layer, head, first_ + token)))
          return false;
      }
    return true;
  }

  const S& store_;
  std::size_t first_, count_;
  bool all_keys_, shares_ = false;
  EntryNumbers& queries_;
  EntryNumbers& keys_;
  std::vector<std::size_t> times_;  // (layers)
  std::size_t outside_ = none, other_count_ = none;
};

/// Wants the queries of one layer and throws them away, as a probe of few layers does.
class DroppedQueries final : public QuerySink {
 public:
  std::size_t layers() const noexcept override { return 1; }
  void layer(std::size_t /*layer*/, const Queries& /*queries*/) noexcept override {}
};

/// Empties a store, whatever happens.
template <class S>
class EmptyAgain {
 public:
  explicit EmptyAgain(S& store) noexcept : store_(store) {}
  EmptyAgain(const EmptyAgain&) = delete;
  EmptyAgain& operator=(const EmptyAgain&) = delete;
  ~EmptyAgain() {
#ifdef __cpp_exceptions
    try {
      store_.truncate(0);
    } catch (...) {  // of a store that throws, nothing more can be done
    }
#else
    store_.truncate(0);
#endif
  }

 private:
  S& store_;
};

/// Appends the entries of a call's tokens. An engine that has done so itself has its own taken back before.
template <class S>
void append_call(S& store, std::span<const Token> tokens, std::size_t first) {
  if (store.entries().size() != first) store.truncate(first);
  std::vector<Entry> entries;
  for (std::size_t i = 0; i < tokens.size(); ++i) entries.push_back({first + i, tokens[i], 0, false});
  store.append(entries);
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
