// Whether keep() leaves keys as if written at their new places, values as they were, and records in order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "infinipot/ccd/ccd_settings.hpp"
#include "infinipot/check/adapter_report.hpp"
#include "infinipot/check/repeated_token.hpp"
#include "infinipot/check/rope_words.hpp"
#include "infinipot/check/rounding.hpp"
#include "infinipot/check/text_rows.hpp"
#include "infinipot/check/watched_pass.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/pot/selection.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Keys may be off by 2 % of their length, and by four times their rounding: once written, once moved.
template <class Engine, class S>
class KeepCheck {
 public:
  /// `ropes` are those that keys have, by layer; where one is not known, the layer is left out. If it is
  /// empty, none is known: then the first layer alone is checked, if its keys depend on token and position
  /// only.
  KeepCheck(Engine& engine, S& store, std::span<const Token> tokens, std::size_t chunk, Rounding rounding,
            std::span<const std::optional<Rope>> ropes, AdapterReport& report)
      : engine_(engine),
        store_(store),
        shape_(store.shape()),
        tokens_(tokens),
        chunk_(chunk),
        rounding_(rounding),
        ropes_(ropes),
        report_(report) {}

  void run() {
    const std::size_t recent = recent_in(store_, 0), most = most_kept();
    if (most < 2 || recent > (std::min)(most, tokens_.size() / 2) - 2) {
      report_.note("keep() was not checked: the store keeps ", most, " entries at most",
                   recent == 0 ? ""
                               : text(" and asks for its ", recent, " newest (keeps_recent()); ",
                                      tokens_.size(), " were run (CheckOptions::text)"));
      return;
    }
    const TextRows before = run_text(engine_, store_, tokens_, chunk_);
    if (before.keys.numbers.empty()) {
      report_.note("keep() was not checked: keys cannot be read");
      return;
    }
    const Selection kept = selection(most, recent);
    store_.keep(kept);
    if (!check_records(kept)) return;
    if (ropes_.empty())
      check_first_layer(kept);
    else
      check_rows(before, kept);
  }

 private:
  std::size_t most_kept() const {
    if constexpr (requires { store_.max_keep(); }) return store_.max_keep();
    return store_.capacity() / 2;
  }

  /// The `recent` newest entries, and of those before every other one, from 0 or 1 on by lane: gaps before
  /// all of these, and lanes that differ. At most `most` in all.
  Selection selection(std::size_t most, std::size_t recent) const {
    const std::size_t gaps = (std::min)(most - recent, (tokens_.size() - recent) / 2 - 1);
    Selection kept(shape_.lanes(store_.granularity()), gaps + recent);
    for (std::size_t lane = 0; lane < kept.lanes(); ++lane)
      for (std::size_t i = 0; i < kept.keep(); ++i)
        kept.lane(lane)[i] =
            static_cast<Index>(i < gaps ? 2 * i + (lane + 1) % 2 : tokens_.size() - kept.keep() + i);
    return kept;
  }

  bool check_records(const Selection& kept) {
    const EntryTable& entries = store_.entries();
    if (entries.size() != kept.keep()) {
      report_.found(Flaw::keep, "keep() of ", kept.keep(), " entries leaves ", entries.size());
      return false;
    }
    for (std::size_t lane = 0; lane < kept.lanes(); ++lane)
      for (std::size_t i = 0; i < kept.keep(); ++i)
        if (entries.positions(lane)[i] != kept.lane(lane)[i]) {
          report_.found(Flaw::keep, "after keep(), entry ", i, " of lane ", lane, " is recorded as token ",
                        entries.positions(lane)[i], " of the text; ", kept.lane(lane)[i], " is right");
          return false;
        }
    return true;
  }

  /// Keys of all entries that are held.
  EntryNumbers keys_now(std::size_t size) {
    EntryNumbers keys(shape_.layers, shape_.kv_heads, size + 1, shape_.head_dim);
    if constexpr (ReadableEntries<S>) {
      for (std::size_t layer = 0; layer < shape_.layers; ++layer) read_keys(store_, layer, 0, size, keys);
    } else if constexpr (YieldsQueries<Engine> && ReadableKeys<S>) {
      EntryNumbers queries(shape_.layers, 1, size + 1, shape_.head_dim);
      KeptQueries<S> sink(store_, size, 1, queries, keys, true);
      NoLogits logits(1, tokens_.size() - size, true);
      engine_.forward(tokens_.first(1), size, logits, static_cast<QuerySink&>(sink));
      store_.truncate(size);
    }
    return keys;
  }

