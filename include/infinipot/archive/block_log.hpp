// Where the blocks of an archive lie: one after another, or in a ring if there is a limit.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/archive/block_header.hpp"
#include "infinipot/pot/crc32.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// A block and where it is.
struct BlockPlace {
  std::uint64_t at = 0;
  BlockHeader header;
};

/// The blocks on a device, from its byte `begin` to before `end`. There is no index: each block leads to the
/// next, and where one is damaged, the next is found by its header, at a multiple of 64 bytes.
///
/// With an `end`, a block that does not fit before it goes to the beginning, and the oldest ones, as many as
/// it overwrites, are dropped. So there are at most two laps: blocks of the older one stand at head_ and
/// above, those of the newer one below.
///
/// A device has size(), and read(at, bytes) and write(at, bytes), which say whether they could.
template <class Device>
class BlockLog {
 public:
  BlockLog(Device device, const BlockLayout& layout, std::uint64_t begin, std::uint64_t end)
      : device_(std::move(device)), layout_(layout), begin_(begin), end_(end), head_(begin) {}

  Device& device() noexcept { return device_; }
  const Device& device() const noexcept { return device_; }
  const BlockLayout& layout() const noexcept { return layout_; }

  bool empty() const noexcept { return blocks_ == 0; }
  /// Preconditions: not empty.
  const BlockPlace& oldest() const noexcept { return oldest_; }
  const BlockHeader& newest() const noexcept { return newest_; }

  /// Held by blocks with a sound header.
  std::uint64_t entries() const noexcept { return entries_; }
  std::uint64_t bytes() const noexcept { return bytes_; }
  std::uint64_t dropped() const noexcept { return dropped_; }

  /// Goes from a valid block to the next. False if there is none.
  bool next(BlockPlace& place) const noexcept {
    if (place.header.number >= newest_.number) return false;
    const std::uint64_t low = place.header.number + 1;
    const std::uint64_t after = place.at + layout_.bytes(place.header.count);
    const bool older_lap = place.at >= head_;
    BlockPlace found;
    if ((header_at(after, found) && found.header.number == low) ||
        (older_lap && header_at(begin_, found) && found.header.number == low) ||
        find(after, older_lap ? device_.size() : head_, low, found) ||
        (older_lap && find(begin_, head_, low, found))) {
      place = found;
      return true;
    }
    return false;
  }

  /// The payload of a block, into (payload_bytes) bytes. False if it is damaged.
  bool read(const BlockPlace& place, std::span<std::byte> payload) const noexcept {
    Crc32 crc;
    if (!device_.read(place.at + sizeof(BlockHeader), payload)) return false;
    crc.add(payload);
    return crc.value() == place.header.payload_crc;
  }

  /// Makes room for a block of `count` entries. Returns where it goes, and its number and the oldest one.
  BlockPlace make_room(std::size_t count) noexcept {
    const std::uint64_t bytes = layout_.bytes(count);
    BlockPlace place{.at = head_, .header = {}};
    if (bytes > end_ - head_) {
      while (blocks_ != 0 && oldest_.at >= head_) drop_oldest();
      place.at = begin_;
    }
    while (blocks_ != 0 && oldest_.at >= place.at && oldest_.at < place.at + bytes) drop_oldest();
    place.header.number = next_number_;
    place.header.oldest = blocks_ == 0 ? next_number_ : oldest_.header.number;
    place.header.dropped = dropped_;
    return place;
  }

  /// Writes a block where make_room() said. False if the device could not; then the block is not there.
  bool write(const BlockPlace& place, std::span<const std::byte> block) noexcept {
    if (!device_.write(place.at, block)) return false;
    if (blocks_ == 0) oldest_ = place;
    newest_ = place.header;
    head_ = place.at + block.size();
    next_number_ = place.header.number + 1;
    ++blocks_;
    entries_ += place.header.count;
    bytes_ += block.size();
    return true;
  }

  /// What was found wrong when an existing device was opened.
  struct Damage {
    std::uint64_t blocks = 0;         ///< damaged or cut short
    std::uint64_t keep_bytes = 0;     ///< of the device: all beyond may go
    std::vector<std::uint64_t> torn;  ///< where headers of torn blocks stand that must go
  };

