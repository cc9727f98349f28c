#include "pot_log.hpp"

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>

#include "page.hpp"
#include "whole_file.hpp"

namespace reading {
namespace {

static_assert(std::endian::native == std::endian::little, "the page reads little-endian arrays");

/// Numbers as base64 of their bytes: shorter than text, and a page decodes them faster.
template <class T>
std::string base64(const std::vector<T>& values) {
  constexpr char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const auto* const bytes = reinterpret_cast<const unsigned char*>(values.data());
  const std::size_t size = values.size() * sizeof(T);
  std::string text;
  text.reserve(size / 3 * 4 + 4);
  for (std::size_t i = 0; i < size; i += 3) {
    const std::size_t n = std::min<std::size_t>(3, size - i);
    const unsigned three =
        (bytes[i] * 65536U) | (n > 1 ? bytes[i + 1] * 256U : 0U) | (n > 2 ? bytes[i + 2] : 0U);
    for (std::size_t k = 0; k < 4; ++k) text += k <= n ? digits[three >> (18 - 6 * k) & 63U] : '=';
  }
  return text;
}

nlohmann::json to_json(const PotLog::Distillation& distillation) {
  std::vector<std::uint32_t> kept, masks, scored;
  std::vector<std::uint32_t> recalled(distillation.recalled.begin(), distillation.recalled.end());
  std::vector<float> scores;
  for (const auto& [position, mask] : distillation.kept) {
    kept.push_back(static_cast<std::uint32_t>(position));
    masks.insert(masks.end(), mask.begin(), mask.end());
  }
  for (const auto& [position, score] : distillation.scores) {
    scored.push_back(static_cast<std::uint32_t>(position));
    scores.push_back(score);
  }
  return {{"read", distillation.tokens_read}, {"kept", base64(kept)},     {"masks", base64(masks)},
          {"recalled", base64(recalled)},     {"scored", base64(scored)}, {"scores", base64(scores)}};
}

/// JSON that is safe inside <script>.
std::string embedded(const nlohmann::json& json) {
  std::string text = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  for (std::size_t at = 0; (at = text.find("</", at)) != std::string::npos; at += 3)
    text.replace(at, 2, "<\\/");
  for (std::size_t at = 0; (at = text.find("<!", at)) != std::string::npos; at += 7)
    text.replace(at, 1, "\\u003c");
  return text;
}

}  // namespace

void PotLog::mark(Distillation& distillation, std::size_t lane, std::uint64_t position) const {
  Mask& mask = distillation.kept[position];
  mask.resize((lanes_ + 31) / 32);
  mask[lane / 32] |= 1U << lane % 32;
}

void PotLog::choose(const infinipot::Choice& choice) {
  trace_.note(choice.entries);
  Distillation& distillation = distillations_.emplace_back();
  const std::size_t capacity = choice.attention.size() / std::max<std::size_t>(shape_.heads(), 1);
  for (std::size_t lane = 0; lane < lanes_; ++lane) {
    const auto positions = choice.entries.positions(lane);
    distillation.tokens_read = std::max(distillation.tokens_read, positions.back() + 1);
    for (const infinipot::Index t : choice.kept.lane(lane)) mark(distillation, lane, positions[t]);
    for (std::size_t head = lane * heads_per_lane(); head < (lane + 1) * heads_per_lane() && capacity > 0;
         ++head)
      for (std::size_t t = 0; t < positions.size(); ++t)
        distillation.scores[positions[t]] += choice.attention[head * capacity + t];
  }
}

void PotLog::recall(const infinipot::EntryTable& entries, std::vector<std::uint64_t> positions) {
  Distillation& now = add_held(entries);
  now.tokens_read = std::max<std::uint64_t>(now.tokens_read, texts_.size());
  now.recalled = std::move(positions);
}

void PotLog::end(const infinipot::EntryTable& entries) {
  if (!entries.empty()) add_held(entries);
}

PotLog::Distillation& PotLog::add_held(const infinipot::EntryTable& entries) {
  trace_.note(entries);
  Distillation& now = distillations_.emplace_back();
  for (std::size_t lane = 0; lane < lanes_; ++lane)
    for (const std::uint64_t position : entries.positions(lane)) {
      mark(now, lane, position);
      now.tokens_read = std::max(now.tokens_read, position + 1);
    }
  return now;
}

void write_page(const std::string& path, const PotLog& log, const std::string& title) {
  nlohmann::json distillations = nlohmann::json::array();
  for (const PotLog::Distillation& distillation : log.distillations())
    distillations.push_back(to_json(distillation));
  const nlohmann::json data{{"title", title},
                            {"layers", log.shape().layers},
                            {"heads", log.shape().kv_heads},
                            {"lanes", log.lanes()},
                            {"headsPerLane", log.heads_per_lane()},
                            {"texts", log.texts()},
                            {"nuc", base64(log.nuc())},
                            {"distillations", std::move(distillations)}};
  write_whole("--report", path, page_before_data + embedded(data) + page_after_data);
}

}  // namespace reading
