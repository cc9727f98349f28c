// The whole loop: against a reference in double precision, across chunks, stores and engines, when the
// forward pass fails, and when numbers go bad.
#include "infinipot/ccd.hpp"

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

#include "infinipot/infinipot.hpp"
#include "reference/reference_ccd.hpp"
#include "reference/reference_rope.hpp"
#include "toy_engine.hpp"

namespace {

using infinipot::Granularity;
using infinipot::KeyStorage;
using infinipot::Pot;
using infinipot::Retention;
using infinipot::Token;
using reference::CcdSpec;
using reference::Kind;

constexpr std::array all_kinds{Kind::infinipot, Kind::snapkv,        Kind::tova,
                               Kind::h2o,       Kind::streaming_llm, Kind::sirllm};
constexpr std::array all_granularities{Granularity::head, Granularity::layer, Granularity::shared};
constexpr std::array both_storages{KeyStorage::rotated, KeyStorage::unrotated};

CcdSpec spec_of(Kind kind, Granularity granularity = Granularity::head) {
  return {.kind = kind,
          .granularity = granularity,
          .capacity = 40,
          .keep = 20,
          .sinks = 2,
          .recent = 3,
          .catalysts = {{7, 21, 3, 44}},
          .kernel = kind == Kind::snapkv ? std::size_t{3} : 1,
          .window = 6};
}

/// Calls f with the library's policy of a spec.
template <class F>
void with_policy(const CcdSpec& spec, const F& f) {
  using namespace infinipot;
  switch (spec.kind) {
    case Kind::infinipot:
      return f(Infinipot({.catalysts = spec.catalysts,
                          .alpha = spec.alpha,
                          .over_queries = spec.max_over_queries ? Reduce::max : Reduce::sum,
                          .over_heads = spec.largest_share ? Aggregate::max : Aggregate::sum,
                          .kernel = spec.kernel}));
    case Kind::snapkv:
      return f(SnapKv(spec.window, spec.kernel));
    case Kind::tova:
      return f(Tova());
    case Kind::h2o:
      return f(H2o());
    case Kind::streaming_llm:
      return f(StreamingLlm());
    case Kind::sirllm:
      return f(SirLlm(spec.decay));
  }
}

infinipot::CcdSettings settings_of(const CcdSpec& spec, std::size_t chunk) {
  return {.keep = spec.keep, .sinks = spec.sinks, .recent = spec.recent, .chunk = chunk};
}

/// A store, an engine that runs against it, and a reader of both.
template <class P, class Kv, toy::Shows shows>
struct Trial {
  Trial(const toy::Model& model, const CcdSpec& spec, P policy, Kv store, std::size_t chunk)
      : pot(std::move(store)),
        engine(model, pot),
        reader(engine, pot, std::move(policy), settings_of(spec, chunk)) {}

  Kv pot;
  toy::Engine<Kv, shows> engine;
  infinipot::Ccd<toy::Engine<Kv, shows>, Kv, P> reader;
};

/// Calls f with a run of the spec's policy over a pot of T.
template <class T = float, toy::Shows shows = toy::Shows::queries, class F>
void with_run(const toy::Model& model, const CcdSpec& spec, KeyStorage storage, std::size_t chunk,
              const F& f) {
  with_policy(spec, [&]<class P>(P policy) {
    Trial<P, Pot<T>, shows> run(model, spec, std::move(policy),
                                toy::make_pot<T>(model, spec.capacity, spec.keep, spec.granularity, storage),
                                chunk);
    f(run);
  });
}

std::string trace(const CcdSpec& spec) {
  constexpr std::array names{"infinipot", "snapkv", "tova", "h2o", "streaming_llm", "sirllm"};
  constexpr std::array granularities{"head", "layer", "shared"};
  return std::string(names[static_cast<std::size_t>(spec.kind)]) + " per " +
         granularities[static_cast<std::size_t>(spec.granularity)];
}

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
  const auto expected = reference::rotated(held.raw_key, pot.rope(), static_cast<double>(t));
  for (std::size_t k = 0; k < tile.size(); ++k) {
    EXPECT_NEAR(static_cast<double>(key[k]), expected[k], 1e-5);
    EXPECT_NEAR(static_cast<double>(pot.values().row(layer, head, t)[k]), held.value[k], 1e-5);
  }
}

