// infinipot-read on a model of a few thousand random weights, whose answers never end of their own accord.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "program.hpp"
#include "running_program.hpp"
#include "smollm2/tiny_chatting.hpp"
#include "temporary_folder.hpp"

namespace reading::test {

class TinyReader : public testing::Test {
 protected:
  /// All that is needed, but for documents and questions.
  Arguments with(const Arguments& more) const {
    return Arguments{"--model", model_, "--threads", "1", "--pot", "200"} + more;
  }
  Arguments asked(const Arguments& more = {}) const {
    return with(Arguments{"--document", document_, "--question", "why?"} + more);
  }

  const TemporaryFolder folder_;
  const std::string model_ = folder_.file("model.gguf", [] {
    const std::vector<std::byte> bytes = smollm2::test::tiny_chatting_file(smollm2::test::Answers::never_end);
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }());
  const std::string document_ = folder_.file("document.txt", "a bac cab aa bcc");
};

}  // namespace reading::test
