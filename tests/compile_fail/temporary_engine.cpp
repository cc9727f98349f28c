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

void read(infinipot::Pot<float>& pot) {
  Engine engine;
#ifdef SHOULD_FAIL
  infinipot::Ccd(Engine(), pot, infinipot::StreamingLlm()).feed(1);
#endif
  infinipot::Ccd(engine, pot, infinipot::StreamingLlm()).feed(1);
}