  void check_rows(const TextRows& before, const Selection& kept) {
    const EntryNumbers keys = keys_now(kept.keep());
    for (std::size_t layer = 0; layer < shape_.layers; ++layer) {
      if (!ropes_[layer]) continue;
      for (std::size_t head = 0; head < shape_.kv_heads; ++head) {
        const auto lane = kept.lane(shape_.lane_of(layer, head, store_.granularity()));
        for (std::size_t i = 0; i < lane.size(); ++i) {
          std::vector<float> right(before.keys.at(layer, head, lane[i]),
                                   before.keys.at(layer, head, lane[i]) + shape_.head_dim);
          turn(*ropes_[layer], static_cast<double>(i) - static_cast<double>(lane[i]), 1, right.data());
          if (!close(right, keys.at(layer, head, i), "key", layer, head, i, lane[i])) return;
        }
      }
    }
    if constexpr (ReadableEntries<S>) check_values(before, kept);
  }

  /// Against the tokens that the first kv head keeps, read anew.
  void check_first_layer(const Selection& kept) {
    const EntryNumbers keys = keys_now(kept.keep());
    std::vector<Token> tokens;
    for (const Index index : kept.lane(0)) tokens.push_back(tokens_[index]);
    const TextRows anew = run_text(engine_, store_, tokens, chunk_);
    // Windows and recurrent states below it make its keys depend on all that came before.
    tokens.front() = *std::ranges::find_if(tokens_, [&](Token token) { return token != tokens.front(); });
    const TextRows otherwise = run_text(engine_, store_, tokens, chunk_);
    for (std::size_t i = 1; i < tokens.size(); ++i)
      if (!gap({anew.keys.at(0, 0, i), shape_.head_dim}, otherwise.keys.at(0, 0, i)).is_rounding()) {
        report_.note("keep() was not checked: the first layer's keys depend on more than token and position");
        return;
      }
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const std::span<const float> right(anew.keys.at(0, 0, i), shape_.head_dim);
      if (!close(right, keys.at(0, 0, i), "key", 0, 0, i, kept.lane(0)[i])) return;
    }
  }

  void check_values(const TextRows& before, const Selection& kept) requires ReadableEntries<S> {
    const std::size_t width = shape_.value_channels();
    if (width == 0) return;
    EntryNumbers values(shape_.layers, shape_.kv_heads, kept.keep(), width);
    for (std::size_t layer = 0; layer < shape_.layers; ++layer) {
      read_values(store_, layer, kept.keep(), values);
      for (std::size_t head = 0; head < shape_.kv_heads; ++head) {
        const auto lane = kept.lane(shape_.lane_of(layer, head, store_.granularity()));
        for (std::size_t i = 0; i < lane.size(); ++i) {
          const std::span<const float> right(before.values.at(layer, head, lane[i]), width);
          if (!close(right, values.at(layer, head, i), "value", layer, head, i, lane[i])) return;
        }
      }
    }
  }

  /// How far a vector is from another, in all.
  struct Gap {
    double off, length, allowed;
    bool is_rounding() const noexcept { return off <= allowed; }
    double percent(double part) const { return rounded(100 * part / (std::max)(length, 1e-30), 3); }
  };

  Gap gap(std::span<const float> right, const float* found) const {
    double apart = 0, squares = 0, largest = 0;
    for (std::size_t k = 0; k < right.size(); ++k) {
      const auto a = static_cast<double>(right[k]), b = static_cast<double>(found[k]);
      apart += (a - b) * (a - b);
      squares += a * a;
      largest = (std::max)(largest, std::abs(a));
    }
    const double length = std::sqrt(squares);
    const double spread = largest * std::sqrt(static_cast<double>(right.size()));
    return {.off = std::sqrt(apart),
            .length = length,
            .allowed = 0.02 * length + 4 * (rounding_.relative * length + rounding_.of_largest * spread)};
  }

  bool close(std::span<const float> right, const float* found, const char* what, std::size_t layer,
             std::size_t head, std::size_t entry, std::size_t from) {
    const Gap gap = this->gap(right, found);
    if (gap.is_rounding()) return true;
    report_.found(Flaw::keep, "after keep(), the ", what, " of (layer ", layer, ", kv head ", head,
                  ", entry ", entry, ") is not that of entry ", from, " before, as if written at ", entry,
                  ": it is off by ", gap.percent(gap.off), " % of its length; ", gap.percent(gap.allowed),
                  " % would be rounding");
    return false;
  }

  Engine& engine_;
  S& store_;
  Shape shape_;
  std::span<const Token> tokens_;
  std::size_t chunk_;
  Rounding rounding_;
  std::span<const std::optional<Rope>> ropes_;
  AdapterReport& report_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
