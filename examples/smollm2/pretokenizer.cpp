// PCRE2's header needs this name defined before it to say which code unit width is meant.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "pretokenizer.hpp"

#include <pcre2.h>

#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>

namespace smollm2 {
namespace {

// Unicode's White_Space property spelt out, because PCRE2's own \s also takes U+180E.
constexpr std::string_view space =
    R"(\x09-\x0d\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

// One pattern for both steps. Splitting at numbers first means that for what follows a number ends the
// text, so GPT-2's trailing-space rule `\s+(?!\S)` must see a number as it sees the end: its lookahead
// excludes spaces and numbers. The other alternatives look at nothing beyond what they match.
std::string pattern() {
  const std::string s(space);
  return R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^)" + s + R"(\p{L}\p{N}]+|[)" + s + "]+(?![^" + s +
         R"(\p{N}])|[)" + s + "]+";
}

std::string pcre2_message(int error) {
  std::string message(256, '\0');
  const int length =
      pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR8*>(message.data()), message.size());
  message.resize(length > 0 ? static_cast<std::size_t>(length) : 0);
  return message;
}

}  // namespace

void Pretokenizer::CodeDeleter::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

void Pretokenizer::MatchDeleter::operator()(pcre2_real_match_data_8* data) const {
  pcre2_match_data_free(data);
}

Pretokenizer::Pretokenizer() {
  const std::string source = pattern();
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR8>(source.data()), source.size(),
                            PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &offset, nullptr));
  if (!code_)
    throw std::runtime_error("the pre-tokenizer's pattern does not compile: " + pcre2_message(error));
  // Matching falls back to PCRE2's interpreter where just-in-time compilation is unavailable.
  pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);
}

Pretokenizer::Workspace Pretokenizer::make_workspace() const {
  Workspace workspace(pcre2_match_data_create_from_pattern(code_.get(), nullptr));
  if (!workspace) throw std::bad_alloc();
  return workspace;
}

std::size_t Pretokenizer::word_length(std::string_view text, std::size_t at, Workspace& workspace) const {
  // Without PCRE2_NO_UTF_CHECK every call would check the whole text again.
  const int found = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR8>(text.data()), text.size(), at,
                                PCRE2_NO_UTF_CHECK, workspace.get(), nullptr);
  if (found < 0) throw std::runtime_error("the pre-tokenizer failed: " + pcre2_message(found));
  return pcre2_get_ovector_pointer(workspace.get())[1] - at;
}

}  // namespace smollm2
