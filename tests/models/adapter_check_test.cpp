// Engines of all models pass the library's check, and have the RoPE that their configs say.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine.hpp"
#include "families.hpp"
#include "golden_model.hpp"
#include "infinipot/check_adapter.hpp"
#include "infinipot/element.hpp"
#include "infinipot/measure_rope.hpp"
#include "infinipot/pot.hpp"
#include "infinipot/rope.hpp"
#include "model.hpp"
#include "rope_error.hpp"

namespace models {
namespace {

using infinipot::AdapterReport;
using infinipot::Flaw;
using infinipot::KeyStorage;
using infinipot::Pot;
using infinipot::Rope;

class ModelAdapters : public testing::TestWithParam<std::string> {
 protected:
  static constexpr std::size_t capacity = 112;

  Model model() const { return make_model(golden_, capacity); }

  /// Whether what a repeated token becomes hangs on how often it came: what learned sinks leave over, and
  /// recurrent states (not short convolutions). Then its keys do not tell RoPE well enough.
  bool drifts(const Model& model) const {
    const auto has = [&](const char* kind) {
      const auto& config = golden_.at("config");
      return config.contains("layer_types") && std::ranges::count(config.at("layer_types"), kind) > 0;
    };
    return has("linear_attention") ||
           std::ranges::any_of(model.forms, [](const Form& form) { return !form.sinks.empty(); });
  }

  template <class T>
  AdapterReport checked(KeyStorage storage) const {
    Model model = this->model();
    return checked<T>(model, storage);
  }

  template <class T>
  AdapterReport checked(Model& model, KeyStorage storage) const {
    infinipot::PotSettings settings = model.pot_settings(capacity, capacity / 2);
    settings.key_storage = storage;
    Pot<T> pot(settings);
    Engine<Pot<T>> engine(model, pot);
    return infinipot::check_adapter(engine, pot, golden_.at("tokens").get<std::vector<infinipot::Token>>());
  }

  const GoldenModel golden_ = GoldenModel(GetParam()).without("positions");  // there are no pictures
};

INSTANTIATE_TEST_SUITE_P(Of, ModelAdapters, testing::ValuesIn(names()),
                         [](const auto& name) { return name.param; });

TEST_P(ModelAdapters, PassTheCheck) {
  for (const AdapterReport& report :
       {checked<float>(KeyStorage::rotated), checked<infinipot::f16>(KeyStorage::rotated),
        checked<float>(KeyStorage::unrotated)}) {
    RecordProperty("report", report.what());
    EXPECT_TRUE(report) << report;
  }
}

/// Also where layers that do not settle are not judged.
TEST_P(ModelAdapters, OfPotsWithAnotherRopeAreFound) {
  Model model = this->model();
  if (model.rope.frequencies.empty()) model.rope = infinipot::plain_rope(model.shape.head_dim, 1000);
  for (double& frequency : model.rope.frequencies) frequency *= 1.5;
  const AdapterReport report = checked<float>(model, KeyStorage::rotated);
  EXPECT_TRUE(report.has(Flaw::frequencies) || report.has(Flaw::rope_missing)) << report;
}

/// Of a pot that does not know it.
TEST_P(ModelAdapters, HaveTheRopeOfTheirConfig) {
  Model model = this->model();
  Pot<float> pot({.shape = model.shape, .capacity = capacity});
  Engine<Pot<float>> engine(model, pot);
  if (drifts(model)) {
    EXPECT_THROW(infinipot::measure_rope_by_layer(engine, pot), std::runtime_error);
    return;
  }
  const std::vector<Rope> found = infinipot::measure_rope_by_layer(engine, pot);
  ASSERT_EQ(found.size(), model.shape.layers);
  const Pot<float> right(model.pot_settings(capacity, capacity / 2));
  for (std::size_t layer = 0; layer < found.size(); ++layer) {
    SCOPED_TRACE("layer " + std::to_string(layer));
    const Rope expected = right.rotates(layer) ? model.rope : Rope();
    ASSERT_EQ(found[layer].frequencies.size(), expected.frequencies.size());
    if (expected.frequencies.empty()) continue;
    EXPECT_TRUE(found[layer].pairing == expected.pairing);
    EXPECT_EQ(found[layer].first_channel, expected.first_channel);
    EXPECT_LT(trial::rope_error(found[layer], expected), 1e-6);
  }
}

/// Without a word about RoPE.
template <class T>
class Silent {
 public:
  explicit Silent(Pot<T>& pot) : pot_(pot) {}

  infinipot::Shape shape() const { return pot_.shape(); }
  std::size_t capacity() const { return pot_.capacity(); }
  infinipot::Granularity granularity() const { return pot_.granularity(); }
  const infinipot::EntryTable& entries() const { return pot_.entries(); }
  void append(std::span<const infinipot::Entry> added) { pot_.append(added); }
  void truncate(std::size_t size) { pot_.truncate(size); }
  void keep(const infinipot::Selection& kept) { pot_.keep(kept); }
  infinipot::FloatRows key_rows(std::size_t layer, std::size_t head, std::size_t first, std::size_t count,
                                float* tile) const noexcept {
    return pot_.key_rows(layer, head, first, count, tile);
  }
  infinipot::FloatRows value_rows(std::size_t layer, std::size_t head, std::size_t first, std::size_t count,
                                  float* tile) const noexcept {
    return pot_.value_rows(layer, head, first, count, tile);
  }
  void write(std::size_t layer, std::size_t head, std::size_t entry, const float* key, const float* value) {
    pot_.write(layer, head, entry, key, value);
  }

 private:
  Pot<T>& pot_;
};

TEST_P(ModelAdapters, PassTheCheckOfStoresThatDoNotSayTheirRope) {
  Model model = this->model();
  Pot<float> pot(model.pot_settings(capacity, capacity / 2));
  Silent<float> store(pot);
  Engine<Pot<float>> engine(model, pot);
  const AdapterReport report =
      infinipot::check_adapter(engine, store, golden_.at("tokens").get<std::vector<infinipot::Token>>());
  RecordProperty("report", report.what());
  EXPECT_TRUE(report) << report;
  EXPECT_EQ(report.what().find("another basis"), std::string::npos) << report;
}

/// LFM2 without its first convolutions: keys of the first layer do not move at all, those above the others
/// for a few tokens.
TEST(MeasuredRope, IsOneBelowAndAboveConvolutions) {
  constexpr std::size_t capacity = 112;
  const GoldenModel golden("lfm2");
  Model model = make_model(golden, capacity);
  model.layers.erase(model.layers.begin(), model.layers.begin() + 2);
  Pot<float> pot({.shape = model.shape, .capacity = capacity});
  Engine<Pot<float>> engine(model, pot);
  EXPECT_LT(trial::rope_error(infinipot::measure_rope(engine, pot), model.rope), 1e-6);
}

}  // namespace
}  // namespace models
