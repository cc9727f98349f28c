// Whether attention_form() has learned sinks where the engine has.
//
// All values of a prefix are made that of the next token. Its attention then gives this value whatever it
// pays whom, but for what sinks take: only with sinks do logits change as keys are moved along its query.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "infinipot/cap/attention_form.hpp"
#include "infinipot/check/adapter_report.hpp"
#include "infinipot/check/last_token.hpp"
#include "infinipot/check/results_check.hpp"
#include "infinipot/check/rope_words.hpp"
#include "infinipot/check/rounding.hpp"
#include "infinipot/check/stated_form.hpp"
#include "infinipot/check/uneven_scores.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// The sinks that attention_form() has are sound (check_stated_sinks()).
template <class Engine, class S>
class SinkCheck {
 public:
  SinkCheck(Engine& engine, S& store, std::span<const Token> tokens, std::size_t chunk, Rounding rounding,
            AdapterReport& report)
      : engine_(engine),
        shape_(store.shape()),
        token_(engine, store, tokens),
        chunk_(chunk),
        rounding_(rounding),
        report_(report) {}

  void run() requires YieldsQueries<Engine> && WritableStore<S> {
    if (shape_.value_channels() == 0) {
      report_.note("learned sinks were not looked for: values are read from the keys' rows");
      return;
    }
    const auto unmoved = token_.look(chunk_);
    noise_ = (std::max)(difference(unmoved, token_.logits()),
                        difference(unmoved, with_keys(0, slight, Values::kept)));
    restore(0);
    for (std::size_t layer = 0; layer < shape_.layers; ++layer)
      if (!check_layer(layer)) return;
  }

 private:
  /// How far keys are moved, in their lengths.
  static constexpr float reach = 2;
  /// And to see whether an engine, such as one that rounds activations to 8 bits, makes much of little.
  static constexpr float slight = 1e-3F;

  bool check_layer(std::size_t layer) {
    const double along =
        difference(with_keys(layer, -reach, Values::kept), with_keys(layer, reach, Values::kept));
    const double alike =
        difference(with_keys(layer, -reach, Values::own), with_keys(layer, reach, Values::own));
    restore(layer);
    const double rounding = 0.05 + 8 * (rounding_.relative + rounding_.of_largest) *
                                       std::sqrt(static_cast<double>(shape_.head_dim));
    const bool taken = alike > rounding * along + 3 * noise_ + 1e-5;
    const AttentionForm form = form_of(engine_, layer);
    const bool stated = std::ranges::any_of(form.sinks, is_finite<float>);
    if (taken && !stated) {
      report_.found(Flaw::sinks, "in layer ", layer,
                    ", what attention gives depends on the keys though all values are the same (",
                    rounded(100 * alike, 3),
                    " % of the logits' spread): something takes attention that is no entry, as learned sinks "
                    "do. attention_form(",
                    layer, ") has none (AttentionForm::sinks)");
      return false;
    }
    if (taken || !stated) return true;
    if (const double share = largest_change_of_share(layer, form); share > 0.3) {
      report_.found(Flaw::sinks, "attention_form(", layer, ") has learned sinks, by which up to ",
                    rounded(100 * share, 3),
                    " % of the attention should have gone elsewhere as keys were "
                    "moved, but the engine pays all of it to entries");
      return false;
    }
    return true;
  }

  enum class Values : bool { kept, own };

  /// A key moved along the first query that reads its head.
  std::vector<float> moved(std::size_t layer, std::size_t head, std::size_t entry, float by) const {
    const float* const key = token_.key(layer, head, entry);
    const float* const query = token_.query(layer, head * shape_.group());
    const double size =
        std::sqrt(squares_of(key, shape_.head_dim) / (std::max)(squares_of(query, shape_.head_dim), 1e-30));
    std::vector<float> result(key, key + shape_.head_dim);
    for (std::size_t k = 0; k < result.size(); ++k) result[k] += by * static_cast<float>(size) * query[k];
    return result;
  }

  std::vector<float> with_keys(std::size_t layer, float by, Values values) {
    for (std::size_t head = 0; head < shape_.kv_heads; ++head)
      for (std::size_t entry = 0; entry < token_.entries(); ++entry)
        token_.write(
            layer, head, entry, moved(layer, head, entry, by).data(),
            values == Values::own ? token_.own_value(layer, head) : token_.value(layer, head, entry));
    return token_.logits();
  }

  void restore(std::size_t layer) {
    for (std::size_t head = 0; head < shape_.kv_heads; ++head) token_.restore(layer, head);
  }

  /// What the form's sinks take with keys moved away from the queries, less what they take with keys moved
  /// towards them.
  double largest_change_of_share(std::size_t layer, const AttentionForm& form) const {
    double most = 0;
    for (std::size_t head = 0; head < shape_.kv_heads; ++head)
      most = (std::max)(most, share(layer, head, form, -reach) - share(layer, head, form, reach));
    return most;
  }

  /// Of the prefix alone: the token's own key takes something too, but not from a comparison of the two.
  double share(std::size_t layer, std::size_t kv_head, const AttentionForm& form, float by) const {
    const std::size_t head = kv_head * shape_.group();
    if (!is_finite(form.sinks[head])) return 0;
    std::vector<float> logits(token_.entries() + 1);
    const float* const query = token_.query(layer, head);
    for (std::size_t entry = 0; entry < token_.entries(); ++entry)
      logits[entry] = logit_of(form, query, moved(layer, kv_head, entry, by).data(), shape_.head_dim);
    if (form.bias != nullptr) form.bias->add(head, token_.entries(), logits);
    double paid = 0;
    for (std::size_t entry = 0; entry < token_.entries(); ++entry)
      if (is_finite(logits[entry]))
        paid += std::exp(static_cast<double>(logits[entry]) - static_cast<double>(form.sinks[head]));
    return 1 / (1 + paid);
  }

  Engine& engine_;
  Shape shape_;
  LastToken<Engine, S> token_;
  std::size_t chunk_;
  Rounding rounding_;
  AdapterReport& report_;
  double noise_ = 0;  // of logits, from call to call and when keys move a little
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
