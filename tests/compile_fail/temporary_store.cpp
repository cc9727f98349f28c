// expect: the engine and the store must outlive the reader
#include <cstddef>
#include <span>

#include "infinipot/infinipot.hpp"

struct Engine {
  infinipot::Shape shape() const { return {}; }
  std::size_t vocab_size() const { return 1; }
  void forward(std::span<const infinipot::Token>, std::size_t, infinipot::LogitsSink&) {}
  void forward(std::span<const infinipot::Token>, std::size_t, infinipot::LogitsSink&,
               infinipot::QuerySink&) {}
};

void read(Engine& engine, infinipot::Pot<float>& pot) {
#ifdef SHOULD_FAIL
  infinipot::Ccd(engine, pot.fork(), infinipot::StreamingLlm()).feed(1);
#endif
  infinipot::Ccd(engine, pot, infinipot::StreamingLlm()).feed(1);
}
