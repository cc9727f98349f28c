// Checks an adapter, an engine together with its store, against its own claims, and says what is wrong.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "infinipot/cap/attention_form.hpp"
#include "infinipot/check/adapter_report.hpp"
#include "infinipot/check/attention_check.hpp"
#include "infinipot/check/check_options.hpp"
#include "infinipot/check/keep_check.hpp"
#include "infinipot/check/last_token.hpp"
#include "infinipot/check/layout_check.hpp"
#include "infinipot/check/repeated_token.hpp"
#include "infinipot/check/results_check.hpp"
#include "infinipot/check/room_check.hpp"
#include "infinipot/check/rope_check.hpp"
#include "infinipot/check/rope_claim.hpp"
#include "infinipot/check/rounding.hpp"
#include "infinipot/check/score_check.hpp"
#include "infinipot/check/sink_check.hpp"
#include "infinipot/check/stated_form.hpp"
#include "infinipot/check/stream_check.hpp"
#include "infinipot/check/text_rows.hpp"
#include "infinipot/check/watched_pass.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {
namespace detail {

/// All checks of one adapter, in an order in which each may rely on those before.
template <class Engine, class S>
class AdapterCheck {
 public:
  AdapterCheck(Engine& engine, S& store, std::span<const Token> tokens, const CheckOptions& options)
      : engine_(engine),
        store_(store),
        tokens_(tokens.first((std::min)({tokens.size(), options.text, store.capacity()}))),
        options_(options),
        rounding_(options.rounding.value_or(store_rounding<S>())) {
    for (const std::span<const std::byte> guard : options.guards)
      guards_.emplace_back(guard.begin(), guard.end());
  }

  AdapterReport run() {
    if (!check_shapes()) return report_;
    EmptyAgain<S> empty(store_);
    check_repeated_token();
    check_text_rows();
    ResultsCheck<Engine, S>(engine_, store_, tokens_, options_.chunk, tolerance(), report_).run();
    check_attention();
    if (report_.ok()) check_scores();
    if (report_.ok()) check_keep();
    if (report_.ok()) check_stream();
    if (!report_.ok()) report_.note("query heads and keep() are checked when all else is right");
    check_capacity();
    check_guards();
    store_.truncate(0);
    return report_;
  }

 private:
  static constexpr std::size_t none = all_layers;

  /// Of logits, root mean square, relative to their spread: 2 % for sums in another order, and in each layer,
  /// adding up as errors at random do, three times what keys and values are rounded by and what engines with
  /// packed weights round activations by, 8 bits. ResultsCheck allows more where an engine is seen to be
  /// noisier.
  double tolerance() const {
    const double rounding = rounding_.relative + rounding_.of_largest + 1.0 / 254;
    return 0.02 + 3 * rounding * std::sqrt(static_cast<double>(Shape(store_.shape()).layers));
  }

  /// Before anything runs.
  bool check_shapes() {
    const Shape of_engine = engine_.shape(), of_store = store_.shape();
    if (!(of_engine == of_store)) {
      const bool values = of_engine.value_channels() != of_store.value_channels();
      const auto words = [&](const Shape& shape) {
        return text(shape.layers, " layers, ", shape.query_heads, " query heads, ", shape.kv_heads,
                    " kv heads, head_dim ", shape.head_dim,
                    values ? text(", value_dim ", shape.value_channels()) : "");
      };
      report_.found(Flaw::shape, "the engine has ", words(of_engine), ", the store ", words(of_store));
      return false;
    }
    if constexpr (StridedStore<S>) check_layout(store_, options_, report_);
    if (!report_.ok()) report_.note("nothing else was checked: rows are not where they should be");
    if (rounding_.of_largest > 0)
      report_.note("checked more loosely than floats: keys are rounded by up to ", 100 * rounding_.of_largest,
                   " % of their largest channel");
    return report_.ok();
  }

