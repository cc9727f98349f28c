// A pot whose element type is known at run time only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "infinipot/infinipot.hpp"

namespace reading {

/// One of the library's pots; meets infinipot::Store, infinipot::ReadableKeys and smollm2::KvMemory.
class AnyPot {
  // First, since their types must be known to what follows.
  template <class F>
  decltype(auto) visit(const F& function) noexcept {
    return std::visit(function, pot_);
  }
  template <class F>
  decltype(auto) visit(const F& function) const noexcept {
    return std::visit(function, pot_);
  }

 public:
  template <class T>
  explicit AnyPot(infinipot::Pot<T> pot) : pot_(std::move(pot)) {}

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
  const infinipot::EntryTable& entries() const noexcept {
    return visit([](const auto& pot) -> const infinipot::EntryTable& { return pot.entries(); });
  }
  std::size_t begin(std::size_t layer) const noexcept {
    return visit([&](const auto& pot) { return pot.begin(layer); });
  }
  std::size_t bytes() const noexcept {
    return visit([](const auto& pot) { return pot.bytes(); });
  }
  AnyPot fork() const {
    return visit([](const auto& pot) { return AnyPot(pot.fork()); });
  }

  void write(std::size_t layer, std::size_t kv_head, std::size_t entry, const float* key,
             const float* value) noexcept {
    visit([&](auto& pot) { pot.write(layer, kv_head, entry, key, value); });
  }
  infinipot::KeyRows key_rows(std::size_t layer, std::size_t kv_head, std::size_t first, std::size_t count,
                              float* tile) const noexcept {
    return visit([&](const auto& pot) { return pot.key_rows(layer, kv_head, first, count, tile); });
  }
  infinipot::KeyRows value_rows(std::size_t layer, std::size_t kv_head, std::size_t first, std::size_t count,
                                float* tile) const noexcept {
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
    visit([&](auto& pot) { pot.keep(kept, executor); });
  }

 private:
  std::variant<infinipot::Pot<infinipot::f32>, infinipot::Pot<infinipot::f16>,
               infinipot::Pot<infinipot::bf16>, infinipot::Pot<infinipot::int8>,
               infinipot::Pot<infinipot::int4>>
      pot_;
};

/// Bytes of a key or value of an element type.
inline std::size_t bytes_of_row(std::string_view type, std::size_t head_dim) {
  if (type == "int8") return infinipot::detail::row_bytes<infinipot::int8>(head_dim);
  if (type == "int4") return infinipot::detail::row_bytes<infinipot::int4>(head_dim);
  return head_dim * (type == "f32" ? sizeof(float) : sizeof(infinipot::f16));
}

/// f32, f16, bf16, int8 or int4. `channels()` says what the latter two want to know of the keys. Throws
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
