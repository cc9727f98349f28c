// expect: see Policy in infinipot/policy.hpp
#include <cstddef>
#include <span>
#include <string_view>

#include "infinipot/ccd.hpp"
#include "infinipot/pot.hpp"

struct Engine {
  infinipot::Shape shape() const { return {}; }
  std::size_t vocab_size() const { return 1; }
  void forward(std::span<const infinipot::Token>, std::size_t, infinipot::LogitsSink&) {}
};

struct Policy {
  std::string_view name() const { return "unfinished"; }
#ifndef SHOULD_FAIL
  void score(std::size_t, const infinipot::ScoreView&, std::span<float>) const {}
#endif
};

void read(Engine& engine, infinipot::Pot<float>& pot) { infinipot::Ccd(engine, pot, Policy()).feed(1); }
