// One text, read once by one policy; then every question, from the pot and from the archive.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "copy_archive.hpp"
#include "gold.hpp"
#include "infinipot/infinipot.hpp"
#include "job.hpp"
#include "lab.hpp"
#include "landmarks.hpp"
#include "smollm2/sampler.hpp"
#include "turn.hpp"

namespace recall_trials {

using infinipot::FileArchive;
using infinipot::MemoryArchive;

/// Header and document of a text.
struct Read {
  std::vector<Token> header, document;

  std::size_t tokens() const { return header.size() + document.size(); }
};

inline Read read_document(const Lab& lab, const Job& job) {
  reading::Options options = lab.options(job);
  options.turns = {{.document = job.document, .question = "?"}};
  std::vector<reading::Prompt> prompts =
      reading::prompts_of(lab.text(), options, reading::open_documents(options));
  Read read;
  prompts.front().feed_to([&](std::span<const Token> piece, reading::Part part) {
    if (part == reading::Part::question) return;
    std::vector<Token>& text = part == reading::Part::header ? read.header : read.document;
    text.insert(text.end(), piece.begin(), piece.end());
  });
  return read;
}

inline std::uint64_t bytes_per_token(ArchiveType type, const infinipot::Shape& shape) {
  constexpr std::size_t record = 32;  // generous: position, token, NuC, pinned
  const std::uint64_t channels = 2 * shape.heads() * shape.head_dim;
  switch (type) {
    case ArchiveType::float32:
      return record + 4 * channels;
    case ArchiveType::float16:
      return record + 2 * channels;
    case ArchiveType::codes8:
      return record + 2 * channels;
    case ArchiveType::codes4:
      return record + channels;
    case ArchiveType::tokens:
      break;
  }
  return record;
}

/// An archive in memory that has room for `tokens`.
inline MemoryArchive make_archive(Lab& lab, ArchiveType type, std::size_t tokens) {
  const infinipot::Shape shape = lab.shape();
  infinipot::ArchiveSettings settings;
  settings.shape = shape;
  settings.rope = lab.weights().config().rope(1);
  settings.type = type;
  settings.limit = (tokens + 2 * settings.block) * bytes_per_token(type, shape);
  settings.channels = lab.channels();
  return MemoryArchive(settings);
}

class ReadingTrial {
 public:
  ReadingTrial(Lab& lab, const Job& job) : lab_(lab), job_(job), options_(lab.options(job, policy_of(job))) {
    for (const Question& question : job.questions) asked_.push_back(lab.asked(question));
  }

  json run() {
    if (!job_.archive.empty()) {
      from_file();
    } else {
      read_ = read_document(lab_, job_);
      find_gold(read_.header.size(), read_.document);
      result_["tokens"] = read_.tokens();
      read();
    }
    result_["answers"] = answers_;
    return result_;
  }

 private:
  static std::string policy_of(const Job& job) { return job.reading == "reread" ? "reread" : "infinipot"; }

  void find_gold(std::uint64_t position, std::span<const Token> tokens) {
    for (const Question& question : job_.questions) golds_.emplace_back(question.gold, question.answer);
    reading::show(golds_, position, tokens, lab_.text());
    for (const reading::Gold& gold : golds_) gold_.push_back(gold.positions());
  }

  void read() {
    if (job_.reading == "full") return read_full();
    if (job_.reading == "known") return read_known();
    if (job_.reading == "reread") return read_archived(lab_.reread(options_));
    if (job_.reading == "streaming_llm") return read_archived(infinipot::StreamingLlm());
    throw std::invalid_argument("reading " + job_.reading +
                                " is not one of full, known, streaming_llm, reread");
  }

  void read_full() {
    std::size_t capacity = read_.tokens() + 2;
    std::size_t longest = 0;
    for (const Asked& asked : asked_)
      longest = std::max(longest, asked.question.size() + asked.answer.size());
    read_once(infinipot::StreamingLlm(), capacity + longest, nullptr, [&](Seat& seat, auto& reader) {
      for (std::size_t q = 0; q < asked_.size(); ++q) ask_pot(seat, reader, q);
    });
  }

  /// Every question needs a reading of its own.
  void read_known() {
    for (std::size_t q = 0; q < asked_.size(); ++q)
      read_once(infinipot::Infinipot(infinipot::recommended_settings(asked_[q].question, job_.keep)),
                job_.pot, nullptr, [&](Seat& seat, auto& reader) { ask_pot(seat, reader, q); });
  }

  template <infinipot::Policy P>
  void read_archived(P policy) {
    if (job_.variants.empty()) {
      read_once(std::move(policy), job_.pot, nullptr,
                [&](Seat& seat, auto& reader) { ask_all(seat, reader); });
      return;
    }
    MemoryArchive first = make_archive(lab_, first_type(), read_.tokens());
    read_once(std::move(policy), job_.pot, &first, [&](Seat& seat, auto& reader) { ask_all(seat, reader); });
    result_["archive_seconds"] = first.stats().seconds;
    recall_all(first);
  }

