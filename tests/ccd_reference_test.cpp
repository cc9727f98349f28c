// The whole loop against a reference in double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "ccd_trial.hpp"
#include "infinipot/ccd.hpp"
#include "infinipot/infinipot.hpp"
#include "reference/reference_ccd.hpp"
#include "reference/reference_rope.hpp"
#include "toy_engine.hpp"

namespace {

using namespace trial;
using infinipot::Rope;

// ---------------------------------------------------------------- against the reference

void expect_same_entry(const Pot<float>& pot, std::size_t lane, std::size_t t, const reference::Held& held) {
  const auto& entries = pot.entries();
  EXPECT_EQ(entries.positions(lane)[t], held.position) << "lane " << lane << " entry " << t;
  EXPECT_EQ(entries.tokens(lane)[t], held.token);
  EXPECT_NEAR(static_cast<double>(entries.nuc(lane)[t]), held.nuc, 2e-5);
  EXPECT_EQ(entries.pinned(lane)[t] != 0, held.pinned);
  EXPECT_EQ(entries.survived(lane)[t], held.survived);
}

void expect_same_row(const Pot<float>& pot, std::size_t layer, std::size_t head, std::size_t t,
                     const reference::Held& held) {
  std::vector<float> tile(pot.shape().head_dim);
  const float* const key = pot.key_rows(layer, head, t, 1, tile.data()).data;
  const Rope rope = pot.rotates(layer) ? pot.rope() : Rope{};
  const auto expected = reference::rotated(held.raw_key, rope, static_cast<double>(t));
  for (std::size_t k = 0; k < tile.size(); ++k) EXPECT_NEAR(static_cast<double>(key[k]), expected[k], 1e-5);
  for (std::size_t k = 0; k < pot.shape().value_channels(); ++k)
    EXPECT_NEAR(static_cast<double>(pot.values(layer).row(head, t)[k]), held.value[k], 1e-5);
}

void expect_same(const Pot<float>& pot, const reference::Ccd& expected, bool uses_nuc) {
  const auto& shape = pot.shape();
  for (std::size_t layer = 0; layer < shape.layers; ++layer)
    for (std::size_t head = 0; head < shape.kv_heads; ++head) {
      ASSERT_EQ(pot.size(), expected.head(layer, head).size());
      for (std::size_t t = 0; t < pot.size(); ++t) {
        auto held = expected.head(layer, head)[t];
        if (!uses_nuc) held.nuc = 0;
        expect_same_entry(pot, shape.lane_of(layer, head, pot.granularity()), t, held);
        expect_same_row(pot, layer, head, t, held);
        if (testing::Test::HasFailure()) return;
      }
    }
}

void expect_near(std::span<const float> logits, const std::vector<double>& expected) {
  ASSERT_EQ(logits.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(static_cast<double>(logits[i]), expected[i], 5e-5) << i;
}

/// Reads a text in pieces; `pinned` of the tokens after the first `pin_from` are pinned.
void compare_with_reference(const toy::Model& model, const CcdSpec& spec, KeyStorage storage,
                            std::size_t pin_from = 0, std::size_t pinned = 0) {
  SCOPED_TRACE(trace(spec) + (storage == KeyStorage::rotated ? ", rotated" : ", unrotated"));
  const auto text = toy::text(150, 1);
  reference::Ccd expected(model, spec);
  with_run(model, spec, storage, 16, [&](auto& run) {
    const auto read = [&](std::size_t from, std::size_t to, Retention retention) {
      run.reader.feed(std::span(text).subspan(from, to - from), retention);
      for (std::size_t i = from; i < to; ++i) expected.feed(text[i], retention == Retention::pinned);
      expect_same(run.pot, expected, run.reader.uses_nuc());
      expect_near(run.reader.logits(), expected.logits());
    };
    read(0, pin_from + 1, Retention::evictable);
    if (pinned > 0) read(pin_from + 1, pin_from + 1 + pinned, Retention::pinned);
    for (std::size_t at = pin_from + 1 + pinned; at < text.size() && !testing::Test::HasFailure();) {
      const std::size_t to = std::min(text.size(), at + 31);
      read(at, to, Retention::evictable);
      at = to;
    }
    EXPECT_GE(expected.distillations(), 5U);
    EXPECT_EQ(run.reader.stats().distillations, expected.distillations());
    EXPECT_EQ(run.reader.stats().tokens_read, text.size());
    EXPECT_EQ(run.reader.stats().nan_scores, 0U);
  });
}

/// In the first layer equal tokens have keys of equal length: knorm ties, which rounding decides.
std::vector<Kind> comparable_kinds() {
  std::vector<Kind> kinds(all_kinds.begin(), all_kinds.end());
  std::erase(kinds, Kind::knorm);
  return kinds;
}

TEST(CcdAgainstReference, EveryPolicyGranularityAndStorage) {
  const toy::Model model;
  for (const Kind kind : comparable_kinds())
    for (const Granularity granularity : all_granularities)
      for (const KeyStorage storage : both_storages)
        compare_with_reference(model, spec_of(kind, granularity), storage);
}

/// Distils after pieces of the text that are drawn at random, besides whenever the pot is full.
template <toy::Shows shows>
void compare_early_distillations(const toy::Model& model, const CcdSpec& spec, KeyStorage storage,
                                 std::uint64_t seed) {
  SCOPED_TRACE(trace(spec) + (storage == KeyStorage::rotated ? ", rotated, " : ", unrotated, ") +
               std::to_string(seed));
  const auto text = toy::text(150, seed);
  reference::Ccd expected(model, spec);
  with_run<float, shows>(model, spec, storage, 5, [&](auto& run) {
    for (std::size_t at = 0; at < text.size() && !testing::Test::HasFailure();) {
      const std::size_t count = std::min<std::size_t>(1 + toy::hash(seed << 20U | at) % 17, text.size() - at);
      run.reader.feed(std::span(text).subspan(at, count));
      for (std::size_t i = at; i < at + count; ++i) expected.feed(text[i]);
      run.reader.distil();
      expected.distil();
      expect_same(run.pot, expected, run.reader.uses_nuc());
      expect_near(run.reader.logits(), expected.logits());
      at += count;
    }
    EXPECT_GE(expected.distillations(), 7U);
    EXPECT_EQ(run.reader.stats().distillations, expected.distillations());
  });
}

TEST(CcdAgainstReference, DistillationsAtAnyFill) {
  const toy::Model model;
  for (const Kind kind : comparable_kinds())
    for (const Granularity granularity : all_granularities)
      for (const std::uint64_t seed : {1U, 2U, 3U}) {
        auto spec = spec_of(kind, granularity);
        spec.keep = 15 + seed;
        compare_early_distillations<toy::Shows::queries>(model, spec, both_storages[seed % 2], seed);
        compare_early_distillations<toy::Shows::attention>(model, spec, KeyStorage::rotated, seed);
      }
}

TEST(CcdAgainstReference, Alpha) {
  const toy::Model model;
  for (const double alpha : {0.0, 0.25, 0.75, 1.0})
    for (const Granularity granularity : all_granularities) {
      auto spec = spec_of(Kind::infinipot, granularity);
      spec.alpha = alpha;
      compare_with_reference(model, spec, KeyStorage::rotated);
    }
}

TEST(CcdAgainstReference, ReduceAggregateAndKernel) {
  const toy::Model model;
  for (const Granularity granularity : all_granularities)
    for (const ReduceHeads over_heads : {ReduceHeads::sum, ReduceHeads::max_share, ReduceHeads::max})
      for (const unsigned choice : {0U, 1U, 2U, 3U}) {
        auto spec = spec_of(Kind::infinipot, granularity);
        spec.over_heads = over_heads;
        spec.max_over_queries = (choice & 1U) != 0;
        spec.kernel = (choice & 2U) != 0 ? 3 : 1;
        SCOPED_TRACE(static_cast<int>(over_heads));
        SCOPED_TRACE(choice);
        compare_with_reference(model, spec, KeyStorage::rotated);
      }
}

TEST(CcdAgainstReference, SeveralCatalystsOfDifferentLength) {
  const toy::Model model;
  for (const bool maximum : {false, true}) {
    auto spec = spec_of(Kind::infinipot);
    spec.catalysts = {{7, 21}, {3, 44, 9, 12, 30}, {16}};
    spec.max_over_queries = maximum;
    compare_with_reference(model, spec, KeyStorage::rotated);
    compare_with_reference(model, spec, KeyStorage::unrotated);
  }
}

TEST(CcdAgainstReference, PinnedTokensStay) {
  const toy::Model model;
  for (const Kind kind : comparable_kinds())
    for (const Granularity granularity : all_granularities)
      compare_with_reference(model, spec_of(kind, granularity), KeyStorage::rotated, 50, 3);
}

TEST(CcdAgainstReference, WithoutSinksOrRecent) {
  const toy::Model model;
  for (const Kind kind : comparable_kinds()) {
    auto spec = spec_of(kind);
    spec.sinks = spec.recent = 0;
    compare_with_reference(model, spec, KeyStorage::rotated);
  }
}

TEST(CcdAgainstReference, WindowThatTakesAllTheRoom) {
  const toy::Model model;
  auto spec = spec_of(Kind::snapkv);
  spec.window = 15;
  spec.keep = 25;
  spec.kernel = 5;
  compare_with_reference(model, spec, KeyStorage::rotated);
}

TEST(CcdAgainstReference, RopeOfEveryKind) {
  std::vector<infinipot::Rope> ropes{infinipot::plain_rope(8, 100, infinipot::Pairing::interleaved),
                                     infinipot::plain_rope(4, 100), infinipot::plain_rope(0)};
  ropes.push_back(ropes.front());
  ropes.back().attention_factor = 1.25;
  for (const auto& rope : ropes)
    for (const KeyStorage storage : both_storages)
      for (const Kind kind : {Kind::infinipot, Kind::h2o, Kind::expected_attention})
        compare_with_reference(toy::Model(rope), spec_of(kind), storage);
}

TEST(CcdAgainstReference, AttentionForms) {
  toy::Model model;
  model.layers[0].form = {.scale = 0.7F, .soft_cap = 2, .window = 0};
  model.layers[1].form = {.scale = 0, .soft_cap = 0, .window = 25};
  for (const Kind kind : {Kind::infinipot, Kind::snapkv, Kind::h2o})
    compare_with_reference(model, spec_of(kind), KeyStorage::rotated);
}

TEST(CcdAgainstReference, LearnedSinks) {
  toy::Model model;
  model.layers[0].form = {.soft_cap = 2, .window = 25, .sinks = toy::some_sinks(model, 0)};
  model.layers[1].form.sinks = toy::some_sinks(model, 1);
  const auto kinds = {Kind::infinipot, Kind::snapkv, Kind::tova,
                      Kind::h2o,       Kind::reread, Kind::expected_attention};
  for (const Kind kind : kinds)
    for (const KeyStorage storage : both_storages) compare_with_reference(model, spec_of(kind), storage);
  model.layers[0].form.sinks.clear();  // in one layer only
  compare_with_reference(model, spec_of(Kind::infinipot), KeyStorage::rotated);
  compare_with_reference(model, spec_of(Kind::expected_attention), KeyStorage::rotated);
  for (const ReduceHeads over_heads : {ReduceHeads::max, ReduceHeads::max_share}) {
    auto spec = spec_of(Kind::infinipot, Granularity::layer);
    spec.over_heads = over_heads;
    compare_with_reference(model, spec, KeyStorage::rotated);
  }
}

/// RoPE of the last channels, values of another width, or read from the key's row.
TEST(CcdAgainstReference, RopeAndValuesOfTheirOwnChannels) {
  for (const auto pairing : {infinipot::Pairing::half_split, infinipot::Pairing::interleaved})
    for (const std::size_t value_dim : {0U, 5U, 12U}) {
      Rope rope = infinipot::plain_rope(4, 100, pairing);
      rope.first_channel = 4;
      rope.attention_factor = 1.25;
      const toy::Model model(
          rope, {.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 8, .value_dim = value_dim});
      SCOPED_TRACE(value_dim);
      for (const KeyStorage storage : both_storages) {
        for (const Kind kind : {Kind::infinipot, Kind::h2o, Kind::keydiff})
          compare_with_reference(model, spec_of(kind), storage);
        if (value_dim > 0) compare_with_reference(model, spec_of(Kind::expected_attention), storage);
      }
    }
}

TEST(CcdAgainstReference, LayersWithoutRope) {
  toy::Model model(infinipot::plain_rope(8, 100),
                   {.layers = 4, .query_heads = 4, .kv_heads = 2, .head_dim = 8});
  model.layers[1].rotates = model.layers[3].rotates = false;
  for (const KeyStorage storage : both_storages)
    for (const Kind kind : {Kind::infinipot, Kind::snapkv, Kind::keydiff, Kind::expected_attention})
      compare_with_reference(model, spec_of(kind), storage);
}

TEST(CcdAgainstReference, MultiHeadAndMultiQueryAttention) {
  for (const std::size_t kv_heads : {1U, 4U}) {
    const toy::Model model(infinipot::plain_rope(8, 100),
                           {.layers = 2, .query_heads = 4, .kv_heads = kv_heads, .head_dim = 8});
    for (const Kind kind : {Kind::infinipot, Kind::tova, Kind::expected_attention})
      compare_with_reference(model, spec_of(kind), KeyStorage::rotated);
  }
}

TEST(CcdAgainstReference, FutureAndEpsilonOfExpectedAttention) {
  const toy::Model model;
  for (const std::size_t future : {1U, 512U})
    for (const double epsilon : {0.0, 0.02}) {
      auto spec = spec_of(Kind::expected_attention);
      spec.future = future;
      spec.epsilon = epsilon;
      spec.sinks = future == 1 ? 0 : 3;
      compare_with_reference(model, spec, KeyStorage::rotated);
    }
}

TEST(CcdAgainstReference, KernelsThatLag) {
  const toy::Model model;
  for (const Granularity granularity : all_granularities) {
    auto spec = spec_of(Kind::infinipot, granularity);
    spec.kernel = 7;
    spec.lag = 2;
    compare_with_reference(model, spec, KeyStorage::rotated);
  }
}

TEST(CcdAgainstReference, FramesOfTemporalRedundancy) {
  const toy::Model model;
  for (const auto& [period, frames] : {std::pair(1U, 1U), {1U, 9U}, {5U, 2U}, {7U, 1U}}) {
    auto spec = spec_of(Kind::temporal_redundancy);
    spec.period = period;
    spec.frames = frames;
    compare_with_reference(model, spec, KeyStorage::rotated);
  }
}

TEST(CcdAgainstReference, TermsOfTheQuestion) {
  const toy::Model model;
  for (const Granularity granularity : all_granularities)
    for (const auto& [alpha, share] : {std::pair{0.0, 0.35}, {0.25, 0.4}, {0.0, 1.0}, {0.7, 0.3}, {0.9, 0.1}})
      for (const bool known : {true, false}) {
        auto spec = spec_of(Kind::infinipot, granularity);
        spec.alpha = alpha;
        spec.term_share = share;
        if (known)
          spec.terms = {3, 11, 7, 3, 20, 11};
        else
          spec.terms = {96, 95};  // hardly any in the text
        SCOPED_TRACE(testing::Message() << "alpha " << alpha << " share " << share << " known " << known);
        compare_with_reference(model, spec, KeyStorage::rotated);
      }
}

TEST(CcdAgainstReference, CatalystsOfTheLowerLayers) {
  const toy::Model model(infinipot::plain_rope(8, 100),
                         {.layers = 5, .query_heads = 4, .kv_heads = 2, .head_dim = 8});
  for (const Granularity granularity : all_granularities)
    for (const std::size_t layers : {1U, 3U, 5U, 9U})
      for (const auto over_heads : {infinipot::ReduceHeads::sum, infinipot::ReduceHeads::max_share}) {
        auto spec = spec_of(Kind::infinipot, granularity);
        spec.layers = layers;
        spec.over_heads = over_heads;
        SCOPED_TRACE(layers);
        compare_with_reference(model, spec, KeyStorage::rotated);
      }
}

TEST(CcdAgainstReference, RereadByTheLowerLayersAndByMeans) {
  const toy::Model model(infinipot::plain_rope(8, 100),
                         {.layers = 5, .query_heads = 4, .kv_heads = 2, .head_dim = 8});
  for (const Granularity granularity : all_granularities)
    for (const std::size_t layers : {0U, 1U, 3U, 5U, 9U})
      for (const bool mean : {false, true}) {
        auto spec = spec_of(Kind::reread, granularity);
        spec.layers = layers;
        spec.mean_pooling = mean;
        spec.kernel = 3;
        SCOPED_TRACE(layers);
        SCOPED_TRACE(mean);
        compare_with_reference(model, spec, KeyStorage::rotated);
      }
}

// ---------------------------------------------------------------- 16-bit pots

/// What must hold for any pot's records, whatever it chose to keep.
void expect_consistent(const infinipot::EntryTable& entries, const std::vector<Token>& text,
                       const CcdSpec& spec, std::size_t limit, std::uint64_t distillations) {
  const auto born_after = [&](std::uint64_t position) -> std::uint64_t {
    return position < limit ? 0 : 1 + (position - limit) / (limit - spec.keep);
  };
  for (std::size_t lane = 0; lane < entries.lanes(); ++lane) {
    const auto positions = entries.positions(lane);
    for (std::size_t t = 0; t < entries.size(); ++t) {
      if (t > 0) {
        EXPECT_LT(positions[t - 1], positions[t]);
      }
      if (t < spec.sinks) {
        EXPECT_EQ(positions[t], t);
      }
      EXPECT_EQ(entries.tokens(lane)[t], text[positions[t]]);
      EXPECT_EQ(entries.survived(lane)[t], distillations - born_after(positions[t]));
      EXPECT_TRUE(std::isfinite(entries.nuc(lane)[t]));
    }
    EXPECT_EQ(positions.back(), text.size() - 1);
  }
}

template <class T>
void expect_16_bit_pot_works() {
  const toy::Model model;
  const auto text = toy::text(150, 1);
  for (const Kind kind : ways_to_look)
    for (const Granularity granularity : all_granularities)
      for (const KeyStorage storage : both_storages) {
        const auto spec = spec_of(kind, granularity);
        SCOPED_TRACE(trace(spec));
        with_run<T>(model, spec, storage, 16, [&](auto& run) {
          run.reader.feed(text);
          EXPECT_GE(run.reader.stats().distillations, 5U);
          expect_consistent(run.pot.entries(), text, spec, run.reader.limit(),
                            run.reader.stats().distillations);
        });
      }
}

TEST(Ccd16Bit, HalfPotKeepsConsistentRecords) { expect_16_bit_pot_works<infinipot::f16>(); }
TEST(Ccd16Bit, BrainFloatPotKeepsConsistentRecords) { expect_16_bit_pot_works<infinipot::bf16>(); }

TEST(Ccd16Bit, HalfPotKeepsMostlyWhatAFloatPotKeeps) {
  const toy::Model model;
  const auto text = toy::text(60, 1);  // two distillations: one different choice would cause others
  const auto spec = spec_of(Kind::infinipot);
  with_run(model, spec, KeyStorage::rotated, 16, [&](auto& exact) {
    with_run<infinipot::f16>(model, spec, KeyStorage::rotated, 16, [&](auto& half) {
      exact.reader.feed(text);
      half.reader.feed(text);
      std::size_t different = 0;
      for (std::size_t lane = 0; lane < 4; ++lane) {
        const auto a = exact.pot.entries().positions(lane), b = half.pot.entries().positions(lane);
        std::vector<std::uint64_t> both;
        std::ranges::set_intersection(a, b, std::back_inserter(both));
        different += a.size() - both.size();
      }
      EXPECT_LE(different, 4U) << "of " << 4 * exact.pot.size();
    });
  });
}

}  // namespace
