#include "parallel.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "answer_stream.hpp"
#include "batch.hpp"
#include "conversations.hpp"
#include "document.hpp"
#include "interrupt.hpp"
#include "outputs.hpp"
#include "policies.hpp"
#include "prompt.hpp"
#include "report.hpp"
#include "run_program.hpp"
#include "scheduler.hpp"
#include "smollm2/sampler.hpp"
#include "texts.hpp"
#include "turn.hpp"
#include "write_all.hpp"

namespace llama_cpp {
namespace {

using infinipot::Token;
using reading::Options;
using reading::Prompt;
using reading::TurnReport;
using Clock = std::chrono::steady_clock;

/// A context and what its conversations share.
struct Room {
  Room(const Common& common, const ContextSettings& settings)
      : context(make_context(common.model, tap, settings)), batch(tap, *context) {}

  GraphTap tap;
  llama_context_ptr context;
  Batch batch;
};

/// Turn by turn, all that is to be read; only the first header is pinned. What is known of the turns is put
/// into `report`.
std::vector<std::vector<Piece>> texts_of_turns(const reading::TextModel& model, const Options& options,
                                               reading::Report& report) {
  std::vector<std::vector<Piece>> texts;
  auto place = reading::Place::start;
  for (const reading::Turn& turn : options.turns) {
    auto document = turn.document.empty() ? std::nullopt : std::optional<reading::Document>(turn.document);
    Prompt prompt(model, reading::Opening::at(place, model, options.pin), options, turn, std::move(document));
    std::vector<Piece>& text = texts.emplace_back();
    TurnReport& of = report.turns.emplace_back();
    prompt.feed_to([&](std::span<const Token> tokens, reading::Part part) {
      const bool pinned = part == reading::Part::header && place == reading::Place::start;
      text.push_back({{tokens.begin(), tokens.end()},
                      pinned ? infinipot::Retention::pinned : infinipot::Retention::evictable});
      of.prompt_tokens += tokens.size();
    });
    of.document_tokens = prompt.document_tokens();
    if (of.document_tokens > 0) of.document_position = prompt.tokens_before_document();
    place = prompt.has_question() ? reading::Place::answer : reading::Place::document;
  }
  return texts;
}

/// One conversation in a sequence of its own, which is empty again afterwards.
class Speaker {
 public:
  Speaker(Room& room, const Common& common, llama_seq_id sequence, const Options& options, std::string name)
      : name_(std::move(name)),
        model_(common.text),
        options_(options),
        sampler_({.temperature = options.temperature, .top_p = options.top_p, .seed = options.seed}),
        pot_(room.tap, *room.context, sequence, common.pot) {
    std::vector<std::vector<Piece>> texts = texts_of_turns(model_, options_, report_);
    const reading::Texts own = reading::texts_of(model_, options_);
    reading::with_policy(
        options_, own.aims,
        [&](auto policy) { begin(room.batch, std::move(policy), std::move(texts), own.aims); }, common.rope);
  }
  Speaker(const Speaker&) = delete;
  Speaker& operator=(const Speaker&) = delete;
  /// Removing a whole sequence never fails.
  ~Speaker() { llama_memory_seq_rm(llama_get_memory(&pot_.context()), pot_.sequence(), -1, -1); }

  Conversation& conversation() noexcept { return *talk_; }
  llama_seq_id sequence() const noexcept { return pot_.sequence(); }
  const std::string& name() const noexcept { return name_; }
  std::uint64_t tokens() const { return stats_().tokens_read; }

  /// What was answered, and why it is no more, if that is so.
  reading::ConversationReport take_report(std::string error) {
    const infinipot::CcdStats& stats = stats_();
    report_.turns.resize(answered_);
    report_.pot_capacity = pot_.capacity();
    report_.distillations = stats.distillations;
    report_.nan_scores = stats.nan_scores;
    report_.pot_bytes = pot_.cache().cells() * pot_.cache().bytes_per_token();
    report_.full_cache_bytes = stats.tokens_read * pot_.cache().bytes_per_token();
    report_.distill_seconds = stats.distill_seconds;
    report_.catalyst_seconds = stats.probe_seconds;
    report_.cap_seconds = stats.cap_seconds;
    report_.peak_rss_bytes = reading::peak_rss_bytes();
    return {std::move(name_), std::move(error), options_, std::move(report_)};
  }

