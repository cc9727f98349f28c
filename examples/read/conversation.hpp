// A conversation through one reader: turn after turn, measured.
#pragma once

#include <algorithm>
#include <concepts>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <ostream>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "answer_stream.hpp"
#include "archive_file.hpp"
#include "backend.hpp"
#include "gold.hpp"
#include "infinipot/infinipot.hpp"
#include "interrupt.hpp"
#include "nuc_trace.hpp"
#include "options.hpp"
#include "policies.hpp"
#include "progress.hpp"
#include "prompt.hpp"
#include "recalling.hpp"
#include "report.hpp"
#include "saved_pot.hpp"
#include "smollm2/sampler.hpp"
#include "text_model.hpp"
#include "texts.hpp"
#include "timeline.hpp"
#include "turn.hpp"
#include "whole_file.hpp"

namespace reading {

/// Cross-entropy of an answer, without a trace in the conversation.
template <class Memory, class Reader>
double forked_nll(Memory& memory, const Reader& reader, std::span<const Token> answer) {
  auto copy = memory.fork();
  auto fork = reader.fork(copy.engine(), copy.store());
  return answer_nll(fork, answer);
}

/// A pot, its reader and what is known of both. Does not move: its parts point to one another.
template <Backend B, infinipot::Policy P>
class Conversation {
 public:
  /// `texts` are those of the turns on the command line; calls of the engine have at most `batch` tokens. All
  /// but the policy must outlive the object.
  Conversation(B& backend, Options& options, const Texts& texts, P policy, AnswerStream& answers,
               std::size_t batch, const std::optional<RecallRoom>& recalls)
      : backend_(backend),
        options_(options),
        texts_(texts),
        answers_(answers),
        batch_(batch),
        room_(recalls),
        sampler_({.temperature = options.temperature, .top_p = options.top_p, .seed = options.seed}),
        memory_(backend.memory(options, batch, texts.any_answer() || !options.archive.empty())),
        reader_(
            memory_.engine(), memory_.store(), WithNuc<P>(std::move(policy), options.nuc),
            {.keep = options.keep, .sinks = options.sinks, .recent = options.recent, .chunk = options.chunk},
            executor_of(memory_)),
        timeline_(options.timeline) {
    for (const Turn& turn : options.turns) golds_.emplace_back(turn.needles, turn.answer);
    if (!options.report.empty()) report_.log.emplace(store().shape(), store().granularity());
    if (log() == nullptr && !options.nuc) return;
    reader_.on_choice([this](const infinipot::Choice& choice) {
      if (log() != nullptr) log()->choose(choice);
      trace_.note(choice.entries);
    });
  }
  Conversation(const Conversation&) = delete;
  Conversation& operator=(const Conversation&) = delete;

  /// Goes on from a pot that was saved. Throws UsageError.
  void resume(const SavedPot& saved) {
    if constexpr (SavableStore<Store>) {
      saved.restore(store(), reader_);
      place_ = saved.place();
      own_from_ = saved.own_from();
      show_texts();
    }
  }

  /// Opens the archive that the options name, writes to it, if it is for that, and recalls from it. `saved`
  /// says whether resume() was called. Throws UsageError.
  void open_archive(const std::string& fingerprint, bool saved) {
    const auto channels = [this] { return key_channels(); };
    ArchiveFile& archive =
        archive_.emplace(options_,
                         infinipot::ArchiveSettings{
                             .shape = store().shape(), .rope = rope_of(backend_), .fingerprint = fingerprint},
                         infinipot::WritableEntries<Store>, channels);
    options_.archive_type = archive.type();
    const std::uint64_t end = archive.file().end(), read = reader_.stats().tokens_read;
    if (saved && end > read)
      throw UsageError("--load: the pot had read " + std::to_string(read) +
                       " tokens when it was saved, but --archive has gone on to " + std::to_string(end));
    if (!saved && end > 0) begin_with(archive.file());
    if (archive.writes()) reader_.archive_to(archive.file());
  }

  /// Where the conversation stands.
  Place place() const { return place_; }

  /// The turns of the command line. A signal ends them with the answers that there are; before the first one
  /// begins, Interrupted is thrown.
  void run(std::vector<Prompt>& prompts) {
    try {
      for (std::size_t k = 0; k < prompts.size() && report_.interrupted.empty(); ++k) {
        if (k > 0) take_aim(texts_.aims[k]);
        run_turn(prompts[k], texts_.answers[k]);
      }
    } catch (const Interrupted& interrupted) {
      if (report_.turns.size() == 1)
        throw Interrupted(interrupted.what() +
                          std::string(archive_ && archive_->writes() ? "; --archive has what was read" : ""));
      report_.turns.pop_back();
      report_.interrupted =
          std::string(interrupted.what()) + " (question " + std::to_string(report_.turns.size() + 1) + ")";
    }
  }

