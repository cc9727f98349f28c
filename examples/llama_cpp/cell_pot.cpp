#include "cell_pot.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <string>

namespace llama_cpp {
namespace {

template <class Error = std::invalid_argument, class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream text;
  text << "llama.cpp pot: ";
  (text << ... << parts);
  throw Error(text.str());
}

/// A number from the model's metadata, under the architecture's name; 0 if there is none.
std::size_t metadata(const llama_model& model, const char* key) {
  char text[128] = {};
  if (llama_model_meta_val_str(&model, "general.architecture", text, sizeof text) < 0) return 0;
  const std::string name = std::string(text) + key;
  if (llama_model_meta_val_str(&model, name.c_str(), text, sizeof text) < 0) return 0;
  std::size_t value = 0;
  std::from_chars(text, text + std::strlen(text), value);
  return value;
}

void check(const llama_context& context, llama_seq_id sequence, std::size_t capacity) {
  const llama_model& model = *llama_get_model(&context);
  if (llama_model_is_recurrent(&model) || llama_model_is_hybrid(&model))
    refuse("the model has a recurrent memory, from which no entries can be removed");
  if (llama_model_has_encoder(&model)) refuse("the model has an encoder; only decoders are supported");
  if (llama_model_n_swa(&model) > 0)
    refuse("the model has layers with a sliding window of ", llama_model_n_swa(&model),
           " tokens, which forget entries on their own");
  if (llama_get_memory(&context) == nullptr || !llama_memory_can_shift(llama_get_memory(&context)))
    refuse("the context's cache cannot shift positions (llama_memory_can_shift), which closing gaps needs");
  if (const auto sequences = llama_n_seq_max(&context);
      sequence < 0 || static_cast<std::uint32_t>(sequence) >= sequences)
    refuse("sequence ", sequence, " is out of range 0 .. ", sequences - 1);
  if (const std::size_t cells = llama_n_ctx_seq(&context); capacity == 0 || capacity > cells)
    refuse("capacity ", capacity, " is out of range 1 .. ", cells,
           ", the context's cells per sequence (n_ctx)");
  if (llama_memory_seq_pos_max(llama_get_memory(&context), sequence) >= 0)
    refuse("sequence ", sequence, " holds tokens already");
}

const llama_context& checked(const llama_context& context, llama_seq_id sequence, std::size_t capacity) {
  check(context, sequence, capacity);
  return context;
}

}  // namespace

infinipot::Shape shape_of(const llama_model& model) {
  const auto heads = static_cast<std::size_t>(llama_model_n_head(&model));
  const std::size_t head_dim = metadata(model, ".attention.key_length");
  return {static_cast<std::size_t>(llama_model_n_layer(&model)), heads,
          static_cast<std::size_t>(llama_model_n_head_kv(&model)),
          head_dim != 0 ? head_dim : static_cast<std::size_t>(llama_model_n_embd(&model)) / heads};
}

std::size_t rotary_dim_of(const llama_model& model) {
  const std::size_t turned = metadata(model, ".rope.dimension_count");
  return turned != 0 ? turned : shape_of(model).head_dim;
}

CellPot::CellPot(llama_context& context, llama_seq_id sequence, std::size_t capacity)
    : context_(context),
      sequence_(sequence),
      capacity_(capacity),
      shape_(shape_of(*llama_get_model(&checked(context, sequence, capacity)))),
      entries_(1, capacity),
      cells_(capacity) {
  shape_.validate();
}

void CellPot::remove(std::size_t first, std::size_t end) {
  if (!llama_memory_seq_rm(memory(), sequence_, static_cast<llama_pos>(first), static_cast<llama_pos>(end)))
    refuse<std::runtime_error>("llama_memory_seq_rm refused to remove positions ", first, " .. ", end - 1);
}

void CellPot::append(std::span<const infinipot::Entry> added) {
  const std::int64_t last = llama_memory_seq_pos_max(memory(), sequence_);  // -1 if there is none
  const auto written = static_cast<std::size_t>(last + 1);
  if (written != entries_.size() + added.size())
    refuse<std::runtime_error>("cells of ", written, " entries are written, but there are to be ",
                               entries_.size() + added.size());
  entries_.append(added);
}

void CellPot::truncate(std::size_t size) {
  remove(size, capacity_);
  entries_.truncate(size);
}

void CellPot::keep(const infinipot::Selection& kept) {
  const std::span<const infinipot::Index> indices = kept.lane(0);
  std::size_t end = 0;  // of the run before
  for (std::size_t i = 0; i < indices.size();) {
    const std::size_t to = i, first = indices[i];
    while (i < indices.size() && indices[i] == first + (i - to)) ++i;
    if (end < first) remove(end, first);
    end = first + (i - to);
    // Runs move in ascending order, so that one never lands on positions of another.
    if (to < first)
      llama_memory_seq_add(memory(), sequence_, static_cast<llama_pos>(first), static_cast<llama_pos>(end),
                           -static_cast<llama_pos>(first - to));
  }
  if (end < entries_.size()) remove(end, capacity_);
  entries_.keep(kept);
  infinipot::compact(std::span(cells_), indices);
}

void CellPot::place(std::size_t first, std::span<const std::int64_t> rows) noexcept {
  // Rows count through the caches of all sequences.
  const auto cells = static_cast<std::int64_t>(llama_n_ctx_seq(&context_));
  for (std::size_t i = 0; i < rows.size() && first + i < cells_.size(); ++i)
    cells_[first + i] = static_cast<infinipot::Index>(rows[i] % cells);
}

infinipot::FloatRows CellPot::key_rows(std::size_t /*layer*/, std::size_t kv_head, std::size_t first,
                                       std::size_t count, float* tile) const noexcept {
  const std::size_t width = shape_.head_dim;
  const auto to_float = ggml_get_type_traits(keys_->type)->to_float;
  for (std::size_t i = 0; i < count; ++i) {
    const std::byte* const key = key_bytes_ + cells_[first + i] * keys_->nb[1] + kv_head * keys_->nb[2];
    float* const row = tile + i * width;
    if (keys_->type == GGML_TYPE_F32)
      std::memcpy(row, key, width * sizeof(float));
    else
      to_float(key, row, static_cast<std::int64_t>(width));
  }
  return {tile, static_cast<std::ptrdiff_t>(width)};
}

void CellPot::check_copies() const {
  if (llama_n_seq_max(&context_) > 1 && llama_n_ctx_seq(&context_) == llama_n_ctx(&context_))
    refuse("sequences of this context share their cells (kv_unified), so a pot cannot be copied");
}

CellPot CellPot::fork(llama_seq_id sequence) const {
  check_copies();
  CellPot copy(context_, sequence, capacity_);
  copy.assign(*this, entries_.size());
  return copy;
}

void CellPot::assign(const CellPot& other, std::size_t count) {
  check_copies();
  if (&other.context_ != &context_ || other.sequence_ == sequence_)
    refuse("a pot can be copied only from another sequence of the same context");
  if (count > other.entries_.size() || count > capacity_)
    refuse("cannot copy " + std::to_string(count) + " entries of a pot that holds " +
           std::to_string(other.entries_.size()) + " into one of " + std::to_string(capacity_));
  truncate(0);
  if (count == 0) return;
  llama_memory_seq_cp(memory(), other.sequence_, sequence_, -1, -1);
  entries_.assign(other.entries_, count);
  std::ranges::copy(std::span(other.cells_).first(count), cells_.begin());
  remove(count, std::max(capacity_, other.capacity_));
}

}  // namespace llama_cpp
