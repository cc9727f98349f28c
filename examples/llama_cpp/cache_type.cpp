#include "cache_type.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <sstream>
#include <stdexcept>

#include "cell_pot.hpp"

namespace llama_cpp {
namespace {

constexpr std::size_t smallest_hadamard = 64;

template <class... Parts>
[[noreturn]] void refuse(ggml_type type, const Parts&... parts) {
  std::ostringstream text;
  text << "llama.cpp cannot move keys of type " << ggml_type_name(type) << ", which closing gaps needs: ";
  (text << ... << parts);
  text << "; use f16 or f32";
  throw std::invalid_argument(text.str());
}

}  // namespace

void check_key_type(const llama_model& model, ggml_type type) {
  if (type == GGML_TYPE_F32 || type == GGML_TYPE_F16) return;
  if (!ggml_is_quantized(type)) refuse(type, "its K-shift does not know that type");
  const std::size_t head_dim = shape_of(model).head_dim, turned = rotary_dim_of(model);
  const auto block = static_cast<std::size_t>(std::max<std::int64_t>(ggml_blck_size(type), 1));
  const std::size_t unit = std::lcm(smallest_hadamard, block);
  if (head_dim % unit != 0)
    refuse(type, "heads of this model have ", head_dim, " numbers, which is no multiple of ", unit);
  if (turned != head_dim)
    refuse(type, "RoPE turns ", turned, " of this model's ", head_dim, " numbers per head, not all");
  if (const char* off = std::getenv("LLAMA_ATTN_ROT_DISABLE"); off != nullptr && std::atoi(off) != 0)
    refuse(type, "LLAMA_ATTN_ROT_DISABLE is set");
}

}  // namespace llama_cpp
