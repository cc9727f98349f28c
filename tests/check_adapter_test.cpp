#include "infinipot/check_adapter.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "broken_adapters.hpp"
#include "toy_engine.hpp"

namespace {

using infinipot::AdapterReport;
using infinipot::bf16;
using infinipot::check_adapter;
using infinipot::CheckOptions;
using infinipot::f16;
using infinipot::Flaw;
using infinipot::Granularity;
using infinipot::KeyStorage;
using infinipot::LogitsSink;
using infinipot::Pairing;
using infinipot::plain_rope;
using infinipot::Pot;
using infinipot::PotSettings;
using infinipot::QuerySink;
using infinipot::Rope;
using infinipot::Shape;
using infinipot::Token;

constexpr std::size_t capacity = 128;
const std::vector<Token> tokens = toy::text(40, 3);

/// The report has one finding, of this flaw, whose words name these.
void expect_only(const AdapterReport& report, Flaw flaw, const std::vector<std::string>& words = {}) {
  ASSERT_EQ(report.findings().size(), 1U) << report;
  EXPECT_TRUE(report.has(flaw)) << report;
  EXPECT_FALSE(report.ok());
  for (const std::string& part : words)
    EXPECT_NE(report.what().find(part), std::string::npos) << part << "\n" << report;
}

// ---- right adapters ----

TEST(CheckAdapter, SaysNothingOnRightOnesInAHundredRandomShapes) {
  std::uint64_t state = 7;
  const auto draw = [&](std::size_t choices) {
    return static_cast<std::size_t>(toy::hash(state++) % choices);
  };
  for (int i = 0; i < 100; ++i) {
    Shape shape{.layers = 1 + draw(4), .query_heads = 0, .kv_heads = 1 + draw(4), .head_dim = 4 + draw(29)};
    shape.query_heads = shape.kv_heads * (1 + draw(4));
    const std::size_t rotary = 2 * draw(shape.head_dim / 2 + 1);
    const Pairing pairing = draw(2) == 0 ? Pairing::half_split : Pairing::interleaved;
    const double theta = std::pow(10.0, 1 + static_cast<double>(draw(60)) / 10);
    const Rope rope =
        draw(3) == 0 && rotary > 0
            ? infinipot::yarn_rope(rotary, theta, {.factor = 4, .original_context = 64}, pairing)
            : plain_rope(rotary, theta, pairing);
    toy::Model model(rope, shape);
    for (toy::Layer& layer : model.layers) {
      if (draw(3) == 0) layer.form.soft_cap = 20;
      if (draw(3) == 0) layer.form.window = 3 + draw(50);
      if (draw(3) == 0) layer.form.scale = 0.2F;
    }
    const PotSettings settings{.shape = shape,
                               .capacity = 16 + draw(150),
                               .max_keep = 0,
                               .granularity = static_cast<Granularity>(draw(3)),
                               .key_storage = static_cast<KeyStorage>(draw(2)),
                               .rope = rope};
    SCOPED_TRACE(testing::Message() << "number " << i << ": layers " << shape.layers << ", heads "
                                    << shape.query_heads << "/" << shape.kv_heads << " of " << shape.head_dim
                                    << ", rotary " << rotary << ", theta " << theta << ", capacity "
                                    << settings.capacity);
    const std::size_t element = draw(3), shows = draw(3);
    const auto check = [&](auto type) {
      using Store = Pot<decltype(type)>;
      Store pot(settings);
      const auto with = [&](auto engine) {
        engine.quirks.scores_targets = draw(2) == 0;
        const AdapterReport report = check_adapter(engine, pot, toy::text(20 + draw(40), state));
        EXPECT_TRUE(report) << report;
        EXPECT_TRUE(pot.entries().empty());
      };
      if (shows == 0) with(toy::QueryEngine<Store>(model, pot));
      if (shows == 1) with(toy::AttentionEngine<Store>(model, pot));
      if (shows == 2) with(toy::PlainEngine<Store>(model, pot));
    };
    if (element == 0) check(float{});
    if (element == 1) check(f16{});
    if (element == 2) check(bf16{});
  }
}

/// Shows queries and probabilities at the same time.
struct BothShown {
  toy::QueryEngine<Pot<float>>& queries;
  toy::AttentionEngine<Pot<float>>& attention;
  float scale = 0;
  std::function<void(infinipot::AttentionSink&, std::size_t, std::size_t, std::size_t, std::vector<float>)>
      change = [](auto& to, std::size_t layer, std::size_t head, std::size_t token, std::vector<float> paid) {
        to.row(layer, head, token, paid);
      };

