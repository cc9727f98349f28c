// Whether the queries that an engine shows are those that it scores the store's keys with, in every head.
//
// All keys of a prefix are moved at right angles to the next token's queries of their heads: if these are
// what the engine multiplies keys with, no score changes, so no logit does. Moved along those queries, logits
// change.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "infinipot/check/adapter_report.hpp"
#include "infinipot/check/results_check.hpp"
#include "infinipot/check/rounding.hpp"
#include "infinipot/check/text_rows.hpp"
#include "infinipot/check/watched_pass.hpp"
#include "infinipot/concepts.hpp"
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

template <class Engine, class S>
class ScoreCheck {
 public:
  ScoreCheck(Engine& engine, S& store, std::span<const Token> tokens, std::size_t chunk, Rounding rounding,
             AdapterReport& report)
      : engine_(engine),
        store_(store),
        shape_(store.shape()),
        prefix_(tokens.first(tokens.size() - 1)),
        token_(tokens.last(1)),
        chunk_(chunk),
        rounding_(rounding),
        report_(report) {}

  void run() requires YieldsQueries<Engine> && WritableStore<S> {
    if (shape_.group() >= shape_.head_dim) {
      report_.note("the order of query heads was not checked: head_dim is too small");
      return;
    }
    rows_ = run_text(engine_, store_, prefix_, chunk_);
    unmoved_ = logits(true);
    const Part all{};
    noise_ = (std::max)(difference(unmoved_, logits(false)), change(Direction::slightly, all));
    const double along = change(Direction::along, all);
    if (along <= noise_ + 1e-6) {
      report_.found(Flaw::keys_unread,
                    "logits do not change when keys in the store do: the engine does not read them there");
      return;
    }
    if (shape_.value_channels() == 0) {  // they would move with the keys
      report_.note("the order of query heads was not checked: values are read from the keys' rows");
      return;
    }
    if (change(Direction::across, all) <= suspicion() * along + floor()) return;
    for (std::size_t layer = 0; layer < shape_.layers; ++layer) {
      const Part part{.layer = layer};
      if (change(Direction::across, part) <= suspicion() * change(Direction::along, part) + floor()) continue;
      for (std::size_t head = 0; head < shape_.kv_heads; ++head)
        if (!check_head({.layer = layer, .head = head})) return;
    }
  }

 private:
  enum class Direction : std::uint8_t { along, across, slightly };
  enum class Order : std::uint8_t { shown, transposed };

  /// Keys to move: of one layer and kv head, or of all.
  struct Part {
    std::size_t layer = all_layers, head = all_layers;
    bool has(std::size_t of_layer, std::size_t of_head) const noexcept {
      return (layer == all_layers || layer == of_layer) && (head == all_layers || head == of_head);
    }
  };

  /// Share of the change along queries that rounding of the moved keys may make of one across them.
  double suspicion() const {
    return 0.02 +
           4 * (rounding_.relative + rounding_.of_largest) * std::sqrt(static_cast<double>(shape_.head_dim));
  }
  /// How far keys move to see whether an engine, such as one that rounds activations to 8 bits, makes much of
  /// little; in their lengths.
  static constexpr double slight = 1e-3;
  /// Of one head it is far above that where queries are others.
  static constexpr double certainty = 0.35;

  double floor() const { return 3 * noise_ + 1e-5; }

  bool check_head(const Part& part) {
    const double along = change(Direction::along, part), across = change(Direction::across, part);
    if (across <= certainty * along + floor()) return true;
    const bool transposed = shape_.kv_heads > 1 && shape_.group() > 1 &&
                            change(Direction::across, part, Order::transposed) <=
                                suspicion() * change(Direction::along, part, Order::transposed) + floor();
    report_.found(Flaw::query_heads,
                  "queries that are shown do not score the store's keys as the engine's own do, in layer ",
                  part.layer, ", kv head ", part.head,
                  ": keys that moved at right angles to them change the logits by ", rounded(100 * across, 3),
                  " % of their spread, keys that moved along them by ", rounded(100 * along, 3),
                  transposed
                      ? " %. In the order (group, kv head) they would be right: query head h must read kv "
                        "head h / (query_heads / kv_heads)"
                      : " %. Heads are in another order, or queries are not as the engine uses them");
    return false;
  }

  /// After the token at the end of the prefix; nothing is appended.
  std::vector<float> logits(bool look) {
    const std::size_t first = prefix_.size();
    KeptLogits kept(1, 0, static_cast<std::size_t>(engine_.vocab_size()), {}, true);
    if (look) {
      queries_ = EntryNumbers(shape_.layers, shape_.query_heads, 1, shape_.head_dim);
      OneToken queries(queries_);
      engine_.forward(token_, first, kept, static_cast<QuerySink&>(queries));
    } else {
      engine_.forward(token_, first, kept);
    }
    store_.truncate(first);
    return kept.logits(0);
  }