  /// A further turn that asks this. An interrupt ends this turn alone, which then leaves no answer.
  void ask(const std::string& question) {
    options_.turns.push_back({.question = question});
    golds_.emplace_back(std::vector<std::string>());
    const Turn& turn = options_.turns.back();
    try {
      take_aim(aim_of(model(), options_, turn));
      Prompt prompt(model(), Opening::at(place_, model(), options_.pin), options_, turn, std::nullopt);
      run_turn(prompt, {});
    } catch (const Interrupted& interrupted) {
      report_.turns.pop_back();
      options_.turns.pop_back();
      golds_.pop_back();
      end_turn_early(interrupted.what());
    }
  }

  bool interrupted() const { return !report_.interrupted.empty(); }

  /// Ends the conversation for this reason.
  void interrupt(std::string why) { report_.interrupted = std::move(why); }

  /// Writes the pot, to go on from it. Throws UsageError.
  void save(const std::string& path, const std::string& fingerprint) {
    if constexpr (SavableStore<Store>)
      write_whole("--save", path, [&](std::ostream& out) {
        store().save(out, to_bytes({fingerprint, place_, own_from_, reader_.memory()}));
      });
  }

  /// What was measured; ends the conversation.
  Report take_report() {
    if (archive_) archive_->sync();
    report_.timeline = timeline_.take();
    if (log() != nullptr) log()->end(store().entries());
    report_.pot_capacity = store().capacity();
    report_.pot_bytes = memory_.bytes();
    report_.full_cache_bytes = backend_.bytes_per_token() * reader_.stats().tokens_read;
    report_.distillations = reader_.stats().distillations;
    report_.nan_scores = reader_.stats().nan_scores;
    report_.distill_seconds = reader_.stats().distill_seconds;
    report_.catalyst_seconds = reader_.stats().probe_seconds;
    report_.cap_seconds = reader_.stats().cap_seconds;
    report_.peak_rss_bytes = peak_rss_bytes();
    return std::move(report_);
  }

 private:
  /// Of an archive of codes; none where the engine does not measure them.
  infinipot::KeyChannels key_channels() {
    if constexpr (requires { backend_.key_channels(); })
      return backend_.key_channels();
    else
      return {};
  }

  using Memory = decltype(std::declval<B&>().memory(std::declval<const Options&>(), std::size_t{}, false));
  using Store = StoreOf<B>;
  using Engine = std::remove_reference_t<decltype(std::declval<Memory&>().engine())>;
  using Executor = decltype(executor_of(std::declval<Memory&>()));

  const TextModel& model() const { return backend_.text(); }
  Store& store() { return memory_.store(); }
  /// For std::optional, which constructs in place what neither moves nor copies.
  struct Other {
    Other(B& backend, const Options& options, std::size_t batch)
        : memory(backend.memory(options, batch, false)) {}
    Memory memory;
  };

  PotLog* log() { return report_.log ? &*report_.log : nullptr; }

  /// The page knows of what was read before this run only what the pot still holds.
  void show_texts() {
    if (log() == nullptr) return;
    for (std::size_t lane = 0; lane < store().entries().lanes(); ++lane)
      for (std::size_t i = 0; i < store().entries().size(); ++i)
        log()->read(store().entries().positions(lane)[i],
                    pieces_of(model(), store().entries().tokens(lane).subspan(i, 1)));
  }

  /// An archive that goes on: its beginning is the reader's too.
  void begin_with(infinipot::FileArchive& archive) {
    if constexpr (infinipot::AssignableStore<Store>) {
      const ArchiveBeginning beginning = beginning_of(archive, options_.sinks);
      if (beginning.end == 0) return;
      ArchiveView view(archive, beginning.end);
      auto other = memory_.fork();
      infinipot::recall(reader_, other.engine(), other.store(), view, std::vector<Token>{0}, {.steps = 1},
                        RecallPolicy{options_});
      place_ = beginning.pinned ? Place::document : Place::answer;
      own_from_ = reader_.stats().tokens_read;
      show_texts();
    }
  }

  void take_aim(Aim aim) {
    if constexpr (std::same_as<P, infinipot::Infinipot>) {
      for (std::vector<Token>& catalyst : aim.catalysts) shorten(catalyst, longest_catalyst(texts_.aims));
      reader_.set_policy(WithNuc<P>(infinipot_policy(options_, {std::move(aim)}, 0), options_.nuc));
    }
  }

  void run_turn(Prompt& prompt, std::span<const Token> expected) {
    const std::size_t k = report_.turns.size();
    TurnReport& turn = report_.turns.emplace_back();
    prefill(
        reader_, prompt, place_, model(), {std::span(golds_).subspan(k), timeline_, log()},
        [&](std::span<const Token> question, Progress& progress) {
          if (room_) recall_for(prompt.turn(), question, progress, turn);
          measure_gold(golds_[k], turn);
        },
        [&] {
          if (place_ == Place::document) own_from_ = reader_.stats().tokens_read;
          if (archive_) archive_->flush_now_and_then();
        },
        turn);
    if (!prompt.has_question()) measure_gold(golds_[k], turn);
    measure_pot(golds_[k], turn);
    if (prompt.has_question()) answer(expected, turn);
    if (!archive_) return;
    archive_->flush();
    turn.archive = archive_->report();
    if (const auto warning = archive_->warning()) std::fprintf(stderr, "%s\n", warning->c_str());
  }

