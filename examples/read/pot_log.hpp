// What a pot kept at every distillation, for --report.
#pragma once

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
    std::map<std::uint64_t, Mask> kept;
    /// Attention paid to all entries (or the policy's own scores), summed over the heads that held them.
    std::map<std::uint64_t, float> scores;
  };

  explicit PotLog(const infinipot::Shape& shape, infinipot::Granularity granularity)
      : shape_(shape), granularity_(granularity), lanes_(shape.lanes(granularity)) {}

  /// Text of the next tokens.
  void read(std::vector<std::string> pieces) {
    texts_.insert(texts_.end(), std::make_move_iterator(pieces.begin()),
                  std::make_move_iterator(pieces.end()));
  }

  void choose(const infinipot::Choice& choice);

  /// Notes what is in the pot when reading ends, as if one more distillation kept it all.
  void end(const infinipot::EntryTable& entries);

  const infinipot::Shape& shape() const { return shape_; }
  std::size_t lanes() const { return lanes_; }
  std::size_t heads_per_lane() const { return shape_.heads_per_lane(granularity_); }
  const std::vector<std::string>& texts() const { return texts_; }
  const std::vector<float>& nuc() const { return trace_.nuc(); }  ///< of what distillations have seen
  const std::vector<Distillation>& distillations() const { return distillations_; }

 private:
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