  Shape shape() const { return queries.shape(); }
  std::size_t vocab_size() const { return queries.vocab_size(); }
  infinipot::AttentionForm attention_form(std::size_t layer) const {
    infinipot::AttentionForm form = queries.attention_form(layer);
    if (scale != 0) form.scale = scale;
    return form;
  }
  void forward(std::span<const Token> some, std::size_t first, LogitsSink& logits) {
    queries.forward(some, first, logits);
  }
  void forward(std::span<const Token> some, std::size_t first, LogitsSink& logits, QuerySink& sink) {
    queries.forward(some, first, logits, sink);
  }
  void forward(std::span<const Token> some, std::size_t first, LogitsSink& logits,
               infinipot::AttentionSink& sink) {
    struct Changed final : infinipot::AttentionSink {
      void row(std::size_t layer, std::size_t head, std::size_t token,
               std::span<const float> paid) noexcept override {
        owner->change(*to, layer, head, token, {paid.begin(), paid.end()});
      }
      BothShown* owner = nullptr;
      infinipot::AttentionSink* to = nullptr;
    } changed;
    changed.owner = this;
    changed.to = &sink;
    attention.forward(some, first, logits, static_cast<infinipot::AttentionSink&>(changed));
  }
};

/// What a test has before it breaks something.
struct Right {
  toy::Model model{plain_rope(8, 100), {.layers = 3, .query_heads = 6, .kv_heads = 2, .head_dim = 8}};
  Pot<float> pot = toy::make_pot(model, capacity, 50);
  toy::QueryEngine<Pot<float>> engine{model, pot};
  toy::AttentionEngine<Pot<float>> attention{model, pot};
  broken::Adapter<toy::QueryEngine<Pot<float>>> adapter{engine};
};

TEST(CheckAdapter, ARightOneIsRightInOneLine) {
  Right right;
  EXPECT_TRUE(check_adapter(right.adapter, right.pot, tokens));
  EXPECT_NO_THROW(check_adapter(right.adapter, right.pot, tokens).require());
  BothShown both{right.engine, right.attention};
  const AdapterReport report = check_adapter(both, right.pot, tokens);
  EXPECT_TRUE(report) << report;
  EXPECT_TRUE(report.notes().empty()) << report;
}

TEST(CheckAdapter, CostsAFewHundredTokens) {
  Right right;
  std::size_t run = 0;
  right.adapter.before_call = [&](std::span<const Token> some, std::size_t) { run += some.size(); };
  EXPECT_TRUE(check_adapter(right.adapter, right.pot, tokens));
  EXPECT_LT(run, 600U);
  EXPECT_GT(run, 300U);
}

TEST(CheckAdapter, SaysWhatItCouldNotCheck) {
  const toy::Model model;
  auto pot = toy::make_pot(model, capacity, 50, Granularity::head, KeyStorage::unrotated);
  toy::PlainEngine<Pot<float>> engine(model, pot);
  const AdapterReport report = check_adapter(engine, pot, tokens, {.fill = 20});
  EXPECT_TRUE(report);
  std::ostringstream said;
  said << report;
  EXPECT_EQ(said.str(), report.what());
  for (const char* note : {"queries were not checked", "RoPE was not checked", "rows were not tried"})
    EXPECT_NE(said.str().find(note), std::string::npos) << note << "\n" << said.str();
}

// ---- RoPE ----

/// A model's engine over a pot that states another RoPE.
AdapterReport with_claim(const Rope& real, const Rope& claimed, KeyStorage storage = KeyStorage::rotated,
                         std::size_t head_dim = 16) {
  const toy::Model model(real, {.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = head_dim});
  Pot<f16> pot({.shape = model.shape, .capacity = capacity, .key_storage = storage, .rope = claimed});
  toy::QueryEngine<Pot<f16>> engine(model, pot);
  const AdapterReport report = check_adapter(engine, pot, tokens);
  EXPECT_TRUE(pot.entries().empty());
  EXPECT_THROW(report.require(), std::runtime_error);
  return report;
}

TEST(CheckAdapter, NamesTheRightPairing) {
  expect_only(with_claim(plain_rope(16, 500, Pairing::interleaved), plain_rope(16, 500)), Flaw::pairing,
              {"the pairing is Pairing::interleaved", "says Pairing::half_split", "plain_rope(16, 500"});
  expect_only(with_claim(plain_rope(16, 500), plain_rope(16, 500, Pairing::interleaved)), Flaw::pairing,
              {"the pairing is Pairing::half_split"});
}

TEST(CheckAdapter, NamesTheRightTheta) {
  for (const Pairing pairing : {Pairing::half_split, Pairing::interleaved}) {
    expect_only(with_claim(plain_rope(16, 500000, pairing), plain_rope(16, 10000, pairing)),
                Flaw::frequencies, {"plain_rope(16, 500000, Pairing::", "all layers", "0.19392"});
    expect_only(with_claim(plain_rope(16, 10000, pairing), plain_rope(16, 10500, pairing)), Flaw::frequencies,
                {"plain_rope(16, 10000, Pairing::"});
  }
}

TEST(CheckAdapter, NamesTheRightScaling) {
  expect_only(with_claim(infinipot::linear_rope(16, 10000, {4}), plain_rope(16, 10000)), Flaw::frequencies,
              {"linear_rope(16, 10000, {4}, Pairing::half_split)"});
  const Rope yarn = infinipot::yarn_rope(16, 10000, {.factor = 8, .original_context = 256});
  expect_only(with_claim(yarn, plain_rope(16, 10000)), Flaw::frequencies, {"16 channels", "measured 1, "});
  expect_only(with_claim(plain_rope(16, 10000), yarn), Flaw::frequencies, {"plain_rope(16, 10000"});
}

TEST(CheckAdapter, RopeLeftOut) {
  expect_only(with_claim({}, plain_rope(16, 500)), Flaw::rope_missing, {"RoPE is left out"});
  expect_only(with_claim(plain_rope(16, 500), {}), Flaw::rope_unclaimed, {"plain_rope(16, 500"});
}

TEST(CheckAdapter, RopeLeftOutInOneLayer) {
  toy::Model model(plain_rope(8, 100), {.layers = 3, .query_heads = 4, .kv_heads = 2, .head_dim = 8});
  model.layers[1].rotates = false;
  Pot<float> pot({.shape = model.shape, .capacity = capacity, .rope = model.rope});
  toy::QueryEngine<Pot<float>> engine(model, pot);
  expect_only(check_adapter(engine, pot, tokens), Flaw::rope_missing, {"layer 1 "});
}

TEST(CheckAdapter, NamesTheRightRotaryDimension) {
  for (const Pairing pairing : {Pairing::half_split, Pairing::interleaved}) {
    expect_only(with_claim(plain_rope(8, 500, pairing), plain_rope(16, 500, pairing)), Flaw::rotary_dim,
                {"8 channels turn", "Rope says 16", "plain_rope(8, 500"});
    expect_only(with_claim(plain_rope(16, 500, pairing), plain_rope(8, 500, pairing)), Flaw::rotary_dim,
                {"16 channels turn", "Rope says 8"});
  }
}

TEST(CheckAdapter, KeyStorageTheOtherWayRound) {
  const toy::Model model;
  for (const KeyStorage real : {KeyStorage::rotated, KeyStorage::unrotated}) {
    broken::Memory memory(model.shape, capacity, real);
    const KeyStorage said = real == KeyStorage::rotated ? KeyStorage::unrotated : KeyStorage::rotated;
    Pot<float> pot({.shape = model.shape, .capacity = capacity, .key_storage = said, .rope = model.rope},
                   memory.layout());
    toy::QueryEngine<broken::Memory> engine(model, memory);
    const AdapterReport report = check_adapter(engine, pot, tokens);
    EXPECT_TRUE(report.has(Flaw::key_storage)) << report;
    EXPECT_NE(report.what().find(real == KeyStorage::rotated ? "rotated is right" : "unrotated is right"),
              std::string::npos)
        << report;
  }
}

TEST(CheckAdapter, AnUnrotatedPotWithAWrongRopeIsSeenByItsQueries) {
  const toy::Model model(plain_rope(8, 100));
  broken::Memory memory(model.shape, capacity, KeyStorage::unrotated);
  Pot<float> pot({.shape = model.shape,
                  .capacity = capacity,
                  .key_storage = KeyStorage::unrotated,
                  .rope = plain_rope(8, 10000)},
                 memory.layout());
  toy::QueryEngine<broken::Memory> engine(model, memory);
  const AdapterReport report = check_adapter(engine, pot, tokens);
  EXPECT_TRUE(report.has(Flaw::frequencies)) << report;
  EXPECT_NE(report.what().find("plain_rope(8, 100, "), std::string::npos) << report;
}

TEST(CheckAdapter, LearnedPositionsAreSaid) {
  toy::Model model(plain_rope(8, 100));
  model.learned_positions = 0.5F;
  auto pot = toy::make_pot(model, capacity, 50);
  toy::QueryEngine<Pot<float>> engine(model, pot);
  const AdapterReport report = check_adapter(engine, pot, tokens);
  EXPECT_TRUE(report.has(Flaw::repeated_values)) << report;
  EXPECT_NE(report.what().find("learned positions"), std::string::npos);
}

/// Its keys grow with their position, as no rotation makes them.
struct GrowingKeys {
  infinipot::Shape shape() const { return engine.shape(); }
  std::size_t vocab_size() const { return engine.vocab_size(); }
  void forward(std::span<const Token> batch, std::size_t first, infinipot::LogitsSink& logits) {
    engine.forward(batch, first, logits);
    for (std::size_t layer = 0; layer < shape().layers; ++layer)
      for (std::size_t head = 0; head < shape().kv_heads; ++head)
        for (std::size_t entry = first; entry < first + batch.size(); ++entry)
          for (std::size_t k = 0; k < shape().head_dim; ++k)
            pot.keys(layer).row(head, entry)[k] *= 1 + 0.02F * static_cast<float>(entry);
  }

