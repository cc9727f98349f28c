// expect: queries the store needs key_rows
#include <cstddef>
#include <span>

#include "infinipot/ccd.hpp"
#include "infinipot/policy/tova.hpp"

struct Engine {
  infinipot::Shape shape() const { return {}; }
  std::size_t vocab_size() const { return 1; }
  void forward(std::span<const infinipot::Token>, std::size_t, infinipot::LogitsSink&) {}
  void forward(std::span<const infinipot::Token>, std::size_t, infinipot::LogitsSink&,
               infinipot::QuerySink&) {}
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
  infinipot::FloatRows key_rows(std::size_t, std::size_t, std::size_t, std::size_t, float*) const noexcept {
    return {};
  }
#endif
};

void read(Engine& engine, Store& store) { infinipot::Ccd(engine, store, infinipot::Tova()).feed(1); }
