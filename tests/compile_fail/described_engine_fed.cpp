// expect: this engine is only described
#include <cstddef>
#include <span>

#include "infinipot/ccd.hpp"
#include "infinipot/policy/streaming_llm.hpp"
#include "infinipot/pot.hpp"

struct Engine {
  static constexpr infinipot::Shows shows = infinipot::Shows::logits;
  infinipot::Shape shape() const { return {}; }
  std::size_t vocab_size() const { return 1; }
};

void read(Engine& engine, infinipot::Pot<float>& pot, std::span<const infinipot::Token> tokens) {
  infinipot::Ccd reader(engine, pot, infinipot::StreamingLlm());
  reader.start(tokens);
  reader.next();
#ifdef SHOULD_FAIL
  reader.feed(tokens);
#endif
}
