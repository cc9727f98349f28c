// The whole program on the real model, for tests.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "long_text.hpp"
#include "program.hpp"
#include "smollm2/gguf.hpp"
#include "smollm2/test_files.hpp"
#include "smollm2/tokenizer.hpp"
#include "temporary_file.hpp"

namespace reading::test {

inline Arguments arguments(const std::string& model, const std::string& document,
                           const Arguments& more = {}) {
  return Arguments{"--model", model, "--document", document, "--question", "What is the password?"} + more;
}

/// Tests on the real model, which skip without it.
class ReadModel : public testing::Test {
 protected:
  void SetUp() override {
    const auto path = smollm2::test::model_path();
    if (!path) GTEST_SKIP() << smollm2::test::no_model;
    model_ = path->string();
  }

  Outcome run(const std::string& document, const Arguments& more, const std::string& redirection = {}) const {
    return run_program(arguments(model_, document, more), redirection);
  }

  /// What --json - writes; the defaults are small.
  nlohmann::json report(const std::string& document, const Arguments& more,
                        const std::string& redirection = {}) const {
    Arguments all = more + Arguments{"--json", "-"};
    for (const auto& [option, value] : {std::pair("--pot", "128"), std::pair("--generate", "8")})
      if (std::find(all.begin(), all.end(), option) == all.end()) all = all + Arguments{option, value};
    const Outcome outcome = run(document, all, redirection);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return outcome.status == 0 ? outcome.json() : nlohmann::json::object();
  }

  std::size_t tokens_in(const std::string& text) const {
    const smollm2::GgufFile file(model_);
    return smollm2::Tokenizer(file).encode(text, smollm2::Specials::as_text).size();
  }

  std::string model_;
  const TemporaryFile text_{long_text()};
};

}  // namespace reading::test
