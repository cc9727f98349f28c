// The library's version, and parts of a program compiled with other flags.
#include "infinipot/version.hpp"

#include <gtest/gtest.h>

#include <string>

#include "version_unit.hpp"

namespace {

TEST(Version, IsThatOfTheProject) {
  const std::string version = std::to_string(infinipot::version_major) + "." +
                              std::to_string(infinipot::version_minor) + "." +
                              std::to_string(infinipot::version_patch);
  EXPECT_EQ(version, PROJECT_VERSION);
  EXPECT_EQ(INFINIPOT_VERSION,
            10000 * infinipot::version_major + 100 * infinipot::version_minor + infinipot::version_patch);
}

#ifdef TWO_PROCESSORS
TEST(Version, UnitsForOtherProcessorsCallCodeOfTheirOwn) {
  EXPECT_EQ(baseline_unit().packet_size, 4U);
  EXPECT_EQ(avx2_unit().packet_size, 8U);
  EXPECT_NE(baseline_unit().log_sum_exp, avx2_unit().log_sum_exp);
}
#endif

}  // namespace
