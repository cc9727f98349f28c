// expect: see ForwardPass in infinipot/concepts.hpp
#include <cstddef>
#include <span>

#include "infinipot/ccd.hpp"
#include "infinipot/policy/streaming_llm.hpp"
#include "infinipot/pot.hpp"

struct Engine {
  infinipot::Shape shape() const { return {}; }
#ifndef SHOULD_FAIL
  std::size_t vocab_size() const { return 1; }
#endif
  void forward(std::span<const infinipot::Token>, std::size_t, infinipot::LogitsSink&) {}
};

void read(Engine& engine, infinipot::Pot<float>& pot) {
  infinipot::Ccd(engine, pot, infinipot::StreamingLlm()).feed(1);
}
