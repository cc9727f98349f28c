// Models of today against Hugging Face transformers, in double precision: after several distillations, with
// other tokens kept in each head, the same logits, NuC and attention.
#include <gtest/gtest.h>

#include <cstddef>
#include <string>

#include "families.hpp"
#include "golden_model.hpp"
#include "golden_reading.hpp"
#include "infinipot/element.hpp"
#include "infinipot/pot.hpp"
#include "model.hpp"

namespace models {
namespace {

using infinipot::KeyStorage;
using infinipot::Pot;

class Models : public testing::TestWithParam<std::string> {
 protected:
  std::size_t number(const char* key) const { return golden_.at(key); }
  Model model() const { return make_model(golden_, number("chunk")); }

  template <class T = float>
  Differences read(Model& model, KeyStorage storage = KeyStorage::rotated) const {
    infinipot::PotSettings settings = model.pot_settings(number("capacity"), number("keep"));
    settings.key_storage = storage;
    Pot<T> pot(settings);
    return models::read(golden_, model, pot);
  }

  void record(const std::string& name, const Differences& differences) const {
    RecordProperty(name + "_logits", std::to_string(1e9 * differences.logits) + "e-9");
    RecordProperty(name + "_nuc", std::to_string(1e9 * differences.nuc) + "e-9");
    RecordProperty(name + "_attention", std::to_string(1e9 * differences.attention) + "e-9");
  }

  const GoldenModel golden_{GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Of, Models, testing::ValuesIn(names()), [](const auto& name) { return name.param; });

void expect_close(const Differences& differences) {
  EXPECT_EQ(differences.distillations, 5U);
  EXPECT_LT(differences.logits, tolerance);
  EXPECT_LT(differences.nuc, tolerance);
  EXPECT_LT(differences.attention, tolerance);
}

TEST_P(Models, AgreeWithTransformersAfterEveryDistillation) {
  for (const KeyStorage storage : {KeyStorage::rotated, KeyStorage::unrotated}) {
    Model model = this->model();
    const Differences differences = read(model, storage);
    record(storage == KeyStorage::rotated ? "rotated" : "unrotated", differences);
    expect_close(differences);
  }
}

TEST_P(Models, UseEveryWeight) {
  static_cast<void>(model());
  EXPECT_TRUE(golden_.unused().empty()) << golden_.unused().front();
}

}  // namespace
}  // namespace models
