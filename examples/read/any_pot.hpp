// A pot whose element type is known only at run time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include "infinipot/infinipot.hpp"

namespace reading {

/// Which positions keys and queries are rotated for.
enum class Positions : std::uint8_t {
  reindexed,  ///< those within the pot (CR-RoPE)
  growing,    ///< those within the text, as in a cache without CR-RoPE; for comparison only
};

/// One of the library's pots; meets infinipot::Store, infinipot::ReadableKeys and smollm2::KvMemory.
class AnyPot {
  // First, because what follows must know their return types.
  template <class F>
  decltype(auto) visit(const F& function) noexcept {
    return std::visit(function, pot_);
  }
  template <class F>
  decltype(auto) visit(const F& function) const noexcept {
    return std::visit(function, pot_);
  }

 public:
  /// If positions grow, the pot must hold rotated keys and know of no RoPE, so that it leaves them as they
  /// are.
  template <class T>
  explicit AnyPot(infinipot::Pot<T> pot, Positions positions = Positions::reindexed)
      : pot_(std::move(pot)), positions_(positions) {}

  infinipot::Shape shape() const noexcept {
    return visit([](const auto& pot) { return pot.shape(); });
  }
  std::size_t capacity() const noexcept {
    return visit([](const auto& pot) { return pot.capacity(); });
  }
  std::size_t max_keep() const noexcept {
    return visit([](const auto& pot) { return pot.max_keep(); });
  }
  infinipot::Granularity granularity() const noexcept {
    return visit([](const auto& pot) { return pot.granularity(); });
  }
  infinipot::KeyStorage key_storage() const noexcept {
    return visit([](const auto& pot) { return pot.key_storage(); });
  }
  const infinipot::Rope& rope() const noexcept {
    return visit([](const auto& pot) -> const infinipot::Rope& { return pot.rope(); });
  }
  const infinipot::EntryTable& entries() const noexcept {
    return visit([](const auto& pot) -> const infinipot::EntryTable& { return pot.entries(); });
  }
  std::size_t bytes() const noexcept {
    return visit([](const auto& pot) { return pot.bytes(); });
  }
  AnyPot fork() const {
    return visit([this](const auto& pot) {
      AnyPot copy(pot.fork(), positions_);
      copy.dropped_ = dropped_;
      return copy;
    });
  }

  void read_projected(std::size_t layer, std::size_t kv_head, std::size_t entry, float* key) const noexcept {
    visit([&](const auto& pot) { pot.read_projected(layer, kv_head, entry, key); });
  }
  void write_projected(std::size_t layer, std::size_t kv_head, std::size_t entry, float* key,
                       const float* value) noexcept {
    visit([&](auto& pot) { pot.write_projected(layer, kv_head, entry, key, value); });
  }

  /// Becomes a copy of the first entries of another pot, as infinipot::Pot does. Throws
  /// std::invalid_argument, also for one of another element type.
  void assign(const AnyPot& other, std::size_t count) {
    std::visit(
        [&](auto& pot) {
          const auto* const same = std::get_if<std::remove_reference_t<decltype(pot)>>(&other.pot_);
          if (same == nullptr) throw std::invalid_argument("a pot of another element type cannot be copied");
          pot.assign(*same, count);
        },
        pot_);
    dropped_ = other.dropped_;
  }

  /// infinipot::save_pot(). Not for positions that grow, which a file does not know.
  void save(std::ostream& out, std::span<const std::byte> extra) const {
    std::visit([&](const auto& pot) { infinipot::save_pot(pot, out, extra); }, pot_);
  }

  /// infinipot::restore_pot(), which throws std::invalid_argument.
  void restore(std::span<const std::byte> file) {
    std::visit([&](auto& pot) { infinipot::restore_pot(file, pot); }, pot_);
  }

  /// The position for which to rotate a token that is about to become an entry.
  std::size_t position(std::size_t entry) const noexcept {
    return positions_ == Positions::growing ? entry + dropped_ : entry;
  }

  void write(std::size_t layer, std::size_t kv_head, std::size_t entry, const float* key,
             const float* value) noexcept {
    visit([&](auto& pot) { pot.write(layer, kv_head, entry, key, value); });
  }
  infinipot::FloatRows key_rows(std::size_t layer, std::size_t kv_head, std::size_t first, std::size_t count,
                                float* tile) const noexcept {
    return visit([&](const auto& pot) { return pot.key_rows(layer, kv_head, first, count, tile); });
  }
  infinipot::FloatRows value_rows(std::size_t layer, std::size_t kv_head, std::size_t first,
                                  std::size_t count, float* tile) const noexcept {
    return visit([&](const auto& pot) { return pot.value_rows(layer, kv_head, first, count, tile); });
  }

  void append(std::span<const infinipot::Entry> added) noexcept {
    visit([&](auto& pot) { pot.append(added); });
  }
  void truncate(std::size_t size) noexcept {
    visit([&](auto& pot) { pot.truncate(size); });
  }
  template <infinipot::Executor X = infinipot::Serial>
  void keep(const infinipot::Selection& kept, X executor = {}) noexcept {
    dropped_ += entries().size() - kept.keep();
    visit([&](auto& pot) { pot.keep(kept, executor); });
  }

 private:
  std::variant<infinipot::Pot<infinipot::f32>, infinipot::Pot<infinipot::f16>,
               infinipot::Pot<infinipot::bf16>, infinipot::Pot<infinipot::int8>,
               infinipot::Pot<infinipot::int4>>
      pot_;
  Positions positions_;
  std::size_t dropped_ = 0;  // how far entries have moved to the front so far
};

/// Bytes of a key or value of an element type.
inline std::size_t bytes_of_row(std::string_view type, std::size_t head_dim) {
  if (type == "int8") return infinipot::detail::row_bytes<infinipot::int8>(head_dim);
  if (type == "int4") return infinipot::detail::row_bytes<infinipot::int4>(head_dim);
  return head_dim * (type == "f32" ? sizeof(float) : sizeof(infinipot::f16));
}

/// A pot of f32, f16 or bf16 whose positions grow. Throws std::invalid_argument for settings out of range and
/// other types: codes are made of keys before RoPE.
inline AnyPot make_growing_pot(std::string_view type, infinipot::PotSettings settings) {
  using namespace infinipot;
  settings.rope = {};
  if (type == "f32") return AnyPot(Pot<f32>(std::move(settings)), Positions::growing);
  if (type == "f16") return AnyPot(Pot<f16>(std::move(settings)), Positions::growing);
  if (type == "bf16") return AnyPot(Pot<bf16>(std::move(settings)), Positions::growing);
  throw std::invalid_argument("positions can grow with the element types f32, f16 and bf16, not with " +
                              std::string(type));
}

/// f32, f16, bf16, int8 or int4. `channels()` says what the latter two need to know about the keys. Throws
/// std::invalid_argument for settings out of range and other types.
template <class Channels>
AnyPot make_pot(std::string_view type, infinipot::PotSettings settings, const Channels& channels) {
  using namespace infinipot;
  if (type == "f32") return AnyPot(Pot<f32>(std::move(settings)));
  if (type == "f16") return AnyPot(Pot<f16>(std::move(settings)));
  if (type == "bf16") return AnyPot(Pot<bf16>(std::move(settings)));
  if (type == "int8") return AnyPot(Pot<int8>(std::move(settings), channels()));
  if (type == "int4") return AnyPot(Pot<int4>(std::move(settings), channels()));
  throw std::invalid_argument("element type " + std::string(type) +
                              " is not one of f32, f16, bf16, int8, int4");
}

}  // namespace reading
