#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

struct pcre2_real_code_8;
struct pcre2_real_match_data_8;

namespace smollm2 {

/// Cuts text into the words that byte-pair merging works within, as SmolLM2's tokenizer does: every
/// Unicode number character alone, then GPT-2's pattern on what lies between them.
/// What counts as a letter or number is as new as the PCRE2 library's Unicode tables; the few characters
/// that a later Unicode version made numbers (133 between versions 14 and 16) are words of another kind
/// with an older library.
/// Immutable: one object serves any number of threads, each with a Workspace of its own.
class Pretokenizer {
  struct CodeDeleter {
    void operator()(pcre2_real_code_8* code) const;
  };
  struct MatchDeleter {
    void operator()(pcre2_real_match_data_8* data) const;
  };

 public:
  /// Memory for one thread's matching.
  using Workspace = std::unique_ptr<pcre2_real_match_data_8, MatchDeleter>;

  /// Throws std::runtime_error when the PCRE2 library lacks UTF support, std::bad_alloc without memory.
  Pretokenizer();

  Workspace make_workspace() const;

  /// Length in bytes (at least 1) of the word that starts at byte `at`; `at` < text.size(). `text` must
  /// be valid UTF-8 and `at` a word's start. Throws std::runtime_error if PCRE2 runs out of memory.
  std::size_t word_length(std::string_view text, std::size_t at, Workspace& workspace) const;

 private:
  std::unique_ptr<pcre2_real_code_8, CodeDeleter> code_;
};

}  // namespace smollm2