  toy::PlainEngine<Pot<float>>& engine;
  Pot<float>& pot;
};

TEST(CheckAdapter, KeysThatNoRotationExplainsAreSaid) {
  const toy::Model model(plain_rope(8, 100));
  auto pot = toy::make_pot(model, capacity, 50);
  toy::PlainEngine<Pot<float>> engine(model, pot);
  GrowingKeys growing{engine, pot};
  const AdapterReport report = check_adapter(growing, pot, tokens);
  EXPECT_TRUE(report.has(Flaw::repeated_keys)) << report;
  EXPECT_FALSE(report.has(Flaw::repeated_values)) << report;
  EXPECT_NE(report.what().find("are no rotations of one another"), std::string::npos) << report;
}

// ---- strides ----

/// A pot over an engine's memory, by these strides; 0, 1, 2 are the layer's, head's and entry's right ones.
template <class F>
AdapterReport with_layout(const F& layout_of) {
  const toy::Model model(plain_rope(8, 100), {.layers = 3, .query_heads = 4, .kv_heads = 2, .head_dim = 8});
  broken::Memory memory(model.shape, 2 * capacity);  // so that no wrong stride leaves it
  Pot<float> pot({.shape = model.shape, .capacity = capacity, .rope = model.rope}, layout_of(memory));
  toy::QueryEngine<broken::Memory> engine(model, memory);
  return check_adapter(engine, pot, tokens);
}

/// The same over a store that the check cannot look into.
template <class F>
AdapterReport with_own_store(const F& layout_of) {
  const toy::Model model(plain_rope(8, 100), {.layers = 3, .query_heads = 4, .kv_heads = 2, .head_dim = 8});
  broken::Memory memory(model.shape, 2 * capacity);
  broken::OwnStore store(model.shape, capacity, layout_of(memory), model.rope);
  toy::QueryEngine<broken::Memory> engine(model, memory);
  return check_adapter(engine, store, tokens);
}

const auto right_layout = [](broken::Memory& m) { return m.layout(); };
const auto no_head_stride = [](broken::Memory& m) { return m.layout(m.layer(), 0, m.entry()); };
const auto no_entry_stride = [](broken::Memory& m) { return m.layout(m.layer(), m.head(), 0); };
const auto no_layer_stride = [](broken::Memory& m) { return m.layout(0, m.head(), m.entry()); };
const auto swapped_strides = [](broken::Memory& m) { return m.layout(m.layer(), m.entry(), m.head()); };
const auto layers_reversed = [](broken::Memory& m) {
  auto layout = m.layout();
  std::ranges::reverse(layout.keys);
  std::ranges::reverse(layout.values);
  return layout;
};
const auto tables_swapped = [](broken::Memory& m) {
  auto layout = m.layout();
  std::swap(layout.keys, layout.values);
  return layout;
};

TEST(CheckAdapter, StridesOfAPot) {
  EXPECT_TRUE(with_layout(right_layout));
  expect_only(with_layout(no_head_stride), Flaw::head_stride, {"0 from head to head", "share memory"});
  expect_only(with_layout(no_entry_stride), Flaw::entry_stride, {"0 elements from entry to entry"});
  expect_only(with_layout(no_layer_stride), Flaw::layer_stride, {"the tables of two layers are the same"});
  expect_only(with_layout(swapped_strides), Flaw::swapped_strides, {"are the two strides swapped?"});
  const AdapterReport layers = with_layout(layers_reversed);
  EXPECT_TRUE(layers.has(Flaw::layer_stride)) << layers;
  EXPECT_NE(layers.what().find("another order"), std::string::npos) << layers;
  const AdapterReport tables = with_layout(tables_swapped);
  EXPECT_TRUE(tables.has(Flaw::swapped_tables)) << tables;
}

TEST(CheckAdapter, KeysAndValuesInOnePlace) {
  const auto report = with_layout([](broken::Memory& m) {
    auto layout = m.layout();
    layout.values = layout.keys;
    return layout;
  });
  expect_only(report, Flaw::overlap, {"the key of (layer 0", "the value of (layer 0"});
}

TEST(CheckAdapter, StridesOfAStoreOfOnesOwn) {
  const AdapterReport right = with_own_store(right_layout);
  EXPECT_TRUE(right) << right;
  for (const auto& [flaw, report] : {std::pair{Flaw::head_stride, with_own_store(no_head_stride)},
                                     std::pair{Flaw::entry_stride, with_own_store(no_entry_stride)},
                                     std::pair{Flaw::layer_stride, with_own_store(no_layer_stride)},
                                     std::pair{Flaw::swapped_strides, with_own_store(swapped_strides)},
                                     std::pair{Flaw::layer_stride, with_own_store(layers_reversed)},
                                     std::pair{Flaw::swapped_tables, with_own_store(tables_swapped)}}) {
    EXPECT_TRUE(report.has(flaw)) << static_cast<int>(flaw) << ": " << report;
    EXPECT_FALSE(report.ok());
  }
}

// ---- memory ----

TEST(CheckAdapter, CapacityAboveTheEnginesBuffer) {
  const toy::Model model;
  constexpr std::size_t rows = 60;
  // The engine's rows begin anew; the pot's go on into what is not the engine's.
  broken::Memory memory(model.shape, rows, KeyStorage::rotated, capacity);
  const auto pot_of = [&](std::size_t of) {
    return Pot<float>({.shape = model.shape, .capacity = of, .rope = model.rope}, memory.layout());
  };
  const CheckOptions options{
      .repeats = 40,
      .memory = {std::as_bytes(std::span(memory.all_keys())), std::as_bytes(std::span(memory.all_values()))}};
  toy::QueryEngine<broken::Memory> engine(model, memory);
  auto fits = pot_of(rows), too_large = pot_of(rows + 4);
  EXPECT_TRUE(check_adapter(engine, fits, tokens, options));
  const AdapterReport report = check_adapter(engine, too_large, tokens, options);
  EXPECT_TRUE(report.has(Flaw::overlap) || report.has(Flaw::capacity)) << report;
  const toy::Model one(plain_rope(8, 100), {.layers = 1, .query_heads = 4, .kv_heads = 2, .head_dim = 8});
  broken::Memory single(one.shape, rows);
  Pot<float> pot({.shape = one.shape, .capacity = rows + 4, .rope = one.rope}, single.layout());
  toy::QueryEngine<broken::Memory> single_engine(one, single);
  expect_only(check_adapter(single_engine, pot, tokens,
                            {.memory = {std::as_bytes(std::span(single.all_keys())),
                                        std::as_bytes(std::span(single.all_values()))}}),
              Flaw::capacity, {"outside the memory", "capacity of 64"});
}

TEST(CheckAdapter, RowsThatBeginAnew) {
  const toy::Model model;
  constexpr std::size_t rows = 100;
  // As an engine with a ring buffer of 100 rows whose pot is said to have 128.
  broken::Memory memory(model.shape, rows, KeyStorage::rotated, capacity);
  struct Ring : broken::OwnStore {
    using OwnStore::OwnStore;
    broken::Memory* memory = nullptr;
    infinipot::FloatRows key_rows(std::size_t layer, std::size_t head, std::size_t first, std::size_t count,
                                  float* tile) const noexcept {
      for (std::size_t i = 0; i < count; ++i)
        std::copy_n(memory->keys(layer).row(head, first + i), 8, tile + i * 8);
      return {tile, 8};
    }
    infinipot::FloatRows value_rows(std::size_t layer, std::size_t head, std::size_t first, std::size_t count,
                                    float* tile) const noexcept {
      for (std::size_t i = 0; i < count; ++i)
        std::copy_n(memory->values(layer).row(head, first + i), 8, tile + i * 8);
      return {tile, 8};
    }
  } ring(model.shape, capacity, memory.layout(), model.rope);
  ring.memory = &memory;
  toy::QueryEngine<broken::Memory> engine(model, memory);
  expect_only(check_adapter(engine, ring, tokens), Flaw::capacity, {"the first 32 entries changed", "128"});
}

TEST(CheckAdapter, AnEngineThatThrowsAtItsLastRow) {
  Right right;
  right.adapter.before_call = [](std::span<const Token> some, std::size_t first) {
    if (first + some.size() > 110) throw std::length_error("only 110 rows");
  };
  expect_only(check_adapter(right.adapter, right.pot, tokens), Flaw::capacity, {"only 110 rows", "of 128"});
  EXPECT_TRUE(right.pot.entries().empty());
}

TEST(CheckAdapter, GuardsThatChange) {
  Right right;
  std::vector<float> guard(16);
  right.adapter.after_call = [&](std::span<const Token> some, std::size_t first) {
    if (first + some.size() == capacity) guard[3] = 1;
  };
  expect_only(check_adapter(right.adapter, right.pot, tokens, {.guards = {std::as_bytes(std::span(guard))}}),
              Flaw::guard, {"guard 0", "outside its rows"});
}

// ---- queries ----

/// An adapter whose queries are changed.
AdapterReport with_queries(broken::ChangedQueries::Change change) {
  Right right;
  right.adapter.queries = std::move(change);
  const AdapterReport report = check_adapter(right.adapter, right.pot, tokens);
  EXPECT_TRUE(right.pot.entries().empty());
  return report;
}

void pass(QuerySink& to, std::size_t layer, const std::vector<float>& queries, std::size_t count) {
  to.layer(layer, infinipot::contiguous_queries(queries.data(), count, Right().model.shape));
}

/// Heads or tokens of (tokens, 6, 8) queries from another place.
std::vector<float> reordered(
    const std::vector<float>& queries, std::size_t count,
    const std::function<std::pair<std::size_t, std::size_t>(std::size_t, std::size_t)>& from) {
  std::vector<float> moved(queries.size());
  for (std::size_t token = 0; token < count; ++token)
    for (std::size_t head = 0; head < 6; ++head) {
      const auto [other_token, other_head] = from(token, head);
      std::copy_n(queries.begin() + static_cast<std::ptrdiff_t>((other_token * 6 + other_head) * 8), 8,
                  moved.begin() + static_cast<std::ptrdiff_t>((token * 6 + head) * 8));
    }
  return moved;
}

TEST(CheckAdapter, QueriesNeverShown) {
  Right right;
  right.adapter.drops_queries = true;
  const AdapterReport report = check_adapter(right.adapter, right.pot, tokens);
  EXPECT_TRUE(report.has(Flaw::queries_missing)) << report;
  EXPECT_NE(report.what().find("queries of layer 0 were not shown"), std::string::npos) << report;
}

TEST(CheckAdapter, QueriesOfOneLayerNeverShown) {
  const AdapterReport report =
      with_queries([](QuerySink& to, std::size_t layer, auto& queries, std::size_t count) {
        if (layer != 2) pass(to, layer, queries, count);
      });
  EXPECT_TRUE(report.has(Flaw::queries_missing)) << report;
  EXPECT_NE(report.what().find("queries of layer 2 were not shown"), std::string::npos) << report;
}

TEST(CheckAdapter, QueriesOfTheLastTokenOnly) {
  const AdapterReport report =
      with_queries([](QuerySink& to, std::size_t layer, auto& queries, std::size_t count) {
        const std::vector<float> last(queries.end() - 48, queries.end());
        pass(to, layer, count > 1 ? last : queries, 1);
      });
  EXPECT_TRUE(report.has(Flaw::queries_missing)) << report;
  EXPECT_NE(report.what().find("queries of 1 tokens"), std::string::npos) << report;
}

TEST(CheckAdapter, QueriesAtANullPointer) {
  const AdapterReport report = with_queries(
      [](QuerySink& to, std::size_t layer, auto&, std::size_t count) { to.layer(layer, {.count = count}); });
  EXPECT_TRUE(report.has(Flaw::queries_missing)) << report;
  EXPECT_NE(report.what().find("queries of 0 tokens"), std::string::npos) << report;
}

TEST(CheckAdapter, QueriesShownTwice) {
  expect_only(with_queries([](QuerySink& to, std::size_t layer, auto& queries, std::size_t count) {
                pass(to, layer, queries, count);
                if (layer == 1) pass(to, layer, queries, count);
              }),
              Flaw::queries_repeated, {"layer 1", "2 times"});
}

TEST(CheckAdapter, QueriesOfALayerThatThereIsNot) {
  expect_only(with_queries([](QuerySink& to, std::size_t layer, auto& queries, std::size_t count) {
                pass(to, layer, queries, count);
                if (layer == 2) pass(to, 3, queries, count);
              }),
              Flaw::queries_repeated, {"layer 3", "has 3 layers"});
}

TEST(CheckAdapter, QueriesBeforeRope) {
  Right right;
  std::size_t first_of_call = 0;
  right.adapter.before_call = [&](std::span<const Token>, std::size_t first) { first_of_call = first; };
  right.adapter.queries = [&](QuerySink& to, std::size_t layer, std::vector<float>& queries,
                              std::size_t count) {
    for (std::size_t token = 0; token < count; ++token)
      for (std::size_t head = 0; head < 6; ++head)
        infinipot::detail::turn(right.model.rope, -static_cast<double>(first_of_call + token), 1,
                                queries.data() + (token * 6 + head) * 8);
    pass(to, layer, queries, count);
  };
  const AdapterReport report = check_adapter(right.adapter, right.pot, tokens);
  EXPECT_TRUE(report.has(Flaw::queries_unrotated)) << report;
  EXPECT_NE(report.what().find("before RoPE"), std::string::npos) << report;
}

TEST(CheckAdapter, QueriesWithTheLastTokenFirst) {
  const AdapterReport report =
      with_queries([](QuerySink& to, std::size_t layer, auto& queries, std::size_t count) {
        pass(to, layer,
             reordered(queries, count,
                       [&](std::size_t t, std::size_t h) {
                         return std::pair{count - 1 - t, h};
                       }),
             count);
      });
  EXPECT_TRUE(report.has(Flaw::queries_order)) << report;
  EXPECT_NE(report.what().find("last token of a call first"), std::string::npos) << report;
}

TEST(CheckAdapter, QueriesOfTokensAndHeadsMixedUp) {
  // As (heads, tokens, head_dim) read as (tokens, heads, head_dim).
  const AdapterReport report =
      with_queries([](QuerySink& to, std::size_t layer, auto& queries, std::size_t count) {
        pass(to, layer,
             reordered(queries, count,
                       [&](std::size_t t, std::size_t h) {
                         const std::size_t at = t * 6 + h;
                         return std::pair{at % count, at / count};
                       }),
             count);
      });
  EXPECT_TRUE(report.has(Flaw::queries_order)) << report;
}

/// Queries of one layer that are mostly noise, and keys that are said to be rounded so.
AdapterReport with_noisy_queries(std::size_t noisy_layer, infinipot::Rounding rounding) {
  Right right;
  std::uint64_t state = 1;
  right.adapter.queries = [&](QuerySink& to, std::size_t layer, std::vector<float>& queries,
                              std::size_t count) {
    std::vector<float> changed = queries;
    if (layer == noisy_layer)
      for (float& x : changed) x += 2 * (static_cast<float>(toy::hash(state++) % 2001) / 1000 - 1);
    pass(to, layer, changed, count);
  };
  return check_adapter(right.adapter, right.pot, tokens, {.rounding = rounding});
}

TEST(CheckAdapter, WhatRoundingMayExplainIsNotJudgedButInTheFirstLayer) {
  const auto coarse = infinipot::rounding_of<infinipot::int4>(), fine = infinipot::rounding_of<float>();
  const AdapterReport later = with_noisy_queries(2, coarse);
  EXPECT_TRUE(later) << later;
  EXPECT_NE(later.what().find("queries of layer 2 were not judged"), std::string::npos) << later;
  EXPECT_TRUE(with_noisy_queries(0, coarse).has(Flaw::queries_order));
  EXPECT_TRUE(with_noisy_queries(2, fine).has(Flaw::queries_order));
}

TEST(CheckAdapter, MistakesAreNamedThoughRoundingIsCoarse) {
  Right right;
  right.adapter.queries = [](QuerySink& to, std::size_t layer, auto& queries, std::size_t count) {
    pass(to, layer,
         reordered(queries, count,
                   [&](std::size_t t, std::size_t h) {
                     return std::pair{count - 1 - t, h};
                   }),
         count);
  };
  const CheckOptions options{.rounding = infinipot::rounding_of<infinipot::int4>()};
  const AdapterReport report = check_adapter(right.adapter, right.pot, tokens, options);
  EXPECT_TRUE(report.has(Flaw::queries_order)) << report;
  EXPECT_NE(report.what().find("last token of a call first"), std::string::npos) << report;
}

TEST(CheckAdapter, QueryHeadsInAnotherOrder) {
  expect_only(with_queries([](QuerySink& to, std::size_t layer, auto& queries, std::size_t count) {
                pass(to, layer,
                     reordered(queries, count,
                               [](std::size_t t, std::size_t h) {
                                 return std::pair{t, 5 - h};
                               }),
                     count);
              }),
              Flaw::query_heads, {"Heads are in another order"});
  // Head h shown at (h % group, h / group): kv heads vary fastest.
  expect_only(with_queries([](QuerySink& to, std::size_t layer, auto& queries, std::size_t count) {
                pass(to, layer,
                     reordered(queries, count,
                               [](std::size_t t, std::size_t h) {
                                 return std::pair{t, h % 2 * 3 + h / 2};
                               }),
                     count);
              }),
              Flaw::query_heads, {"In the order (group, kv head) they would be right"});
}

TEST(CheckAdapter, QueryHeadsOfOneLayerInAnotherOrder) {
  expect_only(with_queries([](QuerySink& to, std::size_t layer, auto& queries, std::size_t count) {
                pass(to, layer,
                     layer != 1 ? queries
                                : reordered(queries, count,
                                            [](std::size_t t, std::size_t h) {
                                              return std::pair{t, 5 - h};
                                            }),
                     count);
              }),
              Flaw::query_heads);
}

/// Shows queries before it writes keys: those of a call come when it is over.
struct LateKeys {
  toy::QueryEngine<broken::Memory>& engine;
  broken::Memory &memory, &shown;

