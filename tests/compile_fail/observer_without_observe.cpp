// expect: a policy that observes queries needs begin
#include <cstddef>
#include <span>
#include <string_view>

#include "infinipot/ccd.hpp"
#include "infinipot/pot.hpp"

struct Engine {
  infinipot::Shape shape() const { return {}; }
  std::size_t vocab_size() const { return 1; }
  void forward(std::span<const infinipot::Token>, std::size_t, infinipot::LogitsSink&) {}
  void forward(std::span<const infinipot::Token>, std::size_t, infinipot::LogitsSink&,
               infinipot::QuerySink&) {}
};

struct Policy {
  std::string_view name() const { return "unfinished"; }
  void score_entries(const infinipot::EntryRows&, std::span<float>) const {}
  void begin(const infinipot::Shape&, std::size_t, std::size_t) {}
  void commit(std::size_t, std::size_t) noexcept {}
  void forget() noexcept {}
#ifndef SHOULD_FAIL
  void observe(std::size_t, std::size_t, const infinipot::Queries&) noexcept {}
#endif
};

void read(Engine& engine, infinipot::Pot<float>& pot) { infinipot::Ccd(engine, pot, Policy()).feed(1); }
