// expect: see element_cast()
#include <cstdint>

#include "infinipot/pot.hpp"

#ifdef SHOULD_FAIL
using element = std::uint16_t;
#else
using element = infinipot::f16;
#endif

void read(infinipot::Pot<element>& pot) { pot.truncate(0); }
