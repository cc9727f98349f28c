// What a text's last token makes of the entries before it as these are rewritten from outside the engine.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "infinipot/check/repeated_token.hpp"
#include "infinipot/check/text_rows.hpp"
#include "infinipot/check/watched_pass.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/pot/pot_settings.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// A store whose entries can be written from outside the engine.
template <class S>
concept WritableStore = ReadableEntries<S> && requires(S& store, std::size_t n, const float* row) {
  store.write(n, n, n, row, row);
};

/// Writes an entry whose key is rotated, however the store keeps it.
template <WritableStore S>
void write_rotated(S& store, std::size_t layer, std::size_t head, std::size_t entry, const float* rotated,
                   const float* value) {
  std::vector<float> key(rotated, rotated + Shape(store.shape()).head_dim);
  if (claimed_storage(store) == KeyStorage::unrotated) {
    const Rope rope = claimed_rope(store, layer);
    turn(rope, -static_cast<double>(entry), 1 / rope.attention_factor, key.data());
  }
  store.write(layer, head, entry, key.data(), value);
}

/// Runs the token as a probe, as often as asked.
template <class Engine, class S>
class LastToken {
 public:
  LastToken(Engine& engine, S& store, std::span<const Token> tokens)
      : engine_(engine),
        store_(store),
        shape_(store.shape()),
        before_(tokens.first(tokens.size() - 1)),
        token_(tokens.last(1)) {}

  /// Runs the text before the token, whose entries the store then holds, and the token, whose queries and
  /// values it keeps. Returns its logits.
  std::vector<float> look(std::size_t chunk) requires YieldsQueries<Engine> && WritableStore<S> {
    rows_ = run_text(engine_, store_, before_, chunk);
    queries_ = EntryNumbers(shape_.layers, shape_.query_heads, 1, shape_.head_dim);
    values_ = EntryNumbers(shape_.layers, shape_.kv_heads, 1, shape_.value_channels());
    KeptLogits kept = no_logits_yet();
    Shown shown(queries_);
    engine_.forward(token_, entries(), kept, static_cast<QuerySink&>(shown));
    for (std::size_t layer = 0; values_.width > 0 && layer < shape_.layers; ++layer)
      for (std::size_t head = 0; head < shape_.kv_heads; ++head) {
        float* const to = values_.at(layer, head, 0);
        const FloatRows row = store_.value_rows(layer, head, entries(), 1, to);
        if (row.data != to) std::copy_n(row.data, values_.width, to);
      }
    store_.truncate(entries());
    return kept.logits(0);
  }

  /// The token's logits by the entries as they are now.
  std::vector<float> logits() {
    KeptLogits kept = no_logits_yet();
    engine_.forward(token_, entries(), kept);
    store_.truncate(entries());
    return kept.logits(0);
  }

  /// Entries before the token.
  std::size_t entries() const noexcept { return before_.size(); }

  /// What was written first, whatever is there now: a rotated key (head_dim), and a value (value_channels).
  const float* key(std::size_t layer, std::size_t kv_head, std::size_t entry) const noexcept {
    return rows_.keys.at(layer, kv_head, entry);
  }
  const float* value(std::size_t layer, std::size_t kv_head, std::size_t entry) const noexcept {
    return rows_.values.at(layer, kv_head, entry);
  }

  /// The token's own: (head_dim) and (value_channels).
  const float* query(std::size_t layer, std::size_t query_head) const noexcept {
    return queries_.at(layer, query_head, 0);
  }
  const float* own_value(std::size_t layer, std::size_t kv_head) const noexcept {
    return values_.at(layer, kv_head, 0);
  }

  void write(std::size_t layer, std::size_t kv_head, std::size_t entry, const float* rotated,
             const float* value) {
    write_rotated(store_, layer, kv_head, entry, rotated, value);
  }

  /// Writes what was written first to all entries of a head.
  void restore(std::size_t layer, std::size_t kv_head) {
    for (std::size_t entry = 0; entry < entries(); ++entry)
      write(layer, kv_head, entry, key(layer, kv_head, entry), value(layer, kv_head, entry));
  }

 private:
  struct Shown final : QuerySink {
    explicit Shown(EntryNumbers& numbers) noexcept : kept(numbers) {}
    void layer(std::size_t layer, const Queries& queries) noexcept override {
      for (std::size_t head = 0; layer < kept.layers && head < kept.heads; ++head)
        std::copy_n(queries.at(0, head), kept.width, kept.at(layer, head, 0));
    }
    EntryNumbers& kept;
  };

  KeptLogits no_logits_yet() const {
    return KeptLogits(1, 0, static_cast<std::size_t>(engine_.vocab_size()), {}, true);
  }

  Engine& engine_;
  S& store_;
  Shape shape_;
  std::span<const Token> before_, token_;
  TextRows rows_;         // of the text before the token
  EntryNumbers queries_;  // (layers, query_heads, 1, head_dim)
  EntryNumbers values_;   // (layers, kv_heads, 1, value_channels)
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
