#include "answer_stream.hpp"

#include <system_error>
#include <utility>

#include "options.hpp"
#include "smollm2/utf8.hpp"
#include "write_all.hpp"

namespace reading {

AnswerStream::~AnswerStream() {
  if (text_.empty()) return;
  unread_ = Unread::goes_on;
  print("\n");
}

void AnswerStream::push(std::string_view bytes) {
  held_ += bytes;
  take(held_.size() - smollm2::incomplete_utf8_suffix(held_));
}

std::string AnswerStream::end() {
  take(held_.size());
  print("\n");
  return std::exchange(text_, {});
}

void AnswerStream::take(std::size_t bytes) {
  const std::string text = smollm2::to_valid_utf8(std::string_view(held_).substr(0, bytes));
  held_.erase(0, bytes);
  text_ += text;
  print(text);
}

void AnswerStream::print(std::string_view text) {
  if (descriptor_ < 0) return;
  try {
    write_all(descriptor_, text);
  } catch (const std::system_error& error) {
    descriptor_ = -1;
    error_ = "cannot write to standard output: " + error.code().message();
    if (unread_ == Unread::ends) throw UsageError(error_);
  }
}

}  // namespace reading
