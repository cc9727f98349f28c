// expect-error: infinipot needs C++20
// flags: -std=c++17
#include "infinipot/infinipot.hpp"
