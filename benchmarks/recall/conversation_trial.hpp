// A conversation: documents and questions in turn, all through one pot, with a recall before each answer or
// without.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "job.hpp"
#include "lab.hpp"
#include "reading_trial.hpp"
#include "smollm2/sampler.hpp"
#include "turn.hpp"

namespace recall_trials {

/// A turn in tokens. The header of all but the first one ends the answer before.
struct TurnTokens {
  std::vector<Token> header, document, question;
};

class ConversationTrial {
 public:
  ConversationTrial(Lab& lab, const Job& job)
      : lab_(lab), job_(job), options_(lab.options(job, job.reading == "reread" ? "reread" : "infinipot")) {
    for (const Question& question : job.questions) {
      asked_.push_back(lab.asked(question));
      options_.turns.push_back({.document = question.document,
                                .question = question.question,
                                .answer_prefix = question.answer_prefix});
    }
    read_turns();
  }

  json run() {
    result_["tokens"] = tokens();
    if (job_.reading == "full") {
      const std::size_t most =
          tokens() + asked_.size() * (job_.generate + 1) + reading::longest(answers()) + 2;
      converse(infinipot::StreamingLlm(), most, nullptr);
    } else if (job_.reading == "known") {
      converse(infinipot::Infinipot(known(0)), job_.pot, nullptr);
    } else if (job_.reading == "reread") {
      converse(lab_.reread(options_), job_.pot, nullptr);
    } else if (job_.reading == "streaming_llm") {
      if (job_.variants.empty()) converse(infinipot::StreamingLlm(), job_.pot, nullptr);
      for (const Variant& variant : job_.variants)
        converse(infinipot::StreamingLlm(), job_.pot, variant.name.empty() ? nullptr : &variant);
    } else {
      throw std::invalid_argument("reading " + job_.reading +
                                  " is not one of full, known, streaming_llm, reread");
    }
    result_["answers"] = answers_;
    return result_;
  }

 private:
  void read_turns() {
    reading::Options open = options_;
    std::erase_if(open.turns, [](const reading::Turn& turn) { return turn.document.empty(); });
    std::vector<reading::Prompt> prompts =
        reading::prompts_of(lab_.text(), options_, reading::open_documents(open));
    for (reading::Prompt& prompt : prompts) {
      TurnTokens& turn = turns_.emplace_back();
      prompt.feed_to([&](std::span<const Token> piece, reading::Part part) {
        std::vector<Token>& text = part == reading::Part::header     ? turn.header
                                   : part == reading::Part::document ? turn.document
                                                                     : turn.question;
        text.insert(text.end(), piece.begin(), piece.end());
      });
    }
  }

  std::size_t tokens() const {
    std::size_t sum = 0;
    for (const TurnTokens& turn : turns_)
      sum += turn.header.size() + turn.document.size() + turn.question.size();
    return sum;
  }

  reading::TokenTexts answers() const {
    reading::TokenTexts all;
    for (const Asked& asked : asked_) all.push_back(asked.answer);
    return all;
  }

  /// Infinipot with the question of a turn, and room for those of all.
  infinipot::InfinipotSettings known(std::size_t turn) const {
    infinipot::InfinipotSettings settings = infinipot::recommended_settings(asked_[turn].question, job_.keep);
    for (const Asked& asked : asked_)
      settings.longest_catalyst = std::max(settings.longest_catalyst, asked.question.size());
    return settings;
  }

  template <infinipot::Policy P>
  void converse(P policy, std::size_t capacity, const Variant* variant) {
    Seat seat(lab_, capacity, job_.keep);
    infinipot::Ccd reader(seat.engine, seat.pot, std::move(policy), ccd_settings(options_), lab_.executor());
    std::optional<MemoryArchive> archive;
    if (variant != nullptr) {
      const std::size_t most = tokens() + turns_.size() * (job_.generate + 1);
      archive.emplace(make_archive(lab_, variant->type, most));
      reader.archive_to(*archive);
    }
    result_["pot_bytes"] = seat.pot.bytes();
    for (std::size_t k = 0; k < turns_.size(); ++k) {
      json answer = {{"question", job_.questions[k].name}, {"variant", variant ? variant->name : ""}};
      if constexpr (std::same_as<P, infinipot::Infinipot>)
        if (k > 0) reader.set_policy(infinipot::Infinipot(known(k)));
      read(reader, k, answer);
      if (archive) recall(reader, *archive, *variant, k, answer);
      reader.feed(turns_[k].question);
      answer["nll"] = nll(seat, reader, k);
      answer["text"] = generate(reader);
      answers_.push_back(answer);
    }
  }

  template <class Reader>
  void read(Reader& reader, std::size_t k, json& answer) const {
    using infinipot::Retention;
    const auto start = std::chrono::steady_clock::now();
    reader.feed(turns_[k].header, k == 0 ? Retention::pinned : Retention::evictable);
    reader.feed(turns_[k].document);
    answer["read_seconds"] = reading::seconds_since(start);
  }

  template <class Reader>
  void recall(Reader& reader, MemoryArchive& archive, const Variant& variant, std::size_t k, json& answer) {
    const std::vector<Token>& catalyst = variant.prefix ? asked_[k].question : asked_[k].plain;
    const auto start = std::chrono::steady_clock::now();
    const infinipot::Recalled recalled = infinipot::recall(reader, archive, catalyst, variant.recall);
    answer["seconds"] = reading::seconds_since(start);
    answer["distillations"] = recalled.distillations;
    answer["bytes"] = archive.stats().bytes;
  }

  /// Of the expected answer, without a trace.
  template <class Reader>
  double nll(const Seat& seat, const Reader& reader, std::size_t k) const {
    Seat copy = seat.fork();
    auto fork = reader.fork(copy.engine, copy.pot);
    return reading::answer_nll(fork, asked_[k].answer);
  }

  template <class Reader>
  std::string generate(Reader& reader) const {
    smollm2::Sampler sampler({});
    std::string text;
    reader.generate(job_.generate, sampler, [&](Token token) {
      if (lab_.text().is_end(token)) return false;
      text += lab_.text().decode(token);
      return true;
    });
    return text;
  }

  Lab& lab_;
  const Job& job_;
  reading::Options options_;
  std::vector<Asked> asked_;
  std::vector<TurnTokens> turns_;
  json result_ = json::object(), answers_ = json::array();
};

}  // namespace recall_trials
