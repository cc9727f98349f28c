// NuC of all tokens of a text, even of those that do not stay.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/policy.hpp"
#include "infinipot/pot/entries.hpp"

namespace reading {

/// Collects NuC by position in all that was read. Must see the entries before every distillation, and at
/// the end.
class NucTrace {
 public:
  /// Takes in what was read since the last call. Nothing of that may have been dropped, but what was read in
  /// another run may be missing.
  void note(const infinipot::EntryTable& entries) {
    const auto positions = entries.positions(0);
    const auto nuc = entries.nuc(0);
    const auto fresh = std::ranges::lower_bound(positions, nuc_.size()) - positions.begin();
    for (auto i = static_cast<std::size_t>(fresh); i < positions.size(); ++i) {
      nuc_.resize(static_cast<std::size_t>(positions[i]), std::numeric_limits<float>::quiet_NaN());
      nuc_.push_back(nuc[i]);
    }
  }

  /// nats; 0 for the first token, NaN where it is not known.
  const std::vector<float>& nuc() const { return nuc_; }

 private:
  std::vector<float> nuc_;
};

/// A policy that is always given NuC where `wanted`, even if it does not choose by it.
template <infinipot::Policy P>
class WithNuc : public P {
 public:
  WithNuc(P policy, bool wanted) : P(std::move(policy)), wanted_(wanted) {}

  bool uses_nuc() const noexcept { return wanted_ || infinipot::uses_nuc(static_cast<const P&>(*this)); }

 private:
  bool wanted_;
};

}  // namespace reading
