#include "options.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <iterator>
#include <sstream>
#include <string_view>

#include "infinipot/version.hpp"
#include "policies.hpp"
#include "smollm2/gguf_error.hpp"

namespace reading {
namespace {

constexpr std::size_t help_width = 100, names_width = 34;
constexpr std::size_t most_entries = std::size_t{1} << 24;

constexpr const char* footer =
    "Texts longer than the pot are distilled as they are read, so that memory stays the same.\n"
    "The paper's own settings: --granularity head --aggregate sum --kernel 1 --alpha 0.5 --sinks 0.\n"
    "Exit status: 0, or 2 with one line on standard error that names the cause.";

/// Breaks a text into lines that fit beside the options' names.
std::string wrapped(const std::string& text) {
  std::string lines;
  std::size_t column = 0;
  std::istringstream words(text);
  for (std::string word; words >> word; column += word.size()) {
    if (column > 0) {
      const bool fits = names_width + column + 1 + word.size() <= help_width;
      lines += fits ? ' ' : '\n';
      column = fits ? column + 1 : 0;
    }
    lines += word;
  }
  return lines;
}

template <class Number>
struct Range {
  Number low, high;
  enum class Kind { closed, open_below, odd } kind = Kind::closed;

  bool contains(Number value) const {  // false for NaN
    if (kind == Kind::odd && std::fmod(static_cast<double>(value), 2) == 0) return false;
    return (kind == Kind::open_below ? value > low : value >= low) && value <= high;
  }

  std::string text() const {
    std::ostringstream out;
    out << (kind == Kind::open_below ? "above " : "") << low << " .. " << high
        << (kind == Kind::odd ? ", odd" : "");
    return out.str();
  }
};
using Kind = Range<double>::Kind;

/// A number within a range, which the help tells with the default. `target` is a number or may hold one.
template <class Number, class Target>
void add_number(CLI::App& app, const std::string& name, Target& target, const Range<Number>& range,
                const std::string& meaning, const std::string& fallback) {
  app.add_option_function<std::string>(
         name,
         [&target, name, range](const std::string& text) {
           Number value{};
           const char* const end = text.data() + text.size();
           const auto [stop, error] = std::from_chars(text.data(), end, value);
           if (error != std::errc() || stop != end || !range.contains(value))
             throw CLI::ValidationError(name, smollm2::quoted(text) + " is not a" +
                                                  (std::is_integral_v<Number> ? " whole" : "") + " number in " +
                                                  range.text());
           target = value;
         },
         wrapped(meaning + "; " + range.text() + " [" + fallback + "]"))
      ->type_name(std::is_integral_v<Number> ? "N" : "X");
}
