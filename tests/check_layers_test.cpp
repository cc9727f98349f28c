// check_adapter and measure_rope with what today's models have besides plain layers: values of another width
// or none, RoPE of other channels or of some layers only, learned sinks, windows and recurrent states.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "broken_adapters.hpp"
#include "infinipot/check_adapter.hpp"
#include "infinipot/measure_rope.hpp"
#include "rope_error.hpp"
#include "toy_engine.hpp"

namespace {

using infinipot::AdapterReport;
using infinipot::check_adapter;
using infinipot::f16;
using infinipot::Flaw;
using infinipot::KeyStorage;
using infinipot::Pairing;
using infinipot::plain_rope;
using infinipot::Pot;
using infinipot::PotSettings;
using infinipot::Rope;
using infinipot::Shape;
using infinipot::Token;

constexpr std::size_t capacity = 128;
const std::vector<Token> tokens = toy::text(40, 3);

void expect_only(const AdapterReport& report, Flaw flaw, const std::vector<std::string>& words) {
  ASSERT_EQ(report.findings().size(), 1U) << report;
  EXPECT_TRUE(report.has(flaw)) << report;
  for (const std::string& part : words)
    EXPECT_NE(report.what().find(part), std::string::npos) << part << "\n" << report;
}

PotSettings settings_of(const toy::Model& model, KeyStorage storage = KeyStorage::rotated) {
  return {.shape = model.shape,
          .capacity = capacity,
          .max_keep = 50,
          .key_storage = storage,
          .rope = model.rope,
          .layers_without_rope = model.layers_without_rope()};
}

/// What the check says of a model's engine over a pot with these settings.
template <class T = float, toy::Shows shows = toy::Shows::queries>
AdapterReport checked(const toy::Model& model, const PotSettings& settings,
                      const std::vector<Token>& text = tokens) {
  Pot<T> pot(settings);
  toy::Engine<Pot<T>, shows> engine(model, pot);
  const AdapterReport report = check_adapter(engine, pot, text);
  EXPECT_TRUE(pot.entries().empty());
  return report;
}

template <class T = float>
AdapterReport checked(const toy::Model& model) {
  return checked<T>(model, settings_of(model));
}

void expect_right(const toy::Model& model) {
  for (const KeyStorage storage : {KeyStorage::rotated, KeyStorage::unrotated})
    for (const std::uint64_t seed : {3U, 4U}) {
      const PotSettings settings = settings_of(model, storage);
      const auto text = toy::text(40, seed);
      for (const AdapterReport& report : {checked(model, settings, text), checked<f16>(model, settings, text),
                                          checked<float, toy::Shows::attention>(model, settings, text),
                                          checked<float, toy::Shows::nothing>(model, settings, text)})
        EXPECT_TRUE(report) << report;
    }
}

Rope shifted(std::size_t rotary_dim, std::size_t first, Pairing pairing) {
  Rope rope = plain_rope(rotary_dim, 500, pairing);
  rope.first_channel = first;
  return rope;
}

constexpr Shape wide{.layers = 3, .query_heads = 4, .kv_heads = 2, .head_dim = 16};

// ---- RoPE of other channels ----

TEST(CheckLayers, RopeOfTheLastChannels) {
  for (const Pairing pairing : {Pairing::half_split, Pairing::interleaved})
    for (const std::size_t first : {2U, 3U, 8U}) {
      SCOPED_TRACE(first);
      expect_right(toy::Model(shifted(8, first, pairing), wide));
    }
}

TEST(CheckLayers, RopeOfOtherChannelsThanStated) {
  for (const Pairing pairing : {Pairing::half_split, Pairing::interleaved}) {
    const toy::Model model(shifted(8, 8, pairing), wide);
    PotSettings settings = settings_of(model);
    settings.rope.first_channel = 0;
    expect_only(checked(model, settings), Flaw::first_channel,
                {"plain_rope(8, 500", "from channel 8 on", "channels 8 .. 15 turn", "begin at 0"});
    settings.rope.first_channel = 8;
    toy::Model from_zero(plain_rope(8, 500, pairing), wide);
    expect_only(checked(from_zero, settings), Flaw::first_channel, {"channels 0 .. 7 turn", "begin at 8"});
  }
}

TEST(CheckLayers, FirstChannelIsMeasured) {
  for (const Pairing pairing : {Pairing::half_split, Pairing::interleaved})
    for (const std::size_t first : {0U, 2U, 3U, 8U}) {
      const Rope right = shifted(8, first, pairing);
      const toy::Model model(right, wide);
      Pot<float> pot({.shape = model.shape, .capacity = capacity});
      toy::QueryEngine<Pot<float>> engine(model, pot);
      const Rope found = infinipot::measure_rope(engine, pot);
      EXPECT_EQ(found.first_channel, first);
      EXPECT_EQ(found.pairing, pairing);
      ASSERT_EQ(found.frequencies.size(), 4U);
      EXPECT_LT(trial::rope_error(found, right), 1e-6);
    }
}

// ---- values ----

TEST(CheckLayers, ValuesOfAnotherWidth) {
  for (const std::size_t value_dim : {0U, 5U, 24U}) {
    SCOPED_TRACE(value_dim);
    Shape shape = wide;
    shape.value_dim = value_dim;
    expect_right(toy::Model(shifted(8, 8, Pairing::interleaved), shape));
  }
}

TEST(CheckLayers, ValueDimThatDiffers) {
  Shape shape = wide;
  shape.value_dim = 12;
  const toy::Model model(plain_rope(8, 500), shape);
  Pot<float> pot({.shape = wide, .capacity = capacity});
  toy::QueryEngine<Pot<float>> engine(model, pot);
  expect_only(check_adapter(engine, pot, tokens), Flaw::shape, {"value_dim 12", "value_dim 16"});
}

// ---- layers without RoPE ----

toy::Model partly_rotating() {
  toy::Model model(plain_rope(8, 100), {.layers = 4, .query_heads = 4, .kv_heads = 2, .head_dim = 8});
  model.layers[1].rotates = model.layers[3].rotates = false;
  return model;
}

TEST(CheckLayers, SomeLayersHaveNoRope) { expect_right(partly_rotating()); }

TEST(CheckLayers, LayersWithoutRopeThatAreNotStated) {
  const toy::Model model = partly_rotating();
  PotSettings settings = settings_of(model);
  settings.layers_without_rope = {1};
  expect_only(checked(model, settings), Flaw::rope_missing,
              {"layer 3 ", "RoPE is left out", "PotSettings::layers_without_rope"});
}

TEST(CheckLayers, LayersThatAreSaidToHaveNoRope) {
  const toy::Model model = partly_rotating();
  PotSettings settings = settings_of(model);
  settings.layers_without_rope = {1, 2, 3};
  expect_only(checked(model, settings), Flaw::rope_unclaimed,
              {"layer 2 turn by plain_rope(8, 100", "says that there is no RoPE there"});
  settings.key_storage = KeyStorage::unrotated;
  EXPECT_FALSE(checked(model, settings));
}

TEST(CheckLayers, LayersWithoutRopeAreMeasured) {
  const toy::Model model = partly_rotating();
  Pot<float> pot({.shape = model.shape, .capacity = capacity});
  toy::QueryEngine<Pot<float>> engine(model, pot);
  const Rope found = infinipot::measure_rope(engine, pot, {.layers_without_rope = {1, 3}});
  EXPECT_LT(trial::rope_error(found, model.rope), 1e-6);
  for (const std::vector<std::size_t>& wrong : {std::vector<std::size_t>{}, {1}, {0, 1, 3}})
    EXPECT_THROW(infinipot::measure_rope(engine, pot, {.layers_without_rope = wrong}), std::runtime_error);
  EXPECT_THROW(infinipot::measure_rope(engine, pot, {.layers_without_rope = {4}}), std::invalid_argument);
}

// ---- learned sinks, windows, recurrent states ----

toy::Model with_sinks(float by = 0) {
  toy::Model model(plain_rope(8, 100), {.layers = 3, .query_heads = 4, .kv_heads = 2, .head_dim = 8});
  for (std::size_t layer = 0; layer < 3; ++layer) {
    model.layers[layer].form.sinks = toy::some_sinks(model, layer);
    for (float& sink : model.layers[layer].form.sinks) sink += by;
  }
  return model;
}

TEST(CheckLayers, LearnedSinks) {
  for (const float by : {0.0F, 3.0F, 6.0F}) {
    SCOPED_TRACE(by);
    expect_right(with_sinks(by));
  }
}

toy::Model with_outside(const toy::Outside& outside) {
  toy::Model model(plain_rope(8, 100), {.layers = 3, .query_heads = 4, .kv_heads = 2, .head_dim = 8});
  model.outside = outside;
  return model;
}

TEST(CheckLayers, AWindowBesideTheStore) {
  expect_right(with_outside({.window = 6}));
  expect_right(with_outside({.window = 60}));
  expect_right(with_outside({.window = 30, .sinks = {1, 2, 0, -1}}));
}

/// The same engine, whose attention_form() is another.
struct OtherForm {
  toy::QueryEngine<Pot<float>>& engine;
  std::function<void(infinipot::AttentionForm&)> change;

