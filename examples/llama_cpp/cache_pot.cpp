#include "cache_pot.hpp"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "infinipot/pot/pot_file.hpp"

namespace llama_cpp {
namespace {

template <class Error = std::invalid_argument, class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream text;
  text << "llama.cpp pot: ";
  (text << ... << parts);
  throw Error(text.str());
}

llama_context& checked(llama_context& context, llama_seq_id sequence, const CachePotSettings& settings) {
  if (const auto sequences = llama_n_seq_max(&context);
      sequence < 0 || static_cast<std::uint32_t>(sequence) >= sequences)
    refuse("sequence ", sequence, " is out of range 0 .. ", sequences - 1);
  if (const std::size_t cells = llama_n_ctx_seq(&context); settings.capacity < 2 || settings.capacity > cells)
    refuse("capacity ", settings.capacity, " is out of range 2 .. ", cells,
           ", the context's cells per sequence (n_ctx)");
  if (llama_get_memory(&context) == nullptr) refuse("the context has no cache");
  if (llama_memory_seq_pos_max(llama_get_memory(&context), sequence) >= 0)
    refuse("sequence ", sequence, " holds tokens already");
  return context;
}

std::shared_ptr<const Cache> cache_of(GraphTap& tap, llama_context& context, llama_seq_id sequence) {
  const auto& cache = tap.cache_of(context, sequence);
  if (llama_n_seq_max(&context) > 1 && cache->streams() == 1)
    refuse(
        "sequences of this context share their cells (kv_unified), but a pot's entries must be in cells 0, "
        "1, ... "
        "of its own sequence; make the context with kv_unified = false");
  return cache;
}

/// Tables over rows of the cache, for types that the library knows.
template <infinipot::Element T>
infinipot::Pot<T> pot_over(infinipot::PotSettings settings, const Cache& cache, std::size_t stream) {
  infinipot::KvLayout<T> layout;
  const auto rows = [stream](const ggml_tensor& tensor, const RowCodec& row) {
    auto* const bytes = static_cast<std::byte*>(tensor.data) + stream * tensor.nb[2];
    return infinipot::Rows<T>{reinterpret_cast<T*>(bytes), static_cast<std::ptrdiff_t>(row.width),
                              static_cast<std::ptrdiff_t>(tensor.nb[1] / sizeof(T))};
  };
  for (const CacheLayer& layer : cache.layers()) {
    layout.keys.push_back(rows(*layer.keys, cache.keys()));
    if (layer.values != nullptr) layout.values.push_back(rows(*layer.values, cache.values()));
  }
  return {std::move(settings), layout};
}

/// Computes nothing.
class CellTaker final : public Listener {
 public:
  CellTaker(GraphTap& tap) : listening_(tap, *this) {}
  bool takes_cells_alone() const noexcept override { return true; }

 private:
  Listening listening_;
};

}  // namespace

CachePot::CachePot(GraphTap& tap, llama_context& context, llama_seq_id sequence,
                   const CachePotSettings& settings)
    : tap_(tap),
      settings_(settings),
      batch_(checked(context, sequence, settings), sequence),
      cache_(cache_of(tap, context, sequence)),
      pot_(make_pot(cache_, settings.granularity)),
      states_(context, sequence) {
  if (settings.k_shift && (cache_->windows() != nullptr || states_.any()))
    refuse("where llama.cpp shifts, models with windows or recurrent layers cannot be read");
  if (settings.k_shift && !llama_memory_can_shift(memory()))
    refuse("llama.cpp cannot shift this model's keys, such as those of M-RoPE");
  if (cache_->windows() != nullptr) windows_ = make_pot(cache_->windows(), infinipot::Granularity::shared);
}

