// What a unit of version_test says of the library as compiled there.
#pragma once

#include <cstddef>

struct Unit {
  std::size_t packet_size;
  void (*log_sum_exp)();  // the address of the function it calls by this name
};

Unit baseline_unit();
Unit avx2_unit();
