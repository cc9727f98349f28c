// What an archive is of, what it keeps of it, and how it fares.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "infinipot/pot/quantized_pot.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// What is kept of a key or value; files number these.
enum class ArchiveType : std::uint32_t {
  float32,
  float16,
  codes8,  ///< int8: 8.5 bits a channel
  codes4,  ///< int4: 5 bits a channel
  tokens   ///< nothing: token ids alone, to be read anew
};

struct ArchiveSettings {
  Shape shape;
  Rope rope = {};  ///< the model's, to tell another model by; keys are archived without it
  ArchiveType type = ArchiveType::codes8;
  /// What else tells the model from others, at most 255 bytes, such as a hash of its file.
  std::string fingerprint = {};
  /// Entries that are written, checked and read together, 1 .. 65536.
  std::size_t block = 256;
  /// The most bytes; the oldest blocks make room for new ones. 0: no limit (files only).
  std::uint64_t limit = 0;
  KeyChannels channels = {};  ///< of the keys, for int8 and int4; may be empty
};

/// How an archive fares.
struct ArchiveStats {
  std::uint64_t entries = 0;  ///< held
  std::uint64_t bytes = 0;    ///< that they take
  std::uint64_t dropped = 0;  ///< entries that made room for others (limit)
  std::uint64_t lost = 0;     ///< entries that came after the archive had ended (a full disk)
  std::uint64_t damaged = 0;  ///< blocks found damaged so far, cut short or with a wrong checksum
  double seconds = 0;         ///< spent in append() and flush()
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
