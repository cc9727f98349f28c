// What an adapter's author may get wrong moves the results by far more than rounding does, so that agreement
// with transformers (models_test.cpp) means something.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <ostream>

#include "families.hpp"
#include "golden_model.hpp"
#include "golden_reading.hpp"
#include "infinipot/pot.hpp"
#include "infinipot/rope.hpp"
#include "model.hpp"

namespace models {
namespace {

using infinipot::KeyStorage;
using infinipot::Pairing;
using infinipot::plain_rope;
using infinipot::Pot;

Differences read(const GoldenModel& golden, Model& model, KeyStorage storage) {
  infinipot::PotSettings settings = model.pot_settings(golden.at("capacity"), golden.at("keep"));
  settings.key_storage = storage;
  Pot<float> pot(settings);
  return read(golden, model, pot);
}

/// What the pot or CaP is told; the engine's forward pass stays right.
struct Mistake {
  const char* name;
  const char* family;
  void (*make)(Model& model);
  KeyStorage storage = KeyStorage::rotated;

  friend std::ostream& operator<<(std::ostream& out, const Mistake& mistake) { return out << mistake.name; }
};

class Mistakes : public testing::TestWithParam<Mistake> {};

INSTANTIATE_TEST_SUITE_P(
    Of, Mistakes,
    testing::Values(
        Mistake{"NoScaling", "llama3", [](Model& model) { model.rope = plain_rope(16, 500); }},
        Mistake{"Pairing", "qwen3", [](Model& model) { model.rope.pairing = Pairing::interleaved; }},
        Mistake{"LayersWithoutRopeForgotten", "smollm3",
                [](Model& model) { model.layers_without_rope.clear(); }},
        Mistake{"AllChannelsTurned", "phi3", [](Model& model) { model.rope = plain_rope(16, 500); }},
        Mistake{"NoAttentionFactor", "phi3", [](Model& model) { model.rope.attention_factor = 1; },
                KeyStorage::unrotated},
        Mistake{"RopeWhereThereIsNone", "cohere2",
                [](Model& model) { model.rope = plain_rope(12, 1000, Pairing::interleaved); }},
        Mistake{"RopeOfWindowLayers", "gemma3", [](Model& model) { model.rope = plain_rope(16, 100); }},
        Mistake{
            "Scale", "gemma3",
            [](Model& model) { std::ranges::for_each(model.forms, [](Form& form) { form.scale = 0.25; }); }},
        Mistake{"SinksForgotten", "gpt_oss",
                [](Model& model) {
                  std::ranges::for_each(model.forms, [](Form& form) { form.sinks.clear(); });
                }}),
    [](const auto& mistake) { return mistake.param.name; });

TEST_P(Mistakes, AreSeen) {
  const GoldenModel golden(GetParam().family);
  Model model = make_model(golden, golden.at("chunk"));
  GetParam().make(model);
  const Differences differences = read(golden, model, GetParam().storage);
  EXPECT_GT(std::max(differences.logits, differences.attention), 100 * tolerance);
}

}  // namespace
}  // namespace models
