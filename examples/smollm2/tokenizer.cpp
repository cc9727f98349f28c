#include "tokenizer.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

#include "byte_alphabet.hpp"
#include "utf8.hpp"

namespace smollm2 {
namespace {

constexpr std::string_view model_key = "tokenizer.ggml.model";
constexpr std::string_view pre_key = "tokenizer.ggml.pre";
constexpr std::string_view tokens_key = "tokenizer.ggml.tokens";
constexpr std::string_view types_key = "tokenizer.ggml.token_type";
constexpr std::string_view merges_key = "tokenizer.ggml.merges";

// Words longer than this rarely come twice; the other bound keeps a hostile text from filling memory.
constexpr std::size_t longest_cached_word = 64;
constexpr std::size_t most_cached_words = 1 << 16;

constexpr std::int32_t no_token = -1;

enum class TokenType : std::int32_t { normal = 1, control = 3, unused = 5 };

[[noreturn]] void fail(const GgufFile& file, std::string_view key, const std::string& problem) {
  throw GgufError(file.name() + ": metadata key " + quoted(key) + ": " + problem);
}

void require_value(const GgufFile& file, std::string_view key, std::string_view wanted) {
  const std::string_view found = file.string_value(key);
  if (found != wanted)
    fail(
        file, key,
        "found " + quoted(found) + ", but only " + quoted(wanted) + " is supported" + std::string(elsewhere));
}

bool is_control(const GgufFile& file, std::string_view token, std::int32_t type) {
  switch (static_cast<TokenType>(type)) {
    case TokenType::normal:
    case TokenType::unused:
      return false;
    case TokenType::control:
      return true;
  }
  fail(file, types_key,
       "token " + quoted(token) + " is of type " + std::to_string(type) +
           ", but only 1, 3 and 5 are supported");
}

}  // namespace

Tokenizer::Tokenizer(const GgufFile& file) {
  require_value(file, model_key, "gpt2");
  require_value(file, pre_key, "smollm");
  const Ids ids = read_tokens(file);
  read_merges(file, ids);
  bos_ = read_id(file, "tokenizer.ggml.bos_token_id");
  eos_ = read_id(file, "tokenizer.ggml.eos_token_id");
}

Tokenizer::Ids Tokenizer::read_tokens(const GgufFile& file) {
  const std::vector<std::string_view> texts = file.strings(tokens_key);
  const std::vector<std::int32_t> types = file.ints(types_key);
  if (texts.size() != types.size()) {
    fail(file, types_key,
         std::to_string(types.size()) + " types for " + std::to_string(texts.size()) + " tokens");
  }
  if (texts.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    fail(file, tokens_key, "more than 2^31 - 1 tokens");
  }
  Ids ids;
  ids.reserve(texts.size());
  tokens_.reserve(texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto id = static_cast<std::int32_t>(i);
    if (!ids.emplace(texts[i], id).second)
      fail(file, tokens_key, "token " + quoted(texts[i]) + " occurs twice");
    const bool control = is_control(file, texts[i], types[i]);
    if (control) {
      if (texts[i].empty()) fail(file, tokens_key, "control token " + std::to_string(i) + " is empty");
      add_control(texts[i], id);
    }
    const std::string text(texts[i]);
    tokens_.push_back({control ? text : bytes_of_characters(text).value_or(text), control});
  }
  for (std::size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    const auto found = ids.find(character_of_byte(static_cast<std::uint8_t>(byte)));
    const bool usable = found != ids.end() && !tokens_[static_cast<std::size_t>(found->second)].control;
    byte_ids_[byte] = usable ? found->second : no_token;
  }
  return ids;
}

void Tokenizer::add_control(std::string_view text, std::int32_t id) {
  const auto shorter = std::find_if(controls_.begin(), controls_.end(), [text](const Control& control) {
    return control.text.size() < text.size();
  });
  controls_.insert(shorter, {std::string(text), id});
  if (control_starts_.find(text.front()) == std::string::npos) control_starts_.push_back(text.front());
}

void Tokenizer::read_merges(const GgufFile& file, const Ids& ids) {
  const std::vector<std::string_view> merges = file.strings(merges_key);
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const std::string_view merge = merges[i];
    const std::size_t space = merge.find(' ');
    const std::string field = "merge " + std::to_string(i) + " " + quoted(merge);
    if (space == std::string_view::npos) fail(file, merges_key, field + " has no space");
    const auto left = ids.find(merge.substr(0, space));
    const auto right = ids.find(merge.substr(space + 1));
    const auto merged = ids.find(std::string(merge).erase(space, 1));
    if (left == ids.end() || right == ids.end() || merged == ids.end()) {
      fail(file, merges_key, field + " names a token that is not in the vocabulary");
    }
    // Such a merge would let plain text turn into a control token.
    if (tokens_[static_cast<std::size_t>(merged->second)].control) {
      fail(file, merges_key, field + " makes a control token");
    }
    bpe_.add_merge(left->second, right->second, merged->second);
  }
}

