// Layers that keep different numbers of entries: pots, and the loop as far as ccd_reference_test.cpp does not
// compare it with the reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "allocation_counter.hpp"
#include "ccd_trial.hpp"
#include "infinipot/infinipot.hpp"
#include "reference/random.hpp"
#include "reference/reference_pot.hpp"
#include "reference/reference_rope.hpp"
#include "toy_engine.hpp"

namespace {

using namespace trial;
using infinipot::Entry;
using infinipot::Index;
using infinipot::PotSettings;
using infinipot::Selection;

constexpr std::array own_lanes{Granularity::head, Granularity::layer};

std::string error_of(const auto& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "nothing thrown";
}

PotSettings settings_of(Granularity granularity = Granularity::head,
                        KeyStorage storage = KeyStorage::rotated) {
  return {.shape = {4, 6, 3, 32},
          .capacity = 30,
          .granularity = granularity,
          .key_storage = storage,
          .rope = infinipot::plain_rope(32),
          .budgets = {13, 20, 7, 16}};
}

// ---------------------------------------------------------------- pots

/// Writes the same random rows into pots and a plain copy of them, and distils all at random.
template <class T>
class Twins {
 public:
  Twins(const PotSettings& settings, std::vector<infinipot::Pot<T>*> pots)
      : settings_(settings), pots_(std::move(pots)), model_(settings.shape, settings.granularity) {}

  void fill(std::size_t size) {
    const infinipot::Shape& shape = settings_.shape;
    for (; pots_[0]->size() < size; ++position_) {
      const Entry entry{position_, static_cast<Token>(position_ % 91), random_.uniform() > 0 ? 1.5F : 0.5F,
                        position_ % 7 == 0};
      for (std::size_t layer = 0; layer < shape.layers; ++layer)
        for (std::size_t head = 0; head < shape.kv_heads; ++head) write(layer, head, entry);
      for (auto* const pot : pots_) pot->append(std::span(&entry, 1));
    }
  }

  void distil() {
    Selection kept(pots_[0]->entries().budgets());
    for (std::size_t lane = 0; lane < kept.lanes(); ++lane) {
      const std::size_t begin = pots_[0]->entries().begin(lane), held = pots_[0]->size() - begin;
      kept.set_count(lane, std::min(pots_[0]->entries().budgets()[lane], held));
      std::ranges::copy(random_.subset<Index>(kept.lane(lane).size(), held), kept.lane(lane).begin());
      for (Index& index : kept.lane(lane)) index += static_cast<Index>(begin);
    }
    keep_in_model(kept);
    for (auto* const pot : pots_) pot->keep(kept);
  }

  /// Largest differences between what a pot holds and what it should, keys rotated exactly.
  void expect_holds(const infinipot::Pot<T>& pot, double key_tolerance, double value_tolerance) {
    const infinipot::Shape& shape = settings_.shape;
    std::vector<float> tile(shape.head_dim);
    for (std::size_t layer = 0; layer < shape.layers; ++layer)
      for (std::size_t head = 0; head < shape.kv_heads; ++head) {
        const auto& items = model_.head(layer, head);
        ASSERT_EQ(pot.size() - pot.begin(layer), items.size());
        for (std::size_t t = 0; t < items.size(); ++t) {
          const std::size_t row = pot.begin(layer) + t;
          const auto exact = reference::rotated(items[t].raw_key, pot.rope(), static_cast<double>(row));
          const float* const key = pot.key_rows(layer, head, row, 1, tile.data()).data;
          for (std::size_t k = 0; k < shape.head_dim; ++k)
            ASSERT_NEAR(static_cast<double>(key[k]), exact[k], key_tolerance) << layer << ' ' << t;
          const float* const value = pot.value_rows(layer, head, row, 1, tile.data()).data;
          for (std::size_t k = 0; k < shape.head_dim; ++k)
            ASSERT_NEAR(value[k], items[t].value[k], value_tolerance);
        }
        expect_records(pot.entries(), model_.lane(layer, head), items);
      }
  }

