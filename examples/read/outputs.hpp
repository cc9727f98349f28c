// What the programs write, which must not be what they read.
#pragma once

#include "options.hpp"

namespace reading {

/// Throws UsageError, naming the option, for a file of --archive, --json, --report or --save that cannot be
/// written, or that is the model (or a part of it), a document, where a chat's questions come from, where
/// standard output or standard error go, or that of another option, by whatever name or link; but for --save,
/// which may replace what --load reads. Touches nothing.
void check_outputs(const Options& options);

}  // namespace reading
