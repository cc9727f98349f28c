// expect: a policy that watches probes needs longest_probe
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
  infinipot::Reduce reduce() const { return infinipot::Reduce::sum; }
  std::size_t longest_probe() const { return 1; }
#ifndef SHOULD_FAIL
  std::span<const infinipot::Token> probe(std::size_t, const infinipot::ProbeContext&) const { return {}; }
#endif
};

void read(Engine& engine, infinipot::Pot<float>& pot) { infinipot::Ccd(engine, pot, Policy()).feed(1); }