 private:
  void write(std::size_t layer, std::size_t head, const Entry& entry) {
    reference::Item item{random_.uniforms(settings_.shape.head_dim), {}, entry, 0};
    const auto value = random_.uniforms(settings_.shape.head_dim);
    item.value.assign(value.begin(), value.end());
    const std::size_t row = pots_[0]->size();
    const auto key = settings_.key_storage == KeyStorage::rotated
                         ? reference::rotated(item.raw_key, settings_.rope, static_cast<double>(row))
                         : item.raw_key;
    const std::vector<float> stored(key.begin(), key.end());
    for (auto* const pot : pots_) pot->write(layer, head, row, stored.data(), item.value.data());
    model_.head(layer, head).push_back(item);
  }

  /// The model counts entries of a layer from its first one.
  void keep_in_model(const Selection& kept) {
    for (std::size_t layer = 0; layer < settings_.shape.layers; ++layer)
      for (std::size_t head = 0; head < settings_.shape.kv_heads; ++head) {
        std::vector<reference::Item> next;
        for (const Index index : kept.lane(model_.lane(layer, head))) {
          next.push_back(model_.head(layer, head).at(index - pots_[0]->begin(layer)));
          ++next.back().survived;
        }
        model_.head(layer, head) = next;
      }
  }

  static void expect_records(const infinipot::EntryTable& entries, std::size_t lane,
                             const std::vector<reference::Item>& items) {
    ASSERT_EQ(entries.positions(lane).size(), items.size());
    for (std::size_t t = 0; t < items.size(); ++t) {
      EXPECT_EQ(entries.positions(lane)[t], items[t].entry.position);
      EXPECT_EQ(entries.tokens(lane)[t], items[t].entry.token);
      EXPECT_EQ(entries.nuc(lane)[t], items[t].entry.nuc);
      EXPECT_EQ(entries.pinned(lane)[t] != 0, items[t].entry.pinned);
      EXPECT_EQ(entries.survived(lane)[t], items[t].survived);
    }
  }

