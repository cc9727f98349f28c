#include "find_cache.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cache_listener.hpp"
#include "find_windows.hpp"
#include "rope_node.hpp"
#include "sequence_batch.hpp"

namespace llama_cpp {
namespace {

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream text;
  text << "llama.cpp pot: ";
  (text << ... << parts);
  throw std::invalid_argument(text.str());
}

constexpr llama_pos far = 777;

/// One token alone in a sequence, which is empty before and after.
CacheListener decode_alone(GraphTap& tap, SequenceBatch& batch, llama_token token, llama_pos position) {
  struct Emptied {
    llama_memory_t memory;
    llama_seq_id sequence;
    ~Emptied() { llama_memory_seq_rm(memory, sequence, -1, -1); }
  };
  CacheListener seen;
  const Emptied emptied{llama_get_memory(&batch.context()), batch.sequence()};
  const Listening listening(tap, seen);
  batch.decode(std::span(&token, 1), static_cast<std::size_t>(position), 1);
  return seen;
}

/// The one of all layers' `what` that a pot's settings have room for.
template <class T, class Of>
T same_in_all(std::span<const SeenLayer> layers, const char* what, const Of& of) {
  T first = of(layers.front());
  for (const SeenLayer& layer : layers)
    if (!(of(layer) == first))
      refuse("layers ", layers.front().model_layer, " and ", layer.model_layer,
             " of the model have different ", what, ", which one pot cannot hold");
  return first;
}

/// Refuses rows of which heads share parts.
void check_row(const RowCodec& row, const char* what) {
  if (const auto block = static_cast<std::size_t>(ggml_blck_size(row.type)); row.width % block != 0)
    refuse(what, " of type ", ggml_type_name(row.type), " are in blocks of ", block,
           " numbers, but heads have ", row.width, ", so that two share a block; use f16 or f32");
}

infinipot::Shape shape_of(std::span<const SeenLayer> layers) {
  return {
      layers.size(),
      same_in_all<std::size_t>(layers, "numbers of query heads", [](const auto& l) { return l.query_heads; }),
      same_in_all<std::size_t>(layers, "numbers of kv heads", [](const auto& l) { return l.kv_heads; }),
      same_in_all<std::size_t>(layers, "numbers per head", [](const auto& l) { return l.head_dim; })};
}

CacheFacts facts_of(std::span<const SeenLayer> layers) {
  CacheFacts facts;
  facts.shape = shape_of(layers);
  const SeenLayer& first = layers.front();
  facts.cells = static_cast<std::size_t>(first.keys.tensor->ne[1]);
  facts.streams = static_cast<std::size_t>(first.keys.tensor->ne[2]);
  facts.transposed = first.values.transposed;
  facts.on_host = true;
  std::vector<SeenLayer> turned;
  for (const SeenLayer& layer : layers) {
    if (layer.rope.frequencies.empty())
      facts.layers_without_rope.push_back(facts.layers.size());
    else
      turned.push_back(layer);
    facts.layers.push_back({layer.model_layer, layer.keys.tensor, layer.values.tensor});
    for (const ggml_tensor* const tensor : {layer.keys.tensor, layer.values.tensor})
      facts.on_host = facts.on_host && (tensor == nullptr || is_on_host(*tensor));
  }
  if (turned.empty())
    facts.layers_without_rope.clear();
  else
    facts.rope = same_in_all<infinipot::Rope>(turned, "RoPE", [](const auto& l) { return l.rope; });
  facts.keys = same_in_all<RowCodec>(layers, "types of keys", [](const auto& l) {
    return RowCodec{l.keys.tensor->type, l.head_dim, l.keys.hadamard};
  });
  facts.values = same_in_all<RowCodec>(layers, "types of values", [](const auto& l) {
    if (l.values.tensor == nullptr) return RowCodec{GGML_TYPE_F32, 0, 0};
    return RowCodec{l.values.tensor->type, static_cast<std::size_t>(l.values.tensor->ne[0]) / l.kv_heads,
                    l.values.hadamard};
  });
  if (facts.values.width != facts.shape.head_dim) facts.shape.value_dim = facts.values.width;
  facts.shape.validate();
  check_row(facts.keys, "keys");
  if (facts.values.width > 0) check_row(facts.values, "values");
  return facts;
}

double length_of(std::span<const float> row) {
  double squares = 0;
  for (const float x : row) squares += static_cast<double>(x) * static_cast<double>(x);
  return std::sqrt(squares);
}

/// ||a - b|| / ||b||; 0 if both are 0.
double relative_error(std::span<const float> a, std::span<const float> b) {
  std::vector<float> difference(a.begin(), a.end());
  for (std::size_t i = 0; i < difference.size(); ++i) difference[i] -= b[i];
  const double error = length_of(difference);
  return error == 0 ? 0 : error / length_of(b);
}

/// Rounding to a type, and what an engine's own rounding may be worse than ggml's reference.
double rounding_of(const RowCodec& codec, std::span<const float> row) {
  std::vector<float> in(row.begin(), row.end()), out(row.size());
  std::vector<std::byte> bytes(codec.bytes());
  codec.encode(in.data(), bytes.data());
  codec.decode(bytes.data(), out.data());
  return 1.5 * relative_error(out, row) + 1e-6;
}

/// What was computed must be where rows are read from.
void check_stored(const CacheFacts& facts, const SeenLayer& layer, const SeenRows& rows,
                  const RowCodec& codec, const char* what) {
  std::vector<float> stored(codec.width), computed(codec.width);
  for (std::size_t head = 0; head < facts.shape.kv_heads && codec.width > 0; ++head) {
    codec.decode(rows.stored.data() + head * codec.bytes(), stored.data());
    std::copy_n(rows.computed.data() + head * codec.width, codec.width, computed.data());
    const double error = relative_error(stored, computed), allowed = rounding_of(codec, computed);
    if (!(error <= allowed))
      refuse(what, " of layer ", layer.model_layer, ", head ", head,
             " are not in the cache as expected: they are off by ", 100 * error, " %, where rounding to ",
             ggml_type_name(codec.type), " explains ", 100 * allowed, " %");
  }
}

/// The largest error of a pair of channels, relative to its length (and to a small share of the key's).
double turn_error(std::span<const float> a, std::span<const float> b, const infinipot::Rope& rope) {
  const std::size_t pairs = rope.frequencies.size();
  const double floor = 1e-3 * length_of(b) / std::sqrt(static_cast<double>(b.size()));
  double worst = 0;
  for (std::size_t i = 0; i < pairs; ++i) {
    const bool split = rope.pairing == infinipot::Pairing::half_split;
    const std::size_t x = rope.first_channel + (split ? i : 2 * i), y = x + (split ? pairs : 1);
    const double error = std::hypot(static_cast<double>(a[x] - b[x]), static_cast<double>(a[y] - b[y]));
    worst =
        std::max(worst, error / (std::hypot(static_cast<double>(b[x]), static_cast<double>(b[y])) + floor));
  }
  return std::max(worst, relative_error(a, b));
}

/// The keys that were written at `position` must be those at 0, turned by it.
/// With learned sinks a token that is alone is not all that it attends to, so that the cache's rounding of
/// keys, which differs by position, reaches the layers above.
void check_turn(const CacheFacts& facts, const SeenLayer& near, const SeenLayer& at, llama_pos position,
                bool sinks) {
  // Sines of large angles in floats: a turn of 777 is off by some 1e-4.
  constexpr double of_angles = 2e-3;
  const infinipot::Rope& rope = near.rope;
  std::vector<float> memory(infinipot::AngleTable::floats(rope, static_cast<std::size_t>(position) + 1));
  const infinipot::AngleTable angles(rope, static_cast<std::size_t>(position) + 1, memory);
  const std::size_t width = facts.shape.head_dim;
  std::vector<float> turned(width), found(width);
  for (std::size_t head = 0; head < facts.shape.kv_heads; ++head) {
    const auto key = [&](const SeenLayer& of, std::vector<float>& out) {
      std::copy_n(of.keys.computed.data() + head * width, width, out.data());
    };
    key(near, turned);
    key(at, found);
    const double unturned = relative_error(found, turned);
    infinipot::rotate(turned.data(), angles[static_cast<std::size_t>(position)], rope.pairing,
                      infinipot::Turn::forward, width, turned.data());
    const double error = turn_error(found, turned, rope),
                 allowed = of_angles + (sinks ? 8 * rounding_of(facts.keys, turned) : 0);
    if (!(error <= allowed))
      refuse("keys of layer ", near.model_layer, ", head ", head, " at position ", position,
             " are not those at position 0, ",
             rope.frequencies.empty() ? "which no RoPE turns" : "turned as the model's RoPE says",
             ": they are off by ", 100 * error, " % (as they were, by ", 100 * unturned,
             " %), so that a pot would turn them wrongly");
  }
}

std::string architecture_of(const llama_model& model) {
  char text[128] = {};
  llama_model_meta_val_str(&model, "general.architecture", text, sizeof text);
  return text;
}

void check_model(const llama_context& context, llama_seq_id sequence) {
  const llama_model& model = *llama_get_model(&context);
  const std::string architecture = architecture_of(model);
  if (llama_model_is_recurrent(&model))
    refuse(architecture, " models have recurrent layers alone, and no entries that a pot could hold");
  if (llama_model_has_encoder(&model)) refuse("the model has an encoder; only decoders are supported");
  if (llama_model_is_hybrid(&model) && llama_model_n_swa(&model) > 0)
    refuse(architecture,
           " models have recurrent layers beside layers with windows, of which llama.cpp saves and "
           "restores both or neither");
  if (architecture == "llama4" && llama_model_n_swa(&model) > 0)
    refuse(
        "most layers of llama4 models see chunks of text that begin at fixed positions, where a pot's "
        "entries do "
        "not stay");
  if (llama_get_memory(&context) == nullptr) refuse("the context has no cache");
  if (llama_memory_seq_pos_max(llama_get_memory(&context), sequence) >= 0)
    refuse("sequence ", sequence, " holds tokens already");
}

/// The layers of a pot and of its windows.
struct Parts {
  std::vector<SeenLayer> whole, windows;
};

Parts parts_of(std::span<const SeenLayer> layers, std::span<const std::size_t> windows) {
  Parts parts;
  for (const SeenLayer& layer : layers)
    (std::ranges::binary_search(windows, layer.model_layer) ? parts.windows : parts.whole).push_back(layer);
  return parts;
}

/// What is known of some layers, once they have proved it.
CacheFacts proved_facts(std::span<const SeenLayer> near, std::span<const SeenLayer> at, llama_pos position,
                        bool sinks) {
  CacheFacts facts = facts_of(near);
  for (std::size_t i = 0; i < near.size(); ++i) {
    for (const SeenLayer& layer : {std::cref(near[i]), std::cref(at[i])}) {
      check_stored(facts, layer, layer.keys, facts.keys, "keys");
      check_stored(facts, layer, layer.values, facts.values, "values");
    }
    check_turn(facts, near[i], at[i], position, sinks);
  }
  return facts;
}

}  // namespace