CachePot::AnyPot CachePot::make_pot(const std::shared_ptr<const Cache>& cache,
                                    infinipot::Granularity granularity) const {
  infinipot::PotSettings settings{.shape = cache->shape(),
                                  .capacity = settings_.capacity,
                                  .max_keep = settings_.max_keep,
                                  .granularity = granularity,
                                  .rope = cache->rope(),
                                  .layers_without_rope = cache->layers_without_rope()};
  if (settings_.k_shift) return ShiftedPot(std::move(settings), cache, context(), sequence());
  const std::size_t stream = cache->stream_of(static_cast<std::size_t>(sequence()));
  if (cache->on_host() && !cache->transposed() && cache->keys().hadamard == 0 &&
      cache->values().hadamard == 0 &&
      (cache->keys().type == cache->values().type || cache->values().width == 0)) {
    if (cache->keys().type == GGML_TYPE_F32)
      return pot_over<infinipot::f32>(std::move(settings), *cache, stream);
    if (cache->keys().type == GGML_TYPE_F16)
      return pot_over<infinipot::f16>(std::move(settings), *cache, stream);
    if (cache->keys().type == GGML_TYPE_BF16)
      return pot_over<infinipot::bf16>(std::move(settings), *cache, stream);
  }
  return RowPot(std::move(settings), cache, stream);
}

std::size_t CachePot::cells_taken() const noexcept {
  return static_cast<std::size_t>(std::int64_t{llama_memory_seq_pos_max(memory(), sequence())} +
                                  1);  // -1 if there is none
}

void CachePot::take_cells(std::size_t first, std::size_t count) {
  const CellTaker nothing_else(tap_);
  const std::vector<llama_token> tokens(std::min(count, batch_.most()), 0);
  for (const std::size_t end = first + count; first < end;) {
    const std::size_t taken = std::min(tokens.size(), end - first);
    batch_.decode(std::span(tokens).first(taken), first, taken);
    first += taken;
  }
}

const infinipot::Selection& CachePot::newest(std::size_t size, std::size_t keep) {
  if (!newest_ || newest_->keep() != keep) newest_.emplace(std::size_t{1}, keep);
  std::iota(newest_->lane(0).begin(), newest_->lane(0).end(), static_cast<infinipot::Index>(size - keep));
  return *newest_;
}

void CachePot::check_file() const {
  if (windows_) refuse("layers with windows are not in a pot file, so the pot cannot go on from one");
  if (states_.any()) refuse("recurrent layers are not in a pot file, so the pot cannot go on from one");
}

void CachePot::outdate(std::size_t end) noexcept {
  for (AnyPot* const any : {&pot_, windows_ ? &*windows_ : nullptr})
    if (auto* const pot = any != nullptr ? std::get_if<RowPot>(any) : nullptr) pot->outdate(end);
}

void CachePot::decode_again(std::size_t first, std::span<const infinipot::Token> tokens) {
  while (!tokens.empty()) {
    const std::size_t count = std::min(batch_.most(), tokens.size());
    states_.save(first, false);
    outdate(first + count);
    try {
      batch_.decode(tokens.first(count), first, count);
    } catch (...) {
      states_.cut(first);  // llama.cpp cannot take back what recurrent layers have seen
      throw;
    }
    first += count;
    tokens = tokens.subspan(count);
  }
}

bool CachePot::place(std::size_t first, std::span<const CacheRow> rows) noexcept {
  outdate(first + rows.size());
  if (auto* const pot = std::get_if<ShiftedPot>(&pot_)) {
    pot->place(first, rows);
    return true;
  }
  const std::size_t stream = cache_->stream_of(static_cast<std::size_t>(sequence()));
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (rows[i].stream != stream || rows[i].cell != first + i) return false;
  return true;
}

