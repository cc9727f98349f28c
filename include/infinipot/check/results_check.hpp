// Whether the same tokens give the same logits however they are split into calls, and after rows were written
// and dropped.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <exception>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "infinipot/ccd/watchers.hpp"
#include "infinipot/check/adapter_report.hpp"
#include "infinipot/check/repeated_token.hpp"
#include "infinipot/check/rope_words.hpp"
#include "infinipot/check/watched_pass.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/nan.hpp"
#include "infinipot/nuc.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// Root mean square difference of two rows of logits, relative to how far the first one's spread. Logits that
/// are infinite in both, as those of impossible tokens, are left out; in one of them only, the difference is
/// infinite.
inline double difference(std::span<const float> expected, std::span<const float> found) {
  double sum = 0, squares = 0, apart = 0;
  std::size_t count = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const bool finite = is_finite(expected[i]);
    if (finite != is_finite(found[i])) return (std::numeric_limits<double>::max)();
    if (!finite) continue;
    const auto a = static_cast<double>(expected[i]), b = static_cast<double>(found[i]);
    ++count;
    sum += a;
    squares += a * a;
    apart += (a - b) * (a - b);
  }
  if (apart == 0 || count == 0) return 0;
  const auto n = static_cast<double>(count);
  return std::sqrt(apart / n / (std::max)(squares / n - sum / n * (sum / n), 1e-30));
}

/// Root mean square spread of logits.
inline double spread(std::span<const float> logits) {
  double sum = 0, squares = 0, n = 0;
  for (const float logit : logits) {
    if (!is_finite(logit)) continue;
    const auto x = static_cast<double>(logit);
    sum += x;
    squares += x * x;
    ++n;
  }
  return n == 0 ? 0 : std::sqrt((std::max)(0.0, squares / n - sum / n * (sum / n)));
}

/// Runs a text in several ways. The logits of single tokens are the yardstick: such a call has one row only,
/// so it cannot be another's.
template <class Engine, class S>
class ResultsCheck {
 public:
  /// `tolerance` is of difference(), for engines whose results are the same from call to call; it grows with
  /// the noise of those whose results are not (see measure_noise()).
  ResultsCheck(Engine& engine, S& store, std::span<const Token> tokens, std::size_t chunk, double tolerance,
               AdapterReport& report)
      : engine_(engine),
        store_(store),
        tokens_(tokens),
        chunk_(chunk),
        tolerance_(tolerance),
        vocab_size_(static_cast<std::size_t>(engine.vocab_size())),
        report_(report) {}

  /// Ends with the first thing that is wrong, since the rest would follow from it.
  void run() {
    const std::size_t before = report_.findings().size(), half = tokens_.size() / 2;
    const auto right = [&] { return report_.findings().size() == before; };
    if (!run_one_by_one() || !right()) return;
    measure_noise();
    run_at_once();
    if (right()) run_odd_pieces();
    if (!right()) return;
    const bool goes_back = go_back_to_others(half);
    if (goes_back)
      go_on(Flaw::truncate, half,
            text("a call after ", tokens_.size() - half, " other tokens were written and dropped"));
    if (!right()) return;
    go_to(half, goes_back);
    run_probe();
    go_on(Flaw::probe_trace, half, "a call after a probe was run and dropped");
    if (!right()) return;
    go_to(half, goes_back);
    run_targets(half);
  }

 private:
  void call(std::span<const Token> tokens, std::size_t first, LogitsSink& logits, bool show) {
    if constexpr (YieldsQueries<Engine>) {
      if (show && queries_shown(engine_)) {
        DroppedQueries queries;
        engine_.forward(tokens, first, logits, static_cast<QuerySink&>(queries));
        return;
      }
    }
    engine_.forward(tokens, first, logits);
  }

  /// One call, whose entries are then appended.
  void run_call(std::span<const Token> tokens, LogitsSink& logits, bool show = false) {
    const std::size_t first = store_.entries().size();
    call(tokens, first, logits, show);
    if (store_.entries().size() != first) {
      if (!report_.has(Flaw::entries))
        report_.found(Flaw::entries, "forward() changed the store's ", first, " entries to ",
                      store_.entries().size(), "; only the reader appends and truncates");
    }
    append_call(store_, tokens, first);
  }

