// Compares what keys, values and queries of a repeated token do with what the store says.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "infinipot/check/adapter_report.hpp"
#include "infinipot/check/repeated_token.hpp"
#include "infinipot/check/rope_claim.hpp"
#include "infinipot/check/rope_fit.hpp"
#include "infinipot/check/rope_words.hpp"
#include "infinipot/check/rounding.hpp"
#include "infinipot/check/settling.hpp"
#include "infinipot/check/uneven_scores.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Checks the keys, then the values, then the queries of a repeated token.
class RopeCheck {
 public:
  RopeCheck(const RepeatedToken& seen, const RopeClaim& claim, AdapterReport& report)
      : seen_(seen),
        claim_(claim),
        report_(report),
        layers_((std::max)(seen.keys.layers, seen.queries.layers)),
        settling_(seen, claim.ropes, claim.rounding) {}

  /// The Rope that keys are stored with, by layer, where it is known; empty if it is nowhere.
  std::vector<std::optional<Rope>> run() {
    if (const auto settling = settling_.layers(); !settling.empty())
      report_.note("what a repeated token becomes in ", words(settling),
                   " changes, more and more slowly, as learned sinks and recurrent states make it: judged by "
                   "its second half, and frequencies more loosely");
    if (const auto restless = settling_.restless_layers(); !restless.empty())
      report_.note("keys, values and queries of ", words(restless),
                   " were not judged by a repeated token: layers below change what it becomes, and it does "
                   "not settle");
    if (!seen_.keys.numbers.empty()) {
      if (!check_values()) return {};
      if (claim_.storage == KeyStorage::unrotated)
        check_unrotated_keys();
      else
        check_rotated_keys();
    }
    if (!seen_.queries.numbers.empty()) check_queries();
    return known_ropes();
  }

 private:
  std::string words(std::span<const std::size_t> layers) const { return words_for_layers(layers, layers_); }

  std::vector<std::optional<Rope>> known_ropes() {
    std::vector<std::optional<Rope>> ropes(effective_.begin(), effective_.end());
    const auto restless = settling_.restless_layers();
    if (claim_.stated || ropes.empty() || restless.empty()) return ropes;
    for (const std::size_t layer : restless) ropes[layer].reset();
    report_.note("keep() is not checked in ", words(restless),
                 ": the store does not say which RoPE its keys have, and it was not measured there");
    return ropes;
  }

  std::vector<Traces> traces_of(const EntryNumbers& numbers, const char* what, Rounding rounding) {
    std::vector<Traces> layers(numbers.layers);
    for (std::size_t layer = 0; layer < layers.size(); ++layer)
      if (!settling_.take(numbers, layer, rounding, layers[layer])) {
        report_.found(Flaw::not_finite, what, " of layer ", layer, " are NaN or infinite");
        return {};
      }
    return layers;
  }

