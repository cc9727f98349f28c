// The README's integration example, with an engine to run it on. A test compares the two.
#include <filesystem>

#include "my_engine.hpp"

// [readme]
#include <infinipot/infinipot.hpp>
using namespace infinipot;

struct Adapter {  // your forward pass: tokens at positions first .. against rows 0 .. first - 1
  MyEngine& engine;
  Shape shape() const {
    return {engine.n_layers, engine.n_heads, engine.n_kv_heads, engine.head_dim};
  }
  std::size_t vocab_size() const { return engine.n_vocab; }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits) {
    engine.decode(tokens, first);
    for (std::size_t i = logits.first_row(); i < tokens.size(); ++i)
      logits.row(i, engine.logits(i));
  }
  void forward(std::span<const Token> tokens, std::size_t first, LogitsSink& logits,
               QuerySink& queries) {
    engine.on_queries = [&](std::size_t layer, const float* q) {
      queries.layer(layer, contiguous_queries(q, tokens.size(), shape()));
    };
    forward(tokens, first, logits);
    engine.on_queries = nullptr;
  }
};

Pot<float> make_pot(Adapter& adapter) {
  MyEngine& engine = adapter.engine;
  // Your memory, (layers, rows, kv heads, head_dim), and its strides in elements.
  constexpr std::ptrdiff_t head = MyEngine::head_dim, row = MyEngine::n_kv_heads * head,
                           layer = MyEngine::n_rows * row;
  const KvLayout<float> memory{strided_rows(engine.keys(), engine.n_layers, layer, head, row),
                               strided_rows(engine.values(), engine.n_layers, layer, head, row)};
  PotSettings settings{
      .shape = adapter.shape(), .capacity = engine.n_rows, .granularity = Granularity::shared};
  settings.rope = measure_rope(adapter, Pot<float>(settings, memory));
  return {settings, memory};
}

void answer(MyEngine& engine, std::span<const Token> text, const std::vector<Token>& question) {
  Adapter adapter{engine};
  auto pot = make_pot(adapter);
  Ccd reader(adapter, pot, recommended_settings(question));
  reader.feed(text);
  reader.feed(question);
  reader.generate(20, &MyEngine::greedy, [&](Token token) { return engine.print(token); });
}
// [readme]

// [readme]
void test(Adapter& adapter, std::span<const Token> text) {
  auto pot = make_pot(adapter);
  check_adapter(adapter, pot, text).require();
}
// [readme]

// [readme]
template <class Reader>
void ask_later(Reader& reader, FileArchive& archive, std::span<const Token> text,
               const std::vector<Token>& question) {
  reader.archive_to(archive);  // FileArchive::create("book.archive", {.shape = pot.shape()})
  reader.feed(text);           // by StreamingLlm(), say: at no cost
  recall(reader, archive, question);
  reader.feed(question);
}
// [readme]

int main() {
  MyEngine engine;
  std::vector<Token> text, question{104, 111, 119, 63};
  for (Token i = 0; i < 1000; ++i) text.push_back(i * i % 100);
  Adapter adapter{engine};
  test(adapter, text);
  answer(engine, text, question);

  MyEngine another;
  Adapter adapter_of_another{another};
  auto pot = make_pot(adapter_of_another);
  Ccd reader(adapter_of_another, pot, StreamingLlm());
  const auto file = std::filesystem::temp_directory_path() / "infinipot-adapter-example.archive";
  std::filesystem::remove(file);
  FileArchive archive = FileArchive::create(file.string(), {.shape = pot.shape()});
  ask_later(reader, archive, text, question);
  reader.generate(20, &MyEngine::greedy, [&](Token token) { return another.print(token); });
  std::filesystem::remove(file);
}
