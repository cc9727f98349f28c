#include "shift_check.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iomanip>
#include <limits>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "cache_type.hpp"
#include "decode_error.hpp"
#include "tensor_bytes.hpp"

namespace llama_cpp {
namespace {

constexpr llama_pos steps = 8, step = 16;

/// How often keys are rounded to the cache's type.
constexpr double roundings = steps + 1;

/// Half a unit of f16's last place, relative. A turn of less than that is lost in every move, so that for f16
/// such errors add up in the worst case. (Quantised keys are turned by a Hadamard matrix first, which mixes
/// them.)
constexpr double half_unit = 1.0 / 2048;

/// What else a factor may be off by.
constexpr double of_floats = 2e-3;

double product(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

/// ||a - b|| / ||b||; 0 if both are 0.
double relative_error(std::span<const float> a, std::span<const float> b) {
  double squares = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    squares += difference * difference;
  }
  return squares == 0 ? 0 : std::sqrt(squares / product(b, b));
}

/// The keys of one token in the order of its layers: as they were computed, and where they were written.
class WrittenKeys final : public Listener {
 public:
  struct Layer {
    std::size_t layer;
    std::vector<float> computed;
    const ggml_tensor* cache;  // (all heads, cells)
    std::size_t cell;
  };

  std::span<const Layer> layers() const noexcept { return layers_; }

  void cells(std::span<const std::int64_t> /*cells*/) noexcept override {}
  bool wants_attention() const noexcept override { return false; }
  bool attention(std::size_t /*layer*/, const ggml_tensor& /*node*/) noexcept override { return true; }
  bool wants_keys() const noexcept override { return true; }
  void keys(std::size_t layer, const ggml_tensor& node) noexcept override {
    if (node.src[0]->type != GGML_TYPE_F32) return;
    Layer& added = layers_.emplace_back();
    added.layer = layer;
    const auto* const computed = reinterpret_cast<const float*>(bytes_.read(*node.src[0]));
    added.computed.assign(computed, computed + node.src[0]->ne[0]);
    added.cache = node.view_src;
    added.cell = static_cast<std::size_t>(*reinterpret_cast<const std::int64_t*>(bytes_.read(*node.src[1])));
  }

 private:
  std::vector<Layer> layers_;
  TensorBytes bytes_;
};

/// What the cache holds of them now.
std::vector<float> stored(const WrittenKeys::Layer& of) {
  const ggml_tensor& cache = *of.cache;
  std::vector<std::byte> row(ggml_row_size(cache.type, cache.ne[0]));
  ggml_backend_tensor_get(&cache, row.data(), of.cell * cache.nb[1], row.size());
  std::vector<float> keys(of.computed.size());
  if (cache.type == GGML_TYPE_F32)
    std::memcpy(keys.data(), row.data(), row.size());
  else
    ggml_get_type_traits(cache.type)->to_float(row.data(), keys.data(), cache.ne[0]);
  return keys;
}

/// One sequence of a context, which is empty before and after.
class Trial {
 public:
  Trial(GraphTap& tap, llama_context& context, llama_seq_id sequence)
      : tap_(tap), context_(context), memory_(llama_get_memory(&context)), sequence_(sequence) {}
  Trial(const Trial&) = delete;
  Trial& operator=(const Trial&) = delete;
  ~Trial() { clear(); }

  void clear() noexcept { llama_memory_seq_rm(memory_, sequence_, -1, -1); }

  /// Decodes one token, with `listener` (or nobody) at the tap.
  void decode(llama_token token, llama_pos position, Listener* listener) {
    std::int32_t sequences = 1;
    llama_seq_id* sequence = &sequence_;
    std::int8_t no_logits = 0;
    tap_.listen(listener);
    const std::int32_t status = llama_decode(&context_, {.n_tokens = 1,
                                                         .token = &token,
                                                         .embd = nullptr,
                                                         .pos = &position,
                                                         .n_seq_id = &sequences,
                                                         .seq_id = &sequence,
                                                         .logits = &no_logits});
    tap_.listen(nullptr);
    if (status != 0)
      throw std::runtime_error("llama.cpp cannot decode a token at position " + std::to_string(position) +
                               ", to try out its K-shift: " + decode_error(status));
  }

  /// Moves the token at `from` down. llama.cpp does it with the next token that it decodes.
  void move(llama_pos from, llama_token next) {
    llama_memory_seq_add(memory_, sequence_, from, from + 1, -step);
    decode(next, from - step + 1, nullptr);
    llama_memory_seq_rm(memory_, sequence_, from - step + 1, -1);
  }

