// Writing to a descriptor to the end.
#pragma once

#include <string_view>

namespace reading {

/// Writes all of a text, in as many calls as it takes, whatever interrupts them. Throws std::system_error.
void write_all(int descriptor, std::string_view text);

}  // namespace reading
