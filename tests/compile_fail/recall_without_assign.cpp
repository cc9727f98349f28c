// expect: see AssignableStore in infinipot/concepts.hpp
#include <cstddef>
#include <span>

#include "infinipot/archive/memory_archive.hpp"
#include "infinipot/policy/streaming_llm.hpp"
#include "infinipot/recall.hpp"

struct Engine {
  infinipot::Shape shape() const { return {}; }
  std::size_t vocab_size() const { return 1; }
  void forward(std::span<const infinipot::Token>, std::size_t, infinipot::LogitsSink&) {}
  void forward(std::span<const infinipot::Token>, std::size_t, infinipot::LogitsSink&,
               infinipot::AttentionSink&) {}
};

struct Store {
  infinipot::EntryTable table{1, 2};

  infinipot::Shape shape() const { return {}; }
  std::size_t capacity() const { return 2; }
  infinipot::Granularity granularity() const { return infinipot::Granularity::shared; }
  const infinipot::EntryTable& entries() const { return table; }
  void append(std::span<const infinipot::Entry>) {}
  void truncate(std::size_t) {}
  void keep(const infinipot::Selection&) {}
#ifndef SHOULD_FAIL
  void assign(const Store&, std::size_t) {}
#endif
};

void ask(Engine& engine, Store& store, Store& other, infinipot::MemoryArchive& archive) {
  infinipot::Ccd reader(engine, store, infinipot::StreamingLlm());
  const infinipot::Token question = 0;
  infinipot::recall(reader, engine, other, archive, {&question, 1});
}
