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

// Whichever comes first when they are linked, as this program is linked in both orders. The unit with
// -ffast-math and the one without share their functions.
TEST(Version, UnitsWithOtherFlagsAreRightBesideEachOther) {
  for (const Unit& unit : {baseline_unit(), avx2_unit(), fast_math_unit()}) {
    EXPECT_LT(unit.exp_error, 2e-6) << unit.packet_size;
    EXPECT_LT(unit.cap_error, 2e-6) << unit.packet_size;
    EXPECT_LT(unit.nuc_error, 2e-6) << unit.packet_size;
    EXPECT_TRUE(unit.sees_nan) << unit.packet_size;
  }
}
#endif

}  // namespace
