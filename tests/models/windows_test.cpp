// Window layers go on at the stream's positions, whatever the pot drops and a policy reads anew.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "block.hpp"
#include "engine.hpp"
#include "families.hpp"
#include "golden_model.hpp"
#include "golden_reading.hpp"
#include "infinipot/ccd.hpp"
#include "infinipot/policy/snapkv.hpp"
#include "infinipot/pot.hpp"
#include "model.hpp"

namespace models {
namespace {

using infinipot::Ccd;
using infinipot::Pot;
using infinipot::Token;

/// A layer that takes places in the pot for those in the stream.
class AtPlacesInThePot final : public Block {
 public:
  explicit AtPlacesInThePot(std::unique_ptr<Block> layer) : layer_(std::move(layer)) {}

  Matrix run(const Pass& pass, const Matrix& x) override {
    return layer_->run({pass.tokens, pass.first, pass.first, pass.probe, pass.memory, pass.queries}, x);
  }

 private:
  std::unique_ptr<Block> layer_;
};

/// What a distillation kept, by lane; by the stream's position at which it was.
using Choices = std::map<std::uint64_t, std::vector<std::vector<std::size_t>>>;

/// Keeps what another policy has chosen, and watches nothing.
class Repeat {
 public:
  explicit Repeat(const Choices& choices) : choices_(&choices) {}
  std::string_view name() const noexcept { return "repeat"; }
  void score(std::size_t /*rule*/, const infinipot::ScoreView& view, std::span<float> scores) const noexcept {
    std::ranges::fill(scores, 0.0F);
    for (const std::size_t t : choices_->find(view.position(view.size() - 1))->second[view.first_head()])
      scores[t] = 1;
  }

 private:
  const Choices* choices_;
};

class Windows : public testing::TestWithParam<const char*> {
 protected:
  static constexpr std::size_t watched = 4;

  Pot<float> pot(const Model& model) const {
    return Pot<float>(model.pot_settings(golden_.at("capacity"), golden_.at("keep")));
  }
  infinipot::CcdSettings settings() const { return {.sinks = 0, .chunk = chunk_}; }

  const GoldenModel golden_{GetParam()};
  const std::size_t chunk_ = golden_.at("chunk");
  const std::vector<Token> tokens_ = golden_.at("tokens");
};

INSTANTIATE_TEST_SUITE_P(Of, Windows, testing::Values("cohere2", "gemma3", "gpt_oss"),
                         [](const auto& name) { return std::string(name.param); });

/// Its entries are not where they would be looked for.
TEST_P(Windows, AtPlacesInThePotLoseWhatTheySee) {
  Model model = make_model(golden_, chunk_);
  model.layers[0] = std::make_unique<AtPlacesInThePot>(std::move(model.layers[0]));
  Pot<float> pot = this->pot(model);
  EXPECT_THROW(read(golden_, model, pot), std::logic_error);
}

TEST_P(Windows, NeedRoomForTheLongestCall) {
  Model model = make_model(golden_, chunk_ - 1);
  Pot<float> pot = this->pot(model);
  EXPECT_THROW(read(golden_, model, pot), std::logic_error);
}

/// SnapKV reads the last tokens anew when it is asked to distil before it has watched them. Then the window
/// goes back by as many, and on, and nothing shows that it did.
TEST_P(Windows, GoBackWhereAPolicyReadsAnew) {
  const std::size_t from = 40, to = 50;  // behind the first distillation
  Model model = make_model(golden_, chunk_ + watched), plain = make_model(golden_, chunk_);
  Pot<float> pot = this->pot(model), plain_pot = this->pot(plain);
  Engine<Pot<float>> engine(model, pot), plain_engine(plain, plain_pot);
  Choices choices;
  Ccd reader(engine, pot, infinipot::SnapKv(watched), settings());
  reader.on_choice([&](const infinipot::Choice& choice) {
    auto& lanes = choices[choice.entries.positions(0).back()];
    for (std::size_t lane = 0; lane < model.shape.heads(); ++lane)
      lanes.emplace_back(choice.kept.lane(lane).begin(), choice.kept.lane(lane).end());
  });
  reader.feed(std::span(tokens_).first(from));
  ASSERT_EQ(reader.stats().distillations, 2U);
  reader.distil();
  ASSERT_EQ(reader.stats().distillations, 3U);
  reader.feed(std::span(tokens_).subspan(from, to - from));

  Ccd repeated(plain_engine, plain_pot, Repeat(choices), settings());
  repeated.feed(std::span(tokens_).first(from));
  repeated.distil();
  repeated.feed(std::span(tokens_).subspan(from, to - from));
  const auto logits = repeated.logits();
  EXPECT_LT(difference(reader.logits(), {logits.begin(), logits.end()}), tolerance);
}

/// Without room for what is read anew the engine says so, and the reader is as it was.
TEST_P(Windows, WithoutRoomToGoBackThrow) {
  Model model = make_model(golden_, 1), plain = make_model(golden_, 1);
  Pot<float> pot = this->pot(model), plain_pot = this->pot(plain);
  Engine<Pot<float>> engine(model, pot), plain_engine(plain, plain_pot);
  infinipot::CcdSettings one = settings();
  one.chunk = 1;
  Ccd reader(engine, pot, infinipot::SnapKv(watched), one),
      other(plain_engine, plain_pot, infinipot::SnapKv(watched), one);
  for (auto* each : {&reader, &other}) each->feed(std::span(tokens_).first(18));
  EXPECT_THROW(reader.distil(), std::logic_error);
  for (auto* each : {&reader, &other}) each->feed(tokens_[18]);
  EXPECT_TRUE(std::ranges::equal(reader.logits(), other.logits()));
}

}  // namespace
}  // namespace models