  Shape shape() const { return engine.shape(); }
  std::size_t vocab_size() const { return engine.vocab_size(); }
  void forward(std::span<const Token> some, std::size_t first, LogitsSink& logits) {
    engine.forward(some, first, logits);
    copy();
  }
  void forward(std::span<const Token> some, std::size_t first, LogitsSink& logits, QuerySink& sink) {
    engine.forward(some, first, logits, sink);
    copy();
  }
  void copy() {
    shown.all_keys() = memory.all_keys();
    shown.all_values() = memory.all_values();
  }
};

TEST(CheckAdapter, KeysThatComeAfterTheirQueries) {
  const toy::Model model;
  broken::Memory memory(model.shape, capacity), shown(model.shape, capacity);
  Pot<float> pot({.shape = model.shape, .capacity = capacity, .rope = model.rope}, shown.layout());
  toy::QueryEngine<broken::Memory> engine(model, memory);
  LateKeys late{engine, memory, shown};
  const AdapterReport report = check_adapter(late, pot, tokens);
  EXPECT_TRUE(report.has(Flaw::keys_late)) << report;
}

TEST(CheckAdapter, AnEngineThatDoesNotReadTheStore) {
  const toy::Model model;
  broken::Memory memory(model.shape, capacity), copied(model.shape, capacity);
  Pot<float> pot({.shape = model.shape, .capacity = capacity, .rope = model.rope}, copied.layout());
  toy::QueryEngine<broken::Memory> engine(model, memory);
  broken::Adapter<toy::QueryEngine<broken::Memory>> adapter{engine};
  adapter.queries = [&](QuerySink& to, std::size_t layer, std::vector<float>& queries, std::size_t count) {
    copied.all_keys() = memory.all_keys();
    to.layer(layer, infinipot::contiguous_queries(queries.data(), count, model.shape));
  };
  adapter.after_call = [&](std::span<const Token>, std::size_t) {
    copied.all_keys() = memory.all_keys();
    copied.all_values() = memory.all_values();
  };
  const AdapterReport report = check_adapter(adapter, pot, tokens);
  EXPECT_TRUE(report.has(Flaw::keys_unread)) << report;
}

// ---- logits ----

AdapterReport with_rows(broken::ChangedLogits::Row row) {
  Right right;
  right.adapter.row = std::move(row);
  const AdapterReport report = check_adapter(right.adapter, right.pot, tokens);
  EXPECT_TRUE(right.pot.entries().empty());
  return report;
}

TEST(CheckAdapter, NoLogits) {
  expect_only(with_rows([](LogitsSink&, std::size_t, std::span<const float>) {}), Flaw::logits_missing,
              {"row 0 did not come", "a call with one token"});
}

TEST(CheckAdapter, LogitsOfTheFirstTokenOnly) {
  expect_only(with_rows([](LogitsSink& to, std::size_t token, std::span<const float> logits) {
                if (token == 0 || token == to.first_row()) to.row(token, logits);
              }),
              Flaw::logits_missing, {"row 1 did not come", "asked for rows 0 .. 31"});
}

TEST(CheckAdapter, LogitsTwice) {
  expect_only(with_rows([](LogitsSink& to, std::size_t token, std::span<const float> logits) {
                to.row(token, logits);
                if (token == 3) to.row(token, logits);
              }),
              Flaw::logits_rows, {"row 3 came 2 times"});
}

TEST(CheckAdapter, LogitsNumberedFromTheFirstThatIsWanted) {
  // row(i - first_row) for row i.
  const AdapterReport report =
      with_rows([](LogitsSink& to, std::size_t token, std::span<const float> logits) {
        to.row(token - to.first_row(), logits);
      });
  EXPECT_TRUE(report.has(Flaw::logits_missing)) << report;
}

TEST(CheckAdapter, LogitsOfARowThatThereIsNot) {
  expect_only(with_rows([](LogitsSink& to, std::size_t token, std::span<const float> logits) {
                to.row(token, logits);
                if (token == 31) to.row(32, logits);
              }),
              Flaw::logits_rows, {"row 32", "rows 0 .. 31"});
}

TEST(CheckAdapter, LogitsOfOtherRows) {
  // Each row holds that of the token before it, as where the first is the last call's.
  std::vector<float> before;
  expect_only(with_rows([&](LogitsSink& to, std::size_t token, std::span<const float> logits) {
                to.row(token, token == 0 ? logits : std::span<const float>(before));
                before.assign(logits.begin(), logits.end());
              }),
              Flaw::logits_rows, {"row 1 ", "holds what belongs to row 0"});
}

TEST(CheckAdapter, LogitsOfAnotherSize) {
  expect_only(with_rows([](LogitsSink& to, std::size_t token, std::span<const float> logits) {
                to.row(token, logits.first(49));
              }),
              Flaw::vocab_size, {"49 logits", "vocab_size() is 50"});
}

TEST(CheckAdapter, LogitsThatAreNan) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    expect_only(with_rows([&](LogitsSink& to, std::size_t token, std::span<const float> logits) {
                  std::vector<float> copy(logits.begin(), logits.end());
                  copy[7] = bad;
                  to.row(token, copy);
                }),
                Flaw::not_finite);
}

