#include "batch.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "decode_error.hpp"

namespace llama_cpp {
namespace {

/// All, unless nobody wants more than the sinks.
std::size_t layers_needed(const infinipot::Pass& pass) noexcept {
  if (pass.logits->first_row() < pass.tokens.size()) return infinipot::all_layers;
  if (pass.queries != nullptr) return pass.queries->layers();
  return pass.attention != nullptr ? pass.attention->layers() : infinipot::all_layers;
}

}  // namespace

/// Sees to it that new entries get the cells that they should, and gives each pass its part of the attention.
class Batch::Hearing final : public Listener {
 public:
  explicit Hearing(Batch& batch) noexcept : batch_(batch), listening_(batch.tap_, *this) {}

  /// Each sequence of a micro-batch is a part of its tensors, in the order of their tokens.
  void rows(std::span<const CacheRow> rows) noexcept override {
    batch_.parts_.clear();
    for (std::size_t part = 0; !rows.empty(); ++part) {
      const auto own = of_first_stream(rows);
      place(part, own);
      rows = rows.subspan(own.size());
    }
  }

  void window_rows(std::span<const CacheRow> rows) noexcept override {
    while (!rows.empty()) {
      const auto own = of_first_stream(rows);
      Running& running = batch_.passes_[own[0].stream];
      const std::size_t before = running.ran + running.windows_placed;
      running.windows_placed += own.size();
      if (running.windows_placed > running.count || !running.pot->place(running.pass.first + before, own))
        running.problem = wrong_cells;
      rows = rows.subspan(own.size());
    }
  }

  bool wants_attention() const noexcept override {
    return std::ranges::any_of(batch_.parts_, [](const Part& part) { return part.running->watched(); });
  }

  bool attention(std::size_t model_layer, const ggml_tensor& node) noexcept override {
    const std::size_t layer = batch_.tap_.cache()->pot_layer(model_layer);
    if (layer == Cache::no_layer) return true;
    for (const Part& part : batch_.parts_)
      if (const char* const problem = show(layer, part, node)) part.running->problem = problem;
    return std::ranges::any_of(batch_.parts_,
                               [=](const Part& part) { return layer + 1 < part.running->layers; });
  }

 private:
  static constexpr const char* wrong_cells = "it puts tokens into other cells than those of their positions";

  static std::span<const CacheRow> of_first_stream(std::span<const CacheRow> rows) noexcept {
    const auto end = std::ranges::find_if(
        rows, [stream = rows[0].stream](const CacheRow& row) { return row.stream != stream; });
    return rows.first(static_cast<std::size_t>(end - rows.begin()));
  }

  /// Neighbours of one stream. A context of one sequence has one.
  void place(std::size_t part, std::span<const CacheRow> rows) noexcept {
    Running& running = batch_.passes_[rows[0].stream];
    const std::size_t before = running.ran + running.placed, first = running.pass.first + before;
    if (running.placed + rows.size() > running.count || !running.pot->place(first, rows)) {
      running.problem = wrong_cells;
      return;
    }
    running.placed += rows.size();
    batch_.parts_.push_back(
        {&running, {.part = part, .first = first, .count = rows.size(), .before = before}});
  }

  const char* show(std::size_t layer, const Part& part, const ggml_tensor& node) {
    const infinipot::Pass& pass = part.running->pass;
    if (pass.attention != nullptr && node.op == GGML_OP_SOFT_MAX)
      return batch_.shown_.probabilities(node, layer, part.shown, *pass.attention);
    if (pass.queries != nullptr && node.op == GGML_OP_FLASH_ATTN_EXT)
      return batch_.shown_.queries(node, layer, part.shown, *pass.queries);
    return nullptr;
  }

  Batch& batch_;
  Listening listening_;
};

Batch::Batch(GraphTap& tap, llama_context& context)
    : tap_(tap),
      context_(context),
      vocab_size_(
          static_cast<std::size_t>(llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(&context))))),
      micro_batch_(llama_n_ubatch(&context)),
      shown_(*tap.cache_of(context, 0)),
      passes_(llama_n_seq_max(&context)),
      tokens_(llama_n_batch(&context)),
      positions_(tokens_.size()),
      counts_(tokens_.size(), 1),
      sequences_(tokens_.size()),
      wanted_(tokens_.size()),
      numbers_(passes_.size()) {
  std::iota(numbers_.begin(), numbers_.end(), 0);
  waiting_.reserve(passes_.size());
  chosen_.reserve(passes_.size());
  parts_.reserve(passes_.size());
  outcomes_.reserve(passes_.size());
}