  void check_repeated_token() {
    const std::size_t count = (std::min)(options_.repeats, store_.capacity());
    const RepeatedToken seen =
        repeat(engine_, store_, tokens_.back(), count, (std::min)(options_.chunk, count),
               [&](const auto& queries) { check_shown(queries); });
    store_.truncate(0);
    if (seen.keys.numbers.empty())
      report_.note("keys and RoPE were not checked: the store's keys cannot be read",
                   YieldsQueries<Engine> ? " unless queries are shown" : "");
    if (seen.queries.numbers.empty()) report_.note("queries were not checked: the engine does not show them");
    const RopeClaim claim = claim_of(store_, rounding_);
    if (claim.storage == KeyStorage::unrotated && seen.queries.numbers.empty())
      report_.note("RoPE was not checked: keys are stored unrotated and no queries are shown");
    ropes_ = RopeCheck(seen, claim, report_).run();
  }

  /// That a call showed each layer's queries once, of all its tokens; of the model's layers, if several read
  /// one of the store.
  void check_shown(const KeptQueries<S>& queries) {
    shares_ = shares_ || queries.shares();
    if (queries.other_count() != none)
      add(Flaw::queries_missing, "queries of ", queries.other_count(), " tokens were shown in a call with ",
          queries.count());
    if (queries.outside() != none)
      add(Flaw::queries_repeated, "queries of layer ", queries.outside(), " were shown; the model has ",
          queries.times().size(), " layers");
    for (std::size_t layer = 0; layer < queries.times().size(); ++layer) {
      const std::size_t times = queries.times()[layer];
      if (times == 0)
        add(Flaw::queries_missing, "queries of layer ", layer, " were not shown in a call with ",
            queries.count(), " tokens that asked for all");
      else if (times > 1)
        add(Flaw::queries_repeated, "queries of layer ", layer, " were shown ", times,
            " times in a call with ", queries.count(), " tokens; once is right");
    }
  }

  template <class... Parts>
  void add(Flaw flaw, const Parts&... parts) {
    if (!report_.has(flaw)) report_.found(flaw, parts...);
  }

  void check_text_rows() {
    const TextRows rows = run_text(engine_, store_, tokens_, options_.chunk);
    TextRowsCheck(rows, report_).run();
  }

  bool check_stated_sinks() {
    const Shape shape = store_.shape();
    for (std::size_t layer = 0; layer < shape.layers; ++layer)
      if (!detail::check_stated_sinks(form_of(engine_, layer), layer, shape, report_)) return false;
    return true;
  }

  void check_attention() {
    if (!check_stated_sinks()) return;
    if constexpr (YieldsAttention<Engine>) {
      if (attention_shown(engine_))
        AttentionCheck<Engine, S>(engine_, store_, tokens_, options_.chunk, report_).run();
    }
    if (!attention_shown(engine_) && queries_shown(engine_))
      report_.note("attention_form() was not checked: the engine shows no probabilities");
  }

  void check_scores() {
    if constexpr (YieldsQueries<Engine> && WritableStore<S>) {
      if (!queries_shown(engine_) || report_.has(Flaw::queries_missing)) return;
      if (shares_) {
        report_.note(
            "the order of query heads and learned sinks were not checked: several of the model's "
            "layers read one layer of the store");
        return;
      }
      if (rounding_.of_largest > 0.01) {
        report_.note(
            "the order of query heads and learned sinks were not checked: keys are rounded too much");
        return;
      }
      ScoreCheck<Engine, S>(engine_, store_, tokens_, options_.chunk, rounding_, report_).run();
      if (report_.ok())
        SinkCheck<Engine, S>(engine_, store_, tokens_, options_.chunk, rounding_, report_).run();
    } else if (queries_shown(engine_)) {
      report_.note("the order of query heads and learned sinks were not checked: the store has no write()");
    }
  }

  void check_keep() {
    KeepCheck<Engine, S>(engine_, store_, tokens_, options_.chunk, rounding_, ropes_, report_).run();
  }

  void check_stream() {
    if constexpr (WritableStore<S>)
      StreamCheck<Engine, S>(engine_, store_, tokens_, options_.chunk, report_).run();
    else
      report_.note("what the engine remembers beside the store was not looked for: the store has no write()");
  }

  void check_capacity() {
    if (store_.capacity() > options_.fill)
      report_.note("the last of ", store_.capacity(), " rows were not tried: more than CheckOptions::fill, ",
                   options_.fill);
    else
      check_room(engine_, store_, tokens_, options_.chunk, report_);
  }