  template <class Reader>
  void ask_all(Seat& seat, Reader& reader) {
    for (std::size_t q = 0; q < asked_.size(); ++q) ask_pot(seat, reader, q);
  }

  /// The only type that is asked for, or one that all others can be made of.
  ArchiveType first_type() const {
    const ArchiveType first = job_.variants.front().type;
    const bool same = std::all_of(job_.variants.begin(), job_.variants.end(),
                                  [&](const Variant& variant) { return variant.type == first; });
    return same ? first : ArchiveType::float32;
  }

  template <infinipot::Policy P, class Use>
  void read_once(P policy, std::size_t capacity, MemoryArchive* archive, const Use& use) {
    Seat seat(lab_, capacity, job_.keep);
    infinipot::CcdSettings settings = ccd_settings(options_);
    settings.keep = std::min(settings.keep, capacity - 1);  // gold alone may be shorter
    infinipot::Ccd reader(seat.engine, seat.pot, std::move(policy), settings, lab_.executor());
    if (archive != nullptr) reader.archive_to(*archive);
    const auto start = std::chrono::steady_clock::now();
    reader.feed(read_.header, infinipot::Retention::pinned);
    reader.feed(read_.document);
    read_seconds_ = reading::seconds_since(start);
    result_["read_seconds"] = read_seconds_;
    result_["pot_bytes"] = seat.pot.bytes();
    use(seat, reader);
  }

  /// Asks a copy.
  template <class Reader>
  void ask_pot(Seat& seat, const Reader& reader, std::size_t q) {
    Seat copy = seat.fork();
    auto fork = reader.fork(copy.engine, copy.pot);
    json answer = {{"question", job_.questions[q].name}, {"variant", ""}, {"read_seconds", read_seconds_}};
    note_gold(answer, q, seat.pot.entries().positions(0));
    answer["nll"] = ask(fork, q);
    answers_.push_back(answer);
  }

  template <class Reader>
  double ask(Reader& reader, std::size_t q) const {
    reader.feed(asked_[q].question);
    return reading::answer_nll(reader, asked_[q].answer);
  }

  void note_gold(json& answer, std::size_t q, std::span<const std::uint64_t> held) const {
    if (const std::optional<double> share = golds_[q].kept(held)) answer["gold_kept"] = *share;
    if (const std::optional<double> share = golds_[q].answer_kept(held)) answer["answer_kept"] = *share;
  }

  /// Answers from the archive of one reading, in every type that variants want.
  void recall_all(MemoryArchive& first) {
    std::map<ArchiveType, std::vector<const Variant*>> by_type;
    for (const Variant& variant : job_.variants) by_type[variant.type].push_back(&variant);
    for (const auto& [type, variants] : by_type) {
      std::optional<MemoryArchive> copy;
      if (type != first_type()) {
        copy.emplace(make_archive(lab_, type, read_.tokens()));
        copy_archive(first, *copy);
      }
      recall_from(copy ? *copy : first, variants);
    }
  }

  template <infinipot::Archive A>
  void recall_from(A& archive, const std::vector<const Variant*>& variants) {
    std::map<std::tuple<std::string, std::size_t, std::vector<std::size_t>>, Landmarks> landmarks;
    for (const Variant* variant : variants) {
      const auto key = std::tuple(variant->landmark, variant->run, variant->heads);
      const bool all = variant->landmark.empty();
      if (!all && !landmarks.contains(key))
        landmarks.try_emplace(key, archive, variant->landmark, variant->run, variant->heads, lab_.threads());
      for (std::size_t q = 0; q < asked_.size(); ++q) {
        json answer = {{"question", job_.questions[q].name}, {"variant", variant->name}};
        if (all)
          recall_one(archive, *variant, q, answer);
        else
          recall_some(archive, landmarks.at(key), *variant, q, answer);
        answer["bytes"] = archive.stats().bytes;
        answers_.push_back(answer);
      }
    }
  }

  /// Only from blocks that the landmarks point at. A recall of no steps just says how many it would take.
  template <infinipot::Archive A>
  void recall_some(A& archive, const Landmarks& landmarks, const Variant& variant, std::size_t q,
                   json& answer) {
    const auto start = std::chrono::steady_clock::now();
    const std::vector<double> scores = landmarks.scores(queries_of(q, variant.behind), variant.over);
    SomeBlocks<A> some(archive, landmarks.choose(scores, variant.share));
    answer["landmark_seconds"] = reading::seconds_since(start);
    answer["landmark_bytes"] = landmarks.bytes();
    answer["share_needed"] = landmarks.share_needed(scores, gold_[q]);
    if (const std::optional<double> share = some.share_of(gold_[q])) answer["gold_read"] = *share;
    if (variant.recall.steps > 0) recall_one(some, variant, q, answer);
  }

