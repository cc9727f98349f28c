// What was read and left the pot comes back.
#include "infinipot/recall.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "ccd_trial.hpp"
#include "expect_invalid.hpp"
#include "infinipot/infinipot.hpp"
#include "toy_engine.hpp"
#include "vector_archive.hpp"

namespace {

using namespace infinipot;
using trial::message_of;

const std::vector<Token> question{7, 21, 3, 44};
constexpr std::array all_granularities{Granularity::head, Granularity::layer, Granularity::shared};
constexpr std::array both_storages{KeyStorage::rotated, KeyStorage::unrotated};
constexpr std::size_t capacity = 40, keep = 20;
constexpr CcdSettings settings{.keep = keep, .sinks = 2, .recent = 0, .chunk = 16};

Token pick(std::span<const float> logits) {
  return static_cast<Token>(std::ranges::max_element(logits) - logits.begin());
}

/// A pot, an engine and a reader of it.
template <class T, Policy P>
struct Reading {
  Reading(const toy::Model& model, P policy, Granularity granularity = Granularity::shared,
          KeyStorage storage = KeyStorage::rotated, std::size_t entries = capacity)
      : pot(toy::make_pot<T>(model, entries, keep, granularity, storage)),
        engine(model, pot),
        reader(engine, pot, std::move(policy), settings) {}

  Pot<T> pot;
  toy::Engine<Pot<T>> engine;
  Ccd<toy::Engine<Pot<T>>, Pot<T>, P> reader;
};

template <class T>
using Blind = Reading<T, StreamingLlm>;

/// Everything that a pot and its reader hold.
template <class R>
std::string state(const R& run) {
  std::ostringstream out;
  save_pot(run.pot, out, run.reader.memory());
  return out.str();
}

/// Reads a text with a pinned header and a pinned word in the middle.
template <class R>
void read(R& run, std::span<const Token> text) {
  run.reader.feed(text.first(5), Retention::pinned);
  run.reader.feed(text.subspan(5, text.size() / 2));
  run.reader.feed(text.subspan(5 + text.size() / 2, 1), Retention::pinned);
  run.reader.feed(text.subspan(6 + text.size() / 2));
}

/// An engine that copies recorded rows instead of computing them, as long as it replays: recall as it was
/// first tried, by another way.
template <class T>
class Replaying {
 public:
  Replaying(const toy::Model& model, Pot<T>& pot, const VectorArchive& archive)
      : engine_(model, pot), pot_(pot), archive_(archive) {}

  Shape shape() const { return engine_.shape(); }
  std::size_t vocab_size() const { return engine_.vocab_size(); }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits) {
    if (!replaying) return engine_.forward(tokens, first, logits);
    const std::vector<float> none(vocab_size());
    const Shape shape = pot_.shape();
    for (std::size_t i = 0; i < tokens.size(); ++i, ++at) {
      const float* row = archive_.records[at].rows.data();
      for (std::size_t layer = 0; layer < shape.layers; ++layer)
        for (std::size_t head = 0; head < shape.kv_heads; ++head, row += 2 * shape.head_dim) {
          std::vector<float> key(row, row + shape.head_dim);
          pot_.write_projected(layer, head, first + i, key.data(), row + shape.head_dim);
        }
      if (i >= logits.first_row()) logits.row(i, none);
    }
  }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits, QuerySink& queries) {
    engine_.forward(tokens, first, logits, queries);
  }

  bool replaying = false;
  std::size_t at = 0;

 private:
  toy::Engine<Pot<T>> engine_;
  Pot<T>& pot_;
  const VectorArchive& archive_;
};

