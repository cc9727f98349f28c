// What a reader remembers beside its store, as bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "infinipot/ccd/ccd_settings.hpp"
#include "infinipot/ccd/received.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/policy.hpp"
#include "infinipot/policy/defaults.hpp"
#include "infinipot/pot/crc32.hpp"
#include "infinipot/pot/file_numbers.hpp"
#include "infinipot/shape.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

struct ReaderMemory {
  CcdStats stats = {};  // without times
  Token unread = -1;    // Ccd::unread()
  std::uint32_t uses_nuc = 0;
  std::size_t size = 0;  // entries of the store
  std::string policy;
  std::vector<float> logits;        // (vocab_size), or none
  std::vector<float> received;      // (layers, kv_heads, size), or none
  std::vector<std::byte> observed;  // ObservesQueries::memory()
};

inline constexpr std::string_view memory_magic = "infinmem";
inline constexpr std::uint32_t memory_version = 1;

inline std::vector<std::byte> to_bytes(const ReaderMemory& memory) {
  check_endianness();
  HeaderWriter out;
  out.put(memory_magic);
  out.put(memory_version);
  out.put(memory.unread);
  out.put(memory.uses_nuc);
  for (const std::uint64_t number :
       {memory.stats.tokens_read, memory.stats.distillations, memory.stats.nan_scores,
        std::uint64_t{memory.size}, std::uint64_t{memory.policy.size()}, std::uint64_t{memory.logits.size()},
        std::uint64_t{memory.received.size()}, std::uint64_t{memory.observed.size()}})
    out.put(number);
  out.put(std::string_view(memory.policy));
  out.put(std::span<const float>(memory.logits));
  out.put(std::span<const float>(memory.received));
  out.put(std::span<const std::byte>(memory.observed));
  Crc32 crc;
  crc.add(out.bytes());
  out.put(crc.value());
  return std::move(out.bytes());
}

/// Throws std::invalid_argument if these are not the bytes of a memory, whole.
inline ReaderMemory memory_from(std::span<const std::byte> bytes) {
  check_endianness();
  constexpr const char* what = "reader's memory";
  HeaderReader in(bytes, what);
  const auto magic = in.get_all<char>(memory_magic.size());
  if (std::string_view(magic.data(), magic.size()) != memory_magic) invalid("this is not a ", what);
  if (const auto version = in.get<std::uint32_t>(); version != memory_version)
    invalid("the ", what, " has version ", version, "; this library reads version ", memory_version);
  ReaderMemory memory;
  memory.unread = in.get<Token>();
  memory.uses_nuc = in.get<std::uint32_t>();
  memory.stats.tokens_read = in.get<std::uint64_t>();
  if (memory.stats.tokens_read > positions_end)
    invalid("the ", what, " is of ", memory.stats.tokens_read, " tokens, which no text has");
  memory.stats.distillations = in.get<std::uint64_t>();
  memory.stats.nan_scores = in.get<std::uint64_t>();
  memory.size = static_cast<std::size_t>(in.get<std::uint64_t>());
  const auto name = in.get<std::uint64_t>(), logits = in.get<std::uint64_t>(),
             received = in.get<std::uint64_t>(), observed = in.get<std::uint64_t>();
  const auto letters = in.get_all<char>(name);
  memory.policy.assign(letters.begin(), letters.end());
  memory.logits = in.get_all<float>(logits);
  memory.received = in.get_all<float>(received);
  memory.observed = in.get_all<std::byte>(observed);
  Crc32 crc;
  crc.add(bytes.first(in.at()));
  if (in.get<std::uint32_t>() != crc.value() || in.at() != bytes.size())
    invalid("the ", what, " is damaged: its checksum or length is wrong");
  return memory;
}

/// Throws std::invalid_argument unless a reader by `policy`, whose store holds `size` entries in `heads`
/// heads, can go on with this memory. `needed`: it cannot without what it collected.
template <Policy P>
void check_memory(const ReaderMemory& memory, const P& policy, std::size_t size, std::size_t heads,
                  bool needed) {
  if (memory.size != size)
    invalid("the memory is of a store of ", memory.size, " entries, but this one holds ", size);
  if (uses_nuc(policy) && memory.uses_nuc == 0 && size > 0)
    invalid(policy.name(), " needs NuC, which the reader that was saved, by ", memory.policy,
            ", did not ask for");
  if (!needed) return;
  if (memory.policy != policy.name())
    invalid("the memory is of a reader by ", memory.policy, "; one by ", policy.name(),
            " cannot go on without its own");
  if (watch_of<P> == Watch::queries_and_entries && !RemembersQueries<P>)
    invalid(policy.name(), " observes queries and has no memory(), so it cannot be resumed");
  if (Received<P>::lasts && memory.received.size() != heads * size)
    invalid("the memory holds attention to ", memory.received.size(), " entries of all heads, not ",
            heads * size);
}

/// Throws std::invalid_argument unless the memory is of a reader that has read at least `read` tokens.
inline void check_stream(const ReaderMemory& memory, std::uint64_t read, std::size_t vocab_size) {
  if (memory.stats.tokens_read < read || memory.unread < -1 ||
      (memory.unread >= 0 && static_cast<std::size_t>(memory.unread) >= vocab_size))
    invalid("the memory does not fit the store: it is of a reader of ", memory.stats.tokens_read,
            " tokens, but the last entry is token ", read);
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