TEST(CheckAdapter, TokensThatAreImpossibleAreNotNan) {
  Right right;
  right.engine.quirks.impossible = 5;
  const AdapterReport report = check_adapter(right.adapter, right.pot, tokens);
  EXPECT_TRUE(report) << report;
}

/// Logits that depend on something that the adapter has seen.
AdapterReport with_state(const std::function<bool(std::span<const Token>, std::size_t)>& spoils) {
  Right right;
  bool spoilt = false;
  right.adapter.before_call = [&](std::span<const Token> some, std::size_t first) {
    spoilt = spoils(some, first);
  };
  right.adapter.row = [&](LogitsSink& to, std::size_t token, std::span<const float> logits) {
    std::vector<float> copy(logits.begin(), logits.end());
    if (spoilt) copy[token % copy.size()] += 3;
    to.row(token, copy);
  };
  return check_adapter(right.adapter, right.pot, tokens);
}

TEST(CheckAdapter, ChunksThatChangeResults) {
  expect_only(with_state([](std::span<const Token> some, std::size_t) { return some.size() > 1; }),
              Flaw::chunks, {"in a call with 32 tokens", "% of their spread"});
  expect_only(with_state([](std::span<const Token> some, std::size_t first) {
                return first > 0 && some.size() > 1 && some.size() < 8;
              }),
              Flaw::chunks, {"after 2 others"});
}