  PotSettings settings_;
  std::vector<infinipot::Pot<T>*> pots_;
  reference::Pot model_;
  reference::Random random_{7};
  std::uint64_t position_ = 0;
};

template <class T>
class PotsWithBudgets : public testing::Test {
 protected:
  /// Of a number up to 1: a key that is rotated is rounded twice, codes have a scale for 32 of them.
  static constexpr double tolerance = std::same_as<T, infinipot::int4>   ? 0.16
                                      : std::same_as<T, infinipot::int8> ? 0.01
                                      : std::same_as<T, infinipot::bf16> ? 0.01
                                      : std::same_as<T, infinipot::f16>  ? 1.5e-3
                                                                         : 1e-6;
};
using Types = testing::Types<float, infinipot::f16, infinipot::bf16, infinipot::int8, infinipot::int4>;
TYPED_TEST_SUITE(PotsWithBudgets, Types);

TYPED_TEST(PotsWithBudgets, HoldWhatTheyShouldThroughDistillations) {
  for (const Granularity granularity : own_lanes)
    for (const KeyStorage storage : both_storages) {
      const PotSettings settings = settings_of(granularity, storage);
      Pot<TypeParam> pot(settings);
      EXPECT_EQ(pot.max_keep(), 20U);
      EXPECT_EQ(pot.size(), 13U) << "the largest budget less the least";
      EXPECT_TRUE(pot.entries().empty());
      Twins<TypeParam> twins(settings, {&pot});
      for (int round = 0; round < 30; ++round) {
        twins.fill(round % 3 == 0 ? 25 : 30);
        ASSERT_NO_FATAL_FAILURE(twins.expect_holds(pot, TestFixture::tolerance, TestFixture::tolerance));
        twins.distil();
        ASSERT_NO_FATAL_FAILURE(twins.expect_holds(pot, TestFixture::tolerance, TestFixture::tolerance));
        ASSERT_EQ(pot.size(), 20U);
      }
      for (std::size_t layer = 0; layer < 4; ++layer)
        EXPECT_EQ(pot.begin(layer), 20 - settings.budgets[layer]);
    }
}

TYPED_TEST(PotsWithBudgets, KeepAllOfALayerThatHasLessThanItsBudget) {
  PotSettings settings = settings_of();
  settings.budgets = {28, 3, 12, 29};
  Pot<TypeParam> pot(settings);
  Twins<TypeParam> twins(settings, {&pot});
  twins.fill(30);  // 4 entries
  twins.distil();
  EXPECT_EQ(pot.begin(0), 25U);
  EXPECT_EQ(pot.begin(1), 26U);
  for (int round = 0; round < 40; ++round) {
    twins.fill(30);
    ASSERT_NO_FATAL_FAILURE(twins.expect_holds(pot, TestFixture::tolerance, TestFixture::tolerance));
    twins.distil();
  }
  for (std::size_t layer = 0; layer < 4; ++layer) EXPECT_EQ(pot.begin(layer), 29 - settings.budgets[layer]);
}

TYPED_TEST(PotsWithBudgets, ForksGoOnAlike) {
  Pot<TypeParam> pot(settings_of());
  Twins<TypeParam> before(settings_of(), {&pot});
  before.fill(30);
  before.distil();
  before.fill(27);
  Pot<TypeParam> fork = pot.fork();
  before.expect_holds(fork, TestFixture::tolerance, TestFixture::tolerance);
  std::vector<float> a(32), b(32);
  Selection kept(pot.entries().budgets());
  for (std::size_t lane = 0; lane < kept.lanes(); ++lane)
    for (std::size_t j = 0; j < kept.lane(lane).size(); ++j)
      kept.lane(lane)[j] = static_cast<Index>(27 - kept.lane(lane).size() + j);
  for (auto* const each : {&pot, &fork}) each->keep(kept);
  for (std::size_t layer = 0; layer < 4; ++layer) {
    ASSERT_EQ(pot.begin(layer), fork.begin(layer));
    for (std::size_t row = pot.begin(layer); row < pot.size(); ++row) {
      const auto x = pot.key_rows(layer, 1, row, 1, a.data()), y = fork.key_rows(layer, 1, row, 1, b.data());
      EXPECT_TRUE(std::equal(x.data, x.data + 32, y.data));
    }
  }
}

TYPED_TEST(PotsWithBudgets, BytesAreTheSumOverLayers) {
  for (const Granularity granularity : own_lanes)
    for (const KeyStorage storage : both_storages) {
      const PotSettings settings = settings_of(granularity, storage);
      const std::size_t M = 30, C = 20, d = 32, heads = 3;
      const std::size_t kept = 13 + 20 + 7 + 16, rows = kept + 4 * (M - C);
      std::size_t row = 0;
      if constexpr (infinipot::Element<TypeParam>)
        row = d * sizeof(TypeParam);
      else
        row = infinipot::detail::row_bytes<TypeParam>(d);
      const bool originals = infinipot::Element<TypeParam> && storage == KeyStorage::rotated;
      const std::size_t lanes = granularity == Granularity::head ? heads : 1;  // of a layer
      const std::size_t needed =
          heads * rows * 2 * row + lanes * rows * (8 + 4 + 4 + 1 + 4) + M * d * 4 +
          (originals ? heads * kept * row + lanes * kept * (4 + 4 + 1) + 4 * lanes * 8 : 0);
      const Pot<TypeParam> pot(settings);
      EXPECT_GE(pot.bytes(), needed);
      EXPECT_LE(pot.bytes(), needed + 13 * 63);  // aligned to cache lines
    }
}

TYPED_TEST(PotsWithBudgets, TruncateDownToTheirStart) {
  Pot<TypeParam> pot(settings_of());
  Twins<TypeParam> twins(settings_of(), {&pot});
  twins.fill(30);
  twins.distil();
  pot.truncate(25);
  EXPECT_EQ(pot.size(), 20U);
  pot.truncate(15);
  EXPECT_EQ(pot.size(), 15U);
  EXPECT_EQ(pot.entries().positions(0).size(), 8U);
  EXPECT_FALSE(pot.entries().empty());
  pot.truncate(5);
  EXPECT_EQ(pot.size(), 13U) << "where a stream starts";
  EXPECT_TRUE(pot.entries().empty());
  for (std::size_t layer = 0; layer < 4; ++layer) EXPECT_EQ(pot.begin(layer), 13U);
  Twins<TypeParam> anew(settings_of(), {&pot});
  for (int round = 0; round < 3; ++round) {
    anew.fill(30);
    anew.distil();
    ASSERT_NO_FATAL_FAILURE(anew.expect_holds(pot, TestFixture::tolerance, TestFixture::tolerance));
  }
}

/// An engine's own memory has all rows; those that a layer has no use for are left alone.
TEST(BudgetsOverAnEnginesMemory, HoldTheSameBitsAndLeaveTheFirstRowsAlone) {
  const PotSettings settings = settings_of();
  const std::ptrdiff_t d = 32, entry = 3 * d, layer = 30 * entry;
  const float canary = -77.25F;
  std::vector<float> keys(static_cast<std::size_t>(4 * layer), canary), values = keys;
  Pot<float> own(settings),
      over(settings, {{keys.data(), layer, d, entry}, {values.data(), layer, d, entry}});
  EXPECT_LT(over.bytes() + 2 * 3 * (56 + 40) * 32 * 4, own.bytes() + 2 * 64);
  Twins<float> twins(settings, {&own, &over});
  for (int round = 0; round < 10; ++round) {
    twins.fill(30);
    twins.distil();
    ASSERT_NO_FATAL_FAILURE(twins.expect_holds(over, 1e-6, 0));
  }
  for (std::size_t l = 0; l < 4; ++l)
    for (std::size_t row = 0; row < 30; ++row)
      for (std::size_t head = 0; head < 3; ++head) {
        if (row < over.begin(l)) {
          EXPECT_EQ(*over.keys().row(l, head, row), canary);
          EXPECT_EQ(*over.values().row(l, head, row), canary);
        } else if (row < over.size()) {
          EXPECT_TRUE(std::equal(over.keys().row(l, head, row), over.keys().row(l, head, row) + 32,
                                 own.keys().row(l, head, row)));
        }
      }
}

TEST(BudgetsThatAreAllTheSame, AreNone) {
  PotSettings settings = settings_of(Granularity::shared);
  settings.budgets.assign(4, 9);
  const Pot<float> pot(settings);
  EXPECT_EQ(pot.max_keep(), 9U);
  EXPECT_TRUE(pot.budgets().empty());
  EXPECT_TRUE(pot.entries().budgets().empty());
  EXPECT_EQ(pot.size(), 0U);
  settings.budgets.clear();
  settings.max_keep = 9;
  EXPECT_EQ(pot.bytes(), Pot<float>(settings).bytes());
}

TEST(Budgets, ThatCannotBeAreRefused) {
  const auto error = [](const std::vector<std::size_t>& budgets, std::size_t max_keep = 0,
                        Granularity granularity = Granularity::head) {
    PotSettings settings = settings_of(granularity);
    settings.budgets = budgets;
    settings.max_keep = max_keep;
    return error_of([&] { const Pot<float> pot(settings); });
  };
  EXPECT_EQ(error({1, 2, 3}), "infinipot: there are 3 budgets for 4 layers; give one for each, or none");
  EXPECT_EQ(error({1, 2, 0, 3}),
            "infinipot: budget 0 of layer 2 is out of range 1 .. 29 for a pot of capacity 30");
  EXPECT_EQ(error({1, 30, 2, 3}),
            "infinipot: budget 30 of layer 1 is out of range 1 .. 29 for a pot of capacity 30");
  EXPECT_EQ(error({1, 2, 3, 4}, 5), "infinipot: max_keep 5 is not the largest budget, 4; leave it at 0");
  EXPECT_EQ(error({1, 2, 3, 4}, 0, Granularity::shared),
            "infinipot: budgets of 1 .. 4 entries for single layers make no sense with Granularity::shared, "
            "where all layers keep the same; use layer or head");
  EXPECT_EQ(error({1, 2, 3, 4}, 4), "nothing thrown");
}

// ---------------------------------------------------------------- the loop

CcdSpec budget_spec(Kind kind, Granularity granularity = Granularity::head) {
  CcdSpec spec = spec_of(kind, granularity);
  spec.budgets = {20, 10};
  return spec;
}

TEST(ReaderWithBudgets, KeepsTheLargestByDefaultAndNothingElse) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 40, 0, Granularity::head, KeyStorage::rotated, {20, 10});
  toy::QueryEngine<Pot<float>> engine(model, pot);
  EXPECT_EQ(infinipot::Ccd(engine, pot, infinipot::StreamingLlm()).settings().keep, 20U);
  EXPECT_EQ(error_of([&] { infinipot::Ccd(engine, pot, infinipot::StreamingLlm(), {.keep = 15}); }),
            "infinipot: keep 15 is not the largest of the store's budgets, 20; leave it at 0");
}

