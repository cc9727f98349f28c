// Options that need or exclude each other.
#pragma once

#include <algorithm>

#include "options.hpp"

namespace reading {

/// Whether questions can come after all that the command line says, so that a document may go without one.
inline bool asks_later(const Options& options) {
  return options.chat || !options.archive.empty() || !options.save.empty();
}

/// Whether there is a document, so that an archive is written to.
inline bool reads_documents(const Options& options) {
  return std::ranges::any_of(options.turns, [](const Turn& turn) { return !turn.document.empty(); });
}

/// Throws UsageError unless the turns make something to do, or nothing where only the adapter is checked.
void check_turns(const Options& options);

/// Throws UsageError for what makes no sense together with --conversations.
void check_conversations(const Options& options);

/// Refuses what would be measured and written nowhere, and what belongs to an archive that is not given.
/// Throws UsageError.
void check_needs(const Options& options);

}  // namespace reading
