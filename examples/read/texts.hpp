// Texts of the command line as tokens.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "options.hpp"
#include "policies.hpp"
#include "prompt.hpp"
#include "streaming_tokenizer.hpp"
#include "text_model.hpp"

namespace reading {

struct Texts {
  Catalysts catalysts;  ///< of each turn
  TokenTexts answers;   ///< expected ones of each turn, empty where there is none

  bool any_answer() const { return longest(answers) > 0; }
};

/// Tokens of a text that continues others. Throws UsageError naming the option for a text that has none.
inline std::vector<Token> tokens_of(const TextModel& model, std::string_view text, const char* option) {
  std::vector<Token> tokens;
  if (!text.empty()) encode_after(model, text, tokens);
  // Some control characters have no token.
  if (tokens.empty() && !text.empty()) throw UsageError(std::string(option) + ": the text has no tokens");
  return tokens;
}

inline std::string catalyst_text(const Options& options, const std::string& catalyst, const Turn& turn) {
  if (options.policy == "reread" && catalyst.starts_with('@')) return "\n\nRepeat the text above:\n\n";
  if (catalyst == "@question" || catalyst == "@prompt") return "\n\n" + turn.question;
  if (catalyst == "@generic")
    return "\n\nWhat in the text above matters most for questions that may be asked about it?";
  return catalyst;
}

/// The catalyst of reread is no question, so no answer follows it.
inline std::vector<Token> catalyst_of(const TextModel& model, const Options& options,
                                      const std::string& catalyst, const Turn& turn) {
  std::vector<Token> tokens = tokens_of(model, catalyst_text(options, catalyst, turn), "--catalyst");
  if (catalyst == "@prompt" && options.policy != "reread") append_answer_header(model, turn, tokens);
  return tokens;
}

/// Throws UsageError.
inline Texts texts_of(const TextModel& model, const Options& options) {
  Texts texts;
  for (const Turn& turn : options.turns) {
    TokenTexts& of_turn = texts.catalysts.emplace_back();
    for (const std::string& catalyst : options.catalysts)
      of_turn.push_back(catalyst_of(model, options, catalyst, turn));
    texts.answers.push_back(tokens_of(model, turn.answer, "--answer"));
  }
  return texts;
}

}  // namespace reading