  Shape shape() const { return engine.shape(); }
  std::size_t vocab_size() const { return engine.vocab_size(); }
  infinipot::AttentionForm attention_form(std::size_t layer) const {
    auto form = engine.attention_form(layer);
    change(form);
    return form;
  }
  void forward(std::span<const Token> some, std::size_t first, infinipot::LogitsSink& logits) {
    engine.forward(some, first, logits);
  }
  void forward(std::span<const Token> some, std::size_t first, infinipot::LogitsSink& logits,
               infinipot::QuerySink& sink) {
    engine.forward(some, first, logits, sink);
  }
};

AdapterReport with_form(const toy::Model& model, std::function<void(infinipot::AttentionForm&)> change) {
  Pot<float> pot(settings_of(model));
  toy::QueryEngine<Pot<float>> engine(model, pot);
  OtherForm other{engine, std::move(change)};
  return check_adapter(other, pot, tokens);
}

TEST(CheckLayers, SinksThatTheFormLacks) {
  for (const float by : {0.0F, 3.0F})
    expect_only(with_form(with_sinks(by), [](auto& form) { form.sinks = {}; }), Flaw::sinks,
                {"in layer 0", "something takes attention that is no entry", "AttentionForm::sinks"});
}

TEST(CheckLayers, SinksThatTheEngineLacks) {
  const std::vector<float> sinks(4, 2);
  const toy::Model model(plain_rope(8, 100), wide);
  EXPECT_TRUE(with_form(model, [](auto&) {}));
  expect_only(with_form(model, [&](auto& form) { form.sinks = sinks; }), Flaw::sinks,
              {"attention_form(0) has learned sinks", "the engine pays all of it to entries"});
}

TEST(CheckLayers, SinksThatAreNotOneForEachQueryHead) {
  const std::vector<float> sinks{1, 2, std::nanf(""), 3};
  for (const std::size_t value_dim : {8U, 0U}) {  // or not to be looked for
    Shape shape = wide;
    shape.value_dim = value_dim;
    const toy::Model model(shifted(8, 8, Pairing::half_split), shape);
    expect_only(with_form(model, [&](auto& form) { form.sinks = std::span(sinks).first(2); }), Flaw::sinks,
                {"attention_form(0) has 2 learned sinks; there are 4 query heads"});
    expect_only(with_form(model, [&](auto& form) { form.sinks = sinks; }), Flaw::sinks,
                {"learned sink 2 of attention_form(0) is", "-infinity for none"});
  }
}

TEST(CheckLayers, AWindowAtThePositionsOfTheStore) {
  for (const std::size_t window : {6U, 30U}) {
    const toy::Model model = with_outside({.window = window});
    Pot<float> pot(settings_of(model));
    toy::QueryEngine<Pot<float>> engine(model, pot);
    const AdapterReport right = check_adapter(engine, pot, tokens);
    EXPECT_TRUE(right) << right;
    EXPECT_NE(right.what().find("remembers tokens beside the store"), std::string::npos) << right;
    engine.outside.quirks.store_positions = true;
    expect_only(check_adapter(engine, pot, tokens), Flaw::stream_positions,
                {"after a keep() not those that came last", "LogitsSink::stream_offset()"});
  }
}

/// Of which the first tokens, or those after a keep(), are one token, or come again backwards.
std::vector<std::vector<Token>> monotonous_texts() {
  std::vector<std::vector<Token>> texts;
  for (const auto& [from, count] : {std::pair{0, 8}, {8, 8}, {0, 16}}) {
    texts.push_back(tokens);
    std::fill_n(texts.back().begin() + from, count, Token{7});
  }
  texts.push_back(texts[1]);
  texts.back()[11] = 9;
  return texts;
}

TEST(CheckLayers, WindowsAreSeenByMonotonousTexts) {
  const toy::Model model = with_outside({.window = 30});
  Pot<float> pot(settings_of(model));
  toy::QueryEngine<Pot<float>> engine(model, pot);
  for (const std::vector<Token>& text : monotonous_texts()) {
    engine.outside.quirks.store_positions = false;
    const AdapterReport right = check_adapter(engine, pot, text);
    EXPECT_TRUE(right) << right;
    EXPECT_NE(right.what().find("remembers tokens beside the store"), std::string::npos) << right;
    engine.outside.quirks.store_positions = true;
    expect_only(check_adapter(engine, pot, text), Flaw::stream_positions, {"not those that came last"});
  }
}

TEST(CheckLayers, AStateThatIsNotPutBackAfterAProbe) {
  const toy::Model model = with_outside({.recurrence = 0.5F});
  Pot<float> pot(settings_of(model));
  toy::QueryEngine<Pot<float>> engine(model, pot);
  const AdapterReport right = check_adapter(engine, pot, tokens);
  EXPECT_TRUE(right) << right;
  EXPECT_NE(right.what().find("going back in a text was not checked"), std::string::npos) << right;
  engine.outside.quirks.keeps_probes = true;
  expect_only(check_adapter(engine, pot, tokens), Flaw::probe_trace, {"after a probe"});
}

/// As if another of the model's layers read the keys of layer 1.
TEST(CheckLayers, LayersThatReadTheSameKeys) {
  const toy::Model model(plain_rope(8, 100), wide);
  Pot<float> pot(settings_of(model));
  toy::QueryEngine<Pot<float>> engine(model, pot);
  broken::Adapter<toy::QueryEngine<Pot<float>>> adapter{engine};
  adapter.queries = [&](infinipot::QuerySink& to, std::size_t layer, std::vector<float>& queries,
                        std::size_t count) {
    const auto show = [&] { to.layer(layer, infinipot::contiguous_queries(queries.data(), count, wide)); };
    show();
    if (layer != 1) return;
    for (float& x : queries) x *= 0.5F;
    show();
  };
  const AdapterReport report = check_adapter(adapter, pot, tokens);
  EXPECT_TRUE(report) << report;
  EXPECT_NE(report.what().find("several of the model's layers read one layer"), std::string::npos) << report;
}

// ---- stores that ask for their newest entries ----

/// Refuses to drop them.
struct Windowed : Pot<float> {
  Windowed(const PotSettings& settings, std::size_t newest) : Pot<float>(settings), recent(newest) {}