void expect_same(const Pot<float>& pot, const reference::Ccd& expected, bool uses_nuc) {
  ASSERT_EQ(pot.size(), expected.size());
  const auto& shape = pot.shape();
  for (std::size_t layer = 0; layer < shape.layers; ++layer)
    for (std::size_t head = 0; head < shape.kv_heads; ++head)
      for (std::size_t t = 0; t < pot.size(); ++t) {
        auto held = expected.head(layer, head)[t];
        if (!uses_nuc) held.nuc = 0;
        expect_same_entry(pot, shape.lane_of(layer, head, pot.granularity()), t, held);
        expect_same_row(pot, layer, head, t, held);
        if (testing::Test::HasFailure()) return;
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
      expect_same(run.pot, expected, run.reader.policy().uses_nuc());
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

TEST(CcdAgainstReference, EveryPolicyGranularityAndStorage) {
  const toy::Model model;
  for (const Kind kind : all_kinds)
    for (const Granularity granularity : all_granularities)
      for (const KeyStorage storage : both_storages)
        compare_with_reference(model, spec_of(kind, granularity), storage);
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
    for (const unsigned choice : {1U, 2U, 3U, 4U, 5U, 6U, 7U}) {
      auto spec = spec_of(Kind::infinipot, granularity);
      spec.max_over_queries = (choice & 1U) != 0;
      spec.largest_share = (choice & 2U) != 0;
      spec.kernel = (choice & 4U) != 0 ? 3 : 1;
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
  for (const Kind kind : all_kinds)
    for (const Granularity granularity : all_granularities)
      compare_with_reference(model, spec_of(kind, granularity), KeyStorage::rotated, 50, 3);
}

TEST(CcdAgainstReference, WithoutSinksOrRecent) {
  const toy::Model model;
  for (const Kind kind : all_kinds) {
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
      for (const Kind kind : {Kind::infinipot, Kind::h2o})
        compare_with_reference(toy::Model(rope), spec_of(kind), storage);
}

TEST(CcdAgainstReference, AttentionForms) {
  toy::Model model;
  model.layers[0].form = {.scale = 0.7F, .soft_cap = 2, .window = 0};
  model.layers[1].form = {.scale = 0, .soft_cap = 0, .window = 25};
  for (const Kind kind : {Kind::infinipot, Kind::snapkv, Kind::h2o})
    compare_with_reference(model, spec_of(kind), KeyStorage::rotated);
}

TEST(CcdAgainstReference, MultiHeadAndMultiQueryAttention) {
  for (const std::size_t kv_heads : {1U, 4U}) {
    const toy::Model model(infinipot::plain_rope(8, 100),
                           {.layers = 2, .query_heads = 4, .kv_heads = kv_heads, .head_dim = 8});
    for (const Kind kind : {Kind::infinipot, Kind::tova})
      compare_with_reference(model, spec_of(kind), KeyStorage::rotated);
  }
}

// ---------------------------------------------------------------- 16-bit pots

/// What must hold for the records of any pot, whatever it chose to keep.
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
  for (const Kind kind : all_kinds)
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
  const auto text = toy::text(60, 1);  // two distillations: one different choice would breed others
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

// ---------------------------------------------------------------- snapshots

/// All that a reader and its store show. Floats are compared as they are: equal means bit for bit.
struct Snapshot {
  std::vector<std::vector<std::uint64_t>> positions;
  std::vector<std::vector<Token>> tokens;
  std::vector<std::vector<float>> nuc;
  std::vector<std::vector<std::uint8_t>> pinned;
  std::vector<std::vector<std::uint32_t>> survived;
  std::vector<float> rows, logits;
  std::uint64_t tokens_read = 0, distillations = 0, nan_scores = 0;

  friend bool operator==(const Snapshot&, const Snapshot&) = default;
};

template <class AnyTrial>
Snapshot snapshot(AnyTrial& run) {
  Snapshot s;
  const auto copy = [](auto& to, auto span) { to.emplace_back(span.begin(), span.end()); };
  const infinipot::EntryTable& entries = run.pot.entries();
  for (std::size_t lane = 0; lane < entries.lanes(); ++lane) {
    copy(s.positions, entries.positions(lane));
    copy(s.tokens, entries.tokens(lane));
    copy(s.nuc, entries.nuc(lane));
    copy(s.pinned, entries.pinned(lane));
    copy(s.survived, entries.survived(lane));
  }
  const infinipot::Shape shape = run.pot.shape();
  for (std::size_t layer = 0; layer < shape.layers; ++layer)
    for (std::size_t head = 0; head < shape.kv_heads; ++head)
      for (std::size_t t = 0; t < entries.size(); ++t)
        for (std::size_t k = 0; k < shape.head_dim; ++k) {
          s.rows.push_back(run.pot.keys().row(layer, head, t)[k]);
          s.rows.push_back(run.pot.values().row(layer, head, t)[k]);
        }
  const auto& stats = run.reader.stats();
  if (stats.tokens_read > 0) s.logits.assign(run.reader.logits().begin(), run.reader.logits().end());
  s.tokens_read = stats.tokens_read;
  s.distillations = stats.distillations;
  s.nan_scores = stats.nan_scores;
  return s;
}

// ---------------------------------------------------------------- chunks and engines

TEST(Ccd, ChunkSizeDoesNotMatter) {
  const toy::Model model;
  const auto text = toy::text(150, 2);
  for (const Kind kind : all_kinds) {
    const auto spec = spec_of(kind);
    SCOPED_TRACE(trace(spec));
    Snapshot expected;
    for (const std::size_t chunk : {1U, 2U, 7U, 64U})
      with_run(model, spec, KeyStorage::rotated, chunk, [&](auto& run) {
        run.reader.feed(text);
        if (chunk == 1) expected = snapshot(run);
        EXPECT_EQ(snapshot(run), expected) << "chunk " << chunk;
      });
    with_run(model, spec, KeyStorage::rotated, 64, [&](auto& run) {
      for (const Token token : text) run.reader.feed(token);
      EXPECT_EQ(snapshot(run), expected) << "token by token";
    });
  }
}

TEST(Ccd, ForwardIsNeverGivenMoreThanAChunkOrThePotHolds) {
  const toy::Model model;
  with_run(model, spec_of(Kind::sirllm), KeyStorage::rotated, 7, [&](auto& run) {
    std::vector<std::uint64_t> read;
    run.engine.before_call = [&] { read.push_back(run.reader.stats().tokens_read); };
    run.reader.feed(toy::text(61, 2));
    // 40 in sevens, a distillation to 20, 20 more, another one, the last token.
    EXPECT_EQ(read, (std::vector<std::uint64_t>{0, 7, 14, 21, 28, 35, 40, 47, 54, 60}));
  });
}

TEST(Ccd, QueriesAndAttentionProbabilitiesAgree) {
  const toy::Model model;
  const auto text = toy::text(150, 3);
  for (const Kind kind : {Kind::infinipot, Kind::snapkv, Kind::tova, Kind::h2o})
    for (const Granularity granularity : all_granularities)
      for (const bool maximum : {false, true}) {
        if (maximum && kind != Kind::infinipot) continue;
        auto spec = spec_of(kind, granularity);
        spec.max_over_queries = maximum;
        SCOPED_TRACE(trace(spec));
        Snapshot by_queries;
        with_run(model, spec, KeyStorage::rotated, 16, [&](auto& run) {
          run.reader.feed(text);
          by_queries = snapshot(run);
        });
        with_run<float, toy::Shows::attention>(model, spec, KeyStorage::rotated, 16, [&](auto& run) {
          run.reader.feed(text);
          EXPECT_EQ(snapshot(run), by_queries);
        });
      }
}

/// A store like llama.cpp's: a cell holds one token for all layers and heads, stays where it is, and has a
/// position that shifts. Its keys cannot be read back.
class CellStore {
 public:
  struct Shift {
    std::uint64_t token_position;
    std::size_t by;
    friend bool operator==(const Shift&, const Shift&) = default;
  };

  CellStore(const toy::Model& model, std::size_t capacity)
      : shape_(model.shape), capacity_(capacity), entries_(1, capacity), cells_(capacity) {
    for (std::size_t i = 0; i < capacity; ++i) cells_[i] = i;
    keys_.resize(capacity * shape_.heads() * shape_.head_dim);
    values_.resize(keys_.size());
  }

  infinipot::Shape shape() const { return shape_; }
  std::size_t capacity() const { return capacity_; }
  Granularity granularity() const { return Granularity::shared; }
  KeyStorage key_storage() const { return KeyStorage::unrotated; }
  const infinipot::EntryTable& entries() const { return entries_; }

  void append(std::span<const infinipot::Entry> added) { entries_.append(added); }
  void truncate(std::size_t size) { entries_.truncate(size); }

  void keep(const infinipot::Selection& kept) {
    const auto indices = kept.lane(0);
    std::vector<std::size_t> stay, go;
    for (std::size_t i = 0, next = 0; i < capacity_; ++i) {
      if (next < indices.size() && indices[next] == i) {
        if (i != next) shifts.push_back({entries_.positions(0)[i], i - next});
        stay.push_back(cells_[i]);
        ++next;
      } else {
        if (i < entries_.size()) removed.push_back(entries_.positions(0)[i]);
        go.push_back(cells_[i]);
      }
    }
    stay.insert(stay.end(), go.begin(), go.end());
    cells_ = stay;
    entries_.keep(kept);
  }

  struct CellRows {
    const CellStore* store;
    float* data;
    float* row(std::size_t layer, std::size_t head, std::size_t entry) const {
      const infinipot::Shape& shape = store->shape_;
      return data + (store->cells_[entry] * shape.heads() + layer * shape.kv_heads + head) * shape.head_dim;
    }
  };
  CellRows keys() { return {this, keys_.data()}; }
  CellRows values() { return {this, values_.data()}; }

  std::vector<std::uint64_t> removed;  // positions in the text
  std::vector<Shift> shifts;

 private:
  infinipot::Shape shape_;
  std::size_t capacity_;
  infinipot::EntryTable entries_;
  std::vector<std::size_t> cells_;  // (capacity) the cell of each entry, then the free ones
  std::vector<float> keys_, values_;
};

static_assert(infinipot::Store<CellStore> && !infinipot::ReadableKeys<CellStore>);

TEST(Ccd, StoreOfWholeCellsAgreesWithASharedPot) {
  const toy::Model model;
  const auto text = toy::text(150, 4);
  for (const Kind kind : all_kinds) {
    const auto spec = spec_of(kind, Granularity::shared);
    SCOPED_TRACE(trace(spec));
    Snapshot expected;
    with_run<float, toy::Shows::attention>(model, spec, KeyStorage::unrotated, 16, [&](auto& run) {
      run.reader.feed(text);
      expected = snapshot(run);
    });
    with_policy(spec, [&]<class P>(P policy) {
      Trial<P, CellStore, toy::Shows::attention> run(model, spec, policy, CellStore(model, spec.capacity),
                                                     16);
      run.reader.feed(text);
      EXPECT_EQ(snapshot(run), expected);
      std::vector<std::uint64_t> all(expected.positions[0]);
      all.insert(all.end(), run.pot.removed.begin(), run.pot.removed.end());
      std::ranges::sort(all);
      for (std::size_t i = 0; i < text.size(); ++i)
        ASSERT_EQ(all.at(i), i) << "read once, kept or removed once";
      EXPECT_EQ(all.size(), text.size());
    });
  }
}

TEST(Ccd, StoreLearnsWhichCellsToRemoveAndShift) {
  const toy::Model model;
  const CcdSpec spec{.kind = Kind::streaming_llm, .capacity = 6, .keep = 4, .sinks = 1};
  Trial<infinipot::StreamingLlm, CellStore, toy::Shows::nothing> run(model, spec, {}, CellStore(model, 6), 4);
  run.reader.feed(toy::text(9, 1));
  EXPECT_EQ(run.pot.removed, (std::vector<std::uint64_t>{1, 2, 3, 4}));
  EXPECT_EQ(run.pot.shifts, (std::vector<CellStore::Shift>{{3, 2}, {4, 2}, {5, 2}, {5, 2}, {6, 2}, {7, 2}}));
}

// ---------------------------------------------------------------- laziness, generation, NuC

TEST(Ccd, TextThatJustFillsThePotIsNotDistilled) {
  const toy::Model model;
  for (const Kind kind : all_kinds)
    with_run(model, spec_of(kind), KeyStorage::rotated, 16, [&](auto& run) {
      SCOPED_TRACE(run.reader.policy().name());
      EXPECT_EQ(run.reader.limit(), kind == Kind::infinipot ? 36U : 40U);
      run.reader.feed(toy::text(run.reader.limit(), 5));
      EXPECT_EQ(run.reader.stats().distillations, 0U);
      EXPECT_EQ(run.pot.size(), run.reader.limit());
      run.reader.feed(std::span<const Token>());
      EXPECT_EQ(run.reader.stats().distillations, 0U);
      run.reader.feed(1);
      EXPECT_EQ(run.reader.stats().distillations, 1U);
      EXPECT_EQ(run.pot.size(), 21U);
    });
}

TEST(Ccd, ObserverSeesEveryDistillation) {
  const toy::Model model;
  with_run(model, spec_of(Kind::infinipot, Granularity::layer), KeyStorage::rotated, 16, [&](auto& run) {
    std::vector<std::uint64_t> numbers;
    double seconds = 0, probe_seconds = 0;
    run.reader.on_distillation([&](const infinipot::Distillation& d) {
      numbers.push_back(d.number);
      EXPECT_EQ(d.entries_before, 36U);
      EXPECT_EQ(d.nan_scores, 0U);
      EXPECT_EQ(d.kept.lanes(), 2U);
      EXPECT_EQ(d.kept.keep(), 20U);
      EXPECT_EQ(run.pot.size(), 20U);
      EXPECT_EQ(d.kept.lane(1)[19], 35U);  // recent
      EXPECT_GE(d.probe_seconds, 0);
      EXPECT_GE(d.seconds, d.probe_seconds);
      seconds += d.seconds;
      probe_seconds += d.probe_seconds;
    });
    run.reader.feed(toy::text(36 + 2 * 16 + 1, 5));
    EXPECT_EQ(numbers, (std::vector<std::uint64_t>{1, 2, 3}));
    EXPECT_GT(probe_seconds, 0);
    EXPECT_DOUBLE_EQ(run.reader.stats().distill_seconds, seconds);
    EXPECT_DOUBLE_EQ(run.reader.stats().probe_seconds, probe_seconds);
  });
}

Token most_likely(std::span<const float> logits) {
  return static_cast<Token>(std::ranges::max_element(logits) - logits.begin());
}

TEST(Ccd, GeneratingDistilsAsReadingDoes) {
  const toy::Model model;
  const auto prompt = toy::text(30, 6);
  for (const Kind kind : all_kinds) {
    const auto spec = spec_of(kind);
    SCOPED_TRACE(trace(spec));
    std::vector<Token> all = prompt;
    Snapshot generated;
    with_run(model, spec, KeyStorage::rotated, 16, [&](auto& run) {
      run.reader.feed(prompt);
      const std::size_t accepted = run.reader.generate(90, most_likely, [&](Token token) {
        all.push_back(token);
        return true;
      });
      EXPECT_EQ(accepted, 90U);
      EXPECT_GE(run.reader.stats().distillations, 4U);
      generated = snapshot(run);
    });
    ASSERT_EQ(all.size(), 120U);
    with_run(model, spec, KeyStorage::rotated, 16, [&](auto& run) {
      run.reader.feed(all);
      EXPECT_EQ(snapshot(run), generated);
    });
  }
}

TEST(Ccd, GenerationStopsBeforeTheTokenThatIsNotAccepted) {
  const toy::Model model;
  with_run(model, spec_of(Kind::sirllm), KeyStorage::rotated, 16, [&](auto& run) {
    run.reader.feed(toy::text(10, 6));
    const auto yes = [](Token) { return true; };
    EXPECT_EQ(run.reader.generate(0, most_likely, yes), 0U);
    EXPECT_EQ(run.pot.size(), 10U);
    Token sampled = 0;
    const auto sample = [&](std::span<const float> logits) { return sampled = most_likely(logits); };
    std::size_t asked = 0;
    const auto third_ends = [&](Token token) {
      EXPECT_EQ(token, sampled);
      return ++asked < 3;
    };
    EXPECT_EQ(run.reader.generate(9, sample, third_ends), 2U);
    EXPECT_EQ(run.pot.size(), 12U);
    EXPECT_EQ(run.reader.stats().tokens_read, 12U);
  });
}

TEST(Ccd, LogitsSurviveADistillation) {
  const toy::Model model;
  with_run(model, spec_of(Kind::infinipot), KeyStorage::rotated, 16, [&](auto& run) {
    run.reader.feed(toy::text(36, 7));
    const std::vector<float> before(run.reader.logits().begin(), run.reader.logits().end());
    bool checked = false;
    run.engine.before_call = [&] {
      EXPECT_TRUE(std::ranges::equal(run.reader.logits(), before)) << "in call " << run.engine.calls();
      checked = checked || run.reader.stats().distillations == 1;
    };
    run.reader.feed(9);
    EXPECT_TRUE(checked) << "logits are there between the distillation and the next token";
    EXPECT_FALSE(std::ranges::equal(run.reader.logits(), before));
  });
}

TEST(Ccd, NucComesFromTheTextAloneAcrossChunksAndDistillations) {
  const toy::Model model;
  const auto text = toy::text(100, 8);
  with_run(model, spec_of(Kind::infinipot), KeyStorage::rotated, 5, [&](auto& run) {
    for (std::size_t i = 0; i < text.size(); ++i) {
      const double expected =
          i == 0 ? 0
                 : infinipot::log_sum_exp(run.reader.logits()) -
                       static_cast<double>(run.reader.logits()[static_cast<std::size_t>(text[i])]);
      run.reader.feed(text[i]);
      EXPECT_NEAR(static_cast<double>(run.pot.entries().nuc(0).back()), expected, 1e-6) << i;
      if (i > 0) {
        EXPECT_GT(run.pot.entries().nuc(0).back(), 0.0F);
      }
    }
    EXPECT_EQ(run.pot.entries().nuc(0)[0], 0.0F) << "nothing predicted the first token";
  });
}

TEST(Ccd, NucIsNotMeasuredForPoliciesThatDoNotUseIt) {
  const toy::Model model;
  with_run(model, spec_of(Kind::h2o), KeyStorage::rotated, 5, [&](auto& run) {
    run.engine.quirks.all_logits = true;  // rows that nobody asked for
    run.reader.feed(toy::text(30, 8));
    for (const float nuc : run.pot.entries().nuc(0)) EXPECT_EQ(nuc, 0.0F);
  });
}

// ---------------------------------------------------------------- errors

/// f must throw std::invalid_argument with all the parts in its message.
void expect_invalid(const std::function<void()>& f, const std::vector<std::string>& parts) {
  try {
    f();
    ADD_FAILURE() << "nothing thrown, expected " << testing::PrintToString(parts);
  } catch (const std::invalid_argument& error) {
    for (const auto& part : parts)
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
          << "no \"" << part << "\" in \"" << error.what() << '"';
  }
}

/// Builds a reader over a pot of 40 (at most 20 kept).
template <class P>
std::function<void()> reader_of(P policy, infinipot::CcdSettings settings, std::size_t max_keep = 20) {
  return [=] {
    const toy::Model model;
    auto pot = toy::make_pot(model, 40, max_keep);
    toy::QueryEngine<Pot<float>> engine(model, pot);
    infinipot::Ccd reader(engine, pot, policy, settings);
  };
}

TEST(CcdErrors, SettingsThatCannotWork) {
  const infinipot::Infinipot policy({.catalysts = {{1, 2, 3}}});
  const infinipot::StreamingLlm simple;
  expect_invalid(reader_of(simple, {.keep = 40}), {"keep 40", "capacity 40"});
  expect_invalid(reader_of(simple, {.keep = 41}), {"keep 41", "capacity 40"});
  expect_invalid(reader_of(simple, {.keep = 21}), {"keep 21", "max_keep 20"});
  expect_invalid(reader_of(policy, {.keep = 20, .sinks = 31, .recent = 6}),
                 {"capacity 40", "31 sinks", "6 recent", "3 catalyst", "at least 41"});
  expect_invalid(reader_of(simple, {.keep = 20, .sinks = 15, .recent = 6}),
                 {"keep 20", "15 sinks", "6 recent"});
  expect_invalid(reader_of(policy, {.keep = 38}, 39),
                 {"capacity 40", "38 kept", "3 catalyst tokens", "at least 42"});
  expect_invalid(reader_of(policy, {.keep = 37}, 39), {"capacity 40", "37 kept", "at least 41"});
  expect_invalid(reader_of(infinipot::SnapKv(11), {.keep = 30}, 39),
                 {"capacity 40", "30 kept", "window of 11", "at least 41"});
  expect_invalid(reader_of(infinipot::SnapKv(64), {.keep = 20}), {"capacity 40", "64"});
  expect_invalid(reader_of(infinipot::H2o(), {.keep = 20, .sinks = 11}),
                 {"keep 20", "11 sinks", "10 recent"});
  expect_invalid(reader_of(simple, {.keep = 20, .chunk = 0}), {"chunk 0"});
}

TEST(CcdErrors, CatalystAsLongAsThePot) {
  const std::vector<Token> catalyst(40, 1);
  expect_invalid(reader_of(infinipot::Infinipot({.catalysts = {catalyst}}), {.keep = 1, .sinks = 0}),
                 {"capacity 40", "40 catalyst"});
}

// A difference that fell below zero wraps around; sums with it must not.
TEST(CcdErrors, NumbersThatWrapAround) {
  const auto minus = [](std::size_t n) { return std::size_t{0} - n; };
  const infinipot::StreamingLlm policy;
  expect_invalid(reader_of(policy, {.keep = 20, .sinks = 4, .recent = minus(3)}), {"recent", "capacity 40"});
  expect_invalid(reader_of(policy, {.keep = 20, .sinks = minus(3), .recent = 4}), {"sinks", "capacity 40"});
  expect_invalid(reader_of(policy, {.keep = 20, .sinks = minus(2)}), {"sinks", "capacity 40"});
  expect_invalid(reader_of(infinipot::SnapKv(minus(5)), {.keep = 20, .sinks = 5}), {"capacity 40"});
}

TEST(CcdErrors, SettingsAtTheLimitsWork) {
  const infinipot::StreamingLlm simple;
  EXPECT_NO_THROW(reader_of(simple, {.keep = 39}, 39)());
  EXPECT_NO_THROW(reader_of(simple, {.keep = 20, .sinks = 14, .recent = 6})());
  EXPECT_NO_THROW(reader_of(simple, {.keep = 39, .sinks = 20, .recent = 19}, 39)());
  EXPECT_NO_THROW(reader_of(infinipot::Infinipot({.catalysts = {{1, 2, 3}}}), {.keep = 36}, 39)());
  EXPECT_NO_THROW(reader_of(infinipot::SnapKv(10), {.keep = 30}, 39)());
  EXPECT_NO_THROW(reader_of(simple, {.keep = 1, .sinks = 0})());
}

TEST(CcdErrors, HalfOfThePotIsKeptByDefault) {
  const toy::Model model;
  auto pot = toy::make_pot(model, 41, 20);
  toy::PlainEngine<Pot<float>> engine(model, pot);
  const infinipot::Ccd reader(engine, pot, infinipot::StreamingLlm());
  EXPECT_EQ(reader.settings().keep, 20U);
}

TEST(CcdErrors, PoliciesOutOfRange) {
  using infinipot::Infinipot;
  const auto with_alpha = [](double alpha) {
    return [alpha] { Infinipot({.catalysts = {{1}}, .alpha = alpha}); };
  };
  expect_invalid(with_alpha(-0.25), {"alpha", "-0.25"});
  expect_invalid(with_alpha(1.5), {"alpha", "1.5"});
  expect_invalid(with_alpha(std::numeric_limits<double>::quiet_NaN()), {"alpha", "nan"});
  expect_invalid([] { Infinipot({.catalysts = {}, .alpha = 0.5}); }, {"no catalyst", "0.5"});
  expect_invalid([] { Infinipot({.catalysts = {{1, 2}, {}}}); }, {"catalyst", "empty"});
  expect_invalid([] { Infinipot({.catalysts = {{}}, .alpha = 1}); }, {"catalyst", "empty"});
  expect_invalid([] { Infinipot({.catalysts = {{1}}, .kernel = 4}); }, {"kernel 4"});
  expect_invalid([] { Infinipot({.catalysts = {{1}}, .kernel = 0}); }, {"kernel 0"});
  EXPECT_NO_THROW(Infinipot({.catalysts = {}, .alpha = 1}));
  expect_invalid([] { infinipot::SnapKv(0); }, {"window 0"});
  expect_invalid([] { infinipot::SnapKv(4, 2); }, {"kernel 2"});
  expect_invalid([] { infinipot::SirLlm(0); }, {"decay 0"});
  expect_invalid([] { infinipot::SirLlm(1.5); }, {"decay 1.5"});
  expect_invalid([] { infinipot::SirLlm{std::numeric_limits<double>::quiet_NaN()}; }, {"decay", "nan"});
}

TEST(CcdErrors, EngineAndStoreThatDoNotFit) {
  const toy::Model model;
  const toy::Model wider(infinipot::plain_rope(8),
                         {.layers = 2, .query_heads = 8, .kv_heads = 2, .head_dim = 8});
  auto pot = toy::make_pot(model, 40, 20);
  toy::PlainEngine<Pot<float>> engine(wider, pot);
  expect_invalid([&] { infinipot::Ccd(engine, pot, infinipot::StreamingLlm()); }, {"shape differs"});

  toy::PlainEngine<Pot<float>> fitting(model, pot);
  pot.append(std::array<infinipot::Entry, 3>{});
  expect_invalid([&] { infinipot::Ccd(fitting, pot, infinipot::StreamingLlm()); }, {"3 entries"});

  const toy::Model odd(infinipot::plain_rope(8),
                       {.layers = 2, .query_heads = 5, .kv_heads = 2, .head_dim = 8});
  CellStore cells(odd, 40);
  toy::PlainEngine<CellStore> odd_engine(odd, cells);
  expect_invalid([&] { infinipot::Ccd(odd_engine, cells, infinipot::StreamingLlm()); },
                 {"5", "2", "multiple"});
}

TEST(CcdErrors, LogitsBeforeTheFirstToken) {
  const toy::Model model;
  with_run(model, spec_of(Kind::sirllm), KeyStorage::rotated, 16, [&](auto& run) {
    expect_invalid([&] { run.reader.logits(); }, {"before the first token"});
    expect_invalid([&] { run.reader.generate(1, most_likely, [](Token) { return true; }); }, {"first token"});
    run.reader.feed(1);
    EXPECT_NO_THROW(run.reader.logits());
  });
}

TEST(CcdErrors, TokenOutsideTheVocabularyChangesNothing) {
  const toy::Model model;
  with_run(model, spec_of(Kind::infinipot), KeyStorage::rotated, 4, [&](auto& run) {
    run.reader.feed(toy::text(36, 9));  // full: the next token would distil first
    const Snapshot before = snapshot(run);
    const auto feed = [&](std::vector<Token> tokens) { return [&run, tokens] { run.reader.feed(tokens); }; };
    expect_invalid(feed({1, 2, 3, 4, 5, 6, -3}), {"token -3", "0 .. 49"});
    expect_invalid(feed({1, 2, 3, 4, 5, 50, 6}), {"token 50", "0 .. 49"});
    expect_invalid([&] { run.reader.feed(std::numeric_limits<Token>::max()); }, {"token 2147483647"});
    EXPECT_EQ(snapshot(run), before);
    EXPECT_NO_THROW(run.reader.feed(0));
    EXPECT_NO_THROW(run.reader.feed(49));
  });
}

TEST(CcdErrors, PinningMoreThanFitsChangesNothing) {
  const toy::Model model;
  const auto text = toy::text(60, 9);
  const auto pin = [&](auto& run, std::size_t count) {
    return [&run, &text, count] { run.reader.feed(std::span(text).first(count), Retention::pinned); };
  };
  // 20 are kept, 2 of them sinks, 3 recent: 15 may be pinned.
  with_run(model, spec_of(Kind::sirllm), KeyStorage::rotated, 4, [&](auto& run) {
    run.reader.feed(toy::text(10, 9));
    const Snapshot before = snapshot(run);
    expect_invalid(pin(run, 16), {"cannot pin 16", "16 pinned", "2 sinks", "3 recent", "20"});
    EXPECT_EQ(snapshot(run), before);
    EXPECT_NO_THROW(pin(run, 15)());
    expect_invalid(pin(run, 1), {"cannot pin 1 ", "16 pinned"});
    run.reader.feed(text);
    EXPECT_EQ(run.reader.stats().distillations, 3U);
    EXPECT_EQ(std::ranges::count(run.pot.entries().pinned(0), 1), 15);
  });
  // Tokens that are sinks anyway take no room of their own.
  with_run(model, spec_of(Kind::sirllm), KeyStorage::rotated, 4, [&](auto& run) {
    expect_invalid(pin(run, 18), {"cannot pin 18", "16 pinned"});
    run.reader.feed(1);
    expect_invalid(pin(run, 17), {"cannot pin 17", "16 pinned"});
    EXPECT_NO_THROW(pin(run, 16)());
    expect_invalid(pin(run, 1), {"cannot pin 1 ", "16 pinned"});
    run.reader.feed(text);
    EXPECT_EQ(std::ranges::count(run.pot.entries().pinned(0), 1), 16);
  });
}

TEST(CcdErrors, FailedPinningIsNotCounted) {
  const toy::Model model;
  const auto text = toy::text(15, 9);
  with_run(model, spec_of(Kind::sirllm), KeyStorage::rotated, 4, [&](auto& run) {
    run.reader.feed(toy::text(10, 9));  // 3 calls
    run.engine.quirks.fault = toy::Fault{.call = 4, .layer = 1, .token = 2};
    EXPECT_THROW(run.reader.feed(text, Retention::pinned), std::runtime_error);
    EXPECT_EQ(run.reader.stats().tokens_read, 14U) << "a first chunk of 4 was read and pinned";
    EXPECT_NO_THROW(run.reader.feed(std::span(text).subspan(4), Retention::pinned));
    EXPECT_EQ(std::ranges::count(run.pot.entries().pinned(0), 1), 15);
  });
}

// ---------------------------------------------------------------- a forward pass that throws

/// The state before every call of forward() of an undisturbed run, and at its end.
struct History {
  std::vector<Snapshot> before_call;
  Snapshot end;
};

template <class AnyTrial>
void record(AnyTrial& run, std::span<const Token> text, History& history) {
  run.engine.before_call = [&] { history.before_call.push_back(snapshot(run)); };
  run.reader.feed(text);
  history.end = snapshot(run);
}

/// Fails at every call and layer, and checks the state after the failure and after a second attempt.
template <toy::Shows shows>
void expect_failures_leave_no_trace(const CcdSpec& spec) {
  SCOPED_TRACE(trace(spec));
  const toy::Model model;
  const auto text = toy::text(60, 10);
  constexpr std::size_t chunk = 5;
  History history;
  with_run<float, shows>(model, spec, KeyStorage::rotated, chunk,
                         [&](auto& run) { record(run, text, history); });
  ASSERT_GE(history.end.distillations, 2U);
  for (std::size_t call = 0; call < history.before_call.size(); ++call)
    for (std::size_t layer = 0; layer <= model.shape.layers; ++layer)
      for (const std::size_t token : {0U, 1U, 4U})
        with_run<float, shows>(model, spec, KeyStorage::rotated, chunk, [&](auto& run) {
          SCOPED_TRACE(testing::Message() << "call " << call << ", layer " << layer << ", token " << token);
          run.engine.quirks.fault = toy::Fault{call, layer, token};
          try {
            run.reader.feed(text);
            EXPECT_GT(token, 0U) << "should have failed";
            return;  // a chunk of fewer tokens
          } catch (const std::runtime_error&) {
          }
          EXPECT_EQ(snapshot(run), history.before_call[call]);
          run.reader.feed(std::span(text).subspan(run.reader.stats().tokens_read));
          EXPECT_EQ(snapshot(run), history.end);
        });
}

CcdSpec small_spec(Kind kind) {
  auto spec = spec_of(kind);
  spec.capacity = 24;
  spec.keep = 12;
  spec.recent = 1;
  spec.catalysts = {{7, 21, 3, 44, 2}, {5, 1}};
  return spec;
}

TEST(CcdFailure, LeavesNoTraceWithQueries) {
  for (const Kind kind : all_kinds) expect_failures_leave_no_trace<toy::Shows::queries>(small_spec(kind));
}

TEST(CcdFailure, LeavesNoTraceWithAttention) {
  for (const Kind kind : {Kind::infinipot, Kind::snapkv, Kind::tova, Kind::h2o})
    expect_failures_leave_no_trace<toy::Shows::attention>(small_spec(kind));
}

TEST(CcdFailure, FailingTwiceIsNoWorse) {
  const toy::Model model;
  const auto text = toy::text(60, 10);
  for (const Kind kind : all_kinds) {
    const auto spec = small_spec(kind);
    SCOPED_TRACE(trace(spec));
    History history;
    with_run(model, spec, KeyStorage::rotated, 5, [&](auto& run) { record(run, text, history); });
    for (std::size_t call = 0; call < history.before_call.size(); ++call)
      with_run(model, spec, KeyStorage::rotated, 5, [&](auto& run) {
        const auto feed_rest = [&] {
          run.reader.feed(std::span(text).subspan(run.reader.stats().tokens_read));
        };
        run.engine.quirks.fault = toy::Fault{call, model.shape.layers, 0};
        EXPECT_THROW(feed_rest(), std::runtime_error);
        run.engine.quirks.fault = toy::Fault{run.engine.calls(), model.shape.layers, 0};
        EXPECT_THROW(feed_rest(), std::runtime_error);
        feed_rest();
        EXPECT_EQ(snapshot(run), history.end) << "call " << call;
      });
  }
}

TEST(CcdFailure, ObserverThatThrowsComesAfterTheDistillation) {
  const toy::Model model;
  const auto text = toy::text(60, 10);
  Snapshot expected;
  with_run(model, spec_of(Kind::h2o), KeyStorage::rotated, 8, [&](auto& run) {
    run.reader.feed(text);
    expected = snapshot(run);
  });
  with_run(model, spec_of(Kind::h2o), KeyStorage::rotated, 8, [&](auto& run) {
    run.reader.on_distillation([](const infinipot::Distillation&) { throw std::runtime_error("observer"); });
    EXPECT_THROW(run.reader.feed(text), std::runtime_error);
    EXPECT_EQ(run.reader.stats().distillations, 1U);
    EXPECT_EQ(run.pot.size(), 20U);
    run.reader.feed(std::span(text).subspan(run.reader.stats().tokens_read));
    EXPECT_EQ(snapshot(run), expected);
  });
}

// ---------------------------------------------------------------- NaN and infinity

TEST(CcdNan, NanQueriesAreReportedAndLeaveOtherHeadsAlone) {
  const toy::Model model;
  const auto text = toy::text(37, 11);
  for (const bool maximum : {false, true}) {
    auto spec = spec_of(Kind::infinipot);
    spec.alpha = 0;
    spec.max_over_queries = maximum;
    reference::Ccd expected(model, spec);
    for (const Token token : text) expected.feed(token);
    const auto check = [&](auto& run) {
      run.engine.quirks.nan_attention = spec.catalysts[0][2];  // query head 0, so kv head 0 of both layers
      std::size_t reported = 0;
      run.reader.on_distillation([&](const infinipot::Distillation& d) { reported = d.nan_scores; });
      run.reader.feed(text);
      // 36 entries less 2 sinks and 3 recent.
      EXPECT_EQ(reported, 2U * 31U);
      EXPECT_EQ(run.reader.stats().nan_scores, 2U * 31U);
      for (const std::size_t lane : {0U, 2U})  // all scores equal: the lower index wins
        for (std::size_t t = 0; t < 17; ++t) EXPECT_EQ(run.pot.entries().positions(lane)[t], t);
      for (const std::size_t layer : {0U, 1U})
        for (std::size_t t = 0; t < 21; ++t)
          EXPECT_EQ(run.pot.entries().positions(2 * layer + 1)[t], expected.head(layer, 1)[t].position);
    };
    with_run(model, spec, KeyStorage::rotated, 16, check);
    with_run<float, toy::Shows::attention>(model, spec, KeyStorage::rotated, 16, check);
  }
}

// Of the heads that choose together only the first one is NaN: the others must not hide it.
TEST(CcdNan, NanOfOneHeadIsNotHiddenByTheOthers) {
  const toy::Model model;
  for (const bool share : {false, true})
    for (const Granularity granularity : {Granularity::layer, Granularity::shared}) {
      auto spec = spec_of(Kind::infinipot, granularity);
      spec.largest_share = share;
      SCOPED_TRACE(trace(spec));
      with_run(model, spec, KeyStorage::rotated, 16, [&](auto& run) {
        run.engine.quirks.nan_attention = 44;  // in the catalyst
        run.reader.feed(toy::text(37, 11));
        EXPECT_EQ(run.reader.stats().nan_scores, granularity == Granularity::layer ? 62U : 31U);
        EXPECT_EQ(run.pot.size(), 21U);
      });
    }
}

TEST(CcdNan, TextIsReadOnWhateverTheScores) {
  const toy::Model model;
  const auto text = toy::text(150, 12);
  for (const Kind kind : all_kinds)
    for (const Granularity granularity : all_granularities) {
      const auto spec = spec_of(kind, granularity);
      SCOPED_TRACE(trace(spec));
      const auto check = [&](auto& run) {
        run.engine.quirks.nan_attention = kind == Kind::infinipot ? 44 : text[39];
        run.engine.quirks.nan_logits_after = text[20];
        run.reader.feed(text);
        EXPECT_GT(run.reader.stats().distillations, 3U);
        for (std::size_t lane = 0; lane < run.pot.entries().lanes(); ++lane) {
          const auto positions = run.pot.entries().positions(lane);
          EXPECT_TRUE(std::ranges::adjacent_find(positions, std::ranges::greater_equal()) == positions.end());
          EXPECT_EQ(positions[1], 1U);
          EXPECT_EQ(positions.back(), text.size() - 1);
        }
        if (kind != Kind::streaming_llm) {
          EXPECT_GT(run.reader.stats().nan_scores, 0U);
        }
      };
      with_run(model, spec, KeyStorage::rotated, 16, check);
      with_run<float, toy::Shows::attention>(model, spec, KeyStorage::rotated, 16, check);
    }
}

/// A text in which token 30 comes once, at position 12, and token 31 once, at 13.
std::vector<Token> marked_text() {
  auto text = toy::text(41, 13, 30);
  text[12] = 30;
  text[13] = 31;
  return text;
}

TEST(CcdNan, NanNucLosesAgainstNumbers) {
  const toy::Model model;
  for (const Kind kind : {Kind::sirllm, Kind::infinipot}) {
    auto spec = spec_of(kind);
    spec.alpha = 1;
    spec.keep = 39;
    spec.capacity = 40;
    SCOPED_TRACE(trace(spec));
    with_run(model, spec, KeyStorage::rotated, 16, [&](auto& run) {
      run.engine.quirks.nan_logits_after = 30;  // so that nobody knows how new token 31 is
      run.reader.feed(marked_text());
      EXPECT_EQ(run.reader.stats().nan_scores, 4U) << "one in each lane";
      for (std::size_t lane = 0; lane < 4; ++lane) {
        const auto positions = run.pot.entries().positions(lane);
        EXPECT_EQ(positions.size(), 40U);
        EXPECT_EQ(std::ranges::count(positions, 13U), 0) << "39 of 40 stay, and NaN is the one that goes";
      }
    });
  }
}

TEST(CcdNan, InfiniteNucWins) {
  const toy::Model model;
  for (const Kind kind : {Kind::sirllm, Kind::infinipot}) {
    auto spec = spec_of(kind);
    spec.alpha = 1;
    spec.keep = 6;  // 2 sinks, 3 recent: one is free
    SCOPED_TRACE(trace(spec));
    with_run(model, spec, KeyStorage::rotated, 16, [&](auto& run) {
      run.engine.quirks.impossible = 31;
      run.reader.feed(marked_text());
      EXPECT_EQ(run.reader.stats().nan_scores, 0U);
      EXPECT_EQ(run.pot.entries().positions(0)[2], 13U);
      EXPECT_EQ(run.pot.entries().nuc(0)[2], std::numeric_limits<float>::infinity());
    });
  }
}

}  // namespace