template <class T>
void expect_same(const Pot<T>& pot, const Pot<T>& expected) {
  const EntryTable &own = pot.entries(), &other = expected.entries();
  ASSERT_EQ(own.size(), other.size());
  for (std::size_t lane = 0; lane < own.lanes(); ++lane) {
    EXPECT_TRUE(std::ranges::equal(own.positions(lane), other.positions(lane))) << lane;
    EXPECT_TRUE(std::ranges::equal(own.tokens(lane), other.tokens(lane)));
    EXPECT_TRUE(std::ranges::equal(own.nuc(lane), other.nuc(lane)));
    EXPECT_TRUE(std::ranges::equal(own.pinned(lane), other.pinned(lane)));
  }
  for (std::size_t pair = 0; pair < pot.shape().heads(); ++pair) {
    const std::size_t layer = pair / pot.shape().kv_heads, head = pair % pot.shape().kv_heads;
    for (std::size_t entry = 0; entry < own.size(); ++entry) {
      const auto same = [&](const Rows<T>& a, const Rows<T>& b) {
        return std::equal(a.row(head, entry), a.row(head, entry) + pot.shape().head_dim, b.row(head, entry));
      };
      EXPECT_TRUE(same(pot.keys(layer), expected.keys(layer))) << layer << ' ' << head << ' ' << entry;
      EXPECT_TRUE(same(pot.values(layer), expected.values(layer))) << layer << ' ' << head << ' ' << entry;
    }
  }
}

template <class T>
class Recall : public testing::Test {};
using Types = testing::Types<f32, f16, bf16>;
TYPED_TEST_SUITE(Recall, Types);

TYPED_TEST(Recall, KeepsWhatADistillationOfTheWholeTextWould) {
  using T = TypeParam;
  const toy::Model model;
  const auto text = toy::text(150, 1);
  for (const Granularity granularity : all_granularities)
    for (const KeyStorage storage : both_storages) {
      VectorArchive archive(model.shape);
      Blind<T> run(model, StreamingLlm(), granularity, storage);
      run.reader.archive_to(archive);
      read(run, text);
      ASSERT_EQ(archive.records.size(), text.size());

      Pot<T> pot = toy::make_pot<T>(model, capacity, keep, granularity, storage);
      Replaying<T> engine(model, pot, archive);
      Ccd reference(engine, pot, Infinipot(recommended_settings(question, keep)), settings);
      engine.replaying = true;
      reference.feed(std::span(text).first(5), Retention::pinned);  // as they were read: computed there too
      reference.feed(std::span(text).subspan(5, text.size() / 2));
      reference.feed(std::span(text).subspan(5 + text.size() / 2, 1), Retention::pinned);
      reference.feed(std::span(text).subspan(6 + text.size() / 2));
      reference.distil();
      ASSERT_GT(reference.stats().distillations, 5U);

      const std::vector<float> before(run.reader.logits().begin(), run.reader.logits().end());
      const Recalled recalled = recall(run.reader, archive, question);
      EXPECT_TRUE(recalled.done);
      EXPECT_EQ(recalled.steps, 1U);
      EXPECT_EQ(recalled.distillations, reference.stats().distillations);
      EXPECT_EQ(run.reader.stats().tokens_read, text.size());
      EXPECT_TRUE(std::ranges::equal(run.reader.logits(), before));
      const auto positions = run.pot.entries().positions(0).subspan(5);
      EXPECT_TRUE(std::ranges::equal(recalled.positions, positions));
      // Records; rows are compared where nothing is rounded on the way.
      for (std::size_t lane = 0; lane < pot.entries().lanes(); ++lane)
        EXPECT_TRUE(std::ranges::equal(run.pot.entries().positions(lane), pot.entries().positions(lane)));
      if (storage == KeyStorage::unrotated) expect_same(run.pot, pot);
      run.reader.feed(question);  // it goes on
      EXPECT_EQ(run.reader.stats().tokens_read, text.size() + question.size());
    }
}

TEST(RecallPolicy, IsToldHowManyStay) {
  const toy::Model model;
  VectorArchive archive(model.shape);
  Blind<f32> run(model, StreamingLlm(), Granularity::shared);
  run.reader.archive_to(archive);
  read(run, toy::text(150, 3));
  std::vector<std::size_t> told;
  const auto make = [&](std::vector<Token> catalyst, std::size_t stay) {
    told.push_back(stay);
    return recommended_settings(std::move(catalyst), stay);
  };
  EXPECT_TRUE(recall(run.reader, archive, question, {.steps = 2, .draft = 2, .recent = 3}, make).done);
  EXPECT_EQ(told, (std::vector<std::size_t>{keep - 3, keep - 3}));
}

