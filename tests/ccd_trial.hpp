// A reader over a toy engine, as tests of the loop run it, and all it shows.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "reference/reference_ccd.hpp"
#include "toy_engine.hpp"

namespace trial {

using infinipot::Granularity;
using infinipot::KeyStorage;
using infinipot::Pot;
using infinipot::ReduceHeads;
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

/// One policy of each way to look at a store: not at all, at keys of all queries, at keys of a probe's, and
/// at keys and values themselves.
inline constexpr std::array ways_to_look{Kind::streaming_llm, Kind::h2o, Kind::infinipot,
                                         Kind::expected_attention};
template <class P>
inline constexpr bool looks_its_own_way =
    std::same_as<P, infinipot::StreamingLlm> || std::same_as<P, infinipot::H2o> ||
    std::same_as<P, infinipot::Infinipot> || std::same_as<P, infinipot::ExpectedAttention>;

/// The learned sinks of all layers, (layers, query_heads), or none.
inline std::vector<float> learned_sinks(const toy::Model& model) {
  std::vector<float> sinks;
  for (const toy::Layer& layer : model.layers)
    if (layer.form.sinks.empty())
      sinks.insert(sinks.end(), model.shape.query_heads, infinipot::detail::minus_infinity());
    else
      sinks.insert(sinks.end(), layer.form.sinks.begin(), layer.form.sinks.end());
  if (std::ranges::none_of(sinks, infinipot::detail::is_finite<float>)) sinks.clear();
  return sinks;
}

/// Calls f with the library's policy of a spec for a model.
template <class F>
void with_policy(const toy::Model& model, const CcdSpec& spec, const F& f) {
  using namespace infinipot;
  switch (spec.kind) {
    case Kind::infinipot:
      return f(Infinipot({.catalysts = spec.catalysts,
                          .alpha = spec.alpha,
                          .terms = spec.terms,
                          .term_share = spec.term_share,
                          .over_queries = spec.max_over_queries ? Reduce::max : Reduce::sum,
                          .over_heads = spec.over_heads,
                          .kernel = spec.kernel,
                          .lag = spec.lag,
                          .layers = spec.layers}));
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
      return f(ExpectedAttention({.rope = model.rope,
                                  .future = spec.future,
                                  .sinks = spec.sinks,
                                  .epsilon = spec.epsilon,
                                  .learned_sinks = learned_sinks(model),
                                  .layers_without_rope = model.layers_without_rope()}));
    case Kind::temporal_redundancy:
      return f(TemporalRedundancy(spec.period, spec.frames));
  }
}

/// The same for the few policies of ways_to_look.
template <class F>
void with_way_to_look(const toy::Model& model, const CcdSpec& spec, const F& f) {
  with_policy(model, spec, [&]<class P>(const P& policy) {
    if constexpr (looks_its_own_way<P>)
      f(policy);
    else
      throw std::logic_error("not one of ways_to_look");
  });
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

/// A reader of any policy, so that a test of all of them is compiled once.
class AnyReader {
 public:
  using Sample = std::function<Token(std::span<const float>)>;

  AnyReader() = default;
  AnyReader(const AnyReader&) = delete;
  AnyReader& operator=(const AnyReader&) = delete;
  virtual ~AnyReader() = default;

  void feed(std::span<const Token> tokens, Retention retention = Retention::evictable) {
    do_feed(tokens, retention);
  }
  void feed(Token token, Retention retention = Retention::evictable) { do_feed({&token, 1}, retention); }

  virtual void start(std::span<const Token> tokens, Retention retention = Retention::evictable) = 0;
  virtual void start_distil() = 0;
  virtual const infinipot::Pass* next() = 0;
  virtual void done() = 0;
  virtual void failed() = 0;
  virtual void distil() = 0;
  virtual std::size_t generate(std::size_t most, const Sample& sample,
                               const std::function<bool(Token)>& accept) = 0;
  virtual std::span<const float> logits() const = 0;
  virtual std::vector<std::byte> memory() const = 0;
  virtual void resume(std::span<const std::byte> memory) = 0;
  virtual void resume() = 0;
  virtual void archive_to(infinipot::MemoryArchive& archive) = 0;
  virtual infinipot::Recalled recall(infinipot::MemoryArchive& archive, std::span<const Token> question,
                                     const infinipot::RecallSettings& settings) = 0;
  virtual void on_distillation(std::function<void(const infinipot::Distillation&)> observer) = 0;
  virtual void on_choice(std::function<void(const infinipot::Choice&)> observer) = 0;
  virtual const infinipot::CcdStats& stats() const = 0;
  virtual std::size_t limit() const = 0;
  virtual bool uses_nuc() const = 0;

 private:
  virtual void do_feed(std::span<const Token> tokens, Retention retention) = 0;
};

/// A store, an engine that runs against it, and a reader of both.
template <class T>
struct AnyRun {
  AnyRun(Pot<T>& store, toy::EngineControls& controls, AnyReader& any)
      : pot(store), engine(controls), reader(any) {}
  AnyRun(const AnyRun&) = delete;
  AnyRun& operator=(const AnyRun&) = delete;
  virtual ~AnyRun() = default;

  virtual std::unique_ptr<AnyRun> fork() const = 0;
  virtual void run_pass(const infinipot::Pass& pass) = 0;

  Pot<T>& pot;
  toy::EngineControls& engine;
  AnyReader& reader;
};

/// A run of the spec's policy over a pot of T; none if the engine does not show what the policy needs. With
/// 16-bit elements there are runs of ways_to_look, by queries, alone.
template <class T>
std::unique_ptr<AnyRun<T>> make_run(const toy::Model& model, const CcdSpec& spec, KeyStorage storage,
                                    std::size_t chunk, toy::Shows shows);

template <class T = float, toy::Shows shows = toy::Shows::queries, class F>
void with_run(const toy::Model& model, const CcdSpec& spec, KeyStorage storage, std::size_t chunk,
              const F& f) {
  if (const auto run = make_run<T>(model, spec, storage, chunk, shows)) f(*run);
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

/// All that a reader and its store show. Floats are compared exactly: equal means bit for bit.
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
      for (std::size_t t = 0; t < entries.size(); ++t) {
        for (std::size_t k = 0; k < shape.head_dim; ++k) s.rows.push_back(pot.keys(layer).row(head, t)[k]);
        for (std::size_t k = 0; k < shape.value_channels(); ++k)
          s.rows.push_back(pot.values(layer).row(head, t)[k]);
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