  void check_guards() {
    for (std::size_t i = 0; i < guards_.size(); ++i) {
      const auto [was, is] = std::ranges::mismatch(guards_[i], options_.guards[i]);
      if (was != guards_[i].end())
        add(Flaw::guard, "byte ", was - guards_[i].begin(), " of guard ", i,
            " changed: the engine writes outside its rows, or the store's capacity is too large");
    }
  }

  Engine& engine_;
  S& store_;
  std::span<const Token> tokens_;
  const CheckOptions& options_;
  Rounding rounding_;
  AdapterReport report_;
  bool shares_ = false;                         // whether several of the model's layers read one of the store
  std::vector<std::optional<Rope>> ropes_;      // (layers) that keys have, where known; empty: nowhere
  std::vector<std::vector<std::byte>> guards_;  // as they were
};

}  // namespace detail

/// Checks an adapter in a few hundred tokens of forward passes:
///   EXPECT_TRUE(check_adapter(engine, pot, tokens)) << ...; or check_adapter(engine, pot, tokens).require();
///
/// Rows and strides; that one token, repeated, has keys and queries that are rotations of one another by the
/// store's Rope, in every layer and head; that queries are shown once, in order, and score the store's keys
/// as the engine does; that the same tokens give the same logits one by one, at once, in odd pieces, after
/// others were written and dropped, and after a probe; NuC; attention probabilities; whether there are
/// learned sinks, and how large they are if probabilities and queries are shown; keep(); that windows go on
/// with the stream after it, though not at which positions (check/stream_check.hpp says why); and that the
/// last row is there. What cannot be checked with this engine and store is in notes().
///
/// Logits are compared by the root mean square of their differences relative to their spread over the
/// vocabulary: 2 %, plus three times the rounding of keys and values (Rounding) and of 8-bit activations
/// times the root of the layers, since each layer adds its own; or three times the engine's own noise, up to
/// 30 %, if that is more: how far the logits after one token, repeated in calls of one, are apart, which
/// should be the same. A note says so. Smaller mistakes of so noisy an engine are not seen. Frequencies are
/// compared as well as they can be measured (measure_rope.hpp). Where keys are rounded to 4 bits, another
/// explanation than the store's must be clearly better to be held against it, and what nothing explains is a
/// finding in the first layer only; notes name the other layers. Keys and values may be off by 2 % of their
/// length plus their rounding.
///
/// `tokens` are some ordinary text of at least 16, not all the same; CheckOptions::text of them are used. The
/// store must be empty and is left empty, whatever happens. Throws std::invalid_argument, before anything
/// runs, for tokens that are too few, all the same or outside the vocabulary, for a store that is not empty
/// or has fewer than 16 entries, and for options out of range; and what forward() throws, except while the
/// store is filled to the last row, when it is a finding, and where a call begins at an earlier place than
/// the one before has reached, when it is a note.
template <ForwardPass Engine, Store S>
AdapterReport check_adapter(Engine& engine, S& store, std::span<const Token> tokens,
                            const CheckOptions& options = {}) {
  const auto vocab_size = static_cast<std::size_t>(engine.vocab_size());
  for (const Token token : tokens)
    if (token < 0 || static_cast<std::size_t>(token) >= vocab_size)
      detail::invalid("token ", token, " is out of the vocabulary's range 0 .. ", vocab_size - 1);
  if (!store.entries().empty())
    detail::invalid("the store holds ", store.entries().size(), " entries already");
  if (store.capacity() < 16)
    detail::invalid("a store of capacity ", store.capacity(), " is too small for a check; 16 is the least");
  const auto least = [](const char* what, std::size_t number) {
    if (number < 16) detail::invalid(what, ' ', number, " must be at least 16");
  };
  least("the number of tokens", tokens.size());
  least("CheckOptions::repeats", options.repeats);
  least("CheckOptions::text", options.text);
  least("CheckOptions::chunk", options.chunk);
  const auto used =
      tokens.first((std::min)({tokens.size(), options.text, static_cast<std::size_t>(store.capacity())}));
  if (std::ranges::all_of(used, [&](Token token) { return token == used.front(); }))
    detail::invalid("the ", used.size(), " tokens to check with are all the same");
  Shape(store.shape()).validate();
  return detail::AdapterCheck<Engine, S>(engine, store, tokens, options).run();
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