TYPED_TEST(Recall, InAnotherPotIsTheSame) {
  using T = TypeParam;
  const toy::Model model;
  const auto text = toy::text(150, 2);
  for (const Granularity granularity : all_granularities) {
    VectorArchive archive(model.shape);
    Blind<T> own(model, StreamingLlm(), granularity), other(model, StreamingLlm(), granularity);
    own.reader.archive_to(archive);
    read(own, text);
    read(other, text);
    Pot<T> pot = toy::make_pot<T>(model, capacity, keep, granularity);
    toy::Engine<Pot<T>> engine(model, pot);
    const RecallSettings steps{.steps = 3, .draft = 4, .recent = 3};
    EXPECT_TRUE(recall(own.reader, archive, question, steps).done);
    EXPECT_TRUE(recall(other.reader, engine, pot, archive, question, steps).done);
    expect_same(own.pot, other.pot);
    EXPECT_TRUE(state(own) == state(other));
  }
}

/// For keeping what there is: an archive of a text that was read, and its reader.
struct Read {
  explicit Read(std::size_t tokens = 150, bool rows = true, Granularity granularity = Granularity::shared)
      : archive(model.shape, rows), text(toy::text(tokens, 3)), run(model, StreamingLlm(), granularity) {
    run.reader.archive_to(archive);
    read(run, text);
  }

  toy::Model model;
  VectorArchive archive;
  std::vector<Token> text;
  Blind<f32> run;
};

TEST(RecallFailure, LeavesTheReaderAsItWas) {
  for (std::size_t call = 0;; ++call) {
    Read read;
    const std::string before = state(read.run);
    const RecallSettings steps{.steps = 2, .draft = 3, .read_anew = true};
    read.run.engine.quirks.fault = toy::Fault{read.run.engine.calls() + call, 1, 0};
    try {
      EXPECT_TRUE(recall(read.run.reader, read.archive, question, steps).done);
      EXPECT_GT(call, 10U);
      break;
    } catch (const std::runtime_error&) {
      read.run.engine.quirks.fault.reset();
      EXPECT_TRUE(state(read.run) == before) << call;
      Read undisturbed;
      read.run.reader.feed(question);
      undisturbed.run.reader.feed(question);
      EXPECT_TRUE(state(read.run) == state(undisturbed.run)) << call;
    }
  }
}

TEST(RecallFailure, OfAnotherPotTooLeavesTheReaderAsItWas) {
  Read read;
  const std::string before = state(read.run);
  Pot<f32> pot = toy::make_pot(read.model, capacity, keep, Granularity::shared);
  toy::Engine<Pot<f32>> engine(read.model, pot);
  engine.quirks.fault = toy::Fault{3, 0, 0};
  EXPECT_THROW(recall(read.run.reader, engine, pot, read.archive, question), std::runtime_error);
  EXPECT_TRUE(state(read.run) == before);
  engine.quirks.fault.reset();
  EXPECT_TRUE(recall(read.run.reader, engine, pot, read.archive, question).done);
  EXPECT_FALSE(state(read.run) == before);
}

TEST(RecallFailure, GivenUpBetweenBlocksLeavesTheReaderAsItWas) {
  for (std::size_t blocks = 0; blocks < 60; blocks += 7) {
    Read read;
    const std::string before = state(read.run);
    std::size_t seen = 0;
    std::uint64_t last = 0;
    RecallSettings steps{.steps = 2, .draft = 3};
    steps.progress = [&](const RecallProgress& progress) {
      EXPECT_EQ(progress.end, read.text.size());
      EXPECT_LT(progress.position, progress.end);
      EXPECT_TRUE(progress.step == 2 || progress.position >= last);
      last = progress.position;
      return seen++ < blocks;
    };
    const Recalled recalled = recall(read.run.reader, read.archive, question, steps);
    EXPECT_EQ(recalled.done, seen <= blocks);
    EXPECT_NE(recalled.done, state(read.run) == before);
  }
}