/// An engine that knows nothing of begin().
template <class Kv>
struct PlainAdapter {
  toy::QueryEngine<Kv>& engine;
  infinipot::Shape shape() const { return engine.shape(); }
  std::size_t vocab_size() const { return engine.vocab_size(); }
  void forward(std::span<const Token> tokens, std::size_t first, infinipot::LogitsSink& logits) {
    engine.forward(tokens, first, logits);
  }
};

TEST(ReaderWithBudgets, NeedsAnEngineThatKnowsOfThem) {
  const toy::Model model;
  const auto error_with = [&](const std::vector<std::size_t>& budgets) {
    auto pot = toy::make_pot(model, 40, 0, Granularity::head, KeyStorage::rotated, budgets);
    toy::QueryEngine<Pot<float>> engine(model, pot);
    PlainAdapter<Pot<float>> adapter{engine};
    static_assert(!infinipot::AttendsFromBegin<PlainAdapter<Pot<float>>>);
    static_assert(infinipot::AttendsFromBegin<toy::QueryEngine<Pot<float>>>);
    return error_of([&] {
      infinipot::Ccd reader(adapter, pot, infinipot::StreamingLlm());
      reader.feed(toy::text(100, 1));
    });
  };
  EXPECT_EQ(
      error_with({20, 10}),
      "infinipot: the store has budgets for single layers, but the engine does not say that it attends to "
      "entries begin(layer) .. only; see AttendsFromBegin in infinipot/concepts.hpp");
  EXPECT_EQ(error_with({20, 20}), "nothing thrown");
  EXPECT_EQ(error_with({}), "nothing thrown");
}