 private:
  template <infinipot::Policy P>
  void begin(Batch& batch, P policy, std::vector<std::vector<Piece>> texts, const reading::Aims& aims) {
    std::size_t header = 0;
    for (const Piece& piece : texts.front())
      if (piece.retention == infinipot::Retention::pinned) header += piece.tokens.size();
    reading::check_fits(policy, options_, header);
    std::vector<TalkTurn<P>> turns;
    for (std::size_t k = 0; k < texts.size(); ++k) {
      auto& turn = turns.emplace_back();
      turn.text = std::move(texts[k]);
      if (!options_.turns[k].question.empty()) turn.most_tokens = options_.generate;
      if constexpr (std::same_as<P, infinipot::Infinipot>)
        if (k > 0) turn.policy = reading::infinipot_policy(options_, aims, k);
    }
    auto talk = std::make_unique<Talk<P>>(
        batch, pot_, std::move(policy),
        infinipot::CcdSettings{.keep = options_.keep,
                               .sinks = options_.sinks,
                               .recent = options_.recent,
                               .chunk = options_.chunk},
        std::move(turns), [this](std::span<const float> logits) { return choose(logits); },
        [this](Token token) { return say(token); });
    talk->on_turn_end([this](std::size_t) { end_turn(); });
    stats_ = [&reader = talk->reader()]() -> const infinipot::CcdStats& { return reader.stats(); };
    talk_ = std::move(talk);
    start_turn();
  }

  TurnReport& turn() { return report_.turns[answered_]; }

  void start_turn() {
    began_ = Clock::now();
    if (answered_ < report_.turns.size() && turn().document_position) *turn().document_position += tokens();
  }

  void end_prompt() {
    turn().prefill_seconds = reading::seconds_since(began_);
    report_.pot_entries = pot_.entries().size();
  }

  Token choose(std::span<const float> logits) {
    const bool first = turn().answer_tokens == 0;
    if (first) end_prompt();
    const Token token = sampler_(logits);
    if (first) turn().ttft_seconds = reading::seconds_since(began_);
    return token;
  }

  bool say(Token token) {
    if (model_.is_end(token)) return false;
    answer_.push(model_.decode(token));
    ++turn().answer_tokens;
    return true;
  }

  void end_turn() {
    const std::string& question = options_.turns[answered_].question;
    if (question.empty() || options_.generate == 0) end_prompt();
    turn().answer_text = answer_.end();
    if (!question.empty() && options_.json != "-")
      reading::write_all(STDOUT_FILENO, "--- " + name_ + ": " + question + "\n" + turn().answer_text + "\n");
    ++answered_;
    start_turn();
  }

  std::string name_;
  const reading::TextModel& model_;
  Options options_;  // with its own turns
  smollm2::Sampler sampler_;
  reading::AnswerStream answer_{-1};
  reading::Report report_;
  std::size_t answered_ = 0;
  Clock::time_point began_;  // of the turn
  CachePot pot_;
  std::function<const infinipot::CcdStats&()> stats_;
  std::unique_ptr<Conversation> talk_;
};

std::string text_of(std::exception_ptr error) {
  if (error == nullptr) return {};
  try {
    std::rethrow_exception(std::move(error));
  } catch (const std::exception& thrown) {
    return reading::without_library(thrown.what());
  }
}

/// Runs one after another in each sequence.
class Parallel {
 public:
  Parallel(const Common& common, const ContextSettings& settings, const reading::Program& program,
           const Options& options, const std::vector<reading::NamedConversation>& conversations)
      : common_(common),
        program_(program),
        options_(options),
        conversations_(conversations),
        room_(common, settings),
        scheduler_(room_.batch, [this](Conversation& conversation, std::exception_ptr error) {
          ended_.emplace_back(conversation.pot().sequence(), std::move(error));
        }) {
    speakers_.resize(settings.sequences);
    report_.conversations.resize(conversations.size());
    numbers_.resize(settings.sequences);
  }

  /// Until all have ended, or a signal comes.
  void run() {
    const auto start = Clock::now();
    do {
      for (auto& [sequence, error] : std::exchange(ended_, {})) end(sequence, text_of(std::move(error)));
      for (std::size_t i = 0; i < speakers_.size(); ++i) seat_next(i);
    } while (reading::interrupt_signal() == 0 && (scheduler_.step() || !ended_.empty()));
    for (std::size_t i = 0; i < speakers_.size(); ++i)
      if (speakers_[i] != nullptr) interrupt(i);
    while (next_ < conversations_.size()) give_up(next_++, "interrupted before it began");
    report_.seconds = reading::seconds_since(start);
    report_.batches = room_.batch.decodes();
  }

  const reading::ConversationsReport& report() const noexcept { return report_; }
  bool any_failed() const noexcept { return failed_; }

