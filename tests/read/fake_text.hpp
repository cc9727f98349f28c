// Vocabularies and chat templates that need no model.
#pragma once

#include <cctype>
#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "text_model.hpp"

namespace reading::test {

/// Cuts a text into words, each of which is a token: it gets a number when it is met first.
class WordText : public TextModel {
 public:
  static constexpr Token end_mark = 0, user_mark = 1, answer_mark = 2;

  WordText() {
    chat_ = {{{user_mark}, "\n"}, {{end_mark, answer_mark}, "\n"}, {{end_mark, user_mark}, "\n"}};
    words_.resize(3);
  }

  void encode(std::string_view text, std::vector<Token>& out) const override {
    while (!text.empty()) {
      const std::size_t length = word_length(text);
      out.push_back(token_of(std::string(text.substr(0, length))));
      text.remove_prefix(length);
    }
  }
  std::string decode(Token token) const override { return words_.at(static_cast<std::size_t>(token)); }
  bool is_end(Token token) const override { return token == end_mark; }
  const ChatTemplate& chat() const override { return chat_; }

  std::vector<Token> tokens(std::string_view text) const {
    std::vector<Token> out;
    encode(text, out);
    return out;
  }
  std::string decoded(const std::vector<Token>& tokens) const {
    std::string text;
    for (const Token token : tokens) text += decode(token);
    return text;
  }

 protected:
  /// Of the first word. `text` is not empty.
  virtual std::size_t word_length(std::string_view text) const = 0;

  static bool is_letter(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; }
  static bool is_digit(char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; }
  static bool is_space(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }
  static bool is_mark(char c) { return !is_letter(c) && !is_digit(c) && !is_space(c); }
  static bool is_line_break(char c) { return c == '\n' || c == '\r'; }

  template <class Kind>
  static std::size_t run(std::string_view text, std::size_t from, const Kind& kind) {
    while (from < text.size() && kind(text[from])) ++from;
    return from;
  }

 private:
  Token token_of(const std::string& word) const {
    const auto [found, fresh] = numbers_.try_emplace(word, static_cast<Token>(words_.size()));
    if (fresh) words_.push_back(word);
    return found->second;
  }

  ChatTemplate chat_;
  mutable std::vector<std::string> words_;
  mutable std::map<std::string, Token> numbers_;
};

/// Cuts as Llama 3 does: three digits are one word, and so are punctuation and the line breaks after it.
class GroupingText : public WordText {
 protected:
  std::size_t word_length(std::string_view text) const override {
    const std::size_t start = text.front() == ' ' ? 1 : 0;
    if (const std::size_t end = run(text, start, is_letter); end > start) return end;
    if (const std::size_t end = run(text, 0, is_digit); end > 0) return end < 3 ? end : 3;
    if (const std::size_t end = run(text, start, is_mark); end > start) return run(text, end, is_line_break);
    const std::size_t spaces = run(text, 0, is_space);
    if (const std::size_t last = text.substr(0, spaces).find_last_of("\r\n"); last != std::string_view::npos)
      return last + 1;
    return spaces < text.size() && spaces > 1 ? spaces - 1 : spaces;  // the last one goes with what follows
  }
};

/// Cuts as SentencePiece does: before spaces and around line breaks, and in front of every text is a space.
class SpaceText : public WordText {
 public:
  void encode(std::string_view text, std::vector<Token>& out) const override {
    if (!text.empty()) WordText::encode(" " + std::string(text), out);
  }
  bool space_prefix() const override { return true; }

 protected:
  std::size_t word_length(std::string_view text) const override {
    if (text.front() == '\n') return 1;
    return run(text, 1, [](char c) { return c != ' ' && c != '\n'; });
  }
};

}  // namespace reading::test
