#include "recurrent_state.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace llama_cpp {
namespace {

constexpr llama_state_seq_flags states_alone = LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY;

/// Copies of states of at most so many bytes are made before every call.
constexpr std::size_t small_state = std::size_t{1} << 20U;

[[noreturn]] void refuse(const std::string& what) { throw std::runtime_error("llama.cpp: " + what); }

std::string no_removal(std::size_t size) {
  return "llama_memory_seq_rm refused to remove positions from " + std::to_string(size) + " on";
}

}  // namespace

RecurrentState::RecurrentState(llama_context& context, llama_seq_id sequence)
    : context_(context),
      sequence_(sequence),
      any_(llama_model_is_hybrid(llama_get_model(&context)) ||
           llama_model_is_recurrent(llama_get_model(&context))) {
  if (any_) empty_ = state();
}

std::vector<std::uint8_t> RecurrentState::state() const {
  std::vector<std::uint8_t> bytes(llama_state_seq_get_size_ext(&context_, sequence_, states_alone));
  if (llama_state_seq_get_data_ext(&context_, bytes.data(), bytes.size(), sequence_, states_alone) !=
      bytes.size())
    refuse("the states of recurrent layers cannot be copied");
  return bytes;
}

void RecurrentState::put_back(const std::vector<std::uint8_t>& state) {
  if (llama_state_seq_set_data_ext(&context_, state.data(), state.size(), sequence_, states_alone) == 0)
    refuse("the states of recurrent layers cannot be put back");
}

bool RecurrentState::remove(std::size_t size) noexcept {
  return llama_memory_seq_rm(llama_get_memory(&context_), sequence_, static_cast<llama_pos>(size), -1);
}

void RecurrentState::remove_below(std::size_t size, const std::vector<std::uint8_t>& state) {
  put_back(empty_);  // has no position, so that it stands in no way
  const bool removed = remove(size);
  put_back(state);
  if (!removed) refuse(no_removal(size));
}

void RecurrentState::save(std::size_t size, bool single) {
  if (!any_ || size == 0) return;
  std::erase_if(copies_, [size](const Copy& copy) { return copy.size > size; });
  if (!copies_.empty() && copies_.back().size == size) return;  // they came from there: cut(), move()
  if (single && llama_state_seq_get_size_ext(&context_, sequence_, states_alone) > small_state) return;
  copies_.push_back({size, state()});
  while (copies_.size() > 2 && copies_.size() * copies_.back().state.size() > most_bytes)
    copies_.erase(copies_.begin());
}

void RecurrentState::cut(std::size_t size) {
  if (size == 0) copies_.clear();  // all goes, states too
  if (remove(size)) return;
  const auto after = std::ranges::upper_bound(copies_, size, {}, [](const Copy& copy) { return copy.size; });
  if (after == copies_.begin())
    refuse("entries from " + std::to_string(size) +
           " on cannot be dropped: the model's recurrent layers have seen them, and what they were before "
           "the last "
           "distillation is not known any more");
  copies_.erase(after, copies_.end());
  remove_below(copies_.back().size, copies_.back().state);
}

std::vector<std::uint8_t> RecurrentState::states_behind(std::size_t count, std::size_t size) const {
  if (!any_) return {};
  if (count == size) return state();
  if (count == 0) return empty_;
  const auto copy = std::ranges::find(copies_, count, &Copy::size);
  if (copy == copies_.end())
    throw std::invalid_argument("llama.cpp pot: the states of recurrent layers behind " +
                                std::to_string(count) + " of " + std::to_string(size) +
                                " entries are not known");
  return copy->state;
}

void RecurrentState::move(std::size_t from, std::size_t to) {
  if (!any_) {
    if (!remove(to)) refuse(no_removal(to));
    return;
  }
  copies_.clear();
  remove_below(to, state());
  // Where positions have several numbers, llama.cpp cannot move them; it then takes the gap, and says so.
  const llama_memory_t memory = llama_get_memory(&context_);
  if (from > to && llama_memory_can_shift(memory))
    llama_memory_seq_add(memory, sequence_, static_cast<llama_pos>(from - 1), static_cast<llama_pos>(from),
                         static_cast<llama_pos>(to) - static_cast<llama_pos>(from));
  copies_.push_back({to, state()});  // even if the next call is of a single token
}

}  // namespace llama_cpp
