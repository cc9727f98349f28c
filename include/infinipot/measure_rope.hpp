// Measures the RoPE that an engine applies, so that nobody need know its theta, scaling or pairing.
#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "infinipot/check/repeated_token.hpp"
#include "infinipot/check/rope_fit.hpp"
#include "infinipot/check/rope_words.hpp"
#include "infinipot/check/rounding.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

struct MeasureOptions {
  std::size_t repeats = 100;  ///< tokens to run, at least 16; as many as the store holds if that is fewer
  std::size_t chunk = 32;     ///< most tokens per call of forward(), at least 1
  std::optional<Token> token = {};  ///< which; else one from within the vocabulary
  /// How keys are rounded; by the store's element type if it names one (S::element), else as loose as int8.
  std::optional<Rounding> rounding = {};
};

namespace detail {

/// The vectors that tell an engine's RoPE, and where they are.
struct Measurable {
  RepeatedToken seen;
  std::vector<Traces> layers;
};

/// Keys as the engine writes them, or queries where keys are not rotated.
template <class Engine, class S>
Measurable measurable(Engine& engine, S& store, const MeasureOptions& options) {
  const bool from_queries = claimed_storage(store) == KeyStorage::unrotated;
  if (from_queries && !queries_shown(engine))
    invalid("RoPE cannot be measured: keys are stored unrotated, and the engine shows no queries");
  if (!from_queries && !keys_readable<Engine, S>(engine))
    invalid("RoPE cannot be measured: the store's keys cannot be read (see ReadableKeys)");
  const std::size_t count = std::min<std::size_t>(options.repeats, store.capacity());
  const Token token = options.token.value_or(static_cast<Token>(engine.vocab_size() / 3));
  EmptyAgain<S> empty(store);
  Measurable found;
  found.seen =
      repeat(engine, store, token, count, (std::min)(options.chunk, count), [](const auto& /*queries*/) {});
  store.truncate(0);
  const EntryNumbers& numbers = from_queries ? found.seen.queries : found.seen.keys;
  // Queries are not rounded, but made of stored values that are.
  const Rounding rounding = options.rounding.value_or(store_rounding<S>());
  found.layers.resize(numbers.layers);
  for (std::size_t layer = 0; layer < found.layers.size(); ++layer)
    if (!RepeatedToken::layer(numbers, layer, rounding, found.layers[layer]))
      fail("infinipot: RoPE cannot be measured: a ", from_queries ? "query" : "key", " of layer ", layer,
           " is NaN or infinite");
  return found;
}

template <class Engine, class S>
void check_measurable(const Engine& engine, const S& store, const MeasureOptions& options) {
  const Shape shape = store.shape();
  shape.validate();
  if (!(Shape(engine.shape()) == shape)) invalid("the engine's shape differs from the store's");
  if (!store.entries().empty()) invalid("the store holds ", store.entries().size(), " entries already");
  if (options.repeats < 16) invalid("repeats ", options.repeats, " must be at least 16");
  if (options.chunk == 0) invalid("chunk 0 must be at least 1");
  if (store.capacity() < 16)
    invalid("a store of capacity ", store.capacity(), " is too small to measure RoPE in; 16 is the least");
  if (options.token && (*options.token < 0 || static_cast<std::size_t>(*options.token) >=
                                                  static_cast<std::size_t>(engine.vocab_size())))
    invalid("token ", *options.token, " is out of the vocabulary's range 0 .. ", engine.vocab_size() - 1);
}

}  // namespace detail

/// The RoPE that an engine applies in each of its layers, from one token repeated some 100 times: pairing,
/// rotary dimension and the frequency of every pair, whatever the scaling; no frequencies in a layer without
/// RoPE. The store must be empty and is left empty, whatever happens. A temporary Pot over the engine's
/// memory will do; leave its Rope empty.
///
/// A frequency that is off by x turns a key at position p wrongly by p x. With rounding u of what is stored
/// (see Rounding) and n repetitions, x is at most 3 u / n, the worst case; heads add up their errors as at
/// random, so that it is far less over many. Measured: 1.5e-9 for SmolLM2's 30 layers in f32, 1e-6 for 6
/// heads in f16, 4e-6 in bf16. More repetitions measure better. Pairs that turn by less than can be seen, if
/// interleaved the last ones, count as not turning. Frequencies are within -pi .. pi, as positions are whole.
/// A factor on all rotated keys (Rope::attention_factor) cannot be seen and is left at 1; only pots of
/// unrotated keys need it.
///
/// Throws std::invalid_argument for a store that is too small (16), not empty, of another shape, or whose
/// keys cannot be read; std::runtime_error, with what was seen, if no rotation explains a layer's keys:
/// learned positions, learned attention sinks, wrong strides; and what forward() throws.
template <ForwardPass Engine, class S>
std::vector<Rope> measure_rope_by_layer(Engine& engine, S&& store, const MeasureOptions& options = {}) {
  using Plain = std::remove_cvref_t<S>;
  static_assert(Store<Plain>, "infinipot: see Store in infinipot/concepts.hpp");
  detail::check_measurable(engine, store, options);
  const auto measurable = detail::measurable(engine, static_cast<Plain&>(store), options);
  const std::vector<detail::Traces>& layers = measurable.layers;
  std::vector<std::size_t> all(layers.size());
  std::iota(all.begin(), all.end(), std::size_t{0});
  std::vector<Rope> ropes(layers.size());
  for (const detail::LayerGroup& group : detail::group_layers(layers, all, {})) {
    const double allowed = detail::RopeFit::allowed(group.traces);
    if (!(group.fit.unexplained <= allowed))
      detail::fail("infinipot: RoPE cannot be measured in ",
                   detail::words_for_layers(group.layers, layers.size()),
                   ": no rotation explains the keys of a repeated token (", 100 * group.fit.unexplained,
                   " % of their length is left; ", 100 * allowed,
                   " % may be). Strides that are wrong do that, and learned positions or attention sinks");
    for (const std::size_t layer : group.layers) ropes[layer] = group.fit.rope;
  }
  return ropes;
}

/// The same for models whose layers all turn alike, ready for PotSettings::rope. Throws std::runtime_error,
/// with what each layer does, for others.
template <ForwardPass Engine, class S>
Rope measure_rope(Engine& engine, S&& store, const MeasureOptions& options = {}) {
  const std::vector<Rope> ropes = measure_rope_by_layer(engine, store, options);
  std::string others;
  std::vector<bool> said(ropes.size());
  for (std::size_t i = 0; i < ropes.size(); ++i) {
    if (said[i]) continue;
    std::vector<std::size_t> layers;
    for (std::size_t j = i; j < ropes.size(); ++j)
      if (ropes[j].pairing == ropes[i].pairing && ropes[j].frequencies == ropes[i].frequencies) {
        layers.push_back(j);
        said[j] = true;
      }
    if (layers.size() == ropes.size()) return ropes.front();
    others += detail::text(others.empty() ? "" : "; ", detail::words_for_layers(layers, ropes.size()), ": ",
                           detail::words_for(ropes[i]));
  }
  detail::fail("infinipot: layers turn their keys differently, but a Pot has one Rope: ", others);
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
