// Reading and distilling allocate nothing after construction (with an engine that does not either).
#include <gtest/gtest.h>

#include <cstddef>
#include <new>
#include <span>
#include <utility>

#include "allocation_counter.hpp"
#include "infinipot/infinipot.hpp"
#include "toy_engine.hpp"

namespace {

using infinipot::Granularity;
using infinipot::Token;

/// Reads and generates through several distillations.
template <class T, toy::Shows shows, class P>
void expect_no_allocation(P policy, Granularity granularity, infinipot::KeyStorage storage) {
  SCOPED_TRACE(policy.name());
  const toy::Model model;
  const auto text = toy::text(150, 1);
  auto pot = toy::make_pot<T>(model, 40, 20, granularity, storage);
  toy::Engine<infinipot::Pot<T>, shows> engine(model, pot);
  infinipot::Ccd reader(engine, pot, std::move(policy), {.keep = 20, .sinks = 2, .chunk = 16});

  const allocation_counter::Scope counted;
  reader.feed(std::span(text).first(5), infinipot::Retention::pinned);
  reader.feed(std::span(text).subspan(5));
  reader.generate(
      50, [](std::span<const float> logits) { return static_cast<Token>(logits[0] > 0 ? 1 : 2); },
      [](Token) { return true; });
  const std::size_t calls = counted.calls();

  EXPECT_EQ(calls, 0U);
  EXPECT_GE(reader.stats().distillations, 8U);
}

template <class T, toy::Shows shows>
void expect_no_allocation_by_any_policy(Granularity granularity, infinipot::KeyStorage storage) {
  const auto check = [&](auto policy) {
    expect_no_allocation<T, shows>(std::move(policy), granularity, storage);
  };
  check(infinipot::Infinipot({.catalysts = {{7, 21, 3}, {4}}, .kernel = 3}));
  check(infinipot::Infinipot({.catalysts = {{7, 21, 3}},
                              .over_queries = infinipot::Reduce::max,
                              .over_heads = infinipot::Aggregate::max}));
  check(infinipot::SnapKv(6, 3));
  check(infinipot::Tova());
  check(infinipot::H2o());
  check(infinipot::StreamingLlm());
  check(infinipot::SirLlm());
  check(infinipot::KeyDiff());
  check(infinipot::TemporalRedundancy(3, 2));
  if constexpr (shows == toy::Shows::queries)
    check(infinipot::ExpectedAttention({.rope = infinipot::plain_rope(8, 100)}));
}

TEST(Allocation, NoneWhileReadingAndDistilling) {
  for (const auto granularity : {Granularity::head, Granularity::layer, Granularity::shared}) {
    expect_no_allocation_by_any_policy<float, toy::Shows::queries>(granularity,
                                                                   infinipot::KeyStorage::rotated);
    expect_no_allocation_by_any_policy<float, toy::Shows::attention>(granularity,
                                                                     infinipot::KeyStorage::rotated);
  }
}

TEST(Allocation, NoneWithKeysThatAreConvertedToBeRead) {
  using infinipot::KeyStorage;
  expect_no_allocation_by_any_policy<float, toy::Shows::queries>(Granularity::head, KeyStorage::unrotated);
  expect_no_allocation_by_any_policy<infinipot::f16, toy::Shows::queries>(Granularity::head,
                                                                          KeyStorage::rotated);
}

/// Bytes that the constructor of a reader asks for.
template <class P>
std::size_t bytes_of_reader(const P& policy) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 400, 200);
  toy::AttentionEngine<infinipot::Pot<float>> engine(model, pot);
  const allocation_counter::Scope counted;
  const infinipot::Ccd reader(engine, pot, policy, {.keep = 200});
  return counted.bytes();
}

TEST(Allocation, AttentionScoresOnlyForPoliciesThatWatch) {
  const std::size_t one_array = 4 * 400 * sizeof(float);  // of 4 heads and 400 entries
  const std::size_t nothing = bytes_of_reader(infinipot::StreamingLlm());
  EXPECT_LT(nothing, bytes_of_reader(infinipot::Infinipot({.catalysts = {{1}}})) - one_array / 2);
  EXPECT_EQ(bytes_of_reader(infinipot::H2o()) - nothing, 2 * one_array) << "scores, and those of a chunk";
}

TEST(Allocation, IsCounted) {
  const allocation_counter::Scope counted;
  ::operator delete(::operator new(3));  // a new-expression could be optimised away
  const std::size_t calls = counted.calls();
  EXPECT_EQ(calls, 1U);
}

}  // namespace