void CachePot::append(std::span<const infinipot::Entry> added) {
  const std::size_t size = entries().size(), taken = cells_taken();
  if (taken == size && shifts() && !added.empty())
    refuse<std::runtime_error>("where llama.cpp shifts, entries cannot be written without a forward pass");
  if (taken == size && !added.empty()) {
    if (rows_written_ != 0 && (windows_ || states_.any()))
      refuse<std::runtime_error>(
          "archived rows lack those of layers with windows, and the states of recurrent layers; "
          "archive token ids instead");
    if (states_.any()) {
      std::vector<infinipot::Token> tokens;
      for (const infinipot::Entry& entry : added) tokens.push_back(entry.token);
      decode_again(size, tokens);
    } else {
      take_cells(size, added.size());
    }
  } else if (taken != size + added.size())
    refuse<std::runtime_error>("cells of ", taken, " entries are written, but there are to be ",
                               size + added.size());
  rows_written_ = 0;
  visit([&](auto& pot) { pot.append(added); });
  if (windows_) std::visit([&](auto& pot) { pot.append(added); }, *windows_);
}

void CachePot::truncate(std::size_t size) {
  states_.cut(size);
  // Recurrent layers may have to see tokens again, also those that could not be decoded when this was tried
  // before.
  if (const std::size_t known = cells_taken(); states_.any() && known < size)
    decode_again(known, entries().tokens(0).first(size).subspan(known));
  visit([&](auto& pot) { pot.truncate(size); });
  if (windows_) std::visit([&](auto& pot) { pot.truncate(size); }, *windows_);
}

CachePot CachePot::fork(llama_seq_id sequence) const {
  CachePot copy(tap_, context(), sequence, settings_);
  copy.assign(*this, entries().size());
  return copy;
}

std::size_t CachePot::survivors() const noexcept {
  return visit([](const auto& pot) -> std::size_t {
    if constexpr (requires { infinipot::detail::PotAccess::survivors(pot); })
      return infinipot::detail::PotAccess::survivors(pot);
    else if constexpr (requires { pot.survivors(); })
      return pot.survivors();
    else
      return 0;
  });
}

void CachePot::assign(const CachePot& other, std::size_t count) {
  if (&other == this) refuse("a pot cannot be copied into itself");
  if (other.pot_.index() != pot_.index() || !(other.shape() == shape()) ||
      other.granularity() != granularity() || !(other.rope() == rope()) ||
      other.cache().keys().type != cache().keys().type ||
      other.cache().values().type != cache().values().type ||
      other.cache().transposed() != cache().transposed())
    refuse("a pot of another shape, granularity, RoPE or cache type cannot be copied into this one");
  if (count > other.entries().size() || count > capacity())
    refuse("cannot copy ", count, " entries of a pot that holds ", other.entries().size(), " into one of ",
           capacity());
  if (const std::size_t survivors = std::min(other.survivors(), count); survivors > max_keep())
    refuse("cannot copy ", survivors, " survivors into a pot whose max_keep is ", max_keep());
  const std::vector<std::uint8_t> states = other.states_.states_behind(count, other.entries().size());
  truncate(0);
  if (!shifts()) take_cells(0, count);
  const auto assign_in = [count](AnyPot& any, const AnyPot& from) {
    std::visit([&](auto& pot) { pot.assign(std::get<std::remove_reference_t<decltype(pot)>>(from), count); },
               any);
  };
  assign_in(pot_, other.pot_);
  if (windows_) assign_in(*windows_, *other.windows_);
  states_.take(states);
}

void CachePot::save(std::ostream& out, std::span<const std::byte> extra) const {
  check_file();
  std::visit(
      [&](const auto& pot) {
        if constexpr (requires { pot.save(out, extra); })
          pot.save(out, extra);
        else if constexpr (requires { infinipot::save_pot(pot, out, extra); })
          infinipot::save_pot(pot, out, extra);
        else
          refuse("where llama.cpp shifts, a pot cannot be saved");
      },
      pot_);
}

void CachePot::restore(std::span<const std::byte> file) {
  check_file();
  std::visit(
      [&](auto& pot) {
        if constexpr (requires { pot.restore(file); })
          pot.restore(file);
        else if constexpr (requires { infinipot::restore_pot(file, pot); })
          infinipot::restore_pot(file, pot);
        else
          refuse("where llama.cpp shifts, a pot cannot be restored");
      },
      pot_);
  states_.cut(0);
  take_cells(0, entries().size());
}

}  // namespace llama_cpp
