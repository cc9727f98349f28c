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
#include "infinipot/check/last_token.hpp"
#include "infinipot/check/results_check.hpp"
#include "infinipot/check/rope_words.hpp"
#include "infinipot/check/rounding.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

template <class Engine, class S>
class ScoreCheck {
 public:
  ScoreCheck(Engine& engine, S& store, std::span<const Token> tokens, std::size_t chunk, Rounding rounding,
             AdapterReport& report)
      : shape_(store.shape()),
        token_(engine, store, tokens),
        chunk_(chunk),
        rounding_(rounding),
        report_(report) {}

  void run() requires YieldsQueries<Engine> && WritableStore<S> {
    if (shape_.group() >= shape_.head_dim) {
      report_.note("the order of query heads was not checked: head_dim is too small");
      return;
    }
    unmoved_ = token_.look(chunk_);
    const Part all{};
    noise_ = (std::max)(difference(unmoved_, token_.logits()), change(Direction::slightly, all));
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

  /// Of the logits, when keys are moved.
  double change(Direction direction, const Part& part, Order order = Order::shown) {
    for (std::size_t layer = 0; layer < shape_.layers; ++layer)
      for (std::size_t head = 0; head < shape_.kv_heads; ++head) {
        if (!part.has(layer, head)) continue;
        const auto basis = basis_of(layer, head, order);
        for (std::size_t entry = 0; entry < token_.entries(); ++entry)
          move(layer, head, entry, basis, direction);
      }
    const double off = difference(unmoved_, token_.logits());
    for (std::size_t layer = 0; layer < shape_.layers; ++layer)
      for (std::size_t head = 0; head < shape_.kv_heads; ++head)
        if (part.has(layer, head)) token_.restore(layer, head);
    return off;
  }

  using Vector = std::vector<double>;

  /// Orthonormal directions of the queries that read a kv head.
  std::vector<Vector> basis_of(std::size_t layer, std::size_t kv_head, Order order) const {
    std::vector<Vector> basis;
    for (std::size_t i = 0; i < shape_.group(); ++i) {
      const std::size_t head =
          order == Order::shown ? kv_head * shape_.group() + i : i * shape_.kv_heads + kv_head;
      const float* const query = token_.query(layer, head);
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
    const float* const key = token_.key(layer, head, entry);
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
    token_.write(layer, head, entry, moved.data(), token_.value(layer, head, entry));
  }

  Shape shape_;
  LastToken<Engine, S> token_;
  std::size_t chunk_;
  Rounding rounding_;
  AdapterReport& report_;
  std::vector<float> unmoved_;  // logits after the token
  double noise_ = 0;            // of logits, from call to call and when keys move a little
  std::uint64_t state_ = 1;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
