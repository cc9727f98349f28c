// What one line of standard input asks infinipot-recall-trials for.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "nlohmann/json.hpp"

namespace recall_trials {

using infinipot::ArchiveType;
using nlohmann::json;

struct Question {
  std::string name, question, answer_prefix, answer;
  std::vector<std::string> gold;  ///< parts of the document that it needs; may be empty
  std::string document;           ///< of a conversation: read before it; may be empty
};

/// One way to recall.
struct Variant {
  std::string name;
  infinipot::RecallSettings recall;
  ArchiveType type = ArchiveType::codes8;
  bool prefix = true;       ///< whether the catalyst has the answer's first words
  bool draft_anew = false;  ///< whether a draft is made first, from what the catalyst finds, read anew
  std::size_t pot = 0;      ///< of another pot to recall in; 0: the reader's own
  std::string landmark;     ///< what a block is judged by: box, mean or key; empty: every block is read
  std::size_t run = 256;    ///< entries that share a landmark
  std::string over;         ///< how queries and heads judge together: sum, max or most
  std::vector<std::size_t> heads = {};  ///< (layer, kv head) pairs that judge; empty: all
  std::size_t behind = 0;               ///< how far after the keys the queries are taken to stand
  double share = 1;                     ///< of the blocks that are read
};

struct Job {
  std::string document;        ///< a file
  std::string archive;         ///< a file of an archive; then there is no document, and nothing is read
  std::size_t max_tokens = 0;  ///< of the document; 0: all
  std::string reading;         ///< full, known, streaming_llm or reread
  std::size_t pot = 0, keep = 0;
  bool conversation = false;  ///< its questions, and their documents, share one pot
  std::size_t generate = 16;  ///< tokens of each answer in a conversation
  std::vector<Question> questions;
  std::vector<Variant> variants;
};

inline ArchiveType type_of(const std::string& word) {
  if (word == "f32") return ArchiveType::float32;
  if (word == "f16") return ArchiveType::float16;
  if (word == "int8") return ArchiveType::codes8;
  if (word == "int4") return ArchiveType::codes4;
  if (word == "tokens") return ArchiveType::tokens;
  throw std::invalid_argument("type " + word + " is not one of f32, f16, int8, int4, tokens");
}

inline infinipot::NextCatalyst next_of(const std::string& word) {
  if (word == "draft") return infinipot::NextCatalyst::draft;
  if (word == "found") return infinipot::NextCatalyst::found;
  if (word == "found_and_question") return infinipot::NextCatalyst::found_and_question;
  throw std::invalid_argument("next " + word + " is not one of draft, found, found_and_question");
}

inline Variant variant_of(const json& from) {
  Variant variant;
  variant.name = from.at("name");
  if (variant.name.empty()) return variant;
  variant.recall.steps = from.value("steps", std::size_t{1});
  variant.recall.next = next_of(from.value("next", "draft"));
  variant.recall.read_anew = from.value("read_anew", false);
  variant.recall.recent = from.value("recent", std::size_t{0});
  variant.type = type_of(from.value("type", "int8"));
  variant.prefix = from.value("prefix", true);
  variant.draft_anew = from.value("draft_anew", false);
  variant.pot = from.value("pot", std::size_t{0});
  variant.landmark = from.value("landmark", "");
  variant.run = from.value("run", std::size_t{256});
  variant.over = from.value("over", "sum");
  variant.heads = from.value("heads", std::vector<std::size_t>());
  variant.behind = from.value("behind", std::size_t{0});
  variant.share = from.value("share", 1.0);
  return variant;
}

/// Throws if something is missing or of another type.
inline Job job_of(const json& from) {
  Job job;
  job.document = from.value("document", "");
  job.archive = from.value("archive", "");
  job.max_tokens = from.value("max_tokens", std::size_t{0});
  job.reading = from.at("reading");
  job.pot = from.at("pot");
  job.keep = from.at("keep");
  job.conversation = from.value("conversation", false);
  job.generate = from.value("generate", std::size_t{16});
  for (const json& each : from.at("questions"))
    job.questions.push_back({each.at("name"), each.at("question"), each.at("answer_prefix"),
                             each.at("answer"), each.value("gold", std::vector<std::string>()),
                             each.value("document", "")});
  for (const json& each : from.value("variants", json::array())) job.variants.push_back(variant_of(each));
  return job;
}

}  // namespace recall_trials
