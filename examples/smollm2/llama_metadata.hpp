// What a model's file says of its architecture, and that all of it was understood.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <sstream>
#include <string>
#include <string_view>

#include "gguf.hpp"
#include "gguf_error.hpp"

namespace smollm2 {

/// Throws GgufError: the file's name, then the parts.
template <class... Parts>
[[noreturn]] void fail_in(const GgufFile& file, const Parts&... parts) {
  std::ostringstream text;
  text << file.name() << ": ";
  (text << ... << parts);
  throw GgufError(text.str());
}

/// Reads metadata under "ARCHITECTURE.", holds them to their ranges, and remembers which were asked for.
/// Everything throws GgufError that names the key, its value and what would be valid.
class LlamaMetadata {
 public:
  /// The file must outlive the object.
  explicit LlamaMetadata(const GgufFile& file)
      : file_(file), architecture_(file.string_value("general.architecture")) {}

  const GgufFile& file() const noexcept { return file_; }
  const std::string& architecture() const noexcept { return architecture_; }

  bool has(std::string_view name) const { return file_.has(key(name)); }

  /// A number in 1 .. highest.
  std::size_t size(std::string_view name, std::uint64_t highest) {
    return in_range(name, file_.unsigned_value(read(name)), highest);
  }
  std::size_t size(std::string_view name, std::uint64_t highest, std::uint64_t fallback) {
    return in_range(name, file_.unsigned_value(read(name), fallback), highest);
  }
  float number(std::string_view name) { return file_.float_value(read(name)); }
  float number(std::string_view name, float fallback) { return file_.float_value(read(name), fallback); }
  std::string_view text(std::string_view name, std::string_view fallback) {
    const std::string full = read(name);
    return file_.has(full) ? file_.string_value(full) : fallback;
  }

  /// Throws unless `valid`: `value` of key `name` must be `wanted`.
  template <class Value, class... Wanted>
  void require(bool valid, std::string_view name, const Value& value, const Wanted&... wanted) const {
    if (!valid) fail_in(file_, "metadata key '", key(name), "' is ", value, ", but must be ", wanted...);
  }

  /// Once all has been read: throws if there is another key of the architecture, unless it is known to change
  /// nothing. Better no answer than a wrong one.
  void refuse_unread() const;

 private:
  std::string key(std::string_view name) const { return architecture_ + "." + std::string(name); }

  std::string read(std::string_view name) {
    read_.emplace(name);
    return key(name);
  }

  std::size_t in_range(std::string_view name, std::uint64_t value, std::uint64_t highest) const {
    require(value >= 1 && value <= highest, name, value, "in 1 .. ", highest);
    return static_cast<std::size_t>(value);
  }

  const GgufFile& file_;
  std::string architecture_;
  std::set<std::string, std::less<>> read_;  // names without the architecture
};

}  // namespace smollm2
