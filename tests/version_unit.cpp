// Compiled twice into one program, for different processors (version_test.cpp).
#include "version_unit.hpp"

#include "infinipot/detail/simd.hpp"
#include "infinipot/nuc.hpp"

static_assert(INFINIPOT_PACKET == infinipot::detail::packet_size,
              "the namespace is named after Eigen's packets");

Unit VERSION_UNIT() {
  return {infinipot::detail::packet_size, reinterpret_cast<void (*)()>(&infinipot::log_sum_exp)};
}