TEST(RecallSettings, TimeIsBounded) {
  Read read;
  const std::string before = state(read.run);
  RecallSettings none{.seconds = 0};
  none.progress = [](const RecallProgress&) { return true; };
  EXPECT_FALSE(recall(read.run.reader, read.archive, question, none).done);
  EXPECT_TRUE(state(read.run) == before);
  // A step takes some time, so after one there is none for the next.
  RecallSettings one{.steps = 100000, .draft = 1, .seconds = 0.2};
  const Recalled recalled = recall(read.run.reader, read.archive, question, one);
  EXPECT_TRUE(recalled.done);
  EXPECT_LT(recalled.steps, 100000U);
  EXPECT_EQ(read.run.pot.size(), keep) << "no question, no draft";
  EXPECT_TRUE(std::ranges::equal(recalled.positions, read.run.pot.entries().positions(0).subspan(5)));
}

TEST(RecallSettings, StepsAreDoneAsByHand) {
  for (const NextCatalyst next :
       {NextCatalyst::draft, NextCatalyst::found, NextCatalyst::found_and_question}) {
    constexpr std::size_t large = 60;
    Read read, by_hand;
    Pot<f32> pot = toy::make_pot(read.model, large, keep, Granularity::shared);
    toy::Engine<Pot<f32>> engine(read.model, pot);
    const std::vector<Token> ask{9, 8, 7};
    const Recalled recalled = recall(read.run.reader, engine, pot, read.archive, question,
                                     {.steps = 2, .next = next, .draft = 4, .ask = ask});

    Pot<f32> first_pot = toy::make_pot(read.model, large, keep, Granularity::shared);
    toy::Engine<Pot<f32>> first_engine(read.model, first_pot);
    const auto step = [&](const std::vector<Token>& catalyst, const auto& then) {
      first_pot.truncate(0);
      Ccd reader(first_engine, first_pot, recommended_settings(catalyst, keep), settings);
      replay(reader, read.archive);
      reader.distil();
      then(reader);
    };
    std::vector<Token> catalyst;
    step(question, [&](auto& reader) {
      const auto tokens = first_pot.entries().tokens(0);
      if (next != NextCatalyst::draft) catalyst.assign(tokens.begin() + 5, tokens.end());
      if (next != NextCatalyst::found) catalyst.insert(catalyst.end(), question.begin(), question.end());
      if (next != NextCatalyst::draft) return;
      reader.feed(ask);
      reader.generate(4, pick, [&](Token token) {
        catalyst.push_back(token);
        return true;
      });
    });
    step(catalyst, [&](auto&) {});
    EXPECT_TRUE(std::ranges::equal(read.run.pot.entries().positions(0), first_pot.entries().positions(0)));
    EXPECT_EQ(recalled.draft.size(), next == NextCatalyst::draft ? 4U : 0U);
    EXPECT_EQ(recalled.steps, 2U);
  }
}

TEST(RecallSettings, WhatIsReadAnewSeesOneAnother) {
  for (const Granularity granularity : all_granularities) {
    Read read(150, true, granularity), anew(150, true, granularity);
    recall(read.run.reader, read.archive, question);
    recall(anew.run.reader, anew.archive, question, {.read_anew = true});
    const EntryTable& entries = anew.run.pot.entries();
    ASSERT_EQ(entries.size(), keep);
    EXPECT_TRUE(granularity != Granularity::shared ||
                std::ranges::equal(entries.positions(0), read.run.pot.entries().positions(0)));
    // As if the kept tokens were the text.
    Blind<f32> plain(anew.model, StreamingLlm(), granularity);
    plain.reader.feed(entries.tokens(0));
    for (std::size_t lane = 0; lane < entries.lanes(); ++lane)
      EXPECT_TRUE(std::ranges::equal(entries.tokens(lane), entries.tokens(0)));
    for (std::size_t i = 0; i < keep * 8; ++i)
      EXPECT_NEAR(anew.run.pot.keys(1).row(1, 0)[i], plain.pot.keys(1).row(1, 0)[i], 1e-5F);
  }
}