  /// Values must be the same at all positions. Returns false if their rows cannot be those of one head.
  bool check_values() {
    if (seen_.values.numbers.empty()) return true;
    const auto layers = traces_of(seen_.values, "values", claim_.rounding);
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      const RopeFit still = fit_pairs(layers[layer], {});
      const double allowed = RopeFit::allowed(layers[layer]);
      if (still.unexplained <= allowed || settling_.restless(layer)) continue;
      if (depends_on_entry_alone(layer)) {
        report_.found(
            Flaw::swapped_strides, "values of a repeated token in layer ", layer,
            " differ from entry to entry and not from kv head to kv head; it should be the other way "
            "round: head and entry stride are swapped");
        return false;
      }
      const RopeFit fit = fit_rope(layers[layer], claim_.ropes[layer]);
      if (fit.turns() && fit.unexplained <= allowed)
        report_.found(Flaw::swapped_tables, "values of a repeated token in layer ", layer,
                      " turn with the position, as keys do (", words_for(fit),
                      "): keys and values of the layout are swapped");
      else
        report_.found(Flaw::repeated_values, "values of a repeated token in layer ", layer, " differ by ",
                      percent(still.unexplained), " of their length from position to position; ",
                      percent(allowed), " would be rounding. They should be the same: strides are wrong, or ",
                      "the model has learned positions or attention sinks");
      return false;
    }
    return true;
  }

  /// Whether all heads have the same rows, as far as rounding lets one see.
  bool depends_on_entry_alone(std::size_t layer) const {
    const EntryNumbers& values = seen_.values;
    double apart = 0, squares = 0;
    for (std::size_t head = 1; head < values.heads; ++head)
      for (std::size_t entry = 0; entry + values.heads < values.entries; ++entry)
        for (std::size_t k = 0; k < values.width; ++k) {
          const auto a = static_cast<double>(values.at(layer, 0, entry)[k]);
          const auto b = static_cast<double>(values.at(layer, head, entry)[k]);
          apart += (a - b) * (a - b);
          squares += a * a;
        }
    return values.heads > 1 && apart < 1e-3 * squares;
  }

  static std::string percent(double share) { return text(rounded((std::max)(100 * share, 1e-9), 3), " %"); }

  /// Whether so few bits are stored that rounding alone may make what looks like a mistake. Then only the
  /// first layer is judged by what cannot be explained, whose inputs are the same at every position, and an
  /// explanation that is held against the store must be clearly better than the store's.
  bool coarse() const noexcept { return claim_.rounding.of_largest > 0.01; }

  void too_noisy(const char* what, std::span<const std::size_t> layers) {
    report_.note(what, " of ", words(layers),
                 " were not judged: rounding of what is stored makes too much noise to tell");
  }

  void unexplained(const LayerGroup& group, const char* what) {
    if (coarse() && group.layers.front() != 0) {
      too_noisy(what, group.layers);
      return;
    }
    report_.found(
        Flaw::repeated_keys, what, " of a repeated token in ", words(group.layers),
        " are no rotations of one another: ", percent(group.fit.unexplained), " of their length is left; ",
        percent(RopeFit::allowed(group.traces)),
        " would be rounding. Strides are wrong, or the model has learned positions or attention sinks");
  }

  static bool is_explained(const LayerGroup& group) {
    return group.fit.unexplained <= RopeFit::allowed(group.traces);
  }

  void check_unrotated_keys() {
    const auto layers = traces_of(seen_.keys, "keys", claim_.rounding);
    if (layers.empty()) return;
    std::vector<std::size_t> turning;
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      if (settling_.restless(layer)) continue;
      const RopeFit best = fit_rope(layers[layer], {});
      if (best.unexplained > RopeFit::allowed(layers[layer]) || !explains({}, layers[layer], best))
        turning.push_back(layer);
    }
    effective_ = claim_.ropes;
    if (turning.empty()) return;
    for (const LayerGroup& group : group_layers(layers, turning, claim_.ropes[turning.front()])) {
      if (!is_explained(group)) {
        unexplained(group, "keys");
        continue;
      }
      report_.found(
          Flaw::key_storage, "keys of a repeated token in ", words(group.layers), " turn by ",
          words_for(group.fit),
          ": the engine stores them rotated. The store says KeyStorage::unrotated; rotated is right");
    }
    effective_.clear();
  }

  void check_rotated_keys() {
    const auto layers = traces_of(seen_.keys, "keys", claim_.rounding);
    if (layers.empty()) return;
    if (!claim_.stated && in_another_basis(layers)) return;
    effective_ = claim_.ropes;
    std::vector<std::size_t> others;
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      if (settling_.restless(layer)) continue;
      const RopeFit best = fit_rope(layers[layer], claim_.ropes[layer]);
      const bool right = claim_.stated && best.unexplained <= RopeFit::allowed(layers[layer]) &&
                         explains(claim_.ropes[layer], layers[layer], best);
      if (!right) others.push_back(layer);
    }
    if (others.empty()) return;
    bool known = true;
    for (const LayerGroup& group : groups_of(layers, others)) {
      const Rope& claimed = claim_.ropes[group.layers.front()];
      for (const std::size_t layer : group.layers) effective_[layer] = group.fit.rope;
      known = known && is_explained(group);
      if (!is_explained(group))
        unexplained(group, "keys");
      else if (claim_.stated && coarse() &&
               !clearly_better(group.fit.unexplained, unexplained_by(claimed, group.traces))) {
        too_noisy("keys", group.layers);
        for (const std::size_t layer : group.layers) effective_[layer] = claimed;
      } else if (claim_.stated)
        name_difference(group);
      else
        report_.note("the store does not say which RoPE its keys have. In ", words(group.layers), " it is ",
                     words_for(group.fit));
    }
    if (!known) effective_.clear();
  }

  /// Layers that turn alike and are said to.
  std::vector<LayerGroup> groups_of(std::span<const Traces> layers,
                                    std::span<const std::size_t> which) const {
    std::vector<LayerGroup> groups;
    for (const bool turns : {true, false}) {
      std::vector<std::size_t> some;
      for (const std::size_t layer : which)
        if (claim_.ropes[layer].frequencies.empty() != turns) some.push_back(layer);
      if (some.empty()) continue;
      const auto more = group_layers(layers, some, claim_.ropes[some.front()]);
      groups.insert(groups.end(), more.begin(), more.end());
    }
    return groups;
  }

  /// Some stores show keys and queries multiplied by one orthogonal matrix (llama.cpp's quantised caches): no
  /// pairs of channels turn, but scores are right, and depend on the distance of two positions alone. Nothing
  /// more is asked of a store that states no Rope. Returns whether it is such a one.
  bool in_another_basis(std::span<const Traces> layers) {
    bool paired = true;
    for (std::size_t layer = 0; layer < layers.size(); ++layer)
      paired = paired && (settling_.restless(layer) ||
                          fit_rope(layers[layer], {}).unexplained <= RopeFit::allowed(layers[layer]));
    if (paired) return false;
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      if (settling_.restless(layer)) continue;
      const double off = uneven_scores(seen_.keys, seen_.keys, layer),
                   allowed = 2 * RopeFit::allowed(layers[layer]);
      if (off > allowed) return false;
      if (seen_.queries.numbers.empty()) continue;
      if (const double scores = uneven_scores(seen_.queries, seen_.keys, layer); scores > allowed) {
        report_.found(Flaw::queries_order, "scores of queries and keys of a repeated token in layer ", layer,
                      " do not depend on the distance of their positions alone (", percent(scores),
                      " of their lengths; ", percent(allowed),
                      " would be rounding): queries are shown before RoPE, or tokens in another order");
        return true;
      }
    }
    report_.note(
        "the store does not say which RoPE its keys have, and they turn in another basis than that of "
        "their channels: it was not measured, and keep() is checked in the first layer only");
    return true;
  }

  void name_difference(const LayerGroup& group) {
    const std::string where = words(group.layers);
    if (!group.fit.turns()) {
      if (queries_turn(group.layers))
        report_.found(Flaw::key_storage, "keys of a repeated token in ", where,
                      " do not turn with the position, but queries do: the engine stores keys as projected. "
                      "The store says KeyStorage::rotated; unrotated is right");
      else
        report_.found(
            Flaw::rope_missing, "keys of a repeated token in ", where,
            " do not turn with the position: RoPE is left out, or the keys are stored before it. The "
            "store's Rope is ",
            words_for(claim_.ropes[group.layers.front()]),
            group.layers.size() < layers_ ? ". Layers without RoPE are in PotSettings::layers_without_rope"
                                          : "");
      return;
    }
    name_other_rotation("keys", group);
  }

  /// Of keys or queries that turn.
  void name_other_rotation(const char* what, const LayerGroup& group) {
    const RopeFit& fit = group.fit;
    const Rope& rope = claim_.ropes[group.layers.front()];
    const std::string seen = text(what, " in ", words(group.layers), " turn by ", words_for(fit));
    if (claim_.leaves_out(group.layers.front())) {
      report_.found(Flaw::rope_unclaimed, seen,
                    "; the store says that there is no RoPE there (PotSettings::layers_without_rope)");
      return;
    }
    if (rope.frequencies.empty()) {
      report_.found(Flaw::rope_unclaimed, seen, "; the store's Rope has no frequencies. Give it these");
      return;
    }
    const bool same_pairing = fit.rope.pairing == rope.pairing || fit.rope.frequencies.size() < 2;
    if (!same_pairing)
      report_.found(Flaw::pairing, seen, ": the pairing is Pairing::", name_of(fit.rope.pairing),
                    "; the store's Rope says Pairing::", name_of(rope.pairing));
    else if (fit.rope.rotary_dim() != rope.rotary_dim())
      report_.found(Flaw::rotary_dim, seen, ": ", fit.rope.rotary_dim(),
                    " channels turn; the store's Rope says ", rope.rotary_dim());
    else if (fit.rope.first_channel != rope.first_channel)
      report_.found(Flaw::first_channel, seen, ": channels ", fit.rope.first_channel, " .. ",
                    fit.rope.first_channel + fit.rope.rotary_dim() - 1,
                    " turn; the store's Rope says that they begin at ", rope.first_channel,
                    " (Rope::first_channel)");
    else
      report_.found(Flaw::frequencies, seen, " (measured ", list_of(fit.rope.frequencies),
                    " radians per position); the store's Rope says ", list_of(rope.frequencies));
  }

  /// Whether the queries of some layers turn at all.
  bool queries_turn(std::span<const std::size_t> layers) const {
    if (seen_.queries.numbers.empty()) return false;
    return std::ranges::any_of(layers, [&](std::size_t layer) {
      Traces traces;
      return settling_.take(seen_.queries, layer, claim_.rounding, traces) &&
             fit_rope(traces, claim_.ropes[layer]).turns();
    });
  }

  /// Queries turn as the keys that they meet. They are not rounded, but made of stored values that are.
  void check_queries() {
    const auto layers = traces_of(seen_.queries, "queries", claim_.rounding);
    const EntryNumbers reversed = seen_.reversed_queries();
    std::vector<std::size_t> unsure;
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      if (effective_.empty()) return;  // the keys' rotation is not known: there is a finding
      if (settling_.restless(layer)) continue;
      const Rope& rope = effective_[layer];
      const RopeFit best = fit_rope(layers[layer], rope);
      if (best.unexplained <= RopeFit::allowed(layers[layer]) && matches_keys(layer, layers[layer], best))
        continue;
      Traces backwards;
      settling_.take(reversed, layer, claim_.rounding, backwards);
      if (name_mistake(layer, layers, best, backwards)) return;
      unsure.push_back(layer);
    }
    if (!unsure.empty()) too_noisy("queries", unsure);
  }

  /// Of queries that do not seem to turn as their layer's keys. Returns false if that may be noise.
  bool name_mistake(std::size_t layer, std::span<const Traces> layers, const RopeFit& best,
                    const Traces& backwards) {
    const Rope& rope = effective_[layer];
    const Traces& traces = layers[layer];
    const double as_keys = unexplained_by(rope, traces), allowed = RopeFit::allowed(traces);
    const RopeFit back = fit_rope(backwards, rope);
    if (back.unexplained <= allowed && matches_keys(layer, backwards, back) &&
        clearly_better(unexplained_by(rope, backwards), as_keys)) {
      report_.found(Flaw::queries_order, "queries of layer ", layer,
                    " are shown with the last token of a call first; the first token must come first");
      return true;
    }
    const bool explained = best.unexplained <= allowed;
    if (coarse() && (explained ? !clearly_better(best.unexplained, as_keys) : layer > 0)) return false;
    if (explained && !best.turns())
      report_.found(
          Flaw::queries_unrotated, "queries of a repeated token in layer ", layer,
          " do not turn with the position, but its keys do: they are shown before RoPE. They must be "
          "shown after it, turned by ",
          words_for(rope));
    else if (explained && claim_.storage == KeyStorage::unrotated)
      name_other_rotations(layers);
    else
      report_.found(Flaw::queries_order, "queries of a repeated token in layer ", layer,
                    explained ? text(" turn by ", words_for(best), ", but its keys by ", words_for(rope))
                              : text(" are no rotations of one another: ", percent(best.unexplained),
                                     " of their length is left"),
                    ": tokens or heads are in another order, or rotated for other positions");
    return true;
  }

  /// Where keys are stored unrotated, queries alone tell the engine's RoPE.
  void name_other_rotations(std::span<const Traces> layers) {
    std::vector<std::size_t> others;
    for (std::size_t layer = 0; layer < layers.size(); ++layer)
      if (!settling_.restless(layer) &&
          !explains(claim_.ropes[layer], layers[layer], fit_rope(layers[layer], claim_.ropes[layer])))
        others.push_back(layer);
    for (const LayerGroup& group : groups_of(layers, others))
      if (group.fit.turns() && is_explained(group)) name_other_rotation("queries", group);
  }

  /// Measured Ropes are themselves known only so well.
  bool matches_keys(std::size_t layer, const Traces& traces, const RopeFit& best) const {
    const Rope& rope = effective_[layer];
    if (claim_.stated && rope == claim_.ropes[layer]) return explains(rope, traces, best);
    RopeFit source;
    source.layout = measured_layout(rope, traces.head_dim);
    const double slack = 3 * (claim_.rounding.relative + claim_.rounding.of_largest + 0.02) /
                         static_cast<double>(traces.positions);
    source.pairs.assign(source.layout.count, PairFit{.frequency = 0, .bound = slack});
    return explains(rope, traces, best, &source);
  }

  const RepeatedToken& seen_;
  const RopeClaim& claim_;
  AdapterReport& report_;
  std::size_t layers_;
  Settling settling_;
  std::vector<Rope> effective_;  // (layers)
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
