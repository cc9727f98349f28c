// What the programs write, which must not be what they read.
#pragma once

#include "options.hpp"

namespace reading {

/// Throws UsageError, naming the option, for a file of --json or --report that cannot be written, or that is
/// the model (or a part of it), a document, where standard output or standard error go, or that of the other
/// option, by whatever name or link. Touches nothing.
void check_outputs(const Options& options);

}  // namespace reading