 private:
  GraphTap& tap_;
  llama_context& context_;
  llama_memory_t memory_;
  llama_seq_id sequence_;
};

void require_empty(llama_context& context) {
  const auto sequences = static_cast<llama_seq_id>(llama_n_seq_max(&context));
  for (llama_seq_id sequence = 0; sequence < sequences; ++sequence)
    if (llama_memory_seq_pos_max(llama_get_memory(&context), sequence) >= 0)
      throw std::invalid_argument(
          "llama.cpp: the first engine of a tap tries out how its context moves keys, which could damage the "
          "tokens that sequence " +
          std::to_string(sequence) + " holds: make the engine before anything is decoded");
}

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream text;
  text << "llama.cpp pot: llama.cpp moves this model's keys wrongly (K-shift): ";
  (text << ... << parts);
  text << "; every distillation would damage all keys of the context";
  throw std::invalid_argument(text.str());
}

std::string percent(double share) {
  std::ostringstream text;
  text << std::setprecision(3) << 100 * share << " %";
  return text.str();
}

/// Keys after all moves, against what the model computes where they are now.
struct Comparison {
  std::size_t layer = 0;  // the one that is worst
  double error = -1;      // there, relative
  double length = 1;      // there, relative
  double factor = 1;      // by which the keys of all layers, together, are too long in the right direction
  std::size_t count = 0;  // of all layers' numbers
};

Comparison compare(std::span<const WrittenKeys::Layer> moved, std::span<const WrittenKeys::Layer> computed) {
  Comparison found;
  double along = 0, squares = 0;
  for (std::size_t i = 0; i < computed.size(); ++i) {
    const std::vector<float> keys = stored(moved[i]), &right = computed[i].computed;
    const double of_layer = product(right, right);
    along += product(keys, right);
    squares += of_layer;
    found.count += keys.size();
    double error = relative_error(keys, right);
    if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
    if (error <= found.error) continue;
    found.layer = computed[i].layer;
    found.error = error;
    found.length = of_layer == 0 ? 1 : std::sqrt(product(keys, keys) / of_layer);
  }
  if (squares > 0) found.factor = along / squares;
  return found;
}

/// `rounding` is the relative error of writing keys to the cache once. Each move rounds once more, and as
/// these errors are independent, their squares add up.
void judge(const Comparison& found, double rounding, const char* type) {
  const double allowed = 2 * std::sqrt(roundings) * rounding + roundings * half_unit;
  // Rounding shortens keys by its square; four standard deviations are more than chance.
  const double allowed_factor = roundings * rounding * rounding +
                                4 * std::sqrt(roundings / static_cast<double>(found.count)) * rounding +
                                of_floats;
  if (found.error <= allowed && std::abs(found.factor - 1) <= allowed_factor) return;
  const std::string seen = "after " + std::to_string(steps) + " moves, those of layer " +
                           std::to_string(found.layer) + " differ by " + percent(found.error) +
                           " from what they should be, where rounding to " + type + " explains " +
                           percent(allowed);
  if (std::abs(found.length - 1) <= allowed_factor)
    refuse("they get a wrong direction, as happens in layers without RoPE (SmolLM3): ", seen);
  refuse("each move multiplies them by ", std::setprecision(4), std::pow(found.length, 1.0 / steps),
         ", as happens with attention factors (YaRN, LongRoPE): ", seen);
}

}  // namespace

void check_shift(GraphTap& tap, llama_context& context, llama_seq_id sequence) {
  require_empty(context);
  const llama_model& model = *llama_get_model(&context);
  const std::int32_t vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(&model));
  const llama_token token = vocabulary / 3, next = vocabulary / 7;

  Trial trial(tap, context, sequence);
  WrittenKeys there, from_afar;
  trial.decode(token, 0, &there);
  if (there.layers().empty())
    throw std::runtime_error(
        "llama.cpp does not show its keys: was its context made with GraphTap::install()?");
  // One token's rounding varies with the sizes of its keys; the largest of all layers is a fair measure.
  double rounding = 0;
  for (const WrittenKeys::Layer& layer : there.layers()) {
    check_key_type(model, layer.cache->type);
    rounding = std::max(rounding, relative_error(stored(layer), layer.computed));
  }
  trial.clear();

  trial.decode(token, steps * step, &from_afar);
  for (llama_pos from = steps * step; from > 0; from -= step) trial.move(from, next);
  judge(compare(from_afar.layers(), there.layers()), rounding,
        ggml_type_name(there.layers().front().cache->type));
}

}  // namespace llama_cpp
