// A pot in a file (--save, --load), with what its conversation needs to go on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "prompt.hpp"
#include "smollm2/mapped_file.hpp"

namespace reading {

/// A store that --save and --load can do with.
template <class S>
concept SavableStore = requires(const S& view, S& store, std::ostream& out,
                                std::span<const std::byte> bytes) {
  view.save(out, bytes);
  store.restore(bytes);
};

/// What a file has beside the pot.
struct ConversationState {
  std::string fingerprint;        ///< of the model
  Place place = Place::start;     ///< where the conversation stands
  std::uint64_t own_from = 0;     ///< position from which on it read no document
  std::vector<std::byte> reader;  ///< Ccd::memory()
};

/// A line of JSON, and the reader's bytes.
std::vector<std::byte> to_bytes(const ConversationState& state);

/// A file that --load names, mapped.
class SavedPot {
 public:
  /// Throws UsageError for what is no whole pot file of these programs, and if the model had another
  /// fingerprint.
  SavedPot(std::string path, const std::string& fingerprint);

  Place place() const { return state_.place; }
  std::uint64_t own_from() const { return state_.own_from; }

  /// Restores the store and lets its reader go on. Throws UsageError if their settings are others.
  template <SavableStore S, class Reader>
  void restore(S& store, Reader& reader) const {
    attempt([&] {
      store.restore(file_.bytes());
      reader.resume(state_.reader);
    });
  }

 private:
  void attempt(const std::function<void()>& work) const;

  std::string path_;
  smollm2::MappedFile file_;
  ConversationState state_;
};

}  // namespace reading
