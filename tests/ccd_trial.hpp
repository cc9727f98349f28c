// A reader over a toy engine, as the tests of the loop run it, and all that it shows.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "reference/reference_ccd.hpp"
#include "toy_engine.hpp"

namespace trial {

using infinipot::Aggregate;
using infinipot::Granularity;
using infinipot::KeyStorage;
using infinipot::Pot;
using infinipot::Retention;
using infinipot::Token;
using reference::CcdSpec;
using reference::Kind;

inline constexpr std::array all_kinds{
    Kind::infinipot,          Kind::snapkv,     Kind::tova,   Kind::h2o,
    Kind::streaming_llm,      Kind::sirllm,     Kind::knorm,  Kind::keydiff,
    Kind::value_norm,         Kind::truncation, Kind::reread, Kind::expected_attention,
    Kind::temporal_redundancy};
inline constexpr std::array all_granularities{Granularity::head, Granularity::layer, Granularity::shared};
inline constexpr std::array both_storages{KeyStorage::rotated, KeyStorage::unrotated};

inline CcdSpec spec_of(Kind kind, Granularity granularity = Granularity::head) {
  return {.kind = kind,
          .granularity = granularity,
          .capacity = 40,
          .keep = 20,
          .sinks = 2,
          .recent = 3,
          .catalysts = {{7, 21, 3, 44}},
          .kernel = kind == Kind::snapkv ? std::size_t{3} : 1,
          .window = 6};
}

/// Calls f with the library's policy of a spec for a model.
template <class F>
void with_policy(const toy::Model& model, const CcdSpec& spec, const F& f) {
  using namespace infinipot;
  switch (spec.kind) {
    case Kind::infinipot:
      return f(Infinipot({.catalysts = spec.catalysts,
                          .alpha = spec.alpha,
                          .over_queries = spec.max_over_queries ? Reduce::max : Reduce::sum,
                          .over_heads = spec.over_heads,
                          .kernel = spec.kernel}));
    case Kind::snapkv:
      return f(SnapKv(spec.window, spec.kernel));
    case Kind::tova:
      return f(Tova());
    case Kind::h2o:
      return f(H2o());
    case Kind::streaming_llm:
      return f(StreamingLlm());
    case Kind::sirllm:
      return f(SirLlm(spec.decay));
    case Kind::knorm:
      return f(KNorm());
    case Kind::keydiff:
      return f(KeyDiff());
    case Kind::value_norm:
      return f(ValueNorm());
    case Kind::truncation:
      return f(Truncation());
    case Kind::reread:
      return f(Reread({.instruction = spec.catalysts[0],
                       .block = spec.block,
                       .layers = spec.layers,
                       .smoothing = {spec.mean_pooling ? Pooling::mean : Pooling::max, spec.kernel}}));
    case Kind::expected_attention:
      return f(ExpectedAttention(
          {.rope = model.rope, .future = spec.future, .sinks = spec.sinks, .epsilon = spec.epsilon}));
    case Kind::temporal_redundancy:
      return f(TemporalRedundancy(spec.period, spec.frames));
  }
}

inline infinipot::CcdSettings settings_of(const CcdSpec& spec, std::size_t chunk) {
  return {.keep = spec.keep, .sinks = spec.sinks, .recent = spec.recent, .chunk = chunk};
}

/// A store, an engine that runs against it, and a reader of both.
template <class P, class Kv, toy::Shows shows>
struct Trial {
  Trial(const toy::Model& model, const CcdSpec& spec, P policy, Kv store, std::size_t chunk)
      : pot(std::move(store)),
        engine(model, pot),
        reader(engine, pot, std::move(policy), settings_of(spec, chunk)) {}

  Kv pot;
  toy::Engine<Kv, shows> engine;
  infinipot::Ccd<toy::Engine<Kv, shows>, Kv, P> reader;
};

/// Calls f with a run of the spec's policy over a pot of T, unless the engine does not show what it needs.
template <class T = float, toy::Shows shows = toy::Shows::queries, class F>
void with_run(const toy::Model& model, const CcdSpec& spec, KeyStorage storage, std::size_t chunk,
              const F& f) {
  with_policy(model, spec, [&]<class P>(P policy) {
    if constexpr (!infinipot::ObservesQueries<P> || shows == toy::Shows::queries) {
      Trial<P, Pot<T>, shows> run(
          model, spec, std::move(policy),
          toy::make_pot<T>(model, spec.capacity, spec.keep, spec.granularity, storage, spec.budgets), chunk);
      f(run);
    }
  });
}

inline std::string trace(const CcdSpec& spec) {
  constexpr std::array names{"infinipot",          "snapkv",     "tova",   "h2o",
                             "streaming_llm",      "sirllm",     "knorm",  "keydiff",
                             "value_norm",         "truncation", "reread", "expected_attention",
                             "temporal_redundancy"};
  constexpr std::array granularities{"head", "layer", "shared"};
  return std::string(names[static_cast<std::size_t>(spec.kind)]) + " per " +
         granularities[static_cast<std::size_t>(spec.granularity)];
}

/// All that a reader and its store show. Floats are compared as they are: equal means bit for bit.
struct Snapshot {
  std::vector<std::vector<std::uint64_t>> positions;
  std::vector<std::vector<Token>> tokens;
  std::vector<std::vector<float>> nuc;
  std::vector<std::vector<std::uint8_t>> pinned;
  std::vector<std::vector<std::uint32_t>> survived;
  std::vector<float> rows, logits;
  std::uint64_t tokens_read = 0, distillations = 0, nan_scores = 0;

  friend bool operator==(const Snapshot&, const Snapshot&) = default;
};

template <class Kv, class Reader>
Snapshot snapshot_of(Kv& pot, const Reader& reader) {
  Snapshot s;
  const auto copy = [](auto& to, auto span) { to.emplace_back(span.begin(), span.end()); };
  const infinipot::EntryTable& entries = pot.entries();
  for (std::size_t lane = 0; lane < entries.lanes(); ++lane) {
    copy(s.positions, entries.positions(lane));
    copy(s.tokens, entries.tokens(lane));
    copy(s.nuc, entries.nuc(lane));
    copy(s.pinned, entries.pinned(lane));
    copy(s.survived, entries.survived(lane));
  }
  const infinipot::Shape shape = pot.shape();
  for (std::size_t layer = 0; layer < shape.layers; ++layer)
    for (std::size_t head = 0; head < shape.kv_heads; ++head)
      for (std::size_t t = entries.begin(shape.lane_of(layer, head, pot.granularity())); t < entries.size();
           ++t)
        for (std::size_t k = 0; k < shape.head_dim; ++k) {
          s.rows.push_back(pot.keys().row(layer, head, t)[k]);
          s.rows.push_back(pot.values().row(layer, head, t)[k]);
        }
  const auto& stats = reader.stats();
  if (stats.tokens_read > 0) s.logits.assign(reader.logits().begin(), reader.logits().end());
  s.tokens_read = stats.tokens_read;
  s.distillations = stats.distillations;
  s.nan_scores = stats.nan_scores;
  return s;
}

template <class AnyTrial>
Snapshot snapshot(AnyTrial& run) {
  return snapshot_of(run.pot, run.reader);
}

inline Token most_likely(std::span<const float> logits) {
  return static_cast<Token>(std::ranges::max_element(logits) - logits.begin());
}

}  // namespace trial
