// infinipot-llama-drift: what llama.cpp's K-shift does to keys when it is repeated.
#include <llama-cpp.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "infinipot/nuc.hpp"
#include "model.hpp"
#include "tokens.hpp"

namespace {

using infinipot::Token;
using llama_cpp::benchmark::first_tokens;
using llama_cpp::benchmark::tokens_of;

struct Options {
  std::string model, document, csv;
  std::size_t tokens = 1024, continuation = 256;
  int threads = 2, by = 100;
  bool flash_attention = false;
  std::vector<std::string> cache_types{"f32", "f16", "q8_0"};
  std::vector<int> counts{0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000};
};

const std::string needle = "The access code of the old library is 4829173. ";
const std::string question =
    "\n\nQuestion: What is the access code of the old library?\nAnswer: The access code of the old library "
    "is";
const std::string answer = " 4829173.";

/// One sequence whose first entries are shifted down and up in turn. An even number of shifts leaves them
/// where they were, an odd number `by` lower; what follows them is always at the same distance.
class Shifted {
 public:
  Shifted(llama_model& model, const llama_cpp::ContextSettings& settings, int by) : by_(by), position_(by) {
    llama_context_params parameters = llama_cpp::context_parameters(settings);
    context_.reset(llama_init_from_model(&model, parameters));
    if (context_ == nullptr) throw std::runtime_error("cannot make a context");
    vocab_size_ = static_cast<std::size_t>(llama_vocab_n_tokens(llama_model_get_vocab(&model)));
    batch_ = llama_batch_init(static_cast<std::int32_t>(settings.batch), 0, 1);
  }
  Shifted(const Shifted&) = delete;
  Shifted& operator=(const Shifted&) = delete;
  ~Shifted() { llama_batch_free(batch_); }

  void read(const std::vector<Token>& tokens) {
    decode(tokens, position_);
    size_ = static_cast<int>(tokens.size());
  }

  /// One shift. llama.cpp carries it out before it decodes a token, which is then dropped.
  void shift() {
    const int by = position_ == 0 ? by_ : -by_;
    llama_memory_seq_add(memory(), 0, -1, -1, by);
    position_ += by;
    decode({0}, position_ + size_);
    llama_memory_seq_rm(memory(), 0, position_ + size_, -1);
  }

  /// Mean cross-entropy (nats) of `text` after `before` and the shifted entries.
  double nll(const std::vector<Token>& before, const std::vector<Token>& text) {
    std::vector<Token> all = before;
    all.insert(all.end(), text.begin(), text.end());
    decode(all, position_ + size_);
    double sum = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const auto row = static_cast<std::int32_t>(before.size() + i) - 1;
      sum += static_cast<double>(
          infinipot::nuc({llama_get_logits_ith(context_.get(), row), vocab_size_}, text[i]));
    }
    llama_memory_seq_rm(memory(), 0, position_ + size_, -1);
    return sum / static_cast<double>(text.size());
  }

 private:
  llama_memory_t memory() const { return llama_get_memory(context_.get()); }

  void decode(const std::vector<Token>& tokens, int position) {
    batch_.n_tokens = static_cast<std::int32_t>(tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      batch_.token[i] = tokens[i];
      batch_.pos[i] = position + static_cast<int>(i);
      batch_.n_seq_id[i] = 1;
      batch_.seq_id[i][0] = 0;
      batch_.logits[i] = 1;
    }
    if (llama_decode(context_.get(), batch_) != 0) throw std::runtime_error("llama_decode failed");
    llama_synchronize(context_.get());
  }

  llama_context_ptr context_;
  llama_batch batch_{};
  std::size_t vocab_size_ = 0;
  int by_, position_, size_ = 0;
};

ggml_type type_of(const std::string& name) {
  return name == "f32" ? GGML_TYPE_F32 : name == "q8_0" ? GGML_TYPE_Q8_0 : GGML_TYPE_F16;
}

void run(const Options& o) {
  llama_cpp::keep_quiet();
  const llama_model_ptr model = llama_cpp::load_model(o.model);
  const std::vector<Token> tokens = first_tokens(*model, o.document, o.tokens + o.continuation);
  const auto end = tokens.begin() + static_cast<std::ptrdiff_t>(o.tokens);
  const std::vector<Token> continuation(end, end + static_cast<std::ptrdiff_t>(o.continuation));
  std::vector<Token> read = tokens_of(*model, needle);
  read.insert(read.end(), tokens.begin(), end);
  const std::vector<Token> last{read.back()};

  std::ofstream csv;
  if (!o.csv.empty()) csv.open(o.csv);
  const auto row = [&](const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
    if (csv.is_open()) csv << line << "\n";
  };
  row("cache_type,shifts,answer_nll,text_nll");
  for (const std::string& name : o.cache_types) {
    const llama_cpp::ContextSettings settings{.cells = read.size() + static_cast<std::size_t>(o.by) + 1024,
                                              .batch = 2048,
                                              .threads = o.threads,
                                              .cache_type = type_of(name),
                                              .flash_attention = o.flash_attention};
    Shifted sequence(*model, settings, o.by);
    sequence.read({read.begin(), read.end() - 1});
    int done = 0;
    for (const int count : o.counts) {
      for (; done < count; ++done) sequence.shift();
      const double code = sequence.nll(tokens_of(*model, question), tokens_of(*model, answer));
      char line[128];
      std::snprintf(line, sizeof line, "%s,%d,%.4f,%.4f", name.c_str(), count, code,
                    sequence.nll(last, continuation));
      row(line);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App app(
      "What repeated K-shifts cost: reads a text, shifts all its keys down and up again and again, and "
      "measures\n"
      "the cross-entropy (nats per token) of an answer that the text holds and of its continuation. Without\n"
      "rounding, all rows of a cache type would be the same.",
      "infinipot-llama-drift");
  app.add_option("--model", o.model, "GGUF file")->required()->check(CLI::ExistingFile);
  app.add_option("--document", o.document, "text to read")->required()->check(CLI::ExistingFile);
  app.add_option("--tokens", o.tokens, "tokens to read")
      ->capture_default_str()
      ->check(CLI::Range(16, 100000));
  app.add_option("--by", o.by, "positions per shift")->capture_default_str()->check(CLI::Range(1, 100000));
  app.add_option("--threads", o.threads, "threads")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--cache-types", o.cache_types, "f32, f16, q8_0")
      ->check(CLI::IsMember({"f32", "f16", "q8_0"}));
  app.add_option("--counts", o.counts, "numbers of shifts, ascending");
  app.add_flag("--flash-attention", o.flash_attention,
               "with flash attention, so that values are of the cache type too");
  app.add_option("--csv", o.csv, "file to write the table to");
  CLI11_PARSE(app, argc, argv);
  try {
    run(o);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "infinipot-llama-drift: %s\n", error.what());
    return 1;
  }
}