TEST(RecallSettings, TheNewestStayAndAreNotRecalledAsWell) {
  Read read;
  const std::vector<std::uint64_t> newest(read.run.pot.entries().positions(0).end() - 6,
                                          read.run.pot.entries().positions(0).end());
  const Recalled recalled = recall(read.run.reader, read.archive, question, {.recent = 6});
  const EntryTable& entries = read.run.pot.entries();
  EXPECT_EQ(entries.size(), keep);
  EXPECT_TRUE(std::ranges::equal(entries.positions(0).last(6), newest));
  EXPECT_EQ(recalled.positions.size(), keep - 5 - 6);
  EXPECT_TRUE(std::ranges::adjacent_find(entries.positions(0), std::ranges::greater_equal()) ==
              entries.positions(0).end());
}

TEST(RecallSettings, NewestEntriesAreNoMoreThanWhatAllLanesHold) {
  Read read(150, true, Granularity::head);
  recall(read.run.reader, read.archive, question);  // lanes differ now
  recall(read.run.reader, read.archive, question, {.recent = 10});
  EXPECT_EQ(read.run.pot.entries().size(), keep);
}

TEST(RecallSource, TokenIdsAloneAreReadAnew) {
  Read tokens(150, false), computed;
  recall(tokens.run.reader, tokens.archive, question);
  Pot<f32> pot = toy::make_pot(computed.model, capacity, keep, Granularity::shared);
  toy::Engine<Pot<f32>> engine(computed.model, pot);
  Ccd reader(engine, pot, recommended_settings(question), settings);
  const std::span text(computed.text);
  reader.feed(text.first(5), Retention::pinned);
  reader.feed(text.subspan(5, text.size() / 2));
  reader.feed(text.subspan(5 + text.size() / 2, 1), Retention::pinned);
  reader.feed(text.subspan(6 + text.size() / 2));
  reader.distil();
  expect_same(tokens.run.pot, pot);
}

TEST(RecallSource, AnEmptyReaderTakesAllFromTheArchive) {
  Read read;
  Blind<f32> fresh(read.model, StreamingLlm());
  fresh.reader.archive_to(read.archive);
  EXPECT_EQ(fresh.reader.stats().tokens_read, read.text.size());
  recall(fresh.reader, read.archive, question);
  recall(read.run.reader, read.archive, question);
  EXPECT_TRUE(std::ranges::equal(fresh.pot.entries().positions(0), read.run.pot.entries().positions(0)));
  EXPECT_EQ(std::ranges::count(fresh.pot.entries().pinned(0), 1), 6);
  fresh.reader.feed(question);
  EXPECT_EQ(read.archive.end(), read.text.size() + question.size());
  EXPECT_EQ(fresh.pot.entries().positions(0).back(), read.text.size() + question.size() - 1);
}

TEST(RecallSource, OfAPartOnlyThatAndWhatIsPinned) {
  Read read;
  const Recalled recalled =
      recall(read.run.reader, ArchivePart<VectorArchive>{&read.archive, 30, 60}, question);
  for (const std::uint64_t position : recalled.positions)
    EXPECT_TRUE((position >= 30 && position < 60) || position == 80) << position;
  EXPECT_EQ(std::ranges::count(recalled.positions, 80), 1);
  EXPECT_EQ(recalled.positions.size(), keep - 5);
}

TEST(RecallSource, OfSeveralOneBehindTheOther) {
  Read read(100);
  VectorArchive more(read.model.shape);
  Blind<f32> second(read.model, StreamingLlm());
  second.reader.archive_to(more);
  second.reader.feed(toy::text(90, 8));
  const std::array parts{ArchivePart<VectorArchive>{&read.archive}, ArchivePart<VectorArchive>{&more}};
  Blind<f32> fresh(read.model, StreamingLlm());
  const Recalled recalled =
      recall(fresh.reader, std::span<const ArchivePart<VectorArchive>>(parts), question);
  EXPECT_TRUE(recalled.done);
  EXPECT_GE(recalled.positions.back(), 100U);
  EXPECT_EQ(fresh.reader.stats().tokens_read, 190U);

  VectorArchive all(read.model.shape);
  all.records = read.archive.records;
  for (VectorArchive::Record record : more.records) {
    record.entry.position += 100;
    all.records.push_back(record);
  }
  Blind<f32> together(read.model, StreamingLlm());
  recall(together.reader, all, question);
  expect_same(fresh.pot, together.pot);
}

