// expect: see Store in infinipot/concepts.hpp
#include <cstddef>
#include <span>

#include "infinipot/ccd.hpp"
#include "infinipot/policy/streaming_llm.hpp"

struct Engine {
  infinipot::Shape shape() const { return {}; }
  std::size_t vocab_size() const { return 1; }
  void forward(std::span<const infinipot::Token>, std::size_t, infinipot::LogitsSink&) {}
};

struct Store {
  infinipot::EntryTable table{1, 2};

  infinipot::Shape shape() const { return {}; }
  std::size_t capacity() const { return 2; }
  infinipot::Granularity granularity() const { return infinipot::Granularity::shared; }
  const infinipot::EntryTable& entries() const { return table; }
  void append(std::span<const infinipot::Entry>) {}
  void truncate(std::size_t) {}
#ifndef SHOULD_FAIL
  void keep(const infinipot::Selection&) {}
#endif
};

void read(Engine& engine, Store& store) { infinipot::Ccd(engine, store, infinipot::StreamingLlm()).feed(1); }
