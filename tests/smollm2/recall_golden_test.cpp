// Archives and recall on the real model, against an independent implementation in Python (tests/reference):
// the same entries are found in every layer and head, after one step and after two, and the answers agree.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
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

using infinipot::ArchiveType;
using infinipot::KeyStorage;
using infinipot::MemoryArchive;
using infinipot::Retention;
using infinipot::Token;
using nlohmann::json;
using Tokens = std::vector<Token>;
using Pot = infinipot::Pot<float>;
using Engine = smollm2::LlamaEngine<Pot>;

/// An archive's type, and whether its keys are centred and scaled.
struct Kind {
  ArchiveType type;
  bool channels;
  double tolerance;  // of logits and nats; a few codes that round the other way change that much
};

Kind kind_of(const std::string& name) {
  if (name == "f32") return {ArchiveType::float32, false, 1e-3};
  if (name == "f16") return {ArchiveType::float16, false, 1e-2};
  if (name == "int8") return {ArchiveType::codes8, false, 1e-2};
  return {ArchiveType::codes4, name == "int4_channels", 4e-2};
}

/// As make_recall_golden.py has them.
infinipot::KeyChannels made_up_channels(const infinipot::Shape& shape) {
  infinipot::KeyChannels channels = infinipot::plain_key_channels(shape);
  for (std::size_t i = 0; i < channels.centre.size(); ++i) {
    channels.centre[i] = static_cast<float>(i % 7) / 2 - 1.5F;
    channels.spread[i] = 0.5F + static_cast<float>(i % 5) / 4;
  }
  return channels;
}

MemoryArchive archive_of(const infinipot::Shape& shape, const Kind& kind, std::size_t entries) {
  const std::size_t most_bytes = 2 * shape.heads() * shape.head_dim * sizeof(float) + 64;
  infinipot::ArchiveSettings settings{
      .shape = shape, .type = kind.type, .block = 64, .limit = (entries + 4 * 64) * most_bytes};
  if (kind.channels) settings.channels = made_up_channels(shape);
  return MemoryArchive(std::move(settings));
}

/// Rows that were read.
class GivenRows final : public infinipot::RowSource {
 public:
  explicit GivenRows(std::vector<std::vector<float>> rows) : rows_(std::move(rows)) {}
  void key(std::size_t, std::size_t, std::size_t i, float* key) const noexcept override {
    std::ranges::copy(rows_[i], key);
  }
  void value(std::size_t layer, std::size_t kv_head, std::size_t i, float* value) const noexcept override {
    key(layer, kv_head, i, value);
  }

 private:
  std::vector<std::vector<float>> rows_;
};

TEST(RecallGoldenRows, AreRoundedAsInPython) {
  const json golden = smollm2::test::golden("recall_rows.json");
  const auto rows = golden.at("rows").get<std::vector<std::vector<float>>>();
  std::vector<infinipot::Entry> entries(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) entries[i].position = i;
  for (const char* name : {"f32", "f16", "int8", "int4"}) {
    auto archive = archive_of({1, 1, 1, rows[0].size()}, kind_of(name), rows.size());
    archive.append(entries, GivenRows(rows));
    MemoryArchive::Block block;
    ASSERT_TRUE(archive.read(0, block));
    ASSERT_EQ(block.entries().size(), rows.size());
    const json& expected = golden.at(name == std::string("f32") ? "rows" : name);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      std::vector<float> key(rows[i].size()), value(rows[i].size());
      block.key(0, 0, i, key.data());
      block.value(0, 0, i, value.data());
      EXPECT_EQ(value, key) << name;
      for (std::size_t c = 0; c < key.size(); ++c) {
        const float other = expected[i][c];
        // offset + scale * code may be rounded once or twice.
        EXPECT_NEAR(key[c], other, 1e-6F * std::abs(other)) << name << ", row " << i << ", channel " << c;
      }
    }
  }
}

infinipot::Granularity granularity(const json& settings) {
  return settings.at("granularity") == "head" ? infinipot::Granularity::head : infinipot::Granularity::shared;
}

/// An infinipot policy with this catalyst.
infinipot::InfinipotSettings infinipot_of(const json& settings, Tokens catalyst) {
  return {
      .catalysts = {std::move(catalyst)},
      .alpha = settings.at("alpha"),
      .over_queries = settings.at("over_queries") == "max" ? infinipot::Reduce::max : infinipot::Reduce::sum,
      .over_heads =
          settings.at("aggregate") == "peak" ? infinipot::ReduceHeads::max : infinipot::ReduceHeads::sum,
      .kernel = settings.at("kernel")};
}

