// The command line before it is read: what belongs to which option.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace reading {

/// The arguments, without the program's name, where --NAME=VALUE stands as two. Throws UsageError for an
/// option without its value: at the end, or before another option, which as a value must be written
/// --NAME=--OTHER; and for a value given to an option that takes none.
std::vector<std::string> argument_list(const CLI::App& app, int argc, const char* const* argv);

}  // namespace reading