 private:
  Options options_of(std::size_t number) const {
    Options options = options_;
    options.turns = conversations_[number].turns;
    return options;
  }

  /// Gives a free sequence the next conversation that can begin.
  void seat_next(std::size_t i) {
    while (speakers_[i] == nullptr && next_ < conversations_.size() && reading::interrupt_signal() == 0) {
      const std::size_t number = numbers_[i] = next_++;
      try {
        speakers_[i] = std::make_unique<Speaker>(room_, common_, static_cast<llama_seq_id>(i),
                                                 options_of(number), conversations_[number].name);
        scheduler_.add(speakers_[i]->conversation());
      } catch (const std::exception& error) {
        give_up(number, reading::without_library(error.what()));
      }
    }
  }

  void end(llama_seq_id sequence, const std::string& error) {
    const auto i = static_cast<std::size_t>(sequence);
    if (!error.empty()) say_error(speakers_[i]->name(), error);
    report_.tokens += speakers_[i]->tokens();
    report_.conversations[numbers_[i]] = speakers_[i]->take_report(error);
    speakers_[i].reset();
  }

  void interrupt(std::size_t i) {
    scheduler_.cancel(speakers_[i]->conversation());
    const auto ended = std::ranges::find(ended_, static_cast<llama_seq_id>(i), &Ended::first);
    end(static_cast<llama_seq_id>(i), ended != ended_.end() ? text_of(ended->second) : "interrupted");
  }

  void give_up(std::size_t number, const std::string& error) {
    say_error(conversations_[number].name, error);
    report_.conversations[number] = {conversations_[number].name, error, options_of(number), {}};
  }

  void say_error(const std::string& name, const std::string& error) {
    reading::fail(program_, "conversation " + name + ": " + error);
    failed_ = true;
  }

  using Ended = std::pair<llama_seq_id, std::exception_ptr>;

  const Common& common_;
  const reading::Program& program_;
  const Options& options_;
  const std::vector<reading::NamedConversation>& conversations_;
  Room room_;
  std::vector<std::unique_ptr<Speaker>> speakers_;  // (sequences)
  std::vector<std::size_t> numbers_;                // (sequences) of their conversations
  std::vector<Ended> ended_;                        // since the last batch
  Scheduler scheduler_;                             // before whom they end
  reading::ConversationsReport report_;
  std::size_t next_ = 0;
  bool failed_ = false;
};

/// All turns of all conversations, to find out early what cannot be read, or must not be written.
Options with_all_turns(Options options, const std::vector<reading::NamedConversation>& conversations) {
  for (const reading::NamedConversation& one : conversations)
    options.turns.insert(options.turns.end(), one.turns.begin(), one.turns.end());
  return options;
}

/// The longest pass of any conversation, in tokens.
std::size_t longest_pass(const Common& common, const Options& all) {
  const reading::Texts texts = reading::texts_of(common.text, all);
  const std::size_t catalyst = reading::longest_catalyst(texts.aims);
  const std::size_t probe = reading::with_policy(
      all, texts.aims, [](const auto& policy) { return infinipot::longest_probe(policy); }, common.rope);
  return std::max({std::min(all.chunk, all.pot), catalyst, probe});
}

}  // namespace

int run_conversations(const Common& common, const reading::Program& program, const Options& options) {
  const auto conversations = reading::conversations_in(options.conversations);
  const Options all = with_all_turns(options, conversations);
  for (const reading::Turn& turn : all.turns)
    if (!turn.document.empty()) reading::Document(turn.document);
  reading::check_outputs(all);
  ContextSettings settings = common.context;
  settings.sequences = std::min(options.parallel, conversations.size());
  settings.micro_batch = longest_pass(common, all);
  settings.batch = settings.micro_batch * settings.sequences;
  const reading::InterruptGuard interrupts;
  Parallel parallel(common, settings, program, options, conversations);
  parallel.run();
  const reading::ConversationsReport& report = parallel.report();
  std::fprintf(
      stderr, "%zu conversations, %llu tokens in %.1f s, %.1f per forward pass\n", conversations.size(),
      static_cast<unsigned long long>(report.tokens), report.seconds,
      static_cast<double>(report.tokens) / static_cast<double>(std::max<std::uint64_t>(report.batches, 1)));
  if (!options.json.empty()) write_json(options.json, report, program);
  return reading::interrupt_signal() != 0 ? reading::interrupted_status() : parallel.any_failed() ? 2 : 0;
}

}  // namespace llama_cpp
