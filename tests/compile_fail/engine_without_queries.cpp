// expect: this policy scores entries by attention, so the engine needs a second forward
#include <cstddef>
#include <span>

#include "infinipot/ccd.hpp"
#include "infinipot/policy/snapkv.hpp"
#include "infinipot/pot.hpp"

struct Engine {
  infinipot::Shape shape() const { return {}; }
  std::size_t vocab_size() const { return 1; }
  void forward(std::span<const infinipot::Token>, std::size_t, infinipot::LogitsSink&) {}
#ifndef SHOULD_FAIL
  void forward(std::span<const infinipot::Token>, std::size_t, infinipot::LogitsSink&,
               infinipot::QuerySink&) {}
#endif
};

void read(Engine& engine, infinipot::Pot<float>& pot) {
  infinipot::Ccd(engine, pot, infinipot::SnapKv()).feed(1);
}