TEST(RecallSource, OfAnEmptyArchiveIsNothing) {
  toy::Model model;
  VectorArchive archive(model.shape);
  Blind<f32> run(model, StreamingLlm());
  const Recalled recalled = recall(run.reader, archive, question);
  EXPECT_TRUE(recalled.done);
  EXPECT_TRUE(recalled.positions.empty());
  EXPECT_EQ(run.pot.size(), 0U);
  run.reader.feed(question);
}

TEST(RecallPolicies, EachThatTakesATurn) {
  const auto try_policy = [](auto policy) {
    Read read;
    const Recalled recalled = recall(read.run.reader, read.archive, question, {},
                                     [&](const std::vector<Token>&) { return policy; });
    EXPECT_TRUE(recalled.done) << policy.name();
    EXPECT_EQ(read.run.pot.size(), keep) << policy.name();
    read.run.reader.feed(question);
  };
  try_policy(StreamingLlm());
  try_policy(SnapKv(4, 3));
  try_policy(Tova());
  try_policy(KNorm());
  try_policy(KeyDiff());
  try_policy(SirLlm(0.9));
  try_policy(Reread({.instruction = {1, 2}, .block = 8}));
  try_policy(H2o());  // reads tokens anew
  try_policy(ExpectedAttention({.rope = toy::Model().rope}));
}

TEST(RecallErrors, AreSaidInWordsAndChangeNothing) {
  Read read;
  const std::string before = state(read.run);
  const auto refused = [&](const auto& call) {
    const std::string message = message_of(call);
    EXPECT_TRUE(state(read.run) == before) << message;
    return message;
  };
  auto& reader = read.run.reader;
  EXPECT_EQ(refused([&] { recall(reader, read.archive, question, {.steps = 0}); }),
            "infinipot: a recall has at least 1 step");
  EXPECT_EQ(refused([&] { recall(reader, read.archive, question, {.recent = 50}); }),
            "infinipot: the 25 newest entries that are to stay leave none of the 20 that the reader keeps to "
            "the archive");
  EXPECT_EQ(refused([&] { recall(reader, read.archive, {}); }),
            "infinipot: a recall needs a question of at least 1 token");
  EXPECT_EQ(refused([&] { recall(reader, read.archive, std::vector<Token>{50}); }),
            "infinipot: the catalyst's or instruction's token 50 is out of the vocabulary's range 0 .. 49");
  EXPECT_EQ(
      refused([&] { recall(reader, read.archive, std::vector<Token>(20, 1)); }),
      "infinipot: a pot of 40 entries, of which 20 stay, has no room for a catalyst of 20 tokens and one "
      "more");
  EXPECT_EQ(
      refused([&] { recall(reader, read.archive, question, {.steps = 2, .next = NextCatalyst::found}); }),
      "infinipot: a pot of 40 entries, of which 20 stay, has no room for a catalyst of 24 tokens and one "
      "more");
  VectorArchive other({3, 4, 2, 8});
  EXPECT_NE(refused([&] { recall(reader, other, question); }).find("the archive is of shape"),
            std::string::npos);
  EXPECT_EQ(refused([&] { recall(reader, ArchivePart<VectorArchive>{}, question); }),
            "infinipot: an archive to recall is at a null pointer");
  EXPECT_EQ(refused([&] { recall(reader, read.run.engine, read.run.pot, read.archive, question); }),
            "infinipot: this pot is the reader's own: leave out engine and pot");
  Pot<f32> heads = toy::make_pot(read.model, capacity, keep, Granularity::head);
  toy::Engine<Pot<f32>> engine(read.model, heads);
  EXPECT_NE(refused([&] { recall(reader, engine, heads, read.archive, question); }).find("granularity"),
            std::string::npos);
  read.archive.records[70].entry.token = 50;
  EXPECT_EQ(refused([&] { recall(reader, read.archive, question); }),
            "infinipot: the archived token 50 is out of the vocabulary's range 0 .. 49");
  read.archive.records[70].entry.token = 1;
  read.archive.records[75].entry.position = 12;
  EXPECT_EQ(refused([&] { recall(reader, read.archive, question); }),
            "infinipot: an archived entry is at position 12, but the reader goes on at 75");
}

