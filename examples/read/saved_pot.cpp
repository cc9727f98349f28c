#include "saved_pot.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "infinipot/pot/pot_file.hpp"
#include "options.hpp"
#include "smollm2/gguf_error.hpp"

namespace reading {
namespace {

constexpr const char* format = "infinipot-read 1";

constexpr std::pair<Place, const char*> places[] = {{Place::start, "start"},
                                                    {Place::header, "header"},
                                                    {Place::document, "document"},
                                                    {Place::answer, "answer"}};

const char* name_of(Place place) {
  return std::ranges::find(places, place, &std::pair<Place, const char*>::first)->second;
}

/// Nothing if another program saved it.
std::optional<ConversationState> state_in(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::size_t end = text.find('\n');
  if (end == std::string_view::npos) return std::nullopt;
  const auto json = nlohmann::json::parse(text.substr(0, end), nullptr, false);
  const auto word = [&](const char* key) {
    return json.is_object() && json.contains(key) && json[key].is_string() ? json[key].get<std::string>()
                                                                           : std::string();
  };
  const auto place = std::ranges::find_if(
      places, [name = word("place")](const auto& known) { return known.second == name; });
  if (word("format") != format || place == std::end(places) || !json.contains("own_from") ||
      !json["own_from"].is_number_unsigned())
    return std::nullopt;
  const auto rest = bytes.subspan(end + 1);
  return ConversationState{
      word("model"), place->first, json["own_from"].get<std::uint64_t>(), {rest.begin(), rest.end()}};
}

smollm2::MappedFile mapped(const std::string& path) try {
  return smollm2::MappedFile(path);
} catch (const smollm2::GgufError& error) {
  throw UsageError(std::string("--load: ") + error.what());
}

}  // namespace

std::vector<std::byte> to_bytes(const ConversationState& state) {
  const std::string line = nlohmann::json{{"format", format},
                                          {"model", state.fingerprint},
                                          {"place", name_of(state.place)},
                                          {"own_from", state.own_from}}
                               .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) +
                           "\n";
  const auto* const first = reinterpret_cast<const std::byte*>(line.data());
  std::vector<std::byte> bytes(first, first + line.size());
  bytes.insert(bytes.end(), state.reader.begin(), state.reader.end());
  return bytes;
}

SavedPot::SavedPot(std::string path, const std::string& fingerprint)
    : path_(std::move(path)), file_(mapped(path_)) {
  attempt([&] {
    std::optional<ConversationState> state = state_in(infinipot::check_pot_file(file_.bytes()).extra);
    if (!state) throw UsageError("--load: " + path_ + " is a pot file, but not one of --save");
    state_ = *std::move(state);
  });
  if (state_.fingerprint != fingerprint)
    throw UsageError("--load: " + path_ + " is of another model, " + state_.fingerprint + ", than --model, " +
                     fingerprint);
}

void SavedPot::attempt(const std::function<void()>& work) const try {
  work();
} catch (const std::invalid_argument& error) {
  throw UsageError("--load: " + path_ + ": " + without_library(error.what()));
}

}  // namespace reading