  struct OneToken final : QuerySink {
    explicit OneToken(EntryNumbers& numbers) noexcept : kept(numbers) {}
    void layer(std::size_t layer, const Queries& queries) noexcept override {
      for (std::size_t head = 0; layer < kept.layers && head < kept.heads; ++head)
        std::copy_n(queries.at(0, head), kept.width, kept.at(layer, head, 0));
    }
    EntryNumbers& kept;
  };

  /// Of the logits, when keys are moved.
  double change(Direction direction, const Part& part, Order order = Order::shown) {
    for (std::size_t layer = 0; layer < shape_.layers; ++layer)
      for (std::size_t head = 0; head < shape_.kv_heads; ++head) {
        if (!part.has(layer, head)) continue;
        const auto basis = basis_of(layer, head, order);
        for (std::size_t entry = 0; entry < prefix_.size(); ++entry)
          move(layer, head, entry, basis, direction);
      }
    const double off = difference(unmoved_, logits(false));
    for (std::size_t layer = 0; layer < shape_.layers; ++layer)
      for (std::size_t head = 0; head < shape_.kv_heads; ++head)
        for (std::size_t entry = 0; entry < prefix_.size(); ++entry)
          if (part.has(layer, head)) write(layer, head, entry, rows_.keys.at(layer, head, entry));
    return off;
  }

  using Vector = std::vector<double>;

  /// Orthonormal directions of the queries that read a kv head.
  std::vector<Vector> basis_of(std::size_t layer, std::size_t kv_head, Order order) const {
    std::vector<Vector> basis;
    for (std::size_t i = 0; i < shape_.group(); ++i) {
      const std::size_t head =
          order == Order::shown ? kv_head * shape_.group() + i : i * shape_.kv_heads + kv_head;
      const float* const query = queries_.at(layer, head, 0);
      Vector direction(query, query + shape_.head_dim);
      const double before = length(direction);
      remove(basis, direction);
      if (length(direction) <= 1e-6 * before) continue;
      scale_to(1, direction);
      basis.push_back(direction);
    }
    return basis;
  }

  static double dot(const Vector& a, const Vector& b) {
    double sum = 0;
    for (std::size_t k = 0; k < a.size(); ++k) sum += a[k] * b[k];
    return sum;
  }
  static double length(const Vector& a) { return std::sqrt(dot(a, a)); }
  static void scale_to(double wanted, Vector& a) {
    const double factor = wanted / (std::max)(length(a), 1e-30);
    for (double& x : a) x *= factor;
  }
  static void remove(const std::vector<Vector>& basis, Vector& from) {
    for (int again = 0; again < 2; ++again)
      for (const Vector& direction : basis) {
        const double part = dot(direction, from);
        for (std::size_t k = 0; k < from.size(); ++k) from[k] -= part * direction[k];
      }
  }

  /// -1 .. 1, the same in every run.
  double draw() {
    state_ = state_ * 6364136223846793005U + 1442695040888963407U;
    return static_cast<double>(state_ >> 11U) * 0x1p-52 - 1;
  }

  void move(std::size_t layer, std::size_t head, std::size_t entry, const std::vector<Vector>& basis,
            Direction direction) {
    const float* const key = rows_.keys.at(layer, head, entry);
    const Vector from(key, key + shape_.head_dim);
    Vector by(shape_.head_dim);
    if (direction != Direction::along) {
      for (double& x : by) x = draw();
      if (direction == Direction::across) remove(basis, by);
    } else {
      for (const Vector& along : basis) {
        const double part = draw();
        for (std::size_t k = 0; k < by.size(); ++k) by[k] += part * along[k];
      }
    }
    scale_to(length(from) * (direction == Direction::slightly ? slight : 0.5), by);
    std::vector<float> moved(by.size());
    for (std::size_t k = 0; k < by.size(); ++k) moved[k] = static_cast<float>(from[k] + by[k]);
    write(layer, head, entry, moved.data());
  }

  void write(std::size_t layer, std::size_t head, std::size_t entry, const float* rotated) {
    write_rotated(store_, layer, head, entry, rotated, rows_.values.at(layer, head, entry));
  }

  Engine& engine_;
  S& store_;
  Shape shape_;
  std::span<const Token> prefix_, token_;
  std::size_t chunk_;
  Rounding rounding_;
  AdapterReport& report_;
  TextRows rows_;
  std::vector<float> unmoved_;  // logits after the token
  double noise_ = 0;            // of logits, from call to call and when keys move a little
  EntryNumbers queries_;        // (layers, query_heads, 1, head_dim), of the token
  std::uint64_t state_ = 1;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