/// Adds noise to logits, up to `share` of their spread, another one in every call.
broken::ChangedLogits::Row noisy(double share, std::uint64_t& state) {
  return [share, &state](LogitsSink& to, std::size_t token, std::span<const float> logits) {
    std::vector<float> copy(logits.begin(), logits.end());
    const double most = share * infinipot::detail::spread(logits);
    for (float& logit : copy)
      logit += static_cast<float>(most * (static_cast<double>(toy::hash(state++) % 2001) / 1000 - 1));
    to.row(token, copy);
  };
}

TEST(CheckAdapter, NoiseOfAnEngineIsMeasuredAndNotHeldAgainstIt) {
  Right right;
  std::uint64_t state = 1;
  right.adapter.row = noisy(0.08, state);
  const AdapterReport report = check_adapter(right.adapter, right.pot, tokens);
  EXPECT_TRUE(report) << report;
  EXPECT_NE(report.what().find("logits were compared loosely"), std::string::npos) << report;
}

TEST(CheckAdapter, NoiseHidesNoRowsOfOthers) {
  Right right;
  std::uint64_t state = 1;
  std::vector<float> before;
  const auto noise = noisy(0.3, state);
  right.adapter.row = [&](LogitsSink& to, std::size_t token, std::span<const float> logits) {
    noise(to, token, token == 0 ? logits : std::span<const float>(before));
    before.assign(logits.begin(), logits.end());
  };
  const AdapterReport report = check_adapter(right.adapter, right.pot, tokens);
  EXPECT_TRUE(report.has(Flaw::logits_rows) || report.has(Flaw::chunks)) << report;
}

