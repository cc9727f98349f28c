// Conversations of many policies, to be read one after the other or in one batch, and what came of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "batch.hpp"
#include "cache_pot.hpp"
#include "engine.hpp"
#include "infinipot/infinipot.hpp"
#include "model.hpp"
#include "read/nuc_trace.hpp"
#include "scheduler.hpp"

namespace llama_cpp::test {

using infinipot::Token;
using Tokens = std::vector<Token>;

/// What one conversation is to do, by a policy that its number says.
struct Script {
  std::size_t number = 0;
  Tokens text, question;
  std::size_t most_tokens = 0;
  infinipot::CcdSettings settings;
};

/// What it did.
struct Heard {
  std::vector<std::vector<infinipot::Index>> kept;  // of each distillation, all lanes
  std::vector<std::vector<float>> attention, nuc;   // what it chose by: (heads, entries), (lanes, entries)
  std::vector<std::size_t> said;                    // tokens of the answer before it
  std::vector<std::uint64_t> positions;             // in the end, all lanes
  std::vector<float> last_nuc;                      // the same
  std::vector<float> logits;
  Tokens answer;
  std::vector<std::vector<float>> answer_logits;  // that each token of the answer was chosen by
};

inline Token most_probable(std::span<const float> logits) {
  return static_cast<Token>(std::ranges::max_element(logits) - logits.begin());
}

inline Token choose(std::span<const float> logits, Heard& heard) {
  heard.answer_logits.emplace_back(logits.begin(), logits.end());
  return most_probable(logits);
}

template <class Reader>
void hear_distillations(Reader& reader, const CachePot& pot, Heard& heard) {
  reader.on_choice([&heard, capacity = pot.capacity()](const infinipot::Choice& choice) {
    auto& kept = heard.kept.emplace_back();
    auto &attention = heard.attention.emplace_back(), &nuc = heard.nuc.emplace_back();
    for (std::size_t lane = 0; lane < choice.kept.lanes(); ++lane) {
      kept.insert(kept.end(), choice.kept.lane(lane).begin(), choice.kept.lane(lane).end());
      nuc.insert(nuc.end(), choice.entries.nuc(lane).begin(), choice.entries.nuc(lane).end());
    }
    for (std::size_t at = 0; at < choice.attention.size(); at += capacity) {
      const auto head = choice.attention.subspan(at, choice.entries.size());
      attention.insert(attention.end(), head.begin(), head.end());
    }
    heard.said.push_back(heard.answer.size());
  });
}

template <class Reader>
void hear_end(const Reader& reader, const CachePot& pot, Heard& heard) {
  const infinipot::EntryTable& entries = pot.entries();
  for (std::size_t lane = 0; lane < entries.lanes(); ++lane) {
    heard.positions.insert(heard.positions.end(), entries.positions(lane).begin(),
                           entries.positions(lane).end());
    heard.last_nuc.insert(heard.last_nuc.end(), entries.nuc(lane).begin(), entries.nuc(lane).end());
  }
  heard.logits.assign(reader.logits().begin(), reader.logits().end());
}

/// Calls run(policy). Seven policies; of contexts with flash attention, eight: expected_attention wants
/// queries.
template <class Run>
auto with_policy(const Script& script, const infinipot::Rope& rope, bool flash_attention, const Run& run) {
  const auto go = [&](auto policy) {
    return run(reading::WithNuc<decltype(policy)>(std::move(policy), true));
  };
  switch (script.number % (flash_attention ? 8 : 7)) {
    case 0:
      return go(infinipot::Infinipot({.catalysts = {script.question}, .alpha = 0.25, .kernel = 3}));
    case 1:
      return go(infinipot::SnapKv(7, 3));
    case 2:
      return go(infinipot::StreamingLlm());
    case 3:
      return go(infinipot::Reread({.instruction = script.question, .block = 9, .layers = 1}));
    case 4:
      return go(infinipot::H2o());
    case 5:
      return go(infinipot::KeyDiff());
    case 6:
      return go(infinipot::Infinipot({.catalysts = {script.question, {script.question[0]}}, .alpha = 0.5}));
    default:
      return go(infinipot::ExpectedAttention({.rope = rope, .future = 64, .sinks = script.settings.sinks}));
  }
}

/// A context of some sequences, and what they share.
struct Shared {
  Shared(llama_model& model, const ContextSettings& settings) : context(make_context(model, tap, settings)) {}

  GraphTap tap;
  llama_context_ptr context;
};

/// In a context of its own, by feed() and generate().
inline Heard alone(llama_model& model, ContextSettings settings, const CachePotSettings& pot_settings,
                   const Script& script) {
  settings.sequences = 1;
  Shared shared(model, settings);
  CachePot pot(shared.tap, *shared.context, 0, pot_settings);
  Engine engine(shared.tap, pot);
  return with_policy(script, pot.rope(), settings.flash_attention, [&](auto policy) {
    Heard heard;
    infinipot::Ccd reader(engine, pot, std::move(policy), script.settings);
    hear_distillations(reader, pot, heard);
    reader.feed(script.text);
    reader.feed(script.question);
    reader.generate(
        script.most_tokens, [&](std::span<const float> logits) { return choose(logits, heard); },
        [&](Token token) {
          heard.answer.push_back(token);
          return true;
        });
    hear_end(reader, pot, heard);
    return heard;
  });
}

/// One of several in a context. `before_token` is called with each token of the answer, and may throw.
class TestTalk {
 public:
  using BeforeToken = std::function<void(std::size_t said)>;

  TestTalk(Shared& shared, Batch& batch, llama_seq_id sequence, const CachePotSettings& settings,
           const Script& script, bool flash_attention, BeforeToken before_token = nullptr)
      : pot(shared.tap, *shared.context, sequence, settings) {
    with_policy(script, pot.rope(), flash_attention, [&]<class P>(P policy) {
      auto talk = std::make_unique<Talk<P>>(
          batch, pot, std::move(policy), script.settings,
          std::vector<TalkTurn<P>>{
              {.text = {{script.text}, {script.question}}, .most_tokens = script.most_tokens}},
          [this](std::span<const float> logits) { return choose(logits, heard); },
          [this, before_token](Token token) {
            if (before_token) before_token(heard.answer.size());
            heard.answer.push_back(token);
            return true;
          });
      hear_distillations(talk->reader(), pot, heard);
      end_ = [this, &reader = talk->reader()] { hear_end(reader, pot, heard); };
      conversation = std::move(talk);
      return 0;
    });
  }
  TestTalk(const TestTalk&) = delete;
  TestTalk& operator=(const TestTalk&) = delete;

  void end() { end_(); }

  CachePot pot;
  Heard heard;
  std::unique_ptr<Conversation> conversation;

 private:
  std::function<void()> end_;
};

}  // namespace llama_cpp::test