  void answer(std::span<const Token> expected, TurnReport& turn) {
    if (!expected.empty()) turn.answer_nll = forked_nll(memory_, reader_, expected);
    if (generate(reader_, model(), sampler_, options_.generate, log(), answers_, turn)) return;
    turn.interrupted = options_.chat;
    end_turn_early("interrupted after " + std::to_string(turn.answer_tokens) + " tokens of the answer");
  }

  /// Brings back what the question, which is not read yet, needs. Throws Interrupted.
  void recall_for(const Turn& asked, std::span<const Token> question, Progress& progress, TurnReport& turn) {
    if constexpr (infinipot::AssignableStore<Store>) {
      std::vector<Token> catalyst = recall_catalyst(model(), asked);
      shorten(catalyst, room_.value().question);
      const std::uint64_t own = reader_.stats().tokens_read - own_from_;
      infinipot::RecallSettings settings{
          .steps = *options_.recall,
          .draft = room_->draft,
          .ask = {question.begin(), question.end()},
          .ends_draft = [this](Token token) { return model().is_end(token); },
          .read_anew = options_.read_anew == "yes",
          .recent = static_cast<std::size_t>(std::min<std::uint64_t>(own, most_recent(options_))),
          .progress =
              [&](const infinipot::RecallProgress& now) {
                progress.say(recall_progress(now, *options_.recall));
                return interrupt_signal() == 0;
              }};
      const infinipot::Recalled recalled =
          recall(catalyst, settings, {options_, question_terms(model(), asked)});
      check_interrupt();
      turn.recall =
          RecallReport{recalled.seconds, recalled.steps, recalled.distillations, recalled.positions};
      show_texts();
      if (log() != nullptr) log()->recall(store().entries(), recalled.positions);
    }
  }

  /// In the pot that is for recalls alone, or in one that is there for this one.
  infinipot::Recalled recall(const std::vector<Token>& catalyst, const infinipot::RecallSettings& settings,
                             const RecallPolicy& policy) {
    ArchiveView archive(archive_->file());
    if (options_.recall_pot == 0) {
      auto other = memory_.fork();
      return infinipot::recall(reader_, other.engine(), other.store(), archive, catalyst, settings, policy);
    }
    if (!recall_memory_) {
      Options other = options_;
      other.pot = options_.recall_pot;
      recall_memory_.emplace(backend_, other, batch_);
    }
    Memory& memory = recall_memory_->memory;
    return infinipot::recall(reader_, memory.engine(), memory.store(), archive, catalyst, settings, policy);
  }

  /// What is in the pot when a question is about to be fed, or a document without one ends.
  void measure_gold(const Gold& gold, TurnReport& turn) {
    turn.gold_kept = gold.kept(store().entries());
    turn.answer_kept = gold.answer_kept(store().entries());
  }

  /// What is in the pot when an answer begins, or a document ends.
  void measure_pot(const Gold& gold, TurnReport& turn) {
    turn.hit_rate = gold.kept(store().entries());
    const std::vector<std::uint64_t> positions = gold.positions();
    if (gold.found()) turn.needle_position = positions.front();
    turn.needle_tokens = positions.size();
    report_.pot_entries = store().entries().size();
    if (options_.report_kept) {
      const auto kept = store().entries().positions(0);
      report_.kept.emplace(kept.begin(), kept.end());
    }
    if (!options_.nuc) return;
    trace_.note(store().entries());
    report_.nuc = trace_.nuc();
  }

  /// A chat goes on after Ctrl-C.
  void end_turn_early(const std::string& why) {
    if (options_.chat && interrupt_signal() == SIGINT) {
      std::fprintf(stderr, "%s\n", why.c_str());
      forget_interrupt();
    } else {
      report_.interrupted = why;
    }
  }

  B& backend_;
  Options& options_;
  const Texts& texts_;
  AnswerStream& answers_;
  std::size_t batch_;
  std::optional<RecallRoom> room_;  // if it recalls
  smollm2::Sampler sampler_;
  std::optional<ArchiveFile> archive_;  // outlives its reader
  mutable Memory memory_;               // which lends its store to nobody but a mutable one
  infinipot::Ccd<Engine, Store, WithNuc<P>, Executor> reader_;
  Timeline timeline_;
  std::vector<Gold> golds_;  // of each turn
  NucTrace trace_;
  Report report_;
  std::optional<Other> recall_memory_;
  Place place_ = Place::start;
  std::uint64_t own_from_ = 0;  // what was read from here on is no document
};

}  // namespace reading