/// Reads a document, whose spans `pinned` are pinned.
template <class Reader>
void feed_document(Reader& reader, std::span<const Token> document, const json& spans) {
  std::size_t at = 0;
  for (const json& span : spans) {
    const std::size_t from = span.at(0), to = span.at(1);
    reader.feed(document.subspan(at, from - at));
    reader.feed(document.subspan(from, to - from), Retention::pinned);
    at = to;
  }
  reader.feed(document.subspan(at));
}

/// Positions of the text from a hexadecimal number, bit i for position i.
std::vector<bool> held_of(const std::string& digits) {
  std::vector<bool> held(4 * digits.size());
  for (std::size_t i = 0; i < digits.size(); ++i) {
    const auto digit = static_cast<unsigned>(std::stoi(digits.substr(digits.size() - 1 - i, 1), nullptr, 16));
    for (std::size_t bit = 0; bit < 4; ++bit) held[4 * i + bit] = (digit >> bit & 1U) != 0;
  }
  return held;
}

/// How many of the entries are not among the expected ones, over all lanes.
std::size_t others(const infinipot::EntryTable& entries, const json& expected) {
  std::size_t count = 0;
  for (std::size_t lane = 0; lane < entries.lanes(); ++lane) {
    const std::vector<bool> held = held_of(expected.at(lane));
    for (const std::uint64_t position : entries.positions(lane))
      if (position >= held.size() || !held[position]) ++count;
  }
  return count;
}

/// Archives of several types that are filled at once.
class Tee {
 public:
  using Block = MemoryArchive::Block;

  void add(const std::string& type, const infinipot::Shape& shape, std::size_t entries) {
    archives_.try_emplace(type, archive_of(shape, kind_of(type), entries));
  }
  MemoryArchive& of(const std::string& type) { return archives_.at(type); }

  infinipot::Shape shape() const { return archives_.begin()->second.shape(); }
  bool has_rows() const { return true; }
  std::uint64_t end() const { return archives_.begin()->second.end(); }
  void append(std::span<const infinipot::Entry> entries, const infinipot::RowSource& rows) noexcept {
    for (auto& [type, archive] : archives_) archive.append(entries, rows);
  }
  bool read(std::uint64_t position, Block& block) { return archives_.begin()->second.read(position, block); }

 private:
  std::map<std::string, MemoryArchive> archives_;
};

struct Case {
  const char* file;
  KeyStorage storage = KeyStorage::rotated;
  std::size_t chunk = 256;
};

std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.file; }

/// A pot and an engine that runs against it.
struct Place {
  Pot pot;
  Engine engine;

  Place(const smollm2::LlamaWeights& weights, smollm2::ThreadPool& threads, const json& settings,
        const Case& c)
      : pot({.shape = weights.config().shape(),
             .capacity = settings.at("capacity"),
             .max_keep = settings.at("keep"),
             .granularity = granularity(settings),
             .key_storage = c.storage,
             .rope = weights.config().rope(settings.at("capacity"))}),
        engine(weights, pot, threads, 256) {}
};

class RecallGolden : public testing::TestWithParam<Case> {
 protected:
  // The weights are read once for all cases.
  static const smollm2::LlamaWeights* weights() {
    static const auto loaded = [] {
      const auto path = smollm2::test::model_path();
      return path ? std::make_unique<smollm2::LlamaWeights>(smollm2::GgufFile(*path), threads()) : nullptr;
    }();
    return loaded.get();
  }

  static smollm2::ThreadPool& threads() {
    static smollm2::ThreadPool pool;
    return pool;
  }

  Place place(const json& settings) const { return {*weights(), threads(), settings, GetParam()}; }

  /// Reads and recalls, turn by turn.
  template <class P>
  void play(const json& golden, P policy) {
    const json& settings = golden.at("reading");
    Place own = place(settings);
    infinipot::Ccd reader(
        own.engine, own.pot, std::move(policy),
        {.keep = settings.at("keep"), .sinks = settings.at("sinks"), .chunk = GetParam().chunk});
    Tee archives;
    for (const json& recalled : golden.at("turns")[0].at("recalls"))
      archives.add(recalled.at("type"), own.pot.shape(), golden.at("archived"));
    reader.archive_to(archives);

    json pinned = golden.at("pinned");
    for (const json& turn : golden.at("turns")) {
      feed_document(reader, turn.at("document").get<Tokens>(), std::exchange(pinned, json::array()));
      for (const json& expected : turn.at("recalls")) {
        SCOPED_TRACE(described(expected));
        Pot pot = own.pot.fork();
        Engine engine(*weights(), pot, threads(), 256);
        auto again = reader.fork(engine, pot);
        recall(again, pot, archives.of(expected.at("type")), golden.at("recalling"), turn, expected);
      }
      SCOPED_TRACE("going on");  // the reader itself, whose archive takes question and answer as well
      const json& first = turn.at("recalls")[0];
      recall(reader, own.pot, archives.of(first.at("type")), golden.at("recalling"), turn, first);
    }
    EXPECT_EQ(archives.end(), golden.at("archived").get<std::size_t>());
  }