  /// Finds the blocks of a device that has some, up to the newest one that is whole. Throws std::bad_alloc.
  Damage open() {
    std::vector<Found> found = scan();
    std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) { return a.number < b.number; });
    Damage damage;
    std::vector<std::byte> payload;
    BlockPlace place;
    for (; !found.empty(); found.pop_back()) {
      const Found& last = found.back();
      if (last.whole && header_at(last.at, place)) {
        payload.resize(static_cast<std::size_t>(place.header.payload_bytes));
        if (read(place, payload)) break;
      }
      ++damage.blocks;
      damage.torn.push_back(last.at);
    }
    if (found.empty()) {
      if (damage.blocks == 0 && device_.size() > begin_) damage.blocks = 1;
      damage.keep_bytes = begin_;
      return damage;
    }
    take(found, place);
    const std::uint64_t live = blocks_, numbers = newest_.number - oldest_.header.number + 1;
    // No more than there is room for, whatever the numbers say.
    const auto missing = [&](std::uint64_t count) {
      return (std::min)(count, device_.size() / (2 * block_alignment));
    };
    if (numbers > live) damage.blocks += missing(numbers - live);
    // A torn block may have been written over the oldest ones.
    if (damage.torn.empty()) damage.blocks += missing(oldest_.header.number - newest_.oldest);
    const bool one_lap = newest_.oldest == 0;
    if (one_lap && damage.torn.empty() && device_.size() > head_) ++damage.blocks;
    damage.keep_bytes = oldest_.at >= head_ ? device_.size() : head_;
    return damage;
  }

 private:
  struct Found {
    std::uint64_t at = 0;
    std::uint64_t number = 0;
    std::uint32_t count = 0;
    bool whole = false;  ///< not cut short
  };

  static constexpr std::size_t piece = 8192;

  bool within(std::uint64_t at, std::uint64_t bytes) const noexcept {
    const std::uint64_t end = (std::min)(end_, device_.size());
    return at <= end && bytes <= end - at;
  }

  /// A valid header of a block that is not cut short.
  bool header_at(std::uint64_t at, BlockPlace& place) const noexcept {
    place.at = at;
    return within(at, sizeof(BlockHeader)) &&
           device_.read(at, std::as_writable_bytes(std::span(&place.header, 1))) &&
           layout_.fits(place.header) && within(at, layout_.bytes(place.header.count));
  }

  /// Calls take(place) for valid headers in [from, to) until it returns true; says whether it did.
  template <class F>
  bool headers(std::uint64_t from, std::uint64_t to, const F& take) const
      noexcept(noexcept(take(BlockPlace{}))) {
    alignas(block_alignment) std::array<std::byte, piece> bytes;
    while (from < to) {
      const auto size = static_cast<std::size_t>((std::min)(std::uint64_t{piece}, to - from));
      if (size < sizeof(BlockHeader)) return false;
      if (device_.read(from, std::span(bytes).first(size)))
        for (std::size_t i = 0; i + sizeof(BlockHeader) <= size; i += block_alignment) {
          BlockPlace place{.at = from + i, .header = {}};
          std::memcpy(&place.header, bytes.data() + i, sizeof(BlockHeader));
          if (layout_.fits(place.header) && take(place)) return true;
        }
      from += piece;
    }
    return false;
  }

  /// The first valid block in [from, to) with a number from `low` to the newest one's.
  bool find(std::uint64_t from, std::uint64_t to, std::uint64_t low, BlockPlace& found) const noexcept {
    return headers(from, (std::min)(to, device_.size()), [&](const BlockPlace& place) noexcept {
      if (place.header.number < low || place.header.number > newest_.number ||
          !within(place.at, layout_.bytes(place.header.count)))
        return false;
      found = place;
      return true;
    });
  }

  /// All blocks with a valid header, from the device's beginning to its end.
  std::vector<Found> scan() const {
    std::vector<Found> found;
    const auto add = [&](const BlockPlace& place) {
      const bool whole = within(place.at, layout_.bytes(place.header.count));
      found.push_back({place.at, place.header.number, place.header.count, whole});
    };
    const std::uint64_t size = (std::min)(end_, device_.size());
    for (std::uint64_t at = begin_; at < size;) {
      BlockPlace place;
      if (header_at(at, place)) {
        add(place);
      } else if (!headers(at, size, [&](const BlockPlace& next) {
                   place = next;
                   add(next);
                   return true;
                 })) {
        break;
      }
      const bool whole = found.back().whole;
      at = place.at + (whole ? layout_.bytes(place.header.count) : block_alignment);
    }
    return found;
  }

  /// Takes the blocks that the newest one, the last one found, says are valid.
  void take(std::vector<Found>& found, const BlockPlace& newest) {
    newest_ = newest.header;
    head_ = newest.at + layout_.bytes(newest_.count);
    next_number_ = newest_.number + 1;
    dropped_ = newest_.dropped;
    std::erase_if(found, [&](const Found& block) { return block.number < newest_.oldest || !block.whole; });
    blocks_ = found.size();
    header_at(found.front().at, oldest_);
    for (const Found& block : found) {
      entries_ += block.count;
      bytes_ += layout_.bytes(block.count);
    }
  }

  void drop_oldest() noexcept {
    entries_ -= oldest_.header.count;
    dropped_ += oldest_.header.count;
    bytes_ -= layout_.bytes(oldest_.header.count);
    if (next(oldest_))
      --blocks_;
    else
      blocks_ = 0;
  }

  Device device_;
  BlockLayout layout_;
  std::uint64_t begin_ = 0, end_ = 0;
  std::uint64_t head_ = 0;  // where the newest block ends
  std::uint64_t next_number_ = 0;
  std::uint64_t blocks_ = 0;
  BlockPlace oldest_;
  BlockHeader newest_;
  std::uint64_t entries_ = 0, bytes_ = 0, dropped_ = 0;
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
