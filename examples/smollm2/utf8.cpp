#include "utf8.hpp"

#include <algorithm>
#include <array>
#include <cstdint>

namespace smollm2 {
namespace {

constexpr std::string_view replacement = "\xEF\xBF\xBD";  // U+FFFD

std::uint8_t byte_at(std::string_view text, std::size_t i) { return static_cast<std::uint8_t>(text[i]); }

// Bytes of the character a lead byte begins; 0 when it can begin none.
std::size_t length_from_lead(std::uint8_t lead) {
  if (lead < 0x80) return 1;
  if (lead < 0xC2) return 0;
  if (lead < 0xE0) return 2;
  if (lead < 0xF0) return 3;
  return lead < 0xF5 ? 4 : 0;
}

// The second byte's range excludes overlong forms, surrogates and values beyond U+10FFFF.
bool second_byte_fits(std::uint8_t lead, std::uint8_t second) {
  const std::uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const std::uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  return second >= low && second <= high;
}

bool is_continuation(std::uint8_t byte) { return (byte & 0xC0U) == 0x80; }

struct Scan {
  std::size_t wanted;  // bytes of the whole character; 0 for an impossible lead byte
  std::size_t found;   // how many of them `text` has in well-formed order, at least 1
};

Scan scan_character(std::string_view text) {
  const std::uint8_t lead = byte_at(text, 0);
  const std::size_t wanted = length_from_lead(lead);
  std::size_t found = 1;
  while (found < wanted && found < text.size()) {
    const std::uint8_t next = byte_at(text, found);
    if (found == 1 ? !second_byte_fits(lead, next) : !is_continuation(next)) break;
    ++found;
  }
  return {wanted, found};
}

}  // namespace

std::size_t valid_utf8_prefix(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const Scan scan = scan_character(text.substr(at));
    if (scan.found != scan.wanted) break;
    at += scan.found;
  }
  return at;
}

std::string to_valid_utf8(std::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  while (!text.empty()) {
    const std::size_t good = valid_utf8_prefix(text);
    valid.append(text.substr(0, good));
    text.remove_prefix(good);
    if (text.empty()) break;
    valid.append(replacement);
    text.remove_prefix(scan_character(text).found);
  }
  return valid;
}

std::size_t incomplete_utf8_suffix(std::string_view text) {
  constexpr std::size_t longest_incomplete = 3;
  for (std::size_t back = 1; back <= std::min(longest_incomplete, text.size()); ++back) {
    const std::string_view tail = text.substr(text.size() - back);
    if (is_continuation(byte_at(tail, 0))) continue;
    const Scan scan = scan_character(tail);
    return scan.found == back && scan.wanted > back ? back : 0;
  }
  return 0;
}

bool ends_with_white_space(std::string_view text) {
  using namespace std::string_view_literals;
  static constexpr std::array spaces{"\t"sv,           "\n"sv,           "\v"sv,
                                     "\f"sv,           "\r"sv,           " "sv,
                                     "\xC2\x85"sv,     "\xC2\xA0"sv,     "\xE1\x9A\x80"sv,
                                     "\xE2\x80\x80"sv, "\xE2\x80\x81"sv, "\xE2\x80\x82"sv,
                                     "\xE2\x80\x83"sv, "\xE2\x80\x84"sv, "\xE2\x80\x85"sv,
                                     "\xE2\x80\x86"sv, "\xE2\x80\x87"sv, "\xE2\x80\x88"sv,
                                     "\xE2\x80\x89"sv, "\xE2\x80\x8A"sv, "\xE2\x80\xA8"sv,
                                     "\xE2\x80\xA9"sv, "\xE2\x80\xAF"sv, "\xE2\x81\x9F"sv,
                                     "\xE3\x80\x80"sv};
  return std::any_of(spaces.begin(), spaces.end(),
                     [text](std::string_view space) { return text.ends_with(space); });
}

}  // namespace smollm2