  static std::string described(const json& expected) {
    return expected.at("type").get<std::string>() + ", " + std::to_string(expected.at("steps").get<int>()) +
           " steps" + (expected.at("read_anew").get<bool>() ? ", read anew" : "");
  }

  /// Recalls for a question, in another pot if that is to be larger, and answers it.
  template <class Reader>
  void recall(Reader& reader, const Pot& pot, MemoryArchive& archive, const json& settings, const json& turn,
              const json& expected) {
    const auto question = turn.at("question").get<Tokens>();
    const auto make = [&](Tokens catalyst) { return infinipot_of(settings, std::move(catalyst)); };
    const infinipot::RecallSettings how{.steps = expected.at("steps"), .read_anew = expected.at("read_anew")};
    infinipot::Recalled recalled;
    if (settings.at("capacity") == pot.capacity()) {
      recalled = infinipot::recall(reader, archive, question, how, make);
    } else {
      Place other = place(settings);
      recalled = infinipot::recall(reader, other.engine, other.pot, archive, question, how, make);
    }
    ASSERT_TRUE(recalled.done);
    ASSERT_EQ(pot.size(), settings.at("keep").get<std::size_t>());
    if (how.steps == 1) {
      EXPECT_EQ(recalled.distillations, expected.at("distillations").get<std::size_t>());
    }
    if (expect_kept(pot.entries(), recalled.positions, expected))
      expect_answer(reader, turn, recalled.draft, expected);
  }

  /// Whether all entries are the expected ones, which they may miss by what is known to be undecided.
  static bool expect_kept(const infinipot::EntryTable& entries, std::span<const std::uint64_t> found,
                          const json& expected) {
    const std::size_t count = others(entries, expected.at("kept"));
    const double all = static_cast<double>(entries.size() * entries.lanes());
    EXPECT_LE(static_cast<double>(count), 2 * expected.at("differing").get<double>() / 1000 * all);
    const auto first = entries.positions(0);
    EXPECT_LE(found.size(), first.size());
    EXPECT_TRUE(std::ranges::equal(found, first.last(std::min(found.size(), first.size()))));
    return count == 0;
  }

  template <class Reader>
  static void expect_answer(Reader& reader, const json& turn, const Tokens& draft, const json& expected) {
    const double tolerance = kind_of(expected.at("type")).tolerance;
    EXPECT_EQ(draft, expected.at("draft").get<Tokens>());
    reader.feed(turn.at("question").get<Tokens>());
    for (std::size_t i = 0; i < expected.at("logits").size(); ++i)
      EXPECT_NEAR(reader.logits()[expected.at("vocabulary")[i].get<std::size_t>()],
                  expected.at("logits")[i].get<double>(), tolerance);
    const auto answer = turn.at("answer").get<Tokens>();
    for (std::size_t i = 0; i < answer.size(); ++i) {
      EXPECT_NEAR(static_cast<double>(infinipot::nuc(reader.logits(), answer[i])),
                  expected.at("answer_nuc")[i].get<double>(), tolerance)
          << "token " << i;
      reader.feed(answer[i]);
    }
  }
};

TEST_P(RecallGolden, FindsTheSameEntries) {
  if (weights() == nullptr) GTEST_SKIP() << smollm2::test::no_model;
  const json golden = smollm2::test::golden(GetParam().file);
  const json& settings = golden.at("reading");
  if (settings.at("policy") == "streaming_llm") return play(golden, infinipot::StreamingLlm());
  play(golden, infinipot::Infinipot(infinipot_of(settings, golden.at("reading_catalyst").get<Tokens>())));
}

INSTANTIATE_TEST_SUITE_P(OnTheModel, RecallGolden,
                         testing::Values(Case{"recall_shared.json"},
                                         Case{"recall_nuc.json", KeyStorage::unrotated, 37},
                                         Case{"recall_nuc.json"}, Case{"recall_head.json"},
                                         Case{"recall_conversation.json"}));

}  // namespace
