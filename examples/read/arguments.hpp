// Kinds of command-line arguments that CLI11 lacks: all check their range and name it when they refuse.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "smollm2/gguf_error.hpp"

namespace reading {

/// Width of the help, and of its part with the options' names.
inline constexpr std::size_t help_width = 100, names_width = 32;

/// The text in lines that fit beside the options' names.
inline std::string wrapped(const std::string& text) {
  std::string lines;
  std::size_t column = names_width;
  std::istringstream words(text);
  for (std::string word; words >> word; column += word.size()) {
    if (!lines.empty()) {
      const bool fits = column + 1 + word.size() <= help_width;
      lines += fits ? ' ' : '\n';
      column = fits ? column + 1 : names_width;
    }
    lines += word;
  }
  return lines;
}

enum class Bounds {
  closed,
  open_below,
  odd,
  technical,  ///< `high` is only what the program can hold: the help does not name the range
};

template <class Number>
struct Range {
  Number low, high;
  Bounds bounds = Bounds::closed;

  bool contains(Number value) const {  // no range contains NaN
    if (bounds == Bounds::odd && static_cast<std::uint64_t>(value) % 2 == 0) return false;
    return (bounds == Bounds::open_below ? value > low : value >= low) && value <= high;
  }

  std::string text() const {
    std::ostringstream out;
    if (bounds == Bounds::open_below)
      out << "above " << low << " and at most " << high;
    else
      out << "from " << low << " to " << high;
    return out.str();
  }

  /// For the help, after the meaning of an option.
  std::string help() const {
    return bounds == Bounds::technical ? "" : bounds == Bounds::odd ? "; an odd number" : "; " + text();
  }

  /// For a refusal: what the number must be.
  std::string demand(bool too_large) const {
    std::ostringstream out;
    out << (bounds == Bounds::odd        ? "an odd number"
            : std::is_integral_v<Number> ? "a whole number"
                                         : "a number");
    if (bounds != Bounds::technical)
      out << ' ' << text();
    else
      out << (too_large ? ", at most " : ", at least ") << (too_large ? high : low);
    return out.str();
  }
};

/// The number that a text says; nothing if it says none, or a whole one that its type cannot hold. A fraction
/// that is too small becomes the smallest one, so that what is above 0 stays so.
template <class Number>
std::optional<Number> number_in(const std::string& text) {
  Number value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (stop != end || error == std::errc::invalid_argument) return std::nullopt;
  if (error == std::errc()) return value;
  if constexpr (std::is_integral_v<Number>) return std::nullopt;
  const double nearest = std::strtod(text.c_str(), nullptr);  // infinite if it is too large
  return std::abs(nearest) > 1 ? nearest : std::copysign(std::numeric_limits<double>::denorm_min(), nearest);
}

/// Whether a text is a number without a sign, whatever its size.
inline bool is_whole(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
}

/// A number, or an optional one.
template <class Number, class Target>
void add_number(CLI::App& app, const std::string& name, Target& target, const Range<Number>& range,
                const std::string& meaning, const std::string& fallback) {
  const auto set = [&target, name, range](const std::string& text) {
    const std::optional<Number> value = number_in<Number>(text);
    const bool too_large = value ? *value > range.high : std::is_integral_v<Number> && is_whole(text);
    if (!value || !range.contains(*value))
      throw CLI::ValidationError(name,
                                 "must be " + range.demand(too_large) + ", not " + smollm2::quoted(text));
    target = *value;
  };
  app.add_option_function<std::string>(name, set, wrapped(meaning + range.help() + " [" + fallback + "]"))
      ->type_name(std::is_integral_v<Number> ? "N" : "X");
}

/// The same, whose default is the target's value.
template <class Number>
void add_number(CLI::App& app, const std::string& name, Number& target, const Range<Number>& range,
                const std::string& meaning) {
  std::ostringstream fallback;
  fallback << target;
  add_number(app, name, target, range, meaning, fallback.str());
}

/// A number of bytes above 0, with K, M, G or T for 1024 and its powers behind it.
inline std::optional<std::uint64_t> bytes_in(const std::string& text) {
  constexpr std::string_view units = "KMGT";
  const std::size_t unit = text.empty() ? std::string_view::npos : units.find(text.back());
  const bool has_unit = unit != std::string_view::npos;
  const unsigned shift = has_unit ? 10 * (static_cast<unsigned>(unit) + 1) : 0;
  const auto number = number_in<std::uint64_t>(has_unit ? text.substr(0, text.size() - 1) : text);
  if (!number || *number == 0 || *number > UINT64_MAX >> shift) return std::nullopt;
  return *number << shift;
}

/// A number of bytes.
inline void add_bytes(CLI::App& app, const std::string& name, std::uint64_t& target,
                      const std::string& meaning, const std::string& fallback) {
  const auto set = [&target, name](const std::string& text) {
    const std::optional<std::uint64_t> bytes = bytes_in(text);
    if (!bytes)
      throw CLI::ValidationError(
          name,
          "must be a number of bytes above 0, such as 1000000, 500M or 2G, not " + smollm2::quoted(text));
    target = *bytes;
  };
  app.add_option_function<std::string>(name, set, wrapped(meaning + " [" + fallback + "]"))
      ->type_name("BYTES");
}

/// One of a few words, which `type` or `meaning` must name.
inline void add_choice(CLI::App& app, const std::string& name, std::string& target,
                       const std::vector<std::string>& words, const std::string& type,
                       const std::string& meaning, const std::string& fallback) {
  const std::string range = (words.size() > 1 ? "one of " : "") + CLI::detail::join(words, ", ");
  const auto set = [&target, name, words, range](const std::string& text) {
    if (std::find(words.begin(), words.end(), text) == words.end())
      throw CLI::ValidationError(name, "must be " + range + ", not " + smollm2::quoted(text));
    target = text;
  };
  app.add_option_function<std::string>(name, set, wrapped(meaning + " [" + fallback + "]"))->type_name(type);
}

enum class Text { may_be_empty, not_empty };

inline void require(CLI::Option& option, Text text) {
  if (text == Text::not_empty)
    option.check(CLI::Validator(
        [](const std::string& value) { return value.empty() ? "must not be empty" : ""; }, std::string()));
}

/// Any text.
inline CLI::Option* add_text(CLI::App& app, const std::string& name, std::string& target, Text text,
                             const std::string& type, const std::string& meaning) {
  CLI::Option* option = app.add_option(name, target, wrapped(meaning))->type_name(type);
  require(*option, text);
  return option;
}

/// Any texts, one for each use of the option.
inline CLI::Option* add_texts(CLI::App& app, const std::string& name, std::vector<std::string>& target,
                              Text text, const std::string& type, const std::string& meaning) {
  // As they are: CLI11 has a syntax of its own for vectors, such as [a,b].
  const auto set = [&target](const CLI::results_t& texts) {
    target = texts;
    return true;
  };
  CLI::Option* option = app.add_option(name, CLI::callback_t(set), wrapped(meaning))
                            ->type_name(type)
                            ->expected(1, CLI::detail::expected_max_vector_size)
                            ->allow_extra_args(false);
  require(*option, text);
  return option;
}

}  // namespace reading
