// Measures the RoPE that an engine applies, so that nobody need know its theta, scaling or pairing.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
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
#include "infinipot/check/settling.hpp"
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
  /// Layers without RoPE among others with it, ascending, as PotSettings::layers_without_rope.
  std::vector<std::size_t> layers_without_rope = {};
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
  const Settling settling(found.seen, std::vector<Rope>(numbers.layers), rounding);
  for (std::size_t layer = 0; layer < found.layers.size(); ++layer)
    if (!settling.take(numbers, layer, rounding, found.layers[layer]))
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
  check_layers_without_rope(options.layers_without_rope, shape);
  if (options.chunk == 0) invalid("chunk 0 must be at least 1");
  if (store.capacity() < 16)
    invalid("a store of capacity ", store.capacity(), " is too small to measure RoPE in; 16 is the least");
  if (options.token && (*options.token < 0 || static_cast<std::size_t>(*options.token) >=
                                                  static_cast<std::size_t>(engine.vocab_size())))
    invalid("token ", *options.token, " is out of the vocabulary's range 0 .. ", engine.vocab_size() - 1);
}

/// Puts layers together that turn alike. Those whose vectors turn most exactly come first, by themselves, and
/// of these those that do not move besides: the others join them, unless they turn otherwise.
inline std::vector<LayerGroup> measured_groups(std::span<const Traces> layers) {
  // What a short convolution makes of a repeated token is settled for good after a few.
  const auto still = [](const Traces& traces) { return traces.drift <= 1e-5; };
  std::vector<RopeFit> own;
  double least = RopeFit::certain;
  for (const Traces& traces : layers) {
    own.push_back(fit_rope(traces, {}));
    if (still(traces)) least = (std::min)(least, own.back().unexplained);
  }
  std::array<std::vector<std::size_t>, 3> by_exactness;
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    const bool exact = still(layers[layer]) && own[layer].unexplained <= (std::max)(4 * least, 1e-3);
    by_exactness[!exact ? 2 : layers[layer].drift > 0 ? 1 : 0].push_back(layer);
  }
  std::vector<LayerGroup> groups;
  for (const std::vector<std::size_t>& some : by_exactness) {
    std::vector<std::size_t> rest;
    for (const std::size_t layer : some) {
      const auto group = std::ranges::find_if(groups, [&](const LayerGroup& candidate) {
        return candidate.fit.turns() == own[layer].turns() &&
               own[layer].unexplained <= RopeFit::allowed(layers[layer]) &&
               explains(candidate.fit.rope, layers[layer], own[layer], &candidate.fit);
      });
      if (group == groups.end())
        rest.push_back(layer);
      else
        group->layers.push_back(layer);
    }
    const auto more = group_layers(layers, rest, {});
    groups.insert(groups.end(), more.begin(), more.end());
  }
  return groups;
}

/// ": layers 0, 2: ...; layers 1, 3: no rotation"
inline std::string words_for_each(std::span<const Rope> ropes) {
  std::string words;
  std::vector<bool> said(ropes.size());
  for (std::size_t i = 0; i < ropes.size(); ++i) {
    if (said[i]) continue;
    std::vector<std::size_t> layers;
    for (std::size_t j = i; j < ropes.size(); ++j)
      if (ropes[j] == ropes[i]) {
        layers.push_back(j);
        said[j] = true;
      }
    words +=
        text(words.empty() ? ": " : "; ", words_for_layers(layers, ropes.size()), ": ", words_for(ropes[i]));
  }
  return words;
}

/// Throws std::runtime_error, with what was seen, for a group whose RoPE is not known.
inline void require_known(const LayerGroup& group, std::size_t layers) {
  const double allowed = RopeFit::allowed(group.traces), unexplained = group.fit.unexplained;
  if (!(unexplained <= allowed))
    fail("infinipot: RoPE cannot be measured in ", words_for_layers(group.layers, layers),
         ": no rotation explains the keys of a repeated token (", 100 * unexplained,
         " % of their length is left; ", 100 * allowed,
         " % may be). Strides that are wrong do that, and learned positions");
  if (group.traces.drift > 1e-3 && group.fit.turns())
    fail("infinipot: RoPE cannot be measured well enough in ", words_for_layers(group.layers, layers),
         ": the keys of a repeated token turn by ", words_for(group.fit), ", but move besides by ",
         100 * group.traces.drift,
         " % of their length, as learned sinks make them. Take the Rope from the model's configuration; "
         "check_adapter() sees whether it is right");
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
/// Learned sinks and recurrent states move keys besides, the less the more entries there are. Layers below
/// the first of them tell RoPE as exactly as ever, and those above are compared with these.
///
/// Throws std::invalid_argument for a store that is too small (16), not empty, of another shape, or whose
/// keys cannot be read; std::runtime_error, with what was seen, if no rotation explains a layer's keys
/// (learned positions, wrong strides) or learned sinks move all of them too much; and what forward() throws.
template <ForwardPass Engine, class S>
std::vector<Rope> measure_rope_by_layer(Engine& engine, S&& store, const MeasureOptions& options = {}) {
  using Plain = std::remove_cvref_t<S>;
  static_assert(Store<Plain>, "infinipot: see Store in infinipot/concepts.hpp");
  detail::check_measurable(engine, store, options);
  const auto measurable = detail::measurable(engine, static_cast<Plain&>(store), options);
  const std::vector<detail::Traces>& layers = measurable.layers;
  std::vector<Rope> ropes(layers.size());
  for (const detail::LayerGroup& group : detail::measured_groups(layers)) {
    detail::require_known(group, layers.size());
    for (const std::size_t layer : group.layers) ropes[layer] = group.fit.rope;
  }
  return ropes;
}

/// The same for models whose layers all turn alike, but for MeasureOptions::layers_without_rope, which must
/// not turn; ready for PotSettings::rope. Throws std::runtime_error, with what each layer does, for others.
template <ForwardPass Engine, class S>
Rope measure_rope(Engine& engine, S&& store, const MeasureOptions& options = {}) {
  const std::vector<Rope> ropes = measure_rope_by_layer(engine, store, options);
  const auto left_out = [&](std::size_t layer) {
    return std::ranges::find(options.layers_without_rope, layer) != options.layers_without_rope.end();
  };
  const Rope* rope = nullptr;
  bool alike = true;
  for (std::size_t layer = 0; layer < ropes.size(); ++layer)
    if (left_out(layer))
      alike = alike && ropes[layer].frequencies.empty();
    else if (rope == nullptr)
      rope = &ropes[layer];
    else
      alike = alike && ropes[layer] == *rope;
  if (alike) return rope == nullptr ? Rope{} : *rope;
  detail::fail("infinipot: layers turn their keys differently, but a Pot has one Rope",
               detail::words_for_each(ropes),
               ". If some have none, say so (MeasureOptions::layers_without_rope and "
               "PotSettings::layers_without_rope)");
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
