// Engines of all models pass the library's check, and have the RoPE that their configs say.
#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <vector>

#include "engine.hpp"
#include "families.hpp"
#include "golden_model.hpp"
#include "infinipot/check_adapter.hpp"
#include "infinipot/element.hpp"
#include "infinipot/measure_rope.hpp"
#include "infinipot/pot.hpp"
#include "model.hpp"
#include "rope_error.hpp"

namespace models {
namespace {

using infinipot::AdapterReport;
using infinipot::KeyStorage;
using infinipot::Pot;
using infinipot::Rope;

class ModelAdapters : public testing::TestWithParam<std::string> {
 protected:
  static constexpr std::size_t capacity = 112;

  Model model() const { return make_model(golden_, capacity); }

  template <class T>
  AdapterReport checked(KeyStorage storage) const {
    Model model = this->model();
    infinipot::PotSettings settings = model.pot_settings(capacity, capacity / 2);
    settings.key_storage = storage;
    Pot<T> pot(settings);
    Engine<Pot<T>> engine(model, pot);
    return infinipot::check_adapter(engine, pot, golden_.at("tokens").get<std::vector<infinipot::Token>>());
  }

  const GoldenModel golden_{GetParam()};
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

TEST_P(ModelAdapters, HaveTheRopeOfTheirConfig) {
  Model model = this->model();
  infinipot::PotSettings settings = model.pot_settings(capacity, capacity / 2);
  settings.rope = {};
  settings.layers_without_rope = {};
  Pot<float> pot(settings);
  Engine<Pot<float>> engine(model, pot);
  const std::vector<Rope> found = infinipot::measure_rope_by_layer(engine, pot);
  ASSERT_EQ(found.size(), model.shape.layers);
  const Pot<float> right(model.pot_settings(capacity, capacity / 2));
  for (std::size_t layer = 0; layer < found.size(); ++layer) {
    SCOPED_TRACE("layer " + std::to_string(layer));
    if (!right.rotates(layer)) {
      EXPECT_EQ(found[layer].rotary_dim(), 0U);
      continue;
    }
    EXPECT_TRUE(found[layer].pairing == model.rope.pairing);
    EXPECT_EQ(found[layer].first_channel, model.rope.first_channel);
    ASSERT_EQ(found[layer].frequencies.size(), model.rope.frequencies.size());
    EXPECT_LT(trial::rope_error(found[layer], model.rope), 1e-6);
  }
}

}  // namespace
}  // namespace models
