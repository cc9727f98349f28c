// What a check of an adapter found, in words.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ostream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "infinipot/detail/error.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// What is wrong with an adapter.
enum class Flaw : std::uint8_t {
  shape,              ///< the engine's and the store's differ
  overlap,            ///< rows of keys and values, or of several heads or layers, share memory
  entry_stride,       ///< entries share rows
  head_stride,        ///< kv heads share rows
  layer_stride,       ///< layers share rows, or have those of another layer
  swapped_strides,    ///< head and entry stride are each other's
  swapped_tables,     ///< keys are where values are said to be
  capacity,           ///< more rows than the engine has
  guard,              ///< bytes outside the engine's rows changed
  not_finite,         ///< a key, query or logit is NaN or infinite
  repeated_keys,      ///< keys of a repeated token are no rotations of one another
  repeated_values,    ///< values of a repeated token differ
  pairing,            ///< RoPE pairs other channels than the store's Rope says
  rotary_dim,         ///< RoPE turns another number of channels
  first_channel,      ///< RoPE turns as many channels, but others
  frequencies,        ///< RoPE turns them at other speeds (theta, scaling)
  rope_missing,       ///< the store's Rope is not applied, perhaps in a layer without RoPE
  rope_unclaimed,     ///< RoPE is applied, but the store's Rope is empty or said not to be that layer's
  key_storage,        ///< rotated where unrotated is claimed, or the other way round
  queries_missing,    ///< a layer's queries are never shown, or of too few tokens
  queries_repeated,   ///< a layer's queries are shown more than once
  queries_unrotated,  ///< shown before RoPE
  queries_order,      ///< tokens are in another order, or rotated for other positions
  query_heads,        ///< shown queries do not score the store's keys as the engine does: other heads
  keys_late,          ///< a layer's keys are not in the store when its queries are shown
  keys_unread,        ///< the engine does not read its keys from the store
  logits_missing,     ///< rows that were wanted did not come
  logits_rows,        ///< rows that hold what belongs to another row, or come twice
  vocab_size,         ///< rows of logits are of another size
  chunks,             ///< results depend on how tokens are split into calls
  truncate,           ///< results depend on what was written and then dropped
  probe_trace,        ///< a probe changes what comes after it
  entries,            ///< the engine adds or drops entries itself
  nuc,                ///< NuC given by nuc() is not that of the logits
  attention_rows,     ///< rows of probabilities are missing, too many, too short or do not sum to 1
  attention_scores,   ///< probabilities are not those of the shown queries, keys and attention_form()
  sinks,              ///< learned sinks take attention, but attention_form() has none, or the other way round
  stream_positions,   ///< what the engine remembers beside the store does not go on with the stream
  keep,               ///< keep() does not leave keys as if written at their new places
};

struct Finding {
  Flaw flaw;
  std::string what;  ///< what was seen, and what would be right
};

/// The result of check_adapter().
class AdapterReport {
 public:
  /// Whether nothing is wrong with what could be checked.
  bool ok() const noexcept { return findings_.empty(); }
  explicit operator bool() const noexcept { return ok(); }

  const std::vector<Finding>& findings() const noexcept { return findings_; }

  /// What could not be checked and why, and how loosely the rest was.
  const std::vector<std::string>& notes() const noexcept { return notes_; }

  bool has(Flaw flaw) const noexcept {
    return std::ranges::any_of(findings_, [&](const Finding& finding) { return finding.flaw == flaw; });
  }

  /// All of it, a line for each finding and note.
  std::string what() const {
    std::string text = ok() ? "the adapter does what it says" : "the adapter is wrong:";
    for (const Finding& finding : findings_) text += "\n- " + finding.what;
    for (const std::string& note : notes_) text += "\n(" + note + ")";
    return text;
  }

  /// Throws std::runtime_error with what() unless ok(). Without exceptions, prints it and aborts.
  const AdapterReport& require() const {
    if (!ok()) detail::fail("infinipot: ", what());
    return *this;
  }

  friend std::ostream& operator<<(std::ostream& out, const AdapterReport& report) {
    return out << report.what();
  }

  template <class... Parts>
  void found(Flaw flaw, const Parts&... parts) {
    findings_.push_back({flaw, detail::text(parts...)});
  }
  template <class... Parts>
  void note(const Parts&... parts) {
    notes_.push_back(detail::text(parts...));
  }

 private:
  std::vector<Finding> findings_;
  std::vector<std::string> notes_;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