std::int32_t Tokenizer::read_id(const GgufFile& file, std::string_view key) const {
  const std::uint64_t id = file.unsigned_value(key);
  if (id >= tokens_.size()) {
    fail(file, key,
         std::to_string(id) + " is no token: the vocabulary has " + std::to_string(tokens_.size()));
  }
  return static_cast<std::int32_t>(id);
}

Tokenizer::Workspace Tokenizer::make_workspace() const { return Workspace(pretokenizer_.make_workspace()); }

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, Specials specials) const {
  Workspace workspace = make_workspace();
  std::vector<std::int32_t> out;
  encode(text, specials, workspace, out);
  return out;
}

void Tokenizer::encode(std::string_view text, Specials specials, Workspace& workspace,
                       std::vector<std::int32_t>& out) const {
  std::string repaired;
  if (valid_utf8_prefix(text) != text.size()) {
    repaired = to_valid_utf8(text);
    text = repaired;
  }
  if (specials == Specials::parse) {
    encode_with_controls(text, workspace, out);
  } else {
    encode_plain(text, workspace, out);
  }
}

const Tokenizer::Control* Tokenizer::control_at(std::string_view text) const {
  const auto found = std::find_if(controls_.begin(), controls_.end(),
                                  [text](const Control& control) { return text.starts_with(control.text); });
  return found == controls_.end() ? nullptr : &*found;
}

void Tokenizer::encode_with_controls(std::string_view text, Workspace& workspace,
                                     std::vector<std::int32_t>& out) const {
  std::size_t plain = 0;
  for (std::size_t at = 0; (at = text.find_first_of(control_starts_, at)) != std::string_view::npos;) {
    const Control* control = control_at(text.substr(at));
    if (control == nullptr) {
      ++at;
      continue;
    }
    encode_plain(text.substr(plain, at - plain), workspace, out);
    out.push_back(control->id);
    plain = at += control->text.size();
  }
  encode_plain(text.substr(plain), workspace, out);
}

void Tokenizer::encode_plain(std::string_view text, Workspace& workspace,
                             std::vector<std::int32_t>& out) const {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = pretokenizer_.word_length(text, at, workspace.matching_);
    encode_word(text.substr(at, length), workspace, out);
    at += length;
  }
}

void Tokenizer::encode_word(std::string_view word, Workspace& workspace,
                            std::vector<std::int32_t>& out) const {
  if (word.size() > longest_cached_word) return merge_word(word, workspace, out);
  auto& tokens = workspace.cached_tokens_;
  auto found = workspace.cache_.find(word);
  if (found == workspace.cache_.end()) {
    if (workspace.cache_.size() == most_cached_words) return merge_word(word, workspace, out);
    const std::size_t start = tokens.size();
    merge_word(word, workspace, tokens);
    found = workspace.cache_.emplace(word, Workspace::Range{start, tokens.size() - start}).first;
  }
  const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(found->second.start);
  out.insert(out.end(), first, first + static_cast<std::ptrdiff_t>(found->second.length));
}

void Tokenizer::merge_word(std::string_view word, Workspace& workspace,
                           std::vector<std::int32_t>& out) const {
  workspace.symbols_.clear();
  for (const char byte : word) {
    const std::int32_t id = byte_ids_[static_cast<std::uint8_t>(byte)];
    if (id != no_token) workspace.symbols_.push_back(id);
  }
  bpe_.merge(workspace.symbols_, workspace.merging_, out);
}

std::string Tokenizer::decode(std::span<const std::int32_t> tokens, ControlTokens control) const {
  std::string text;
  for (const std::int32_t token : tokens) {
    if (token < 0 || static_cast<std::size_t>(token) >= tokens_.size()) {
      throw std::out_of_range("token " + std::to_string(token) + " is outside the vocabulary of " +
                              std::to_string(tokens_.size()));
    }
    const Token& found = tokens_[static_cast<std::size_t>(token)];
    if (!found.control || control == ControlTokens::show) text += found.bytes;
  }
  return text;
}

std::string Tokenizer::decode(std::int32_t token, ControlTokens control) const {
  return decode(std::span(&token, 1), control);
}

bool Tokenizer::is_end(std::int32_t token) const {
  return token == eos_ || token == control_token("<|im_end|>") || token == control_token("<|endoftext|>");
}

std::optional<std::int32_t> Tokenizer::control_token(std::string_view text) const {
  const auto found = std::find_if(controls_.begin(), controls_.end(),
                                  [text](const Control& control) { return control.text == text; });
  if (found == controls_.end()) return std::nullopt;
  return found->id;
}

}  // namespace smollm2
