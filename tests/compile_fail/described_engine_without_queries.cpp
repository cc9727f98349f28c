// expect: see YieldsQueries in infinipot/concepts.hpp
#include <cstddef>
#include <span>

#include "infinipot/ccd.hpp"
#include "infinipot/policy/h2o.hpp"
#include "infinipot/pot.hpp"

struct Engine {
#ifdef SHOULD_FAIL
  static constexpr infinipot::Shows shows = infinipot::Shows::logits;
#else
  static constexpr infinipot::Shows shows = infinipot::Shows::queries;
#endif
  infinipot::Shape shape() const { return {}; }
  std::size_t vocab_size() const { return 1; }
};

void read(Engine& engine, infinipot::Pot<float>& pot, std::span<const infinipot::Token> tokens) {
  infinipot::Ccd reader(engine, pot, infinipot::H2o());
  reader.start(tokens);
}
