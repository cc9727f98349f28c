// What a pot kept at every distillation, for --report.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "nuc_trace.hpp"

namespace reading {

/// Follows a reader's distillations. A token is named by its position in all that was read.
class PotLog {
 public:
  /// Which lanes hold a token: bit i of word i / 32 for lane i.
  using Mask = std::vector<std::uint32_t>;

  struct Distillation {
    std::uint64_t tokens_read = 0;
    std::vector<std::uint64_t> recalled = {};  ///< if it was a recall: what that found in the archive
    std::map<std::uint64_t, Mask> kept;
    /// Attention paid to all entries (or the policy's own scores), summed over the heads that held them.
    std::map<std::uint64_t, float> scores;
  };

  explicit PotLog(const infinipot::Shape& shape, infinipot::Granularity granularity)
      : shape_(shape), granularity_(granularity), lanes_(shape.lanes(granularity)) {}

  /// Text of the tokens from this position on. What was read in another run is empty unless it is given too.
  void read(std::uint64_t position, const std::vector<std::string>& pieces) {
    const auto at = static_cast<std::size_t>(position);
    texts_.resize(std::max(texts_.size(), at + pieces.size()));
    std::ranges::copy(pieces, texts_.begin() + static_cast<std::ptrdiff_t>(at));
  }

  void choose(const infinipot::Choice& choice);

  /// Notes what is in the pot after a recall that found these positions.
  void recall(const infinipot::EntryTable& entries, std::vector<std::uint64_t> positions);

  /// Notes what is in the pot when reading ends, as if one more distillation kept it all.
  void end(const infinipot::EntryTable& entries);

  const infinipot::Shape& shape() const { return shape_; }
  std::size_t lanes() const { return lanes_; }
  std::size_t heads_per_lane() const { return shape_.heads_per_lane(granularity_); }
  const std::vector<std::string>& texts() const { return texts_; }
  const std::vector<float>& nuc() const { return trace_.nuc(); }  ///< of what distillations have seen
  const std::vector<Distillation>& distillations() const { return distillations_; }

 private:
  Distillation& add_held(const infinipot::EntryTable& entries);
  void mark(Distillation& distillation, std::size_t lane, std::uint64_t position) const;

  infinipot::Shape shape_;
  infinipot::Granularity granularity_;
  std::size_t lanes_;
  std::vector<std::string> texts_;
  NucTrace trace_;
  std::vector<Distillation> distillations_;
};

/// Writes the log as one HTML page that needs no network, whole or not at all. Throws UsageError if the file
/// cannot be written.
void write_page(const std::string& path, const PotLog& log, const std::string& title);

}  // namespace reading
