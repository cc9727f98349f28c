// Files that are written whole or not at all.
#pragma once

#include <filesystem>
#include <functional>
#include <iosfwd>
#include <string>
#include <string_view>

namespace reading {

/// Where symbolic links lead, whether or not something is there; not past a descriptor such as /dev/stdout.
std::filesystem::path followed(std::filesystem::path path);

/// Whether a path leads to something that cannot be replaced: a device, a pipe, or what a descriptor such as
/// /dev/stdout has open.
bool is_written_directly(const std::string& path);

/// Throws UsageError, naming the option, unless write_whole() seems able to write there. Touches nothing.
void check_path(const std::string& option, const std::string& path);

/// Puts a file with this text in the place of what may be there, and gives it the permissions of that. It
/// appears once it is whole and on the disk. What is written directly gets the text as it is. Throws
/// UsageError, naming the option; then a file that was there before is as it was.
void write_whole(const std::string& option, const std::string& path, std::string_view text);

/// The same of what `write` writes to a stream, which throws what it throws too.
void write_whole(const std::string& option, const std::string& path,
                 const std::function<void(std::ostream&)>& write);

}  // namespace reading
