// NuC of all tokens of a text, though most of them do not stay.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/entries.hpp"
#include "infinipot/policy.hpp"

namespace reading {

/// Collects NuC by position in all that was read. Wants to see the entries before every distillation, and at
/// the end.
class NucTrace {
 public:
  /// Takes in what was read since the last call. Nothing of that may have been dropped.
  void note(const infinipot::EntryTable& entries) {
    const auto positions = entries.positions(0);
    const auto fresh = std::ranges::lower_bound(positions, nuc_.size()) - positions.begin();
    const auto nuc = entries.nuc(0).subspan(static_cast<std::size_t>(fresh));
    nuc_.insert(nuc_.end(), nuc.begin(), nuc.end());
  }

  const std::vector<float>& nuc() const { return nuc_; }  ///< nats; 0 for the first token

 private:
  std::vector<float> nuc_;
};

/// A policy for which NuC is always known where `wanted`, though it may not choose by it.
template <infinipot::Policy P>
class WithNuc : public P {
 public:
  WithNuc(P policy, bool wanted) : P(std::move(policy)), wanted_(wanted) {}

  bool uses_nuc() const noexcept { return wanted_ || P::uses_nuc(); }

 private:
  bool wanted_;
};

}  // namespace reading
