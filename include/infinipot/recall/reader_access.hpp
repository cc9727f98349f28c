// Puts entries of an archive into a reader, as if it had read them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "infinipot/archive.hpp"
#include "infinipot/ccd.hpp"
#include "infinipot/ccd/archive_link.hpp"
#include "infinipot/ccd/protected_room.hpp"
#include "infinipot/ccd/watchers.hpp"
#include "infinipot/concepts.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/executor.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/pot/entries.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

/// The types that a reader is made of.
template <class Reader>
struct ReaderTypes;

template <class E, class S, class P, class X>
struct ReaderTypes<Ccd<E, S, P, X>> {
  using Engine = E;
  using Store = S;
  using Policy = P;
  using Executor = X;
};

/// Whether rows will do for a reader, or tokens have to be read anew.
template <class Reader>
inline constexpr bool takes_rows =
    WritableEntries<typename ReaderTypes<Reader>::Store>&& watch_of<typename ReaderTypes<Reader>::Policy> !=
    Watch::every_query&& watch_of<typename ReaderTypes<Reader>::Policy> != Watch::queries_and_entries;

struct ReaderAccess {
  template <class Engine, class S, class P, class X>
  static GuardedStore<S>& store(Ccd<Engine, S, P, X>& reader) noexcept {
    return reader.store();
  }

  template <class Engine, class S, class P, class X>
  static Engine& engine(Ccd<Engine, S, P, X>& reader) noexcept {
    return reader.passes_.engine();
  }

  template <class Engine, class S, class P, class X>
  static const X& executor(const Ccd<Engine, S, P, X>& reader) noexcept {
    return reader.passes_.executor();
  }

  /// Adds entries with rows at `at`, at + 1, ... of `rows`, distilling as often as needed.
  /// `scratch` is grown as needed. Throws std::invalid_argument for entries that the reader cannot take.
  template <class Engine, class S, class P, class X>
  static void add(Ccd<Engine, S, P, X>& reader, std::span<const Entry> entries, const RowSource& rows,
                  std::size_t at, std::vector<float>& scratch) {
    check(reader, entries);
    while (!entries.empty()) {
      if (reader.size() == reader.limit_) reader.distil();
      const std::size_t first = reader.size();
      const auto piece = entries.first((std::min)(entries.size(), reader.limit_ - first));
      write(reader, first, piece.size(), rows, at, scratch);
      Rollback rollback([&]() noexcept { reader.store().roll_back(first); });
      reader.store().append(piece);
      rollback.release();
      count(reader, first, piece);
      reader.passes_.forget_window();
      reader.tracker_.restart({});
      entries = entries.subspan(piece.size());
      at += piece.size();
    }
  }

  /// Reads the tokens of entries anew, which keep their records; their NuC too unless `score_nuc`.
  template <class Engine, class S, class P, class X>
  static void read(Ccd<Engine, S, P, X>& reader, std::span<const Entry> entries, bool score_nuc) {
    check(reader, entries);
    std::vector<Token> tokens;
    while (!entries.empty()) {
      if (reader.size() == reader.limit_) reader.distil();
      const auto piece = entries.first((std::min)(entries.size(), reader.longest_chunk()));
      tokens.clear();
      for (const Entry& entry : piece) tokens.push_back(entry.token);
      std::ranges::copy(piece, reader.entries_.begin());
      reader.read(tokens, std::span(reader.entries_).first(piece.size()), score_nuc);
      entries = entries.subspan(piece.size());
    }
  }

  /// After something else has put other entries into the reader's store: goes on with these, at `position` of
  /// the stream or behind the last of them. What the policy collected starts over. Throws
  /// std::invalid_argument if they leave no room.
  template <class Engine, class S, class P, class X>
  static void go_on(Ccd<Engine, S, P, X>& reader, std::uint64_t position) {
    const Held held = reader.checked_room({});
    reader.store().accept();
    if constexpr (Ccd<Engine, S, P, X>::observes) reader.policy_.forget();
    reader.passes_.received().clear();
    reader.passes_.forget_window();
    reader.pinned_ = held.pinned;
    reader.stats_.tokens_read = (std::max)(position, held.read);
  }

  /// Throws std::invalid_argument unless the reader could go on with these entries.
  template <class Engine, class S, class P, class X>
  static void check_pinned(const Ccd<Engine, S, P, X>& reader, const EntryTable& entries) {
    const Held held = held_by(entries, reader.settings_.sinks);
    reader.protected_room_.check_pinned(held.pinned, "cannot recall");
  }

  /// Archives nothing until put_back() is called with what this returns.
  template <class Engine, class S, class P, class X>
  static ArchiveLink<S, X> detach(Ccd<Engine, S, P, X>& reader) noexcept {
    return std::exchange(reader.archive_, {});
  }
  template <class Engine, class S, class P, class X>
  static void put_back(Ccd<Engine, S, P, X>& reader, const ArchiveLink<S, X>& archive) noexcept {
    reader.archive_ = archive;
  }

 private:
  template <class Reader>
  static void check(const Reader& reader, std::span<const Entry> entries) {
    std::uint64_t next = reader.stats_.tokens_read;
    std::size_t pinned = 0;
    for (const Entry& entry : entries) {
      if (entry.position < next)
        invalid("an archived entry is at position ", entry.position, ", but the reader goes on at ", next);
      next = entry.position + 1;
      reader.passes_.check_range("the archived token", {&entry.token, 1});
      if (entry.pinned) ++pinned;
    }
    if (pinned > 0)
      reader.protected_room_.check_pinned(reader.pinned_ + pinned, "cannot take back ", pinned,
                                          " pinned entries");
  }

  template <class Reader>
  static void count(Reader& reader, std::size_t first, std::span<const Entry> entries) noexcept {
    for (const Entry& entry : entries)
      if (first++ >= reader.settings_.sinks && entry.pinned) ++reader.pinned_;
    reader.stats_.tokens_read = entries.back().position + 1;
  }

  template <class Engine, class S, class P, class X>
  static void write(Ccd<Engine, S, P, X>& reader, std::size_t first, std::size_t count, const RowSource& rows,
                    std::size_t at, std::vector<float>& scratch) {
    S& store = reader.store().target();
    X& executor = reader.passes_.executor();
    const Shape shape = store.shape();
    const std::size_t floats = shape.head_dim + shape.value_channels();
    scratch.resize((std::max)(scratch.size(), executor.workers() * floats));
    executor.for_each(count, [&](std::size_t i, std::size_t worker) {
      float* const key = scratch.data() + worker * floats;
      float* const value = key + shape.head_dim;
      for (std::size_t layer = 0; layer < shape.layers; ++layer)
        for (std::size_t head = 0; head < shape.kv_heads; ++head) {
          rows.key(layer, head, at + i, key);
          if (shape.value_channels() > 0) rows.value(layer, head, at + i, value);
          store.write_projected(layer, head, first + i, key, value);
        }
    });
  }
};

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
