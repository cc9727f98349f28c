// What is to be recalled: one archive, a part of it, or several one behind the other.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

#include "infinipot/archive.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// The entries of an archive at positions from .. to - 1, and all that are pinned.
template <Archive A>
struct ArchivePart {
  A* archive = nullptr;
  std::uint64_t from = 0;
  std::uint64_t to = (std::numeric_limits<std::uint64_t>::max)();
};

namespace detail {

template <Archive A>
std::array<ArchivePart<A>, 1> parts_of(A& archive) noexcept {
  return {ArchivePart<A>{std::addressof(archive)}};
}

template <Archive A>
std::array<ArchivePart<A>, 1> parts_of(const ArchivePart<A>& part) noexcept {
  return {part};
}

template <Archive A>
std::span<const ArchivePart<A>> parts_of(std::span<const ArchivePart<A>> parts) noexcept {
  return parts;
}

template <Archive A>
std::span<const ArchivePart<A>> all_of(const std::array<ArchivePart<A>, 1>& parts) noexcept {
  return parts;
}

template <Archive A>
std::span<const ArchivePart<A>> all_of(std::span<const ArchivePart<A>> parts) noexcept {
  return parts;
}

template <Archive A>
A* archive_in(std::span<const ArchivePart<A>> parts) noexcept;  // for its type

}  // namespace detail

/// An archive, an ArchivePart, or a span of those.
template <class T>
concept Recallable = requires(T& archives) {
  detail::parts_of(archives);
};

namespace detail {

/// The type of archive that is to be recalled.
template <Recallable Archives>
using ArchiveIn = std::remove_pointer_t<decltype(archive_in(
    all_of(parts_of(std::declval<std::remove_reference_t<Archives>&>()))))>;

}  // namespace detail
}  // namespace infinipot::inline INFINIPOT_NAMESPACE
