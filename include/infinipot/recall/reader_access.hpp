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
#include "infinipot/ccd/guarded_store.hpp"
#include "infinipot/ccd/machine.hpp"
#include "infinipot/ccd/needs.hpp"
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
  static Machine<Engine, S, P, X>& machine(Ccd<Engine, S, P, X>& reader) noexcept {
    return reader.machine_;
  }

  template <class Engine, class S, class P, class X>
  static GuardedStore<S>& store(Ccd<Engine, S, P, X>& reader) noexcept {
    return reader.machine_.store();
  }

  template <class Engine, class S, class P, class X>
  static const X& executor(const Ccd<Engine, S, P, X>& reader) noexcept {
    return reader.machine_.passes().executor();
  }

  /// Adds entries with rows at `at`, at + 1, ... of `rows`, as many as fit, and returns how many. If the
  /// store is full, starts a distillation instead. `scratch` is grown as needed. Throws std::invalid_argument
  /// for entries that the reader cannot take.
  template <class Engine, class S, class P, class X>
  static std::size_t add(Ccd<Engine, S, P, X>& reader, std::span<const Entry> entries, const RowSource& rows,
                         std::size_t at, std::vector<float>& scratch) {
    Machine<Engine, S, P, X>& machine = reader.machine_;
    check(machine, entries);
    const std::size_t first = machine.size();
    if (first == machine.limit()) {
      machine.start_distil();
      return 0;
    }
    const auto piece = entries.first((std::min)(entries.size(), machine.limit() - first));
    write(machine, first, piece.size(), rows, at, scratch);
    Rollback rollback([&]() noexcept { machine.store().roll_back(first); });
    machine.store().append(piece);
    rollback.release();
    machine.count_entries(first, piece);
    return piece.size();
  }

  /// Starts to read the tokens of entries anew, which keep their records; their NuC too unless `score_nuc`.
  /// `tokens` is memory for them; it and the entries must stay until they are read.
  template <class Engine, class S, class P, class X>
  static void start(Ccd<Engine, S, P, X>& reader, std::span<const Entry> entries, std::vector<Token>& tokens,
                    bool score_nuc) {
    check(reader.machine_, entries);
    tokens.resize(entries.size());
    std::ranges::transform(entries, tokens.begin(), &Entry::token);
    reader.machine_.start(tokens, entries, score_nuc);
  }

  /// After something else has put other entries into the reader's store: goes on with these, at `position` of
  /// the stream or behind the last of them. What the policy collected starts over. Throws
  /// std::invalid_argument if they leave no room.
  template <class Engine, class S, class P, class X>
  static void go_on(Ccd<Engine, S, P, X>& reader, std::uint64_t position) {
    Machine<Engine, S, P, X>& machine = reader.machine_;
    const Held held = machine.checked_room();
    machine.store().accept();
    if constexpr (Needs<Engine, S, P>::observes) machine.policy().forget();
    machine.restart(held.pinned, (std::max)(position, held.read));
  }

  /// Throws std::invalid_argument unless the reader could go on with these entries.
  template <class Engine, class S, class P, class X>
  static void check_pinned(const Ccd<Engine, S, P, X>& reader, const EntryTable& entries) {
    const Held held = held_by(entries, reader.settings().sinks);
    reader.machine_.protected_room().check_pinned(held.pinned, "cannot recall");
  }

  /// Archives nothing until put_back() is called with what this returns.
  template <class Engine, class S, class P, class X>
  static ArchiveLink<S, X> detach(Ccd<Engine, S, P, X>& reader) noexcept {
    return std::exchange(reader.machine_.archive, {});
  }
  template <class Engine, class S, class P, class X>
  static void put_back(Ccd<Engine, S, P, X>& reader, const ArchiveLink<S, X>& archive) noexcept {
    reader.machine_.archive = archive;
  }

 private:
  template <class M>
  static void check(const M& machine, std::span<const Entry> entries) {
    std::uint64_t next = machine.stats.tokens_read;
    std::size_t pinned = 0;
    for (const Entry& entry : entries) {
      if (entry.position < next)
        invalid("an archived entry is at position ", entry.position, ", but the reader goes on at ", next);
      next = entry.position + 1;
      machine.passes().check_range("the archived token", {&entry.token, 1});
      if (entry.pinned) ++pinned;
    }
    if (pinned > 0)
      machine.protected_room().check_pinned(machine.pinned() + pinned, "cannot take back ", pinned,
                                            " pinned entries");
  }

  template <class Engine, class S, class P, class X>
  static void write(Machine<Engine, S, P, X>& machine, std::size_t first, std::size_t count,
                    const RowSource& rows, std::size_t at, std::vector<float>& scratch) {
    S& store = machine.store().target();
    X& executor = machine.passes().executor();
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
