// expect: a policy that watches the last queries needs window
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
  static constexpr infinipot::Watch watch = infinipot::Watch::last_queries;
  std::string_view name() const { return "unfinished"; }
#ifndef SHOULD_FAIL
  std::size_t window() const { return 1; }
#endif
};

void read(Engine& engine, infinipot::Pot<float>& pot) { infinipot::Ccd(engine, pot, Policy()).feed(1); }