TEST(ArchiveTo, SaysWhatDoesNotFit) {
  Read read;
  VectorArchive other({3, 4, 2, 8});
  EXPECT_NE(message_of([&] { read.run.reader.archive_to(other); }).find("the archive is of shape"),
            std::string::npos);
  Read longer(170);
  EXPECT_EQ(
      message_of([&] { read.run.reader.archive_to(longer.archive); }),
      "infinipot: the archive ends at position 170, but the reader, which holds entries, goes on at 150: "
      "it would archive what is there already");
}

TEST(ArchiveTo, HasEveryTokenOnceAndNoneThatFailed) {
  const toy::Model model;
  const auto text = toy::text(120, 5);
  for (const Granularity granularity : all_granularities)
    for (const KeyStorage storage : both_storages) {
      VectorArchive archive(model.shape);
      Reading<f32, SnapKv> run(model, SnapKv(6, 3), granularity, storage);
      run.reader.archive_to(archive);
      std::vector<Token> expected;
      for (std::size_t at = 0; at < text.size(); at += 10) {
        const auto piece = std::span(text).subspan(at, 10);
        run.engine.quirks.fault = toy::Fault{run.engine.calls(), 1, 0};
        EXPECT_THROW(run.reader.feed(piece), std::runtime_error);
        run.engine.quirks.fault.reset();
        EXPECT_EQ(archive.records.size(), expected.size());
        run.reader.feed(piece);
        expected.insert(expected.end(), piece.begin(), piece.end());
        run.reader.generate(2, pick, [&](Token token) {
          expected.push_back(token);
          return true;
        });
        if (at == 50) run.reader.distil();
        if (at == 50) continue;
        // What was just read is in the pot as it is in the archive.
        const VectorArchive::Record& newest = archive.records.back();
        std::vector<float> key(8);
        run.pot.read_projected(1, 1, run.pot.size() - 1, key.data());
        EXPECT_TRUE(std::ranges::equal(key, std::span(newest.rows).subspan(3 * 16, 8)));
        const float* const value = run.pot.values(1).row(1, run.pot.size() - 1);
        EXPECT_TRUE(std::equal(value, value + 8, newest.rows.begin() + 3 * 16 + 8));
      }
      ASSERT_EQ(archive.records.size(), expected.size());
      for (std::size_t i = 0; i < expected.size(); ++i) {
        EXPECT_EQ(archive.records[i].entry.position, i);
        EXPECT_EQ(archive.records[i].entry.token, expected[i]);
      }
    }
}

/// Reads with an archive and without: the archive has everything and changes nothing, and recall goes on.
template <class T>
void expect_archived(const trial::CcdSpec& spec, KeyStorage storage) {
  SCOPED_TRACE(trial::trace(spec));
  const toy::Model model;
  const auto text = toy::text(120, 6);
  const auto run = trial::make_run<T>(model, spec, storage, 16, toy::Shows::queries),
             alone = trial::make_run<T>(model, spec, storage, 16, toy::Shows::queries);
  MemoryArchive archive({.shape = model.shape, .block = 16, .limit = 1 << 18});
  run->reader.archive_to(archive);
  std::vector<Token> expected;
  std::vector<float> nuc(text.size() + 5);
  for (auto* const each : {run.get(), alone.get()}) {
    const auto note = [&] {
      const EntryTable& entries = each->pot.entries();
      for (std::size_t t = 0; t < entries.size(); ++t) nuc[entries.positions(0)[t]] = entries.nuc(0)[t];
    };
    each->reader.on_choice([&](const Choice&) { note(); });
    each->reader.feed(std::span(text).first(5), Retention::pinned);
    each->reader.feed(std::span(text).subspan(5));
    expected = text;
    each->reader.generate(5, pick, [&](Token token) {
      expected.push_back(token);
      return true;
    });
    note();
    each->reader.on_choice(nullptr);
  }
  EXPECT_EQ(trial::snapshot(*run), trial::snapshot(*alone));
  MemoryArchive::Block block;
  std::size_t at = 0;
  while (archive.read(at, block))
    for (const Entry& entry : block.entries()) {
      EXPECT_EQ(entry.position, at);
      EXPECT_EQ(entry.token, expected[at]);
      EXPECT_EQ(entry.nuc, nuc[at]);
      EXPECT_EQ(entry.pinned, at < 5);
      ++at;
    }
  EXPECT_EQ(at, expected.size());
  EXPECT_TRUE(run->reader.recall(archive, question, {.steps = 2, .draft = 3, .recent = 4}).done);
  EXPECT_EQ(run->pot.size(), keep);
  run->reader.feed(text);
  EXPECT_EQ(archive.end(), expected.size() + text.size());
}