TEST(CheckAdapter, NoiseOfLargerCallsAloneIsNoExcuse) {
  Right right;
  std::uint64_t state = 1;
  std::size_t size = 0;
  right.adapter.before_call = [&](std::span<const Token> some, std::size_t) { size = some.size(); };
  right.adapter.row = [&, noise = noisy(0.12, state)](LogitsSink& to, std::size_t token,
                                                      std::span<const float> logits) {
    if (size > 1)
      noise(to, token, logits);
    else
      to.row(token, logits);
  };
  expect_only(check_adapter(right.adapter, right.pot, tokens), Flaw::chunks, {"% would be rounding"});
}

/// Remembers the most rows that it has written, and attends to all of them: it does not know of truncate().
TEST(CheckAdapter, DroppedRowsThatAreStillSeen) {
  std::size_t most = 0;
  std::vector<Token> seen(1000);
  const AdapterReport report = with_state([&](std::span<const Token> some, std::size_t first) {
    const bool stale =
        first > 0 && first < most &&
        !std::equal(some.begin(), some.end(), seen.begin() + static_cast<std::ptrdiff_t>(first));
    if (first == 0) most = 0;
    std::ranges::copy(some, seen.begin() + static_cast<std::ptrdiff_t>(first));
    most = std::max(most, first + some.size());
    return stale && some.size() > 5;
  });
  EXPECT_TRUE(report.has(Flaw::truncate)) << report;
  EXPECT_FALSE(report.has(Flaw::chunks)) << report;
}

TEST(CheckAdapter, AProbeThatLeavesATrace) {
  // The adapter's state moves with every call that wants no logits in the middle of a text.
  Right right;
  bool probed = false;
  std::size_t wanted = 0;
  right.adapter.before_call = [&](std::span<const Token> some, std::size_t first) {
    if (some.size() == 5 && first == 16) probed = true;
    if (first != 16) probed = false;
    ++wanted;
  };
  right.adapter.row = [&](LogitsSink& to, std::size_t token, std::span<const float> logits) {
    std::vector<float> copy(logits.begin(), logits.end());
    if (probed) copy[0] += 3;
    to.row(token, copy);
  };
  expect_only(check_adapter(right.adapter, right.pot, tokens), Flaw::probe_trace, {"after a probe"});
}

TEST(CheckAdapter, AnEngineThatAppendsItself) {
  Right right;
  right.adapter.after_call = [&](std::span<const Token> some, std::size_t first) {
    if (right.pot.size() == first && first + some.size() < capacity)
      right.pot.append(std::vector<infinipot::Entry>(some.size()));
  };
  const AdapterReport report = check_adapter(right.adapter, right.pot, tokens);
  EXPECT_TRUE(report.has(Flaw::entries)) << report;
  EXPECT_TRUE(right.pot.entries().empty());
}

TEST(CheckAdapter, NucThatIsNotThatOfTheLogits) {
  Right right;
  right.engine.quirks.scores_targets = true;
  EXPECT_TRUE(check_adapter(right.adapter, right.pot, tokens));
  right.adapter.nuc_off = 1.5F;
  expect_only(check_adapter(right.adapter, right.pot, tokens), Flaw::nuc,
              {"nuc() gave", "by its logits it is"});
}

// ---- attention ----

TEST(CheckAdapter, AttentionThatIsNotThatOfTheQueries) {
  Right right;
  BothShown both{right.engine, right.attention};
  both.scale = 0.2F;
  expect_only(check_adapter(both, right.pot, tokens), Flaw::attention_scores, {"attention_form()"});
  both.scale = 0;
  both.change = [](auto& to, std::size_t layer, std::size_t head, std::size_t token,
                   std::vector<float> paid) { to.row(layer, 5 - head, token, paid); };
  expect_only(check_adapter(both, right.pot, tokens), Flaw::attention_scores);
}

TEST(CheckAdapter, AttentionThatIsNoProbability) {
  Right right;
  BothShown both{right.engine, right.attention};
  both.change = [](auto& to, std::size_t layer, std::size_t head, std::size_t token,
                   std::vector<float> paid) {
    for (float& p : paid) p *= 0.9F;
    to.row(layer, head, token, paid);
  };
  expect_only(check_adapter(both, right.pot, tokens), Flaw::attention_rows, {"sums to 0.9"});
  both.change = [](auto& to, std::size_t layer, std::size_t head, std::size_t token,
                   std::vector<float> paid) {
    if (head != 4) to.row(layer, head, token, paid);
  };
  expect_only(check_adapter(both, right.pot, tokens), Flaw::attention_rows, {"query head 4", "0 times"});
  both.change = [](auto& to, std::size_t layer, std::size_t head, std::size_t token,
                   std::vector<float> paid) {
    std::ranges::fill(paid, 1 / static_cast<float>(paid.size() + 1));
    paid.push_back(paid[0]);
    to.row(layer, head, token, paid);
  };
  expect_only(check_adapter(both, right.pot, tokens), Flaw::attention_rows, {"come after it"});
  both.change = [](auto& to, std::size_t layer, std::size_t head, std::size_t token,
                   std::vector<float> paid) { to.row(layer + 1, head, token, paid); };
  expect_only(check_adapter(both, right.pot, tokens), Flaw::attention_rows, {"that there is not"});
}

// ---- keep ----

