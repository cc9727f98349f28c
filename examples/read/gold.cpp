#include "gold.hpp"

#include <algorithm>

namespace reading {
namespace {

std::string trimmed(std::string_view text) {
  constexpr const char* space = " \t\r\n";
  const std::size_t begin = text.find_first_not_of(space);
  if (begin == std::string_view::npos) return {};
  return std::string(text.substr(begin, text.find_last_not_of(space) - begin + 1));
}

bool holds(std::span<const std::uint64_t> held, std::uint64_t position) {
  return std::ranges::binary_search(held, position);
}

template <class OfLane>
std::optional<double> mean_over_lanes(const infinipot::EntryTable& entries, const OfLane& of_lane) {
  double sum = 0;
  for (std::size_t lane = 0; lane < entries.lanes(); ++lane) {
    const std::optional<double> value = of_lane(entries.positions(lane));
    if (!value) return std::nullopt;
    sum += *value;
  }
  return sum / static_cast<double>(entries.lanes());
}

}  // namespace

Gold::Gold(const std::vector<std::string>& phrases, std::string_view answer) {
  for (const std::string& phrase : phrases)
    if (!phrase.empty()) needles_.emplace_back(phrase, trimmed(answer));
}

bool Gold::wanted() const { return missing().has_value(); }

bool Gold::found() const { return std::ranges::any_of(needles_, &Needle::found); }

std::optional<std::string> Gold::missing() const {
  const auto needle = std::ranges::find_if_not(needles_, &Needle::found);
  return needle == needles_.end() ? std::nullopt : std::optional(needle->phrase());
}

void Gold::push(std::uint64_t position, std::string_view text) {
  for (Needle& needle : needles_) needle.push(position, text);
}

void Gold::end_text() {
  for (Needle& needle : needles_) needle.end_text();
}

std::vector<std::uint64_t> Gold::positions() const {
  std::vector<std::uint64_t> all;
  for (const Needle& needle : needles_)
    all.insert(all.end(), needle.positions().begin(), needle.positions().end());
  std::ranges::sort(all);
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

std::optional<double> Gold::kept(const infinipot::EntryTable& entries) const {
  return mean_over_lanes(entries, [this](std::span<const std::uint64_t> held) { return kept(held); });
}

std::optional<double> Gold::kept(std::span<const std::uint64_t> held) const {
  const std::vector<std::uint64_t> gold = positions();
  if (gold.empty()) return std::nullopt;
  const auto there = std::ranges::count_if(gold, [&](std::uint64_t at) { return holds(held, at); });
  return static_cast<double>(there) / static_cast<double>(gold.size());
}

std::optional<double> Gold::answer_kept(const infinipot::EntryTable& entries) const {
  return mean_over_lanes(entries, [this](std::span<const std::uint64_t> held) { return answer_kept(held); });
}

std::optional<double> Gold::answer_kept(std::span<const std::uint64_t> held) const {
  bool any = false;
  for (const Needle& needle : needles_)
    for (const std::vector<std::uint64_t>& answer : needle.answers()) {
      any = true;
      if (std::ranges::all_of(answer, [&](std::uint64_t at) { return holds(held, at); })) return 1;
    }
  return any ? std::optional(0.0) : std::nullopt;
}

}  // namespace reading