TEST(ReaderWithBudgets, RefusesWhatDoesNotFitInTheLeast) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 40, 0, Granularity::head, KeyStorage::rotated, {20, 10});
  toy::QueryEngine<Pot<float>> engine(model, pot);
  EXPECT_EQ(
      error_of([&] { infinipot::Ccd(engine, pot, infinipot::StreamingLlm(), {.sinks = 7, .recent = 4}); }),
      "infinipot: budget 10 of layer 1 is too small for 7 sinks and 4 recent entries");
  EXPECT_EQ(error_of([&] { infinipot::Ccd(engine, pot, infinipot::SnapKv(8, 3), {.sinks = 3}); }),
            "infinipot: budget 10 of layer 1 is too small for 3 sinks and 8 recent entries");
  EXPECT_EQ(error_of([&] { infinipot::Ccd(engine, pot, infinipot::H2o(), {.sinks = 6}); }),
            "infinipot: budget 10 of layer 1 is too small for 6 sinks and 5 recent entries");
  infinipot::Ccd reader(engine, pot, infinipot::H2o(), {.sinks = 2});
  reader.feed(toy::text(20, 1));
  EXPECT_EQ(error_of([&] { reader.feed(toy::text(4, 2), Retention::pinned); }),
            "infinipot: cannot pin 4 tokens: 4 pinned, 2 sinks and 5 recent exceed the 10 entries that are "
            "kept");
  reader.feed(toy::text(3, 2), Retention::pinned);
  reader.feed(toy::text(60, 3));
  for (std::size_t lane = 0; lane < 4; ++lane)
    EXPECT_EQ(std::ranges::count(pot.entries().pinned(lane), 1), 3);
}

TEST(ReaderWithBudgets, OfTheSameNumberIsTheOneWithoutBitForBit) {
  const toy::Model model;
  const auto text = toy::text(150, 1);
  for (const Kind kind : all_kinds)
    for (const Granularity granularity : all_granularities) {
      CcdSpec spec = spec_of(kind, granularity), same = spec;
      same.budgets = {20, 20};
      with_run(model, spec, KeyStorage::rotated, 16, [&](auto& without) {
        with_run(model, same, KeyStorage::rotated, 16, [&](auto& with) {
          without.reader.feed(text);
          with.reader.feed(text);
          EXPECT_TRUE(snapshot(with) == snapshot(without)) << trace(spec);
          EXPECT_EQ(with.pot.bytes(), without.pot.bytes());
        });
      });
    }
}