TEST(CheckAdapter, KeepThatLeavesKeysUnturned) {
  const toy::Model model;
  broken::Memory memory(model.shape, capacity);
  broken::OwnStore store(model.shape, capacity, memory.layout(), model.rope);
  toy::QueryEngine<broken::Memory> engine(model, memory);
  const AdapterReport right = check_adapter(engine, store, tokens);
  EXPECT_TRUE(right) << right;
  store.turns = false;
  expect_only(check_adapter(engine, store, tokens), Flaw::keep, {"the key of (layer 0, kv head 0"});
  store.turns = true;
  store.moves_values = false;
  expect_only(check_adapter(engine, store, tokens), Flaw::keep, {"the value of (layer 0, kv head 0"});
  store.moves_values = true;
  store.records = false;
  expect_only(check_adapter(engine, store, tokens), Flaw::keep,
              {"is recorded as token 0 of the text; 1 is right"});
}

// ---- stores that show keys in another basis, as llama.cpp's quantised caches ----

constexpr std::size_t shuffled[8] = {0, 1, 4, 2, 5, 3, 6, 7};

/// Its keys have their channels in an order in which no pairing finds the pairs. It states no Rope.
struct ShuffledStore {
  broken::OwnStore& store;

  Shape shape() const { return store.shape(); }
  std::size_t capacity() const { return store.capacity(); }
  Granularity granularity() const { return store.granularity(); }
  const infinipot::EntryTable& entries() const { return store.entries(); }
  void append(std::span<const infinipot::Entry> added) { store.append(added); }
  void truncate(std::size_t size) { store.truncate(size); }
  void keep(const infinipot::Selection& kept) { store.keep(kept); }
  infinipot::FloatRows key_rows(std::size_t layer, std::size_t head, std::size_t first, std::size_t count,
                                float* tile) const noexcept {
    const infinipot::FloatRows rows = store.key_rows(layer, head, first, count, tile);
    for (std::size_t i = 0; i < count; ++i)
      for (std::size_t k = 0; k < 8; ++k)
        tile[i * 8 + k] = rows.data[static_cast<std::ptrdiff_t>(i) * rows.stride +
                                    static_cast<std::ptrdiff_t>(shuffled[k])];
    return {tile, 8};
  }
};

void shuffle_queries(broken::Adapter<toy::QueryEngine<broken::Memory>>& adapter) {
  adapter.queries = [](QuerySink& to, std::size_t layer, std::vector<float>& queries, std::size_t count) {
    std::vector<float> moved(queries.size());
    for (std::size_t i = 0; i < queries.size(); ++i) moved[i] = queries[i / 8 * 8 + shuffled[i % 8]];
    pass(to, layer, moved, count);
  };
}

toy::Model three_layers() {
  return toy::Model(plain_rope(8, 100), {.layers = 3, .query_heads = 6, .kv_heads = 2, .head_dim = 8});
}

/// An engine and a store that agree on channels in another order.
struct InAnotherBasis {
  explicit InAnotherBasis(const toy::Model& model)
      : memory(model.shape, capacity),
        own(model.shape, capacity, memory.layout(), model.rope),
        store{own},
        engine(model, memory),
        adapter{engine} {
    shuffle_queries(adapter);
  }

  broken::Memory memory;
  broken::OwnStore own;
  ShuffledStore store;
  toy::QueryEngine<broken::Memory> engine;
  broken::Adapter<toy::QueryEngine<broken::Memory>> adapter;
};

TEST(CheckAdapter, KeysInAnotherBasis) {
  const toy::Model model = three_layers();
  InAnotherBasis other(model);
  const AdapterReport right = check_adapter(other.adapter, other.store, tokens);
  EXPECT_TRUE(right) << right;
  EXPECT_NE(right.what().find("another basis"), std::string::npos) << right;
  other.own.turns = false;
  expect_only(check_adapter(other.adapter, other.store, tokens), Flaw::keep,
              {"the key of (layer 0, kv head 0"});
  other.own.turns = true;
  other.adapter.queries = nullptr;
  expect_only(check_adapter(other.adapter, other.store, tokens), Flaw::queries_order,
              {"distance of their positions alone"});
}

// There the first layer's keys depend on the tokens before too, and so tell nothing of keep().
TEST(CheckAdapter, KeysInAnotherBasisAboveAWindow) {
  toy::Model model = three_layers();
  model.outside.window = 6;
  InAnotherBasis other(model);
  const AdapterReport report = check_adapter(other.adapter, other.store, tokens);
  EXPECT_TRUE(report) << report;
  EXPECT_NE(report.what().find("depend on more than token and position"), std::string::npos) << report;
}

// ---- the rest ----

TEST(CheckAdapter, ShapesThatDiffer) {
  Right right;
  Pot<float> other(
      {.shape = {.layers = 3, .query_heads = 6, .kv_heads = 3, .head_dim = 8}, .capacity = capacity});
  expect_only(check_adapter(right.adapter, other, tokens), Flaw::shape, {"2 kv heads", "3 kv heads"});
}

TEST(CheckAdapter, LeavesTheStoreEmptyWhenTheEngineThrows) {
  Right right;
  for (std::size_t call = 0; call < 40; ++call) {
    std::size_t calls = 0;
    right.adapter.before_call = [&](std::span<const Token>, std::size_t) {
      if (calls++ == call) throw std::domain_error("the engine failed");
    };
    EXPECT_THROW(check_adapter(right.adapter, right.pot, tokens), std::domain_error) << call;
    EXPECT_TRUE(right.pot.entries().empty());
  }
}

template <class F>
std::string refusal(const F& run) {
  try {
    run();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "accepted";
}

TEST(CheckAdapter, RefusesWhatItCannotUseBeforeAnythingRuns) {
  Right right;
  std::size_t calls = 0;
  right.adapter.before_call = [&](std::span<const Token>, std::size_t) { ++calls; };
  const auto expect = [&](const std::string& words, std::vector<Token> text,
                          const CheckOptions& options = {}) {
    const std::string found = refusal([&] { check_adapter(right.adapter, right.pot, text, options); });
    EXPECT_NE(found.find(words), std::string::npos) << words << "\n" << found;
  };
  std::vector<Token> outside = tokens;
  outside.back() = 50;
  expect("token 50 is out of the vocabulary's range 0 .. 49", outside);
  outside.back() = -1;
  expect("token -1", outside);
  expect("number of tokens 15 must be at least 16", toy::text(15, 1));
  expect("all the same", std::vector<Token>(20, 3));
  expect("repeats 3", tokens, {.repeats = 3});
  expect("text 15", tokens, {.text = 15});
  expect("chunk 0", tokens, {.chunk = 0});
  right.pot.append(std::vector<infinipot::Entry>(2));
  expect("holds 2 entries", tokens);
  Pot<float> small({.shape = right.model.shape, .capacity = 15});
  EXPECT_NE(refusal([&] { check_adapter(right.adapter, small, tokens); }).find("capacity 15"),
            std::string::npos);
  EXPECT_EQ(calls, 0U);
}

}  // namespace