  std::size_t keeps_recent() const { return recent; }
  void keep(const infinipot::Selection& kept) {
    for (std::size_t lane = 0; lane < kept.lanes(); ++lane)
      for (std::size_t i = 1; i <= recent; ++i)
        if (kept.lane(lane)[kept.keep() - i] + i != entries().size())
          throw std::invalid_argument("the newest entries must stay");
    Pot<float>::keep(kept);
    const std::vector<float> nothing(shape().head_dim);
    if (spoils_last) write(0, 0, kept.keep() - 1, nothing.data(), nothing.data());
  }

  std::size_t recent;
  bool spoils_last = false;
};

TEST(CheckLayers, AStoreThatAsksForItsNewestEntriesKeepsThem) {
  const toy::Model model(plain_rope(8, 100), wide);
  for (const std::size_t recent : {1U, 10U, 14U, 15U, 500U}) {
    SCOPED_TRACE(recent);
    Windowed pot(settings_of(model), recent);
    toy::QueryEngine<Windowed> engine(model, pot);
    const AdapterReport right = check_adapter(engine, pot, tokens);
    EXPECT_TRUE(right) << right;
    EXPECT_NE(right.what().find("entries to stay (keeps_recent())"), std::string::npos) << right;
    EXPECT_EQ(right.what().find("keep() was not checked") == std::string::npos, recent < 15) << right;
    pot.spoils_last = true;
    if (recent < 15)
      expect_only(check_adapter(engine, pot, tokens), Flaw::keep, {"the key of (layer 0, kv head 0"});
  }
}

TEST(CheckLayers, ARecurrentState) { expect_right(with_outside({.recurrence = 0.5F})); }

}  // namespace
