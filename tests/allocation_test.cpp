// Reading and distilling allocate nothing after construction (if the engine does not either).
#include <gtest/gtest.h>

#include <cstddef>
#include <new>
#include <span>

#include "allocation_counter.hpp"
#include "ccd_trial.hpp"
#include "infinipot/infinipot.hpp"
#include "toy_engine.hpp"

namespace {

using namespace trial;

/// Reads and generates through several distillations.
void expect_no_allocation(AnyReader& reader) {
  const auto text = toy::text(150, 1);
  const allocation_counter::Scope counted;
  reader.feed(std::span(text).first(5), Retention::pinned);
  reader.feed(std::span(text).subspan(5));
  reader.generate(
      50, [](std::span<const float> logits) { return static_cast<Token>(logits[0] > 0 ? 1 : 2); },
      [](Token) { return true; });
  const std::size_t calls = counted.calls();

  EXPECT_EQ(calls, 0U);
  EXPECT_GE(reader.stats().distillations, 8U);
}

template <class T = float, toy::Shows shows = toy::Shows::queries>
void expect_no_allocation(const CcdSpec& spec, KeyStorage storage = KeyStorage::rotated) {
  SCOPED_TRACE(trace(spec));
  const toy::Model model;
  with_run<T, shows>(model, spec, storage, 16, [](AnyRun<T>& run) { expect_no_allocation(run.reader); });
}

TEST(Allocation, NoneWhileReadingAndDistilling) {
  for (const Kind kind : all_kinds)
    for (const Granularity granularity : all_granularities) {
      expect_no_allocation(spec_of(kind, granularity));
      expect_no_allocation<float, toy::Shows::attention>(spec_of(kind, granularity));
    }
}

TEST(Allocation, NoneWithWhatInfinipotMayBeAsked) {
  for (const Granularity granularity : all_granularities) {
    auto spec = spec_of(Kind::infinipot, granularity);
    spec.catalysts = {{7, 21, 3}, {4}};
    spec.kernel = 3;
    expect_no_allocation(spec);
    spec.max_over_queries = true;
    spec.over_heads = ReduceHeads::max_share;
    expect_no_allocation(spec);
  }
}

TEST(Allocation, NoneWithKeysThatAreConvertedToBeRead) {
  for (const Kind kind : all_kinds) expect_no_allocation(spec_of(kind), KeyStorage::unrotated);
  for (const Kind kind : ways_to_look) expect_no_allocation<infinipot::f16>(spec_of(kind));
}

TEST(Allocation, NoneInADistillationBeforeThePotIsFull) {
  const toy::Model model;
  const auto text = toy::text(90, 2);
  for (const Kind kind : all_kinds)
    with_run(model, spec_of(kind), KeyStorage::rotated, 4, [&](AnyRun<float>& run) {
      const allocation_counter::Scope counted;
      for (std::size_t at = 0; at < text.size(); at += 30) {
        run.reader.feed(std::span(text).subspan(at, 30));
        run.reader.distil();
      }
      const std::size_t calls = counted.calls();
      EXPECT_EQ(calls, 0U) << static_cast<int>(kind);
      EXPECT_GE(run.reader.stats().distillations, 3U);
    });
}

TEST(Allocation, NoneWhileWhatIsReadIsArchived) {
  const toy::Model model;
  for (const auto type : {infinipot::ArchiveType::float32, infinipot::ArchiveType::codes8,
                          infinipot::ArchiveType::codes4, infinipot::ArchiveType::tokens}) {
    auto pot = toy::make_pot(model, 40, 20, Granularity::shared);
    toy::Engine<Pot<float>> engine(model, pot);
    infinipot::Ccd reader(engine, pot, infinipot::StreamingLlm(), {.keep = 20, .chunk = 16});
    infinipot::MemoryArchive archive({.shape = model.shape, .type = type, .block = 8, .limit = 20000});
    reader.archive_to(archive);
    const auto text = toy::text(200, 1);
    const allocation_counter::Scope counted;
    reader.feed(text);
    reader.generate(
        50, [](std::span<const float> logits) { return static_cast<Token>(logits[0] > 0 ? 1 : 2); },
        [](Token) { return true; });
    const std::size_t calls = counted.calls();
    EXPECT_EQ(calls, 0U) << static_cast<int>(type);
    EXPECT_EQ(archive.end(), 250U);
  }
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
