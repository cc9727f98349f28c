// A measured rotation in words: by theta where one explains it, else by its frequencies.
#pragma once

#include <cmath>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "infinipot/check/rope_fit.hpp"
#include "infinipot/detail/error.hpp"
#include "infinipot/rope.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE::detail {

inline const char* name_of(Pairing pairing) noexcept {
  return pairing == Pairing::half_split ? "half_split" : "interleaved";
}

/// "1, 0.1, 0.01", or the first and last ones of many.
inline std::string list_of(std::span<const double> numbers) {
  constexpr std::size_t ends = 4;
  std::string list;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    if (numbers.size() > 2 * ends + 1 && i == ends) {
      list += ", ...";
      i = numbers.size() - ends;
    }
    list += text(i == 0 ? "" : ", ", numbers[i]);
  }
  return list;
}

/// theta and divisor of a table divisor^-1 * theta^(-2i / rotary_dim).
struct Geometric {
  double theta = 0, divisor = 1;
};

inline bool matches(const RopeFit& fit, const Geometric& table) {
  const std::size_t pairs = fit.rope.frequencies.size();
  for (std::size_t i = 0; i < pairs; ++i)
    if (!may_have(fit.pair(i), std::pow(table.theta, -static_cast<double>(i) / static_cast<double>(pairs)) /
                                   table.divisor))
      return false;
  return true;
}

/// A number of so many significant digits.
inline double rounded(double number, int digits) {
  const double unit = std::pow(10.0, std::floor(std::log10(number)) - digits + 1);
  return std::round(number / unit) * unit;
}

/// The shortest numbers that explain a fit, if any do.
inline std::optional<Geometric> geometric(const RopeFit& fit) {
  const std::size_t pairs = fit.rope.frequencies.size();
  if (pairs < 2 || fit.rope.frequencies[0] <= 0) return std::nullopt;
  const double divisor = 1 / fit.rope.frequencies[0];
  for (const bool linear : {false, true}) {
    // log frequency = -log divisor - i * step, each pair weighed by how well it is known.
    double along = 0, squares = 0;
    for (std::size_t i = 1; i < pairs; ++i) {
      const double frequency = fit.rope.frequencies[i];
      if (frequency <= 0) continue;
      const double known = frequency / (fit.pair(i).bound + 1e-6 * frequency), x = static_cast<double>(i);
      along -= known * known * x * std::log(frequency * (linear ? divisor : 1));
      squares += known * known * x * x;
    }
    if (squares == 0) return std::nullopt;
    const double theta = std::exp(along / squares * static_cast<double>(pairs));
    if (!(theta > 0) || !detail::is_finite(theta)) continue;
    for (int digits = 1; digits <= 6; ++digits)
      if (const Geometric table{rounded(theta, digits), linear ? rounded(divisor, digits) : 1};
          table.theta > 0 && matches(fit, table))
        return table;
  }
  return std::nullopt;
}

/// Where a Rope begins, if it is not channel 0.
inline std::string words_for_first(std::size_t first) {
  return first == 0 ? "" : text(" from channel ", first, " on");
}

/// What turns, as one would write it down.
inline std::string words_for(const RopeFit& fit) {
  if (!fit.turns()) return "no rotation";
  const std::size_t channels = fit.rope.rotary_dim();
  const char* const pairing = name_of(fit.rope.pairing);
  const std::string from = words_for_first(fit.rope.first_channel);
  if (const auto table = geometric(fit)) {
    if (table->divisor == 1)
      return text("plain_rope(", channels, ", ", table->theta, ", Pairing::", pairing, ")", from);
    return text("linear_rope(", channels, ", ", table->theta, ", {", table->divisor, "}, Pairing::", pairing,
                ")", from);
  }
  return text(channels, " channels", from, " in Pairing::", pairing, " with frequencies ",
              list_of(fit.rope.frequencies));
}

inline std::string words_for(const Rope& rope) {
  if (rope.frequencies.empty()) return "no rotation";
  return text(rope.rotary_dim(), " channels", words_for_first(rope.first_channel),
              " in Pairing::", name_of(rope.pairing), " with frequencies ", list_of(rope.frequencies));
}

/// "layers 0-2, 4", or "all layers".
inline std::string words_for_layers(std::span<const std::size_t> layers, std::size_t all) {
  if (layers.size() == all) return all == 1 ? "the only layer" : "all layers";
  std::string words = layers.size() == 1 ? "layer " : "layers ";
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const std::size_t from = i;
    while (i + 1 < layers.size() && layers[i + 1] == layers[i] + 1) ++i;
    words += text(from == 0 ? "" : ", ", layers[from]);
    if (i > from) words += text("-", layers[i]);
  }
  return words;
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE::detail
