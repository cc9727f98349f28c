// Whether what an engine remembers beside the store, such as the window of a sliding-window layer, goes on
// with the stream after a keep().
//
// That the engine remembers anything is seen when its logits depend on a text whose rows in the store were
// overwritten. Then logits after a keep() must depend on the last tokens of the text too, though their
// entries were dropped. Where they do, their positions cannot be seen from outside: a window at wrong
// positions gives other logits, but nothing says which are right.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "infinipot/ccd/ccd_settings.hpp"
#include "infinipot/check/adapter_report.hpp"
#include "infinipot/check/last_token.hpp"
#include "infinipot/check/results_check.hpp"
#include "infinipot/check/rope_words.hpp"
#include "infinipot/check/text_rows.hpp"
#include "infinipot/check/watched_pass.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/pot/selection.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

template <class Engine, class S>
class StreamCheck {
 public:
  /// `tokens` are at least 16, not all the same.
  StreamCheck(Engine& engine, S& store, std::span<const Token> tokens, std::size_t chunk,
              AdapterReport& report)
      : engine_(engine),
        store_(store),
        shape_(store.shape()),
        tokens_(tokens),
        half_(tokens.begin(), tokens.begin() + 8),
        rest_(tokens.begin() + 8, tokens.begin() + 16),
        chunk_(chunk),
        report_(report) {}

  void run() requires WritableStore<S> {
    if (const std::size_t recent = recent_in(store_, 0); recent > 0) {
      report_.note("what the engine remembers beside the store was not looked for: the store asks for its ",
                   recent, " newest entries to stay (keeps_recent())");
      return;
    }
    rows_ = run_text(engine_, store_, half_, chunk_);
    const auto seen = after_overwriting(half_);
    const double noise = difference(seen, after_overwriting(half_));
    const double outside = difference(seen, after_overwriting(others(half_)));
    if (outside <= 10 * noise + 1e-3) return;
    const double last = difference(after_keeping(rest_), after_keeping(others(rest_)));
    if (last <= 0.02 * outside + 3 * noise)
      report_.found(
          Flaw::stream_positions, "the engine remembers tokens beside the store (they change the logits by ",
          rounded(100 * outside, 3),
          " % of their spread), but after a keep() not those that came last, whose entries were "
          "dropped: layers with a window go on at the stream's positions, which are the call's plus "
          "LogitsSink::stream_offset()");
    else
      report_.note(
          "the engine remembers tokens beside the store, as windows and recurrent states do; after a "
          "keep() those that came last count, but at which positions cannot be seen");
  }

 private:
  /// Another token of the text in every place.
  std::vector<Token> others(std::vector<Token> some) const {
    for (Token& token : some)
      token = *std::ranges::find_if(tokens_, [&](Token other) { return other != token; });
    return some;
  }

  /// Logits after one more token, whose entry is dropped.
  std::vector<float> probe(std::uint64_t stream_offset) {
    const std::size_t first = store_.entries().size();
    KeptLogits kept(1, 0, static_cast<std::size_t>(engine_.vocab_size()), {}, true, stream_offset);
    engine_.forward(std::span<const Token>(half_).first(1), first, kept);
    store_.truncate(first);
    return kept.logits(0);
  }

  /// After a text whose rows were made those of the first half.
  std::vector<float> after_overwriting(const std::vector<Token>& text) {
    run_text(engine_, store_, text, chunk_);
    for (std::size_t layer = 0; layer < shape_.layers; ++layer)
      for (std::size_t head = 0; head < shape_.kv_heads; ++head)
        for (std::size_t entry = 0; entry < text.size(); ++entry)
          write_rotated(store_, layer, head, entry, rows_.keys.at(layer, head, entry),
                        rows_.values.at(layer, head, entry));
    return probe(0);
  }

  /// After the first half and these, of which entries of the first half alone are kept.
  std::vector<float> after_keeping(const std::vector<Token>& last) {
    std::vector<Token> text = half_;
    text.insert(text.end(), last.begin(), last.end());
    run_text(engine_, store_, text, chunk_);
    std::size_t keep = (std::min)(store_.capacity() / 2, half_.size());
    if constexpr (requires { store_.max_keep(); }) keep = (std::min)(keep, store_.max_keep());
    Selection kept(shape_.lanes(store_.granularity()), keep);
    for (std::size_t lane = 0; lane < kept.lanes(); ++lane)
      for (std::size_t i = 0; i < keep; ++i) kept.lane(lane)[i] = static_cast<Index>(i);
    store_.keep(kept);
    return probe(text.size() - keep);
  }

  Engine& engine_;
  S& store_;
  Shape shape_;
  std::span<const Token> tokens_;
  std::vector<Token> half_, rest_;
  std::size_t chunk_;
  AdapterReport& report_;
  TextRows rows_;  // of the first half
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