void Batch::add(CachePot& pot, const infinipot::Pass& pass) {
  if (&pot.context() != &context_ || &pot.tap() != &tap_)
    throw std::invalid_argument(
        "llama.cpp batch: the pot is of another context, or was made with another tap");
  if (pot.shifts())
    throw std::invalid_argument("llama.cpp batch: a pot whose gaps llama.cpp closes is not run in batches");
  if (of(pot.sequence()).pot != nullptr)
    throw std::invalid_argument("llama.cpp batch: sequence " + std::to_string(pot.sequence()) +
                                " has a pass already; each has one at a time");
  if (const std::size_t capacity = pot.capacity();
      pass.first > capacity || pass.tokens.size() > capacity - pass.first)
    throw std::out_of_range("llama.cpp batch: " + std::to_string(pass.tokens.size()) +
                            " tokens from position " + std::to_string(pass.first) +
                            " on do not fit in a pot of " + std::to_string(capacity));
  if (pass.queries != nullptr && pass.tokens.size() > micro_batch_)
    throw std::invalid_argument("llama.cpp batch: queries of " + std::to_string(pass.tokens.size()) +
                                " tokens are wanted at once, but n_ubatch is " +
                                std::to_string(micro_batch_));
  pot.prepare(pass.first, pass.tokens.size() == 1 && !pass.logits->probe());
  const std::size_t layers = layers_needed(pass);
  of(pot.sequence()) = {.pot = &pot,
                        .pass = pass,
                        .layers = layers,
                        .apart = pass.queries != nullptr || layers < shape().layers};
  waiting_.push_back(pot.sequence());
}

void Batch::remove(llama_seq_id sequence) noexcept {
  of(sequence) = {};
  std::erase(waiting_, sequence);
}

std::span<const Outcome> Batch::decode() {
  outcomes_.clear();
  if (empty()) return {};
  choose();
  arrange();
  const std::int32_t status = run();
  for (const llama_seq_id sequence : chosen_) {
    Running& running = of(sequence);
    if (std::string error = error_of(running, status); !error.empty()) {
      outcomes_.push_back({sequence, std::move(error)});
      continue;
    }
    give_logits(running);
    running.ran += running.count;
    running.count = 0;
    if (running.left() == 0) outcomes_.push_back({.sequence = sequence});
  }
  for (const Outcome& outcome : outcomes_) remove(outcome.sequence);
  return outcomes_;
}

/// Queries of a pass are shown at once, so it is decoded as a whole.
void Batch::choose() noexcept {
  std::size_t room = tokens_.size();
  chosen_.clear();
  for (const llama_seq_id sequence : waiting_) {
    Running& running = of(sequence);
    running.placed = running.windows_placed = 0;
    running.count = std::min(running.left(), room);
    if (running.pass.queries != nullptr && running.count < running.left()) running.count = 0;
    if (running.count == 0) continue;
    room -= running.count;
    chosen_.push_back(sequence);
  }
  std::ranges::sort(chosen_);
}

/// llama.cpp makes a micro-batch of as many sequences as follow each other by number from the first token on,
/// with equally many tokens of each. So groups that are to stay apart come in descending order: none then
/// follows another.
void Batch::arrange() noexcept {
  size_ = 0;
  for (std::size_t end = chosen_.size(); end > 0;) {
    std::size_t begin = end - 1;
    while (begin > 0 && joins(begin, end)) --begin;
    for (std::size_t i = begin; i < end; ++i) put(chosen_[i]);
    end = begin;
  }
}

/// Whether the sequence before those of [begin, end) may share their micro-batches, in which each has a
/// token.
bool Batch::joins(std::size_t begin, std::size_t end) noexcept {
  const Running &before = of(chosen_[begin - 1]), &next = of(chosen_[begin]);
  if (chosen_[begin - 1] + 1 != chosen_[begin] || before.apart != next.apart || end - begin >= micro_batch_)
    return false;
  return !next.apart || (before.count == next.count && (end - begin + 1) * next.count <= micro_batch_);
}

void Batch::put(llama_seq_id sequence) noexcept {
  Running& running = of(sequence);
  running.at = size_;
  for (std::size_t token = running.ran; token < running.ran + running.count; ++token, ++size_) {
    tokens_[size_] = running.pass.tokens[token];
    positions_[size_] = static_cast<llama_pos>(running.pass.first + token);
    sequences_[size_] = &numbers_[static_cast<std::size_t>(sequence)];
    wanted_[size_] = token >= running.pass.logits->first_row() ? 1 : 0;
  }
}

std::int32_t Batch::run() noexcept {
  const Hearing hearing(*this);
  ++decodes_;
  return llama_decode(&context_, {.n_tokens = static_cast<std::int32_t>(size_),
                                  .token = tokens_.data(),
                                  .embd = nullptr,
                                  .pos = positions_.data(),
                                  .n_seq_id = counts_.data(),
                                  .seq_id = sequences_.data(),
                                  .logits = wanted_.data()});
}

/// Empty if the pass is all right so far.
std::string Batch::error_of(const Running& running, std::int32_t status) const {
  if (status != 0)
    return "llama.cpp cannot decode a batch of " + std::to_string(size_) + " tokens of " +
           std::to_string(chosen_.size()) + " sequences: " + decode_error(status);
  if (running.problem != nullptr) return std::string("llama.cpp cannot be watched: ") + running.problem;
  if (running.placed != running.count)
    return "llama.cpp does not tell the cells of " + std::to_string(running.count) +
           " tokens: was its context made with GraphTap::install()?";
  return {};
}

void Batch::give_logits(const Running& running) noexcept {
  infinipot::LogitsSink& sink = *running.pass.logits;
  const std::size_t first = std::max(sink.first_row(), running.ran);
  for (std::size_t token = first; token < running.ran + running.count; ++token)
    sink.row(token,
             {llama_get_logits_ith(&context_, static_cast<std::int32_t>(running.at + token - running.ran)),
              vocab_size_});
}

}  // namespace llama_cpp
