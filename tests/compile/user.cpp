// A unit of a project that uses the library's main paths: no warnings of its compiler come from the headers.
// It is only compiled.
#include <cstddef>
#include <span>
#include <sstream>
#include <vector>

#include "infinipot/infinipot.hpp"

namespace {

using namespace infinipot;

constexpr Shape shape{1, 4, 2, 64};

PotSettings settings() { return {.shape = shape, .capacity = 64, .rope = plain_rope(shape.head_dim)}; }

template <class T>
struct Engine {
  Pot<T>& pot;
  std::vector<float> logits = std::vector<float>(100), rows = std::vector<float>(64 * 4 * 64);

  Shape shape() const { return pot.shape(); }
  std::size_t vocab_size() const { return logits.size(); }

  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& sink) {
    for (std::size_t i = 0; i < tokens.size(); ++i)
      for (std::size_t head = 0; head < pot.shape().kv_heads; ++head)
        pot.write(0, head, first + i, rows.data(), rows.data());
    for (std::size_t i = sink.first_row(); i < tokens.size(); ++i) sink.row(i, logits);
  }

  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& sink, QuerySink& queries) {
    queries.layer(0, contiguous_queries(rows.data(), tokens.size(), pot.shape()));
    forward(tokens, first, sink);
  }

  AttentionForm attention_form(std::size_t /*layer*/) const { return {.soft_cap = 50}; }
};

template <class T, class P>
void read(P policy) {
  Pot<T> pot(settings());
  Engine<T> engine{pot};
  Ccd reader(engine, pot, policy);
  reader.feed(std::vector<Token>(200, 3));
}

template <class T>
void read() {
  read<T>(Infinipot(recommended_settings({1, 2})));
  read<T>(Infinipot(paper_settings({1, 2})));
  Pot<T> pot(settings());
  std::ostringstream file;
  save_pot(pot, file);
  restore_pot(std::as_bytes(std::span<const char>(file.str())), pot);
}

template <class T>
bool ask_later() {
  Pot<T> pot(settings());
  Engine<T> engine{pot};
  MemoryArchive archive({.shape = shape, .block = 16, .limit = 1 << 20});
  Ccd reader(engine, pot, StreamingLlm());
  reader.archive_to(archive);
  reader.feed(std::vector<Token>(200, 3));
  return recall(reader, archive, std::vector<Token>{1, 2}, {.steps = 2}).done;
}

template <Element T>
std::vector<float> nuc_of(const std::vector<float>& hidden) {
  const std::vector<T> weights(100 * hidden.size());
  std::vector<float> nuc(1);
  NucFromHidden fused(hidden.size());
  fused.score(hidden.data(), 0, OutputMatrix<T>{weights.data(), 100, hidden.size()}, std::vector<Token>(1),
              nuc);
  return nuc;
}

}  // namespace

int main() {
  read<f32>();
  read<f16>();
  read<bf16>();
  read<int8>();
  read<int4>();
  const bool recalled = ask_later<f16>() && ask_later<int8>();
  read<f16>(ExpectedAttention({.rope = plain_rope(shape.head_dim)}));
  read<f16>(KeyDiff());
  read<f16>(KNorm());
  read<f16>(TemporalRedundancy());
  read<f16>(ValueNorm());

  std::vector<float> hidden(64), memory(64);
  rotate(hidden.data(), Mrope{plain_rope(64), std::vector<Axis>(32)}, {1, 2, 3}, 64, memory, hidden.data());
  const KeyChannels channels = measure_key_channels(Pot<f16>(settings()));
  FileArchive file = FileArchive::create("archive", {.shape = shape});
  return static_cast<int>(recalled) + static_cast<int>(file.flush(Durability::power)) +
         static_cast<int>(top_k(nuc_of<f32>(hidden), 1).size() + nuc_of<f16>(hidden).size() +
                          nuc_of<bf16>(hidden).size() + channels.centre.size() +
                          yarn_rope(64, 1e4, {}).rotary_dim());
}