TEST(ReaderWithBudgets, KeepsTheSameInAnyChunksFromQueriesOrProbabilities) {
  const toy::Model model;
  const auto text = toy::text(150, 1);
  for (const Kind kind : {Kind::infinipot, Kind::snapkv, Kind::h2o, Kind::tova, Kind::reread})
    for (const Granularity granularity : own_lanes) {
      const CcdSpec spec = budget_spec(kind, granularity);
      SCOPED_TRACE(trace(spec));
      with_run(model, spec, KeyStorage::rotated, 16, [&](auto& a) {
        a.reader.feed(text);
        with_run(model, spec, KeyStorage::rotated, 3, [&](auto& b) {
          b.reader.feed(text);
          EXPECT_EQ(snapshot(a).positions, snapshot(b).positions);
        });
        // The toy engine shows NaN for entries that are not there.
        with_run<float, toy::Shows::attention>(model, spec, KeyStorage::rotated, 16, [&](auto& b) {
          b.reader.feed(text);
          EXPECT_EQ(snapshot(a).positions, snapshot(b).positions);
          EXPECT_EQ(b.reader.stats().nan_scores, 0U);
        });
      });
    }
}

TEST(ReaderWithBudgets, ForksAndResumesAsIfNothingHadHappened) {
  const toy::Model model;
  const auto text = toy::text(200, 1);
  const CcdSpec spec = budget_spec(Kind::infinipot);
  with_run(model, spec, KeyStorage::rotated, 16, [&](auto& run) {
    run.reader.feed(std::span(text).first(90));
    Pot<float> copy = run.pot.fork(),
               restored = toy::make_pot(model, 40, 0, Granularity::head, KeyStorage::rotated, {20, 10});
    toy::QueryEngine<Pot<float>> engine(model, copy), other(model, restored);
    auto fork = run.reader.fork(engine, copy);
    infinipot::Ccd resumed(other, restored, run.reader.policy(), trial::settings_of(spec, 16));
    std::ostringstream file;
    infinipot::save_pot(run.pot, file);
    const std::string bytes = file.str();
    infinipot::restore_pot(std::as_bytes(std::span(bytes)), restored);
    resumed.resume(run.reader.logits());
    for (auto* const reader : {&run.reader, &fork, &resumed}) reader->feed(std::span(text).subspan(90));
    Snapshot expected = snapshot(run), forked = snapshot_of(copy, fork),
             again = snapshot_of(restored, resumed);
    EXPECT_TRUE(forked == expected);
    again.distillations = expected.distillations;
    EXPECT_TRUE(again == expected);

    auto different = toy::make_pot(model, 40, 0, Granularity::head, KeyStorage::rotated, {20, 11});
    toy::QueryEngine<Pot<float>> third(model, different);
    EXPECT_NE(error_of([&] { run.reader.fork(third, different); }).find("budgets or size differ"),
              std::string::npos);
    EXPECT_EQ(error_of([&] { infinipot::restore_pot(std::as_bytes(std::span(bytes)), different); }),
              "infinipot: the pot file has other budgets for layers than the pot");
  });
}

TEST(ReaderWithBudgets, ShowsChoicesAmongWhatThereIs) {
  const toy::Model model;
  const CcdSpec spec = budget_spec(Kind::infinipot, Granularity::layer);
  with_run(model, spec, KeyStorage::rotated, 16, [&](auto& run) {
    std::size_t choices = 0;
    run.reader.on_choice([&](const infinipot::Choice& choice) {
      ++choices;
      for (std::size_t lane = 0; lane < 2; ++lane) {
        EXPECT_EQ(choice.kept.lane(lane).size(), spec.budgets[lane]);
        EXPECT_GE(choice.kept.lane(lane).front(), choice.entries.begin(lane));
        EXPECT_LT(choice.kept.lane(lane).back(), choice.entries.size());
        EXPECT_EQ(choice.kept.first(lane), 20 - spec.budgets[lane]);
        for (std::size_t t = 0; t < choice.entries.begin(lane); ++t)
          EXPECT_EQ(choice.attention[2 * lane * 40 + t], 0.0F);
      }
    });
    run.reader.feed(toy::text(150, 1));
    EXPECT_GE(choices, 5U);
  });
}

