#include "model_fingerprint.hpp"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <vector>

#include "options.hpp"
#include "smollm2/gguf.hpp"
#include "smollm2/utf8.hpp"

namespace reading {
namespace {

/// FNV-1a.
class Hash {
 public:
  void add(std::string_view bytes) noexcept {
    for (const char c : bytes) value_ = (value_ ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  }
  std::string text() const {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    for (int shift = 60; shift >= 0; shift -= 4) text += digits[value_ >> shift & 15U];
    return text;
  }

 private:
  std::uint64_t value_ = 0xcbf29ce484222325ULL;
};

std::string hash_of(const std::string& path) {
  constexpr std::uint64_t head = 4U << 20U, stretches = 256, stretch = 16U << 10U;
  std::ifstream file(path, std::ios::binary);
  file.seekg(0, std::ios::end);
  const auto end = static_cast<std::streamoff>(file.tellg());
  if (!file || end < 0) throw UsageError("--model: cannot read " + path + ": " + std::strerror(errno));
  const auto size = static_cast<std::uint64_t>(end);
  Hash hash;
  hash.add(std::to_string(size));
  std::vector<char> buffer(head);
  const auto add = [&](std::uint64_t from, std::uint64_t most) {
    const auto count = static_cast<std::streamsize>(std::min(most, size - from));
    if (!file.seekg(static_cast<std::streamoff>(from)) || !file.read(buffer.data(), count))
      throw UsageError("--model: cannot read " + path);
    hash.add({buffer.data(), static_cast<std::size_t>(count)});
  };
  add(0, head);
  for (std::uint64_t i = 0; i < stretches && size > head; ++i)
    add(head + (size - head) / stretches * i, stretch);
  return hash.text();
}

/// As the file has it; empty if it has none.
std::string name_in(const std::string& path) try {
  const smollm2::GgufFile file(path);
  constexpr std::string_view key = "general.name";
  if (!file.has(key)) return {};
  constexpr std::size_t most = 100;
  std::string name = smollm2::to_valid_utf8(file.string_value(key));
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; }, ' ');
  name.resize(std::min(name.size(), most));
  name.resize(name.size() - smollm2::incomplete_utf8_suffix(name));
  return name;
} catch (const smollm2::GgufError&) {
  return {};  // another program may know what to do with it
}

}  // namespace

std::string model_fingerprint(const std::string& path) {
  const std::string name = name_in(path);
  return (name.empty() ? "a model" : name) + " (" + hash_of(path) + ")";
}

}  // namespace reading
