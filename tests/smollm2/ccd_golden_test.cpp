// The whole algorithm on the real model, against an independent implementation in Python (tests/reference):
// the same entries are kept by every layer and head at every distillation, NuC and the answer's NLL agree.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "smollm2/gguf.hpp"
#include "smollm2/llama_engine.hpp"
#include "smollm2/llama_weights.hpp"
#include "smollm2/thread_pool.hpp"
#include "test_files.hpp"

namespace {

using infinipot::KeyStorage;
using infinipot::Retention;
using infinipot::Token;
using nlohmann::json;

/// Entries as a hexadecimal number, bit i for entry i, without leading zeros.
std::string mask(std::span<const infinipot::Index> kept, std::size_t size) {
  std::vector<unsigned> digits(size / 4 + 1, 0);
  for (const auto index : kept) digits[index / 4] |= 1U << index % 4;
  std::string text;
  for (std::size_t i = digits.size(); i-- > 0;)
    if (digits[i] != 0 || !text.empty()) text += "0123456789abcdef"[digits[i]];
  return text;
}

template <class Run>
void with_policy(const json& golden, const infinipot::Rope& rope, const Run& run) {
  const json& settings = golden.at("settings");
  const std::string name = settings.at("policy");
  if (name == "streaming_llm") return run(infinipot::StreamingLlm());
  if (name == "snapkv") return run(infinipot::SnapKv(settings.at("window"), settings.at("kernel")));
  if (name == "tova") return run(infinipot::Tova());
  if (name == "h2o") return run(infinipot::H2o());
  if (name == "sirllm") return run(infinipot::SirLlm(settings.at("decay")));
  if (name == "truncation") return run(infinipot::Truncation());
  if (name == "reread")
    return run(
        infinipot::Reread({.instruction = golden.at("catalyst").get<std::vector<Token>>(),
                           .block = settings.at("block"),
                           .layers = settings.value("layers", std::size_t{0}),
                           .smoothing = {settings.value("pooling", "max") == "mean" ? infinipot::Pooling::mean
                                                                                    : infinipot::Pooling::max,
                                         settings.at("kernel")}}));
  if (name == "knorm") return run(infinipot::KNorm());
  if (name == "keydiff") return run(infinipot::KeyDiff());
  if (name == "value_norm") return run(infinipot::ValueNorm());
  if (name == "expected_attention")
    return run(infinipot::ExpectedAttention(
        {.rope = rope, .future = settings.at("future"), .sinks = settings.at("sinks")}));
  if (name == "temporal_redundancy")
    return run(infinipot::TemporalRedundancy(settings.at("period"), settings.at("frames")));
  ASSERT_EQ(name, "infinipot");
  const std::string over_queries = settings.value("over_queries", "sum"),
                    over_heads = settings.at("aggregate");
  const auto catalyst = golden.at("catalyst").get<std::vector<Token>>();
  run(infinipot::Infinipot(
      {.catalysts = {catalyst},
       .alpha = settings.at("alpha"),
       .terms = catalyst,
       .term_share = settings.value("term_share", 0.0),
       .over_queries = over_queries == "max" ? infinipot::Reduce::max : infinipot::Reduce::sum,
       .over_heads = over_heads == "max"    ? infinipot::ReduceHeads::max_share
                     : over_heads == "peak" ? infinipot::ReduceHeads::max
                                            : infinipot::ReduceHeads::sum,
       .kernel = settings.at("kernel"),
       .lag = settings.value("lag", std::size_t{0}),
       .layers = settings.value("layers", std::size_t{0})}));
}

infinipot::Granularity granularity(const json& golden) {
  const std::string name = golden.at("settings").at("granularity");
  if (name == "head") return infinipot::Granularity::head;
  return name == "layer" ? infinipot::Granularity::layer : infinipot::Granularity::shared;
}

/// Feeds the document, its pinned spans as pinned.
template <class Reader>
void feed_document(Reader& reader, const json& golden) {
  const auto document = golden.at("document").get<std::vector<Token>>();
  std::vector<bool> pinned(document.size(), false);
  for (const json& span : golden.at("pinned"))
    for (std::size_t i = span.at(0); i < span.at(1).get<std::size_t>(); ++i) pinned[i] = true;
  for (std::size_t from = 0, to = 0; from < document.size(); from = to) {
    while (to < document.size() && pinned[to] == pinned[from]) ++to;
    reader.feed(std::span(document).subspan(from, to - from),
                pinned[from] ? Retention::pinned : Retention::evictable);
  }
}

struct Case {
  const char* file;
  KeyStorage storage = KeyStorage::rotated;
  std::size_t chunk = 256;
};

std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.file; }

class CcdGolden : public testing::TestWithParam<Case> {
 protected:
  // The weights are read once for all cases.
  static const smollm2::LlamaWeights* weights() {
    static const auto loaded = [] {
      const auto path = smollm2::test::model_path();
      return path ? std::make_unique<smollm2::LlamaWeights>(smollm2::GgufFile(*path), pool()) : nullptr;
    }();
    return loaded.get();
  }