TEST(ReaderWithBudgets, TakesAnotherPolicy) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 40, 0, Granularity::head, KeyStorage::rotated, {20, 10});
  toy::QueryEngine<Pot<float>> engine(model, pot);
  infinipot::Ccd reader(engine, pot, infinipot::SnapKv(6, 3), {.sinks = 2});
  reader.feed(toy::text(60, 1));
  reader.set_policy(infinipot::SnapKv(4, 3));
  EXPECT_EQ(error_of([&] { reader.set_policy(infinipot::SnapKv(7, 3)); }),
            "infinipot: the new policy needs 7 queries to watch; the first one left room for 6");
  reader.feed(toy::text(60, 2));
  EXPECT_EQ(pot.begin(0), 0U);
  EXPECT_EQ(pot.begin(1), 10U);
}

TEST(ReaderWithBudgets, AllocatesNothingWhileReading) {
  const toy::Model model;
  const auto text = toy::text(150, 1);
  for (const Kind kind : all_kinds)
    with_run(model, budget_spec(kind), KeyStorage::rotated, 16, [&](auto& run) {
      const allocation_counter::Scope counted;
      run.reader.feed(text);
      const std::size_t calls = counted.calls();
      EXPECT_EQ(calls, 0U);
      EXPECT_GE(run.reader.stats().distillations, 5U);
    });
}

// ---------------------------------------------------------------- a rule that all layers share

/// Half of what is free goes to tokens that all lanes hold, by a hash of their position; the rest by another.
class SharedHalf {
 public:
  static constexpr infinipot::Watch watch = infinipot::Watch::nothing;
  std::string_view name() const { return "shared half"; }
  bool uses_nuc() const { return false; }
  std::span<const infinipot::Rule> rules() const { return rules_; }
  void score(std::size_t rule, const infinipot::ScoreView& view, std::span<float> scores) const noexcept {
    for (std::size_t t = 0; t < view.size(); ++t)
      scores[t] = hashed(rule, rule == 0 ? 0 : view.first_head(), view.position(t));
  }
  static float hashed(std::size_t rule, std::size_t head, std::uint64_t position) {
    return static_cast<float>(toy::hash(position << 16U | head << 4U | rule) >> 40U);
  }

 private:
  std::array<infinipot::Rule, 2> rules_{infinipot::Rule{.share = 0.5, .scope = Granularity::shared},
                                        infinipot::Rule{}};
};

TEST(ReaderWithBudgets, SharesRulesOverWhatAllLanesHold) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 40, 0, Granularity::head, KeyStorage::rotated, {20, 10});
  toy::QueryEngine<Pot<float>> engine(model, pot);
  infinipot::Ccd reader(engine, pot, SharedHalf(), {.sinks = 2, .recent = 2, .chunk = 16});
  std::size_t choices = 0;
  reader.on_choice([&](const infinipot::Choice& choice) {
    ++choices;
    const auto& entries = choice.entries;
    // In sets of positions: 2 sinks, 2 recent; half of the least free budget, 3, for all.
    std::vector<std::uint64_t> common;
    for (const std::uint64_t position : entries.positions(0)) {
      bool evictable = position >= 2 && position + 2 < reader.stats().tokens_read;
      for (std::size_t lane = 1; lane < 4; ++lane)
        evictable = evictable && std::ranges::binary_search(entries.positions(lane), position);
      if (evictable) common.push_back(position);
    }
    std::ranges::sort(common, std::greater<>(), [](std::uint64_t p) { return SharedHalf::hashed(0, 0, p); });
    common.resize(3);
    for (std::size_t lane = 0; lane < 4; ++lane) {
      const std::size_t keep = lane < 2 ? 20 : 10;
      std::vector<std::uint64_t> expected = common, rest;
      for (const std::uint64_t position : entries.positions(lane)) {
        if (position < 2 || position + 2 >= reader.stats().tokens_read)
          expected.push_back(position);
        else if (std::ranges::find(common, position) == common.end())
          rest.push_back(position);
      }
      std::ranges::sort(rest, std::greater<>(),
                        [&](std::uint64_t p) { return SharedHalf::hashed(1, lane, p); });
      expected.insert(expected.end(), rest.begin(),
                      rest.begin() + static_cast<std::ptrdiff_t>(keep - expected.size()));
      std::ranges::sort(expected);
      std::vector<std::uint64_t> kept;
      for (const Index index : choice.kept.lane(lane))
        kept.push_back(entries.positions(lane)[index - entries.begin(lane)]);
      EXPECT_EQ(kept, expected) << "lane " << lane;
    }
  });
  reader.feed(toy::text(150, 1));
  EXPECT_GE(choices, 5U);
}

}  // namespace
