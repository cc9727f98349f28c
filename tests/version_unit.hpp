// What a unit of version_test says of the library as compiled there.
#pragma once

#include <cstddef>

struct Unit {
  std::size_t packet_size;
  void (*log_sum_exp)();  // the address of the function it calls by this name
  // The largest relative errors, against double precision.
  double exp_error;
  double cap_error;
  double nuc_error;
  bool sees_nan;  // in the logits of NuC, and in a key of CaP
};

Unit baseline_unit();
Unit avx2_unit();
Unit fast_math_unit();
