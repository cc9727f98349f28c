// Texts of the command line as tokens.
#pragma once

#include <algorithm>
#include <cctype>
#include <cstddef>
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
  Aims aims;           ///< of each turn, and of what a chat may ask
  TokenTexts answers;  ///< expected ones of each turn, empty where there is none

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
  const bool asks = !turn.question.empty();
  if (asks && (catalyst == "@question" || catalyst == "@prompt")) return "\n\n" + turn.question;
  if (catalyst == "@generic" || catalyst == "@question" || catalyst == "@prompt")
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

/// The catalysts that the options name, for one turn. Throws UsageError.
inline TokenTexts catalysts_of(const TextModel& model, const Options& options, const Turn& turn) {
  TokenTexts catalysts;
  for (const std::string& catalyst : options.catalysts)
    catalysts.push_back(catalyst_of(model, options, catalyst, turn));
  return catalysts;
}

/// Tokens of the question's words, or of those that matter, each as within a text: after a space.
inline std::vector<Token> question_terms(const TextModel& model, const Turn& turn) {
  std::vector<Token> tokens;
  std::string word;
  for (const char c : (turn.terms.empty() ? turn.question : turn.terms) + " ") {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 128 || std::isalnum(byte) != 0) {
      word += c;
    } else if (!word.empty()) {
      encode_after(model, " " + word, tokens);
      word.clear();
    }
  }
  return tokens;
}

/// Whether a catalyst is about this turn's question, so that its terms may be known while reading.
inline bool knows_question(const Options& options, const Turn& turn) {
  return std::ranges::any_of(options.catalysts, [&](const std::string& catalyst) {
    if (catalyst == "@question" || catalyst == "@prompt") return true;
    return catalyst != "@generic" && !turn.terms.empty();
  });
}

/// Throws UsageError.
inline Aim aim_of(const TextModel& model, const Options& options, const Turn& turn) {
  return {catalysts_of(model, options, turn),
          knows_question(options, turn) ? question_terms(model, turn) : std::vector<Token>()};
}

/// The longest catalyst for which a chat, whose questions are not known yet, has room.
inline std::size_t chat_room(const Options& options) {
  constexpr std::size_t enough = 256;
  return std::clamp<std::size_t>((options.pot - std::min(options.pot, options.keep)) / 2, 1, enough);
}

/// Keeps the last tokens, which are nearest to the answer.
inline void shorten(std::vector<Token>& catalyst, std::size_t most) {
  if (catalyst.size() > most)
    catalyst.erase(catalyst.begin(), catalyst.end() - static_cast<std::ptrdiff_t>(most));
}

/// Of all turns that the options have and, for a chat, of one more, as long as any will be. Throws
/// UsageError.
inline Texts texts_of(const TextModel& model, const Options& options) {
  Texts texts;
  for (const Turn& turn : options.turns) {
    texts.aims.push_back(aim_of(model, options, turn));
    texts.answers.push_back(tokens_of(model, turn.answer, "--answer"));
  }
  if (options.chat) {
    TokenTexts& unknown = texts.aims.emplace_back(aim_of(model, options, {})).catalysts;
    if (options.policy != "reread")
      for (std::vector<Token>& catalyst : unknown) catalyst.resize(chat_room(options), catalyst.front());
  }
  return texts;
}

}  // namespace reading