TEST(ArchiveTo, WithEveryPolicyGranularityStorageAndElement) {
  for (const trial::Kind kind : trial::all_kinds)
    for (const Granularity granularity : all_granularities)
      for (const KeyStorage storage : both_storages) {
        const auto spec = trial::spec_of(kind, granularity);
        expect_archived<f32>(spec, storage);
        if (std::ranges::count(trial::ways_to_look, kind) == 0) continue;
        expect_archived<f16>(spec, storage);
        expect_archived<bf16>(spec, storage);
      }
}

TEST(ArchiveTo, ForksAndStoppedReadersArchiveNothing) {
  Read read;
  Pot<f32> copy = read.run.pot.fork();
  toy::Engine<Pot<f32>> engine(read.model, copy);
  auto fork = read.run.reader.fork(engine, copy);
  fork.feed(question);
  EXPECT_EQ(read.archive.records.size(), read.text.size());
  read.run.reader.feed(question);
  EXPECT_EQ(read.archive.records.size(), read.text.size() + question.size());
  read.run.reader.stop_archiving();
  read.run.reader.feed(question);
  EXPECT_EQ(read.archive.records.size(), read.text.size() + question.size());
}

TEST(Replay, IntoAReaderThatIsArchivedIsNotArchivedAgain) {
  Read read;
  VectorArchive more(read.model.shape);
  for (const bool rows : {true, false}) {
    VectorArchive source(read.model.shape, rows);
    source.records = read.archive.records;
    Blind<f32> fresh(read.model, StreamingLlm());
    fresh.reader.archive_to(more);
    replay(fresh.reader, source);
    EXPECT_TRUE(more.records.empty());
    fresh.reader.feed(question);
    EXPECT_EQ(more.records.size(), question.size());
    EXPECT_EQ(more.records.front().entry.position, read.text.size());
    more.records.clear();
  }
}

TEST(Projected, KeysComeBackAsTheyWere) {
  // Half a unit in the last place of a rotation's two products and their sum, there and back; and of T.
  const auto check = [](auto element, double relative) {
    using T = decltype(element);
    for (const double factor : {1.0, 1.4})
      for (const KeyStorage storage : both_storages) {
        Rope rope = plain_rope(6, 100, Pairing::interleaved);
        rope.attention_factor = factor;
        Pot<T> pot({.shape = {1, 2, 2, 8}, .capacity = 300, .key_storage = storage, .rope = rope});
        double norm = 0, worst = 0;
        const std::size_t d = pot.shape().head_dim;
        for (std::size_t entry = 0; entry < 300; entry += 23) {
          std::vector<float> key(d), value(d), back(d);
          for (std::size_t i = 0; i < d; ++i)
            key[i] = static_cast<float>(toy::hash(entry * d + i) % 1000) / 250 - 2;
          std::vector<float> scratch = key;
          pot.write_projected(0, 1, entry, scratch.data(), value.data());
          pot.read_projected(0, 1, entry, back.data());
          for (std::size_t i = 0; i < d; ++i) {
            norm = std::max(norm, std::abs(static_cast<double>(key[i])));
            worst = std::max(worst, std::abs(static_cast<double>(key[i]) - static_cast<double>(back[i])));
          }
        }
        EXPECT_LE(worst, relative * norm * 3);
      }
  };
  check(f32(), 0x1p-22);
  check(f16(), 0x1p-11);
  check(bf16(), 0x1p-8);
  check(int8(), 1.0 / 254);
  check(int4(), 1.0 / 15);
}

}  // namespace
