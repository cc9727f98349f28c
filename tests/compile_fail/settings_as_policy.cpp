// expect: these are a policy's settings, not the policy
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
  using Policy = infinipot::InfinipotSettings;
#else
  using Policy = infinipot::Infinipot;
#endif
  infinipot::Ccd<Engine, infinipot::Pot<float>, Policy>(engine, pot, infinipot::recommended_settings({1}))
      .feed(1);
}
