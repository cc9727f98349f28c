// expect: see ReadableEntries in infinipot/concepts.hpp
#include <cstddef>
#include <span>

#include "infinipot/ccd.hpp"
#include "infinipot/policy/value_norm.hpp"

struct Engine {
  infinipot::Shape shape() const { return {}; }
  std::size_t vocab_size() const { return 1; }
  void forward(std::span<const infinipot::Token>, std::size_t, infinipot::LogitsSink&) {}
};

struct Store {
  infinipot::Shape shape() const { return {}; }
  std::size_t capacity() const { return 2; }
  infinipot::Granularity granularity() const { return {}; }
  const infinipot::EntryTable& entries() const;
  void append(std::span<const infinipot::Entry>) {}
  void truncate(std::size_t) {}
  void keep(const infinipot::Selection&) {}
  infinipot::FloatRows key_rows(std::size_t, std::size_t, std::size_t, std::size_t, float*) const noexcept {
    return {};
  }
#ifndef SHOULD_FAIL
  infinipot::FloatRows value_rows(std::size_t, std::size_t, std::size_t, std::size_t, float*) const noexcept {
    return {};
  }
#endif
};

void read(Engine& engine, Store& store) { infinipot::Ccd(engine, store, infinipot::ValueNorm()).feed(1); }