  /// The question's queries, behind the header alone, as if so far from all keys.
  std::vector<float> queries_of(std::size_t q, std::size_t behind) {
    const std::size_t room = read_.header.size() + asked_[q].question.size() + 1;
    Seat seat(lab_, std::max(room, behind + 1), read_.header.size());
    return projected_queries(seat.engine, seat.pot, read_.header, asked_[q].question, behind);
  }

  /// A reader that has read nothing, and another pot to recall in if the variant wants one.
  struct Recaller {
    Recaller(Lab& lab, const Job& job, const reading::Options& options, const Variant& variant)
        : seat(lab, job.pot, job.keep),
          reader(seat.engine, seat.pot, infinipot::StreamingLlm(), ccd_settings(options), lab.executor()) {
      if (variant.pot != 0 && variant.pot != job.pot) other.emplace(lab, variant.pot, job.keep);
    }

    template <infinipot::Archive A>
    infinipot::Recalled recall(A& archive, std::span<const Token> catalyst,
                               const infinipot::RecallSettings& settings) {
      if (!other) return infinipot::recall(reader, archive, catalyst, settings);
      return infinipot::recall(reader, other->engine, other->pot, archive, catalyst, settings);
    }

    Seat seat;
    infinipot::Ccd<Engine, Pot, infinipot::StreamingLlm, smollm2::PoolExecutor> reader;
    std::optional<Seat> other;
  };

  template <infinipot::Archive A>
  void recall_one(A& archive, const Variant& variant, std::size_t q, json& answer) {
    Recaller recaller(lab_, job_, options_, variant);
    std::vector<Token> catalyst = variant.prefix ? asked_[q].question : asked_[q].plain;
    infinipot::RecallSettings settings = variant.recall;
    settings.ends_draft = [&](Token token) { return lab_.text().is_end(token); };
    const auto start = std::chrono::steady_clock::now();
    if (variant.draft_anew) append_draft(archive, variant, catalyst);
    const infinipot::Recalled recalled = recaller.recall(archive, catalyst, settings);
    answer["seconds"] = reading::seconds_since(start);
    answer["distillations"] = recalled.distillations;
    answer["steps"] = recalled.steps;
    note_gold(answer, q, recalled.positions);
    answer["draft"] = decoded(recalled.draft);
    if (variant.draft_anew) answer["draft"] = decoded(catalyst);
    answer["nll"] = ask(recaller.reader, q);
  }

  std::string decoded(std::span<const Token> tokens) const {
    std::string text;
    for (const Token token : tokens) text += lab_.text().decode(token);
    return text;
  }

  /// Appends what the model drafts from what the catalyst finds, read anew.
  template <infinipot::Archive A>
  void append_draft(A& archive, const Variant& variant, std::vector<Token>& catalyst) {
    Recaller recaller(lab_, job_, options_, variant);
    infinipot::RecallSettings settings = variant.recall;
    settings.steps = 1;
    settings.read_anew = true;
    recaller.recall(archive, catalyst, settings);
    recaller.reader.feed(catalyst);
    smollm2::Sampler sampler({});
    std::vector<Token> draft;
    recaller.reader.generate(settings.draft, sampler, [&](Token token) {
      if (lab_.text().is_end(token)) return false;
      draft.push_back(token);
      return true;
    });
    catalyst.insert(catalyst.end(), draft.begin(), draft.end());
  }

  /// The archive's own header and gold.
  void from_file() {
    FileArchive archive =
        FileArchive::open(job_.archive, FileArchive::inspect(job_.archive).settings, infinipot::Access::read);
    std::vector<Token> tokens;
    FileArchive::Block block;
    for (std::uint64_t position = 0; archive.read(position, block);) {
      const std::span<const infinipot::Entry> entries = block.entries();
      for (const infinipot::Entry& entry : entries) {
        tokens.push_back(entry.token);
        if (entry.pinned) read_.header.push_back(entry.token);
      }
      position = entries.back().position + 1;
    }
    find_gold(0, tokens);
    result_["tokens"] = tokens.size();
    std::vector<const Variant*> variants;
    for (const Variant& variant : job_.variants) variants.push_back(&variant);
    recall_from(archive, variants);
  }

  Lab& lab_;
  const Job& job_;
  reading::Options options_;
  std::vector<Asked> asked_;
  Read read_;
  std::vector<reading::Gold> golds_;              // of each question
  std::vector<std::vector<std::uint64_t>> gold_;  // their positions for each question, ascending
  double read_seconds_ = 0;
  json result_ = json::object(), answers_ = json::array();
};

}  // namespace recall_trials
