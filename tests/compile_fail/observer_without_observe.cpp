// expect: a policy that observes queries needs begin
#include <array>
#include <cstddef>
#include <span>
#include <string_view>

#include "infinipot/infinipot.hpp"

struct Engine {
  infinipot::Shape shape() const { return {}; }
  std::size_t vocab_size() const { return 1; }
  void forward(std::span<const infinipot::Token>, std::size_t, infinipot::LogitsSink&) {}
  void forward(std::span<const infinipot::Token>, std::size_t, infinipot::LogitsSink&,
               infinipot::QuerySink&) {}
};

struct Policy {
  static constexpr infinipot::Watch watch = infinipot::Watch::queries_and_entries;
  std::array<infinipot::Rule, 1> row;

  std::string_view name() const { return "unfinished"; }
  bool uses_nuc() const { return false; }
  std::span<const infinipot::Rule> rules() const { return row; }
  void score(std::size_t, const infinipot::ScoreView&, std::span<float>) const {}
  template <class Rows>
  void score_entries(const Rows&, std::span<float>) const {}
  void begin(const infinipot::Shape&, std::size_t, std::size_t, std::size_t) {}
  void commit(std::size_t, std::size_t) noexcept {}
  void forget() noexcept {}
#ifndef SHOULD_FAIL
  void observe(std::size_t, std::size_t, const infinipot::Queries&) noexcept {}
#endif
};

void read(Engine& engine, infinipot::Pot<float>& pot) { infinipot::Ccd(engine, pot, Policy()).feed(1); }