  static smollm2::ThreadPool& pool() {
    static smollm2::ThreadPool threads;
    return threads;
  }
};

TEST_P(CcdGolden, KeepsTheSameEntries) {
  if (weights() == nullptr) GTEST_SKIP() << smollm2::test::no_model;
  const json golden = smollm2::test::golden(GetParam().file);
  const json& settings = golden.at("settings");
  infinipot::Pot<float> pot({.shape = weights()->config().shape(),
                             .capacity = settings.at("capacity"),
                             .max_keep = settings.at("keep"),
                             .granularity = granularity(golden),
                             .key_storage = GetParam().storage,
                             .rope = weights()->config().rope(settings.at("capacity"))});
  smollm2::LlamaEngine engine(*weights(), pot, pool(), 256);

  with_policy(golden, pot.rope(), [&](auto policy) {
    infinipot::Ccd reader(engine, pot, std::move(policy),
                          {.keep = settings.at("keep"),
                           .sinks = settings.at("sinks"),
                           .recent = settings.at("recent"),
                           .chunk = GetParam().chunk});
    EXPECT_EQ(reader.limit(), settings.at("limit").get<std::size_t>());
    std::size_t distillations = 0;
    reader.on_distillation([&](const infinipot::Distillation& d) {
      ASSERT_LT(distillations, golden.at("distillations").size());
      const json& expected = golden.at("distillations")[distillations++];
      ASSERT_EQ(d.kept.lanes(), expected.at("kept").size());
      for (std::size_t lane = 0; lane < d.kept.lanes(); ++lane)
        EXPECT_EQ(mask(d.kept.lane(lane), d.entries_before), expected.at("kept")[lane])
            << "distillation " << distillations << ", lane " << lane;
    });

    feed_document(reader, golden);
    reader.feed(golden.at("question").get<std::vector<Token>>());
    double total = 0;
    const auto answer = golden.at("answer").get<std::vector<Token>>();
    for (const Token token : answer) {
      total += static_cast<double>(infinipot::nuc(reader.logits(), token));
      reader.feed(token);
    }
    EXPECT_EQ(distillations, golden.at("distillations").size());
    EXPECT_NEAR(total / static_cast<double>(answer.size()), golden.at("answer_nll").get<double>(), 1e-3);

    const json& last = golden.at("final_positions");
    ASSERT_EQ(pot.size(), last.at("entries").get<std::size_t>());
    const auto nuc = golden.at("nuc").get<std::vector<double>>();
    for (std::size_t lane = 0; lane < pot.entries().lanes(); ++lane) {
      std::uint64_t sum = 0, all = 0;
      for (std::size_t t = 0; t < pot.entries().positions(lane).size(); ++t) {
        const std::uint64_t position = pot.entries().positions(lane)[t];
        sum += position;
        all ^= position;
        if (infinipot::uses_nuc(reader.policy())) {
          ASSERT_NEAR(static_cast<double>(pot.entries().nuc(lane)[t]), nuc[position], 1e-3) << position;
        }
      }
      EXPECT_EQ(sum, last.at("sum")[lane].get<std::uint64_t>()) << "lane " << lane;
      EXPECT_EQ(all, last.at("xor")[lane].get<std::uint64_t>()) << "lane " << lane;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(
    AllPolicies, CcdGolden,
    testing::Values(Case{"ccd_infinipot_head_sum.json"}, Case{"ccd_infinipot_head_max.json"},
                    Case{"ccd_infinipot_layer_sum.json"}, Case{"ccd_infinipot_shared_max.json"},
                    Case{"ccd_infinipot_recommended.json"},
                    Case{"ccd_infinipot_recommended.json", KeyStorage::unrotated, 37},
                    Case{"ccd_infinipot_terms.json"}, Case{"ccd_infinipot_shared_peak.json"},
                    Case{"ccd_streaming_llm.json"}, Case{"ccd_snapkv.json"}, Case{"ccd_tova.json"},
                    Case{"ccd_h2o.json"}, Case{"ccd_sirllm.json"}, Case{"ccd_knorm.json"},
                    Case{"ccd_keydiff.json"}, Case{"ccd_value_norm.json"}, Case{"ccd_truncation.json"},
                    Case{"ccd_reread.json"}, Case{"ccd_reread_low.json"}, Case{"ccd_expected_attention.json"},
                    Case{"ccd_expected_attention.json", KeyStorage::unrotated, 37},
                    Case{"ccd_temporal_redundancy.json"},
                    Case{"ccd_infinipot_head_sum.json", KeyStorage::unrotated, 37},
                    Case{"ccd_infinipot_shared_max.json", KeyStorage::unrotated, 37}));

}  // namespace
