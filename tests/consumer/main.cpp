#include <infinipot/infinipot.hpp>

int main() {
  infinipot::Pot<float> pot({.shape = {1, 2, 1, 4}, .capacity = 8, .rope = infinipot::plain_rope(4)});
  return pot.size() == 0 && infinipot::top_k(std::vector<float>{1, 3, 2}, 2).size() == 2 ? 0 : 1;
}