  bool run_one_by_one() {
    store_.truncate(0);
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      KeptLogits logits(1, 0, vocab_size_);
      run_call(tokens_.subspan(i, 1), logits);
      if (!complete(logits, "a call with one token")) return false;
      for (const float logit : logits.logits(0))
        if (is_nan(logit) || (!is_finite(logit) && logit > 0)) {
          report_.found(Flaw::not_finite, "the logits after token ", i, " of the text hold ", logit);
          return false;
        }
      expected_.push_back(logits.logits(0));
    }
    return true;
  }

  /// How far logits are apart that should be the same: those after a token that is repeated, one by one, so
  /// that neither chunks nor places can be why. Float engines are off by 1e-4 of the spread. Engines that
  /// round activations to 8 bits are off by far more, since the smallest difference tips roundings, which
  /// each layer hands on: llama.cpp with SmolLM2 in Q4_1 by 10 % to 36 %, and by as much from one way to
  /// split a text to another (14 %). Three times that noise is allowed, since few samples show it, but 30 %
  /// at most: rows that belong to other tokens differ by 59 % at least in that model.
  /// Models whose logits depend on the place, as with learned positions, are compared as loosely; but
  /// where logits come closer to one another, as with learned sinks, the last ones tell.
  void measure_noise() {
    constexpr double times = 3, most = 0.3;
    constexpr std::size_t repeats = 16;
    store_.truncate(0);
    std::vector<float> first, before;
    double apart = 0, late = 0;  // from the first, and from the one before in the second half
    for (std::size_t i = 0; i < (std::min)(repeats, store_.capacity()); ++i) {
      KeptLogits logits(1, 0, vocab_size_);
      run_call(tokens_.last(1), logits);
      if (i == 0) first = logits.logits(0);
      apart = (std::max)(apart, difference(first, logits.logits(0)));
      if (i > repeats / 2) late = (std::max)(late, difference(before, logits.logits(0)));
      before = logits.logits(0);
    }
    const double noise = 4 * late < apart ? late : apart;
    const double allowed = (std::min)(times * noise, most);
    if (!(allowed > tolerance_)) return;
    report_.note("logits were compared loosely, up to ", rounded(100 * allowed, 3),
                 " % of their spread: those after a repeated token, one by one, are themselves ",
                 rounded(100 * (std::min)(noise, 1e6), 3), " % apart");
    tolerance_ = allowed;
  }

  /// Whether all rows that were wanted came, once each, and no others of a wrong size or place.
  bool complete(const KeptLogits& logits, const std::string& where) {
    const std::size_t count = logits.tokens(), targets = logits.targets().size();
    if (logits.other_size() != KeptLogits::none) {
      add(Flaw::vocab_size, "a row of ", logits.other_size(), " logits came in ", where, "; vocab_size() is ",
          vocab_size_);
      return false;
    }
    if (logits.outside() != KeptLogits::none) {
      add(Flaw::logits_rows, "row ", logits.outside(), " came in ", where, ", which has rows 0 .. ",
          count - 1);
      return false;
    }
    for (std::size_t i = logits.first_row(); i < count; ++i) {
      const std::size_t times = logits.times(i) + (i < targets ? logits.nuc_times(i) : 0);
      if (times == 1) continue;
      if (times == 0)
        add(Flaw::logits_missing, "row ", i, " did not come in ", where, ", which asked for rows ",
            logits.first_row(), " .. ", count - 1);
      else
        add(Flaw::logits_rows, "row ", i, " came ", times, " times in ", where, "; once is right");
      return false;
    }
    return true;
  }

  template <class... Parts>
  void add(Flaw flaw, const Parts&... parts) {
    if (!report_.has(flaw)) report_.found(flaw, parts...);
  }

  /// Compares the rows of a call whose first token is number `first` of the text.
  void compare(Flaw flaw, const KeptLogits& logits, std::size_t first, const std::string& where) {
    if (!complete(logits, where)) return;
    for (std::size_t i = logits.first_row(); i < logits.tokens(); ++i) {
      if (logits.times(i) == 0) continue;  // NuC came instead
      const double off = difference(expected_[first + i], logits.logits(i));
      if (off <= tolerance_) continue;
      for (std::size_t other = 0; other < logits.tokens(); ++other)
        if (other != i && difference(expected_[first + other], logits.logits(i)) <= tolerance_) {
          add(Flaw::logits_rows, "row ", i, " of ", where, " (first_row() ", logits.first_row(),
              ") holds what belongs to row ", other);
          return;
        }
      add(flaw, "logits after token ", first + i, " of the text, in ", where,
          ", differ from those of calls with one ", "token by ", rounded(100 * (std::min)(off, 1e6), 3),
          " % of their spread; ", rounded(100 * tolerance_, 3), " % would be rounding");
      return;
    }
  }

  void run_at_once() {
    store_.truncate(0);
    for (std::size_t first = 0; first < tokens_.size(); first += chunk_) {
      const auto some = tokens_.subspan(first, (std::min)(chunk_, tokens_.size() - first));
      KeptLogits logits(some.size(), 0, vocab_size_);
      run_call(some, logits);
      compare(Flaw::chunks, logits, first, text("a call with ", some.size(), " tokens"));
    }
  }

  void run_odd_pieces() {
    store_.truncate(0);
    bool last_only = false;
    for (std::size_t first = 0, piece = 2; first < tokens_.size(); first += piece, piece = piece % 7 + 2) {
      piece = (std::min)({piece, tokens_.size() - first, chunk_});
      KeptLogits logits(piece, last_only ? piece - 1 : piece / 2, vocab_size_);
      run_call(tokens_.subspan(first, piece), logits, last_only);
      compare(Flaw::chunks, logits, first, text("a call with ", piece, " tokens after ", first, " others"));
      last_only = !last_only;
    }
  }

  /// Runs other tokens after the first `half` and drops them. Returns false if the engine does not go back: a
  /// recurrent state may be the latest only.
  bool go_back_to_others(std::size_t half) {
    store_.truncate(half);
#ifdef __cpp_exceptions
    try {
      run_others();
      return true;
    } catch (const std::exception& error) {
      report_.note("going back in a text was not checked, since forward() throws there: ", error.what());
    }
    return false;
#else
    run_others();
    return true;
#endif
  }

  /// The store then holds the first `half` tokens, and nothing after them was run if the engine cannot go
  /// back.
  void go_to(std::size_t half, bool goes_back) {
    store_.truncate(goes_back ? half : 0);
    while (store_.entries().size() < half) {
      const std::size_t first = store_.entries().size(), count = (std::min)(chunk_, half - first);
      NoLogits logits(count);
      run_call(tokens_.subspan(first, count), logits);
    }
  }

  /// The text's second half backwards, which is then dropped.
  void run_others() {
    const std::size_t half = tokens_.size() / 2;
    std::vector<Token> others(tokens_.rbegin(), tokens_.rend() - static_cast<std::ptrdiff_t>(half));
    for (std::size_t first = 0; first < others.size(); first += chunk_) {
      const auto some = std::span(others).subspan(first, (std::min)(chunk_, others.size() - first));
      KeptLogits logits(some.size(), some.size() - 1, vocab_size_);
      run_call(some, logits);
    }
    store_.truncate(half);
  }

  /// Without logits, never appended: as catalysts are run.
  void run_probe() {
    const std::size_t size = store_.entries().size();
    const auto probe = tokens_.first((std::min)({chunk_, tokens_.size() - size, std::size_t{5}}));
    NoLogits logits(probe.size(), 0, true);
    call(probe, size, logits, true);
    store_.truncate(size);
  }

  void go_on(Flaw flaw, std::size_t first, const std::string& where) {
    while (first < tokens_.size()) {
      const std::size_t count = (std::min)(chunk_, tokens_.size() - first);
      KeptLogits logits(count, 0, vocab_size_);
      run_call(tokens_.subspan(first, count), logits);
      compare(flaw, logits, first, where);
      first += count;
    }
  }

  /// NuC instead of logits, where the engine likes.
  void run_targets(std::size_t first) {
    const auto some = tokens_.subspan(first, (std::min)(chunk_, tokens_.size() - first));
    KeptLogits logits(some.size(), 0, vocab_size_, some.subspan(1));
    run_call(some, logits);
    compare(Flaw::chunks, logits, first, "a call that wants NuC");
    for (std::size_t i = 0; i + 1 < some.size(); ++i) {
      if (logits.nuc_times(i) == 0 || report_.has(Flaw::nuc)) continue;
      const float right = infinipot::nuc(expected_[first + i], some[i + 1]), found = logits.nuc_of(i);
      // A logit and the sum over all may each be off by the tolerance where a token is far from the mean.
      const double allowed = 8 * tolerance_ * spread(expected_[first + i]) + 1e-3;
      if (found == right || std::abs(static_cast<double>(found) - static_cast<double>(right)) <= allowed)
        continue;
      report_.found(Flaw::nuc, "nuc() gave ", found, " nats for row ", i, " of a call with ", some.size(),
                    " tokens; by its logits it is ", right);
    }
  }

  Engine& engine_;
  S& store_;
  std::span<const Token> tokens_;
  std::size_t chunk_;
  double tolerance_;
  std::size_t vocab_size_;
  AdapterReport& report_;
  std::vector<std::vector<float>> expected_;  // (tokens, vocab_size)
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
