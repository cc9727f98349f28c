#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bpe.hpp"
#include "gguf.hpp"
#include "pretokenizer.hpp"

namespace smollm2 {

/// What control tokens written out in a text ("<|im_end|>") become.
enum class Specials {
  as_text,  ///< ordinary text, as untrusted input must be
  parse,    ///< the control tokens themselves
};

/// What decoding does with control tokens.
enum class ControlTokens { skip, show };

/// SmolLM2's tokenizer: GPT-2's byte-level byte-pair encoding with the vocabulary and merges of a model
/// file, equal to Hugging Face's. Adds no token of its own (no beginning-of-sequence token).
///
/// Text that is not valid UTF-8 is read with every ill-formed part replaced by U+FFFD. Bytes for which
/// the vocabulary has no token (SmolLM2's lacks some control characters, such as U+0004, and the lead
/// bytes of planes not in use) are left out, as Hugging Face leaves them out; everything else decodes to
/// the text that was encoded.
///
/// Immutable and independent of the file once constructed; safe to use from any number of threads.
class Tokenizer {
 public:
  /// Throws GgufError when the file's tokenizer is not "gpt2" with pre-tokenizer "smollm", or its
  /// vocabulary is inconsistent.
  explicit Tokenizer(const GgufFile& file);

  /// One thread's scratch memory: matching, merging, and a cache of words already tokenized.
  class Workspace;
  Workspace make_workspace() const;

  std::vector<std::int32_t> encode(std::string_view text, Specials specials) const;
  /// Appends to `out`; faster for many texts than the other form, whose workspace lasts one call.
  void encode(std::string_view text, Specials specials, Workspace& workspace,
              std::vector<std::int32_t>& out) const;

  /// The bytes the tokens stand for: not always whole UTF-8 characters, which may span tokens.
  /// Throws std::out_of_range for an id outside 0..vocab_size()-1.
  std::string decode(std::span<const std::int32_t> tokens, ControlTokens control = ControlTokens::skip) const;
  std::string decode(std::int32_t token, ControlTokens control = ControlTokens::skip) const;

  std::int32_t bos() const { return bos_; }
  std::int32_t eos() const { return eos_; }
  std::size_t vocab_size() const { return tokens_.size(); }
  /// True for the tokens that end an answer: eos(), "<|im_end|>" and "<|endoftext|>".
  bool is_end(std::int32_t token) const;
  /// Id of the control token written `text`, if there is one.
  std::optional<std::int32_t> control_token(std::string_view text) const;

 private:
  struct Token {
    std::string bytes;
    bool control;
  };
  struct Control {
    std::string text;
    std::int32_t id;
  };
  using Ids = std::unordered_map<std::string_view, std::int32_t>;

  Ids read_tokens(const GgufFile& file);
  void add_control(std::string_view text, std::int32_t id);
  void read_merges(const GgufFile& file, const Ids& ids);
  std::int32_t read_id(const GgufFile& file, std::string_view key) const;

  const Control* control_at(std::string_view text) const;
  void encode_with_controls(std::string_view text, Workspace& workspace,
                            std::vector<std::int32_t>& out) const;
  void encode_plain(std::string_view text, Workspace& workspace, std::vector<std::int32_t>& out) const;
  void encode_word(std::string_view word, Workspace& workspace, std::vector<std::int32_t>& out) const;
  void merge_word(std::string_view word, Workspace& workspace, std::vector<std::int32_t>& out) const;

  Pretokenizer pretokenizer_;
  Bpe bpe_;
  std::vector<Token> tokens_;
  std::vector<Control> controls_;  // longest first, so that the first match is the longest
  std::string control_starts_;     // the bytes they begin with
  std::array<std::int32_t, 256> byte_ids_{};
  std::int32_t bos_ = 0;
  std::int32_t eos_ = 0;
};

class Tokenizer::Workspace {
  friend class Tokenizer;

  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  struct Range {
    std::size_t start;
    std::size_t length;
  };

  explicit Workspace(Pretokenizer::Workspace matching) : matching_(std::move(matching)) {}

  Pretokenizer::Workspace matching_;
  Bpe::Workspace merging_;
  std::vector<std::int32_t> symbols_;
  std::unordered_map<std::string, Range, Hash, std::equal_to<>> cache_;
  std::vector<std::int32_t> cached_tokens_;  // what cache_'s ranges refer to
};

}  // namespace smollm2
