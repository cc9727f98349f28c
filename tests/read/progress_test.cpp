#include "progress.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <string>

namespace reading {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

std::string shown(milliseconds every) {
  testing::internal::CaptureStderr();
  {
    Progress progress(every);
    progress.show(0.25, 1000, 3);
    progress.show({}, 2000, 4);
    progress.show(7.0, 3000, 5);
  }
  return testing::internal::GetCapturedStderr();
}

TEST(Progress, HasALineOfItsOwnEachTimeWithoutATerminal) {
  const std::string text = shown(milliseconds(0));
  EXPECT_EQ(text.find("25%  1000 tokens, "), 0U) << text;
  EXPECT_NE(text.find(" tokens/s, 3 distillations\n2000 tokens, "), std::string::npos) << text;
  EXPECT_NE(text.find(" tokens/s, 4 distillations\n100%  3000 tokens, "), std::string::npos) << text;
  EXPECT_TRUE(text.ends_with(" tokens/s, 5 distillations\n")) << text;
  EXPECT_EQ(text.find_first_of("\r\033"), std::string::npos) << text;
}

TEST(Progress, IsSilentUntilItsTime) { EXPECT_EQ(shown(hours(1)), ""); }

}  // namespace
}  // namespace reading
