// What an adapter's author may get wrong moves the results by far more than rounding does, so that agreement
// with transformers (models_test.cpp) means something.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <ostream>
#include <stdexcept>
#include <utility>

#include "block.hpp"
#include "families.hpp"
#include "golden_model.hpp"
#include "golden_reading.hpp"
#include "infinipot/pot.hpp"
#include "infinipot/rope.hpp"
#include "model.hpp"
#include "picture_families.hpp"

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
        Mistake{
            "SinksForgotten", "gpt_oss",
            [](Model& model) { std::ranges::for_each(model.forms, [](Form& form) { form.sinks.clear(); }); }},
        Mistake{"LatentChannelsTurned", "deepseek_v3_latent",
                [](Model& model) { model.rope.first_channel = 0; }},
        Mistake{"LatentPairing", "deepseek_v3_latent",
                [](Model& model) { model.rope.pairing = Pairing::half_split; }},
        Mistake{"LatentAttentionFactor", "deepseek_v3_latent",
                [](Model& model) { model.rope.attention_factor = 1; }, KeyStorage::unrotated},
        Mistake{"LatentScale", "deepseek_v3_latent",
                [](Model& model) { std::ranges::for_each(model.forms, [](Form& form) { form.scale = 0; }); }},
        Mistake{"StillChannelsTurned", "deepseek_v3_expanded",
                [](Model& model) { model.rope.first_channel = 0; }},
        Mistake{"PartialRopeForgotten", "qwen3_next", [](Model& model) { model.rope = plain_rope(16, 500); }},
        Mistake{"NoRopeInThePot", "lfm2", [](Model& model) { model.rope = {}; }}),
    [](const auto& mistake) { return mistake.param.name; });

TEST_P(Mistakes, AreSeen) {
  const GoldenModel golden(GetParam().family);
  Model model = make_model(golden, golden.at("chunk"));
  GetParam().make(model);
  const Differences differences = read(golden, model, GetParam().storage);
  EXPECT_GT(std::max(differences.logits, differences.attention), 100 * tolerance);
}

/// A layer that is not told of probes, and takes them for text.
class WithoutProbes final : public Block {
 public:
  explicit WithoutProbes(std::unique_ptr<Block> layer) : layer_(std::move(layer)) {}

  Matrix run(const Pass& pass, const Matrix& x) override {
    return layer_->run({pass.tokens, pass.first, pass.stream, false, pass.memory, pass.queries}, x);
  }

 private:
  std::unique_ptr<Block> layer_;
};

/// A state that a probe has changed is that of another place in the stream.
TEST(States, OfProbesMustBePutBack) {
  for (const char* name : {"qwen3_next", "lfm2"}) {
    const GoldenModel golden(name);
    Model model = make_model(golden, golden.at("chunk"));
    model.layers[0] = std::make_unique<WithoutProbes>(std::move(model.layers[0]));
    EXPECT_THROW(read(golden, model, KeyStorage::rotated), std::logic_error) << name;
  }
}

/// A layer that begins anew at every call, and so forgets what it knew.
class WithoutState final : public Block {
 public:
  explicit WithoutState(std::unique_ptr<Block> layer) : layer_(std::move(layer)) {}

  Matrix run(const Pass& pass, const Matrix& x) override {
    return layer_->run({pass.tokens, pass.first, 0, pass.probe, pass.memory, pass.queries}, x);
  }

 private:
  std::unique_ptr<Block> layer_;
};

/// So it matters what the state is.
TEST(States, GoOnAcrossDistillations) {
  for (const char* name : {"qwen3_next", "lfm2"}) {
    const GoldenModel golden(name);
    Model model = make_model(golden, golden.at("chunk"));
    model.layers[0] = std::make_unique<WithoutState>(std::move(model.layers[0]));
    EXPECT_GT(read(golden, model, KeyStorage::rotated).logits, 100 * tolerance) << name;
  }
}

/// Pictures read as text, and patches whose rows and columns are swapped.
TEST(Pictures, NeedTheirPositions) {
  for (const char* name : {"qwen2_5_vl_parts", "qwen2_5_vl_whole", "qwen3_vl_parts", "qwen3_vl_whole"}) {
    const GoldenModel golden(name);
    Positions swapped = golden.at("positions");
    for (auto& [text, height, width] : swapped) std::swap(height, width);
    for (const Positions& positions : {Positions(), swapped}) {
      Model model = qwen_vl(golden, positions);
      EXPECT_GT(read(golden, model, KeyStorage::rotated).logits, 100 * tolerance) << name;
    }
  }
}

}  // namespace
}  // namespace models