std::shared_ptr<const Cache> find_cache(GraphTap& tap, llama_context& context, llama_seq_id sequence) {
  check_model(context, sequence);
  const llama_model& model = *llama_get_model(&context);
  const llama_token token = llama_vocab_n_tokens(llama_model_get_vocab(&model)) / 3;
  const llama_pos position = std::max(1, std::min(far, llama_model_n_ctx_train(&model) - 1));
  SequenceBatch batch(context, sequence);

  const CacheListener near = decode_alone(tap, batch, token, 0),
                      at = decode_alone(tap, batch, token, position);
  if (near.layers().empty())
    throw std::runtime_error(
        "llama.cpp does not show its cache: was the context made with GraphTap::install()?");
  if (!near.problem().empty()) refuse(near.problem());
  const std::vector<std::size_t> windows = find_windows(batch, near.layers());
  const Parts first = parts_of(near.layers(), windows), second = parts_of(at.layers(), windows);
  if (first.whole.empty())
    refuse("all layers of ", architecture_of(model), " models see the last ", llama_model_n_swa(&model),
           " tokens only; there is nothing that a pot could hold");
  const bool sinks = std::ranges::any_of(near.layers(), &SeenLayer::sinks);
  CacheFacts facts = proved_facts(first.whole, second.whole, position, sinks);
  if (first.windows.empty()) return std::make_shared<const Cache>(std::move(facts));
  CacheFacts of_windows = proved_facts(first.windows, second.windows, position, sinks);
  if (of_windows.cells != facts.cells)
    refuse("layers with a window of ", llama_model_n_swa(&model), " tokens have ", of_windows.cells,
           " cells, the others ", facts.cells, "; make the context with swa_full = true");
  facts.windows = std::make_shared<const Cache>(std::move(of_windows));
  return std::make_shared<const Cache>(std::move(facts));
}

}  // namespace llama_cpp
